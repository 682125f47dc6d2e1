# Thin on purpose: each target says what it does and ends with what can be done next. `make help` lists them.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
NB ?=
N ?= 40
SEED ?= 0
SITE ?=
WORKERS ?= 2
export JUPYTER_PLATFORM_DIRS := 1

.DEFAULT_GOAL := help
.PHONY: help env site test test-site lab run export audit mutate bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

env: $(READY) ## create .venv with the pinned requirements, when missing or when settings.ini changed

$(READY): settings.ini setup.py
	@echo "== setting up .venv (several GB the first time)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --disable-pip-version-check -q --upgrade pip setuptools wheel
	$(PY) -m pip install --disable-pip-version-check --progress-bar on --no-build-isolation -e '.[dev]'
	@touch $(READY)

site: env ## build the whole site into _docs/ (Quarto where it can be had, pandoc otherwise)
	@$(PY) tools/build_site.py --out _docs

test: env ## run every notebook, the audits and the tests
	@echo "== notebooks, audits and tests, $(WORKERS) workers"
	@$(PY) -m pytest tests -n $(WORKERS) --dist worksteal -q

test-site: env ## check a site folder in headless Chromium: make test-site SITE=_docs
	@SITE=$(abspath $(or $(SITE),_docs)) $(PY) -m pytest tests/test_site.py -q

lab: env ## open JupyterLab at the index
	@$(PY) -m jupyterlab nbs/index.ipynb

run: env ## run notebooks in place and keep their outputs: make run NB=nbs/diffusion/04_ddim.ipynb
	@$(PY) tools/run.py $(NB)

export: env ## write the package ml_notes/ from the notebooks
	@.venv/bin/nbdev_export && echo "exported to ml_notes/; next: make audit"

audit: env ## the audits alone, without running a notebook
	@$(PY) -m pytest tests/test_audit.py -q

mutate: env ## mutate a notebook's exported code and see whether its checks notice: make mutate NB=… N=40 SEED=0
	@$(PY) tools/mutate.py $(NB) -n $(N) --seed $(SEED)

bench: env ## run the benchmarks in benchmarks/ on this machine
	@for script in $$(ls benchmarks/*.py | grep -v -e /train -e /kernels); do echo "== $$script"; $(PY) $$script || exit 1; done

clean: ## remove what was built, and keep .venv
	@rm -rf _docs _proc build dist .cache .pytest_cache ml_notes.egg-info && echo "removed what was built; .venv is kept"
