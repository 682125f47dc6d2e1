"""The audits on the book as it is, and each audit on a fault planted for it."""
import re
import subprocess

import audit
import book
import pytest
from conftest import picture, shown

PAGES = [p for p in book.pages() if p.path.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page(page):
    problems = [problem for look in audit.PAGE_AUDITS for problem in look(page)]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("look", audit.BOOK_AUDITS, ids=lambda f: f.__name__)
def test_book(look):
    problems = look()
    assert not problems, "\n" + "\n".join(problems)


# --- planted faults in a page ------------------------------------------------------------------------------------------------------------

EXPORTED = '''#| exports
def walk(
    x: float,  # position
    steps: int = 3,  # how many
) -> float:
    "Walk, @eq-walk (arXiv 1234.5678)."
    return x + steps'''


def article(draft):
    "The smallest article in which the audits find nothing."
    d = draft("diffusion/07_walk.ipynb")
    d.prose("# Walks\n\n> A walk adds.").code("#| default_exp diffusion.walk")
    d.prose("A paper. [Open in Colab](https://colab.research.google.com/)")
    d.prose('::: {.callout-note collapse="true" title="中文提要"}\n提要。\n:::').prose('::: {.callout-note title="At a glance"}\nShort.\n:::')
    d.prose("## Notation\n\nSymbols.")
    d.prose("## Derivation {#sec-derivation}\n\nA definition, and a claim:\n\n$$s = 3$$ {#eq-def-step}\n\n$$y = x + s$$ {#eq-walk}\n\nsee @eq-walk, @fig-walk and `@nothing`.")
    d.prose("## Implementation").code(EXPORTED).code('verify("eq-walk", walk(1.0), 4.0)', shown("eq-walk"))
    d.code('with expect_fail(AssertionError):\n    verify("eq-none", 1.0, 2.0)')
    d.prose("## Equivalences").prose("## Parity").code('parity("torch.add", walk(1.0), 4.0)', shown("torch.add", kind="parity"))
    d.prose("## Experiment").code('#| label: fig-walk\n#| fig-cap: "A walk, @eq-walk."\nplot()', picture()).prose("## Against the paper")
    d.prose("## Exercises\n\n" + '::: {.callout-tip collapse="true" title="Answer"}\nYes.\n:::\n\n' * 4).prose("## References\n\n::: {#refs}\n:::")
    return d


def scored(d, **changes):
    "Save with a mutation score of the code as it stands."
    score = dict(killed=36, tried=40, equivalent=0, seed=0, n=40, exports_hash=book.Page(d.save().path).exports_hash)
    return d.save(mutation={**score, **changes})


def test_nothing_is_found_where_nothing_is_wrong(draft):
    page = scored(article(draft))
    assert [problem for look in audit.PAGE_AUDITS for problem in look(page)] == []


def clear(d):
    for cell in d.nb.cells:
        if cell.cell_type == "code":
            cell.outputs = []


def output(kind, **fields):
    from nbformat.v4 import new_output
    return lambda d: d.code("pass", [new_output(kind, **fields)])


FAULTS = {  # what is planted: (the audit that has to see it, how it is planted, what has to be reported)
    "unverified equation": ("equations", lambda d: d.replace('verify("eq-walk"', 'verify("a walk adds"'), "equation eq-walk is verified nowhere, cell 6"),
    "verified too early": ("equations", lambda d: d.nb.cells.insert(1, d.nb.cells.pop(9)), "equation eq-walk is verified only before it, cell 7"),
    "check of nothing": ("equations", lambda d: d.code('verify("eq-wlak", 1.0, walk(-2.0))', shown("eq-wlak")), "names eq-wlak, which is no equation"),
    "label twice": ("equations", lambda d: d.prose("$$a$$ {#eq-def-step}"), "label eq-def-step is used 2 times"),
    "label without equation": ("equations", lambda d: d.prose("$a$ {#eq-def-lost}"), "eq-def-lost is not attached"),
    "outputs without the check": ("equations", clear, "the check of eq-walk is 1 times in the source, 0 times in the stored outputs"),
    "check not displayed": ("equations", lambda d: d.code('verify("a claim", 1.0, walk(-2.0));'), "1 checks are called, 0 are displayed, cell 19"),
    "one of two displayed": ("equations", lambda d: d.code('parity("a", x, y)\nparity("b", x, y)', shown("b")), "2 checks are called, 1 are displayed"),
    "reference to no equation": ("equations", lambda d: d.prose("By @eq-run."), "@eq-run is not on this page, cell 19"),
    "reference to no figure": ("equations", lambda d: d.prose("See @fig-run."), "@fig-run is not on this page"),
    "reference in a caption": ("equations", lambda d: d.replace("A walk, @eq-walk", "A walk, @eq-run"), "@eq-run is not on this page, cell 15"),
    "link to no page": ("links", lambda d: d.prose("[there](../core/99_nowhere.ipynb)"), "link to ../core/99_nowhere.ipynb, which does not exist"),
    "link to no label": ("links", lambda d: d.prose("[here](07_walk.ipynb#sec-nowhere)"), "that page has no such label"),
    "stored error": ("outputs", output("error", ename="ValueError", evalue="bad", traceback=[]), "an error is stored, ValueError: bad, cell 19"),
    "stored stderr": ("outputs", output("stream", name="stderr", text="junk"), "written to stderr, is stored, cell 19"),
    "stored warning": ("outputs", output("stream", name="stdout", text="/a/b.py:3: UserWarning: x"), "a warning"),
    "too large": ("outputs", output("stream", name="stdout", text="x" * 1_000_000), "bytes, at most 1,000,000 allowed"),
    "no image": ("outputs", clear, "no image is stored"),
    "magic": ("cells", lambda d: d.code("%matplotlib inline"), "magic or shell line `%matplotlib inline`, cell 19"),
    "shell": ("cells", lambda d: d.code("x = 1\n!pip install torch"), "magic or shell line `!pip install torch`"),
    "syntax": ("cells", lambda d: d.code("x = = 1"), "does not parse, line 1"),
    "long cell": ("cells", lambda d: d.code("# comment\n\n" + "x = 1\n" * 26), "26 lines of code, at most 25 allowed, cell 19"),
    "no title": ("structure", lambda d: d.replace("# Walks", "Walks"), "has to be `# Name`"),
    "no claim": ("structure", lambda d: d.replace("> A walk", "A walk"), "one-sentence claim"),
    "section missing": ("structure", lambda d: d.replace("## Parity", "Parity"), "## Parity is missing"),
    "section unknown": ("structure", lambda d: d.replace("## Parity", "## Parity\n\n## Musings"), "## Musings is not one of the sections"),
    "sections out of order": ("structure", lambda d: d.replace("## Equivalences", "## P").replace("## Parity", "## Equivalences").replace("## P", "## Parity"), "out of order"),
    "wrong module": ("structure", lambda d: d.replace("diffusion.walk", "diffusion.run"), "names diffusion.run, expected diffusion.walk"),
    "no Colab": ("structure", lambda d: d.replace("Open in Colab", "Open"), "[Open in Colab](…) is missing"),
    "no 中文提要": ("structure", lambda d: d.replace("中文提要", "摘要"), 'title="中文提要" is missing'),
    "中文提要 not folded": ("structure", lambda d: d.replace('collapse="true" title="中文', 'title="中文'), 'title="中文提要" is missing'),
    "no glance": ("structure", lambda d: d.replace("At a glance", "Glance"), 'title="At a glance" is missing'),
    "glance first": ("structure", lambda d: d.nb.cells.insert(3, d.nb.cells.pop(4)), "first cells are out of order"),
    "few exercises": ("structure", lambda d: d.replace("## Exercises", "## Exercises\n\n" + "::: {.callout-tip collapse=\"true\"}\n:::\n" * 3), "7 exercises"),
    "no references": ("structure", lambda d: d.replace("{#refs}", "{.refs}"), "## References lacks"),
    "no docstring": ("exports", lambda d: d.replace('    "Walk, @eq-walk (arXiv 1234.5678)."\n', ""), "`walk` has no docstring, cell 8"),
    "parameter unexplained": ("exports", lambda d: d.replace("  # how many", ""), "`walk` does not say what `steps` is"),
    "field unexplained": ("exports", lambda d: d.code('#| export\n@dataclass\nclass A:\n    "From eq. 3."\n    gain: float'), "`A` does not say what `gain` is"),
    "init unexplained": ("exports", lambda d: d.code('#| export\nclass A:\n    "Eq. 3."\n    def __init__(self, gain):\n        pass'), "`A` does not say what `gain` is"),
    "no source": ("exports", lambda d: d.replace("Walk, @eq-walk (arXiv 1234.5678).", "Walk."), "`walk` names no source"),
    "docstring cites nothing": ("exports", lambda d: d.replace("Walk, @eq-walk", "Walk, @eq-run"), "cites eq-run"),
    "cuda": ("safety", lambda d: d.code("x = x.cuda()"), "calls x.cuda()"),
    "pickle": ("safety", lambda d: d.code("from pickle import loads"), "imports pickle"),
    "torch.load": ("safety", lambda d: d.code("torch.load('w.pt')"), "torch.load without weights_only=True"),
    "torch.load unsafe": ("safety", lambda d: d.code("torch.load('w.pt', weights_only=False)"), "torch.load without weights_only=True"),
    "numpy pickle": ("safety", lambda d: d.code("np.load('a.npy', allow_pickle=True)"), "allow_pickle=True"),
    "requests": ("safety", lambda d: d.code("import requests"), "imports requests, which uses the network"),
    "urllib": ("safety", lambda d: d.code("from urllib import request"), "imports urllib.request, which uses the network"),
    "socket": ("safety", lambda d: d.code("def f():\n    import socket"), "imports socket, which uses the network"),
    "hub": ("safety", lambda d: d.code("hf_hub_download('a/b', 'c')"), "hf_hub_download, which uses the network"),
    "torch.hub": ("safety", lambda d: d.code("torch.hub.load('a/b', 'c')"), "torch.hub.load, which uses the network"),
    "from_pretrained": ("safety", lambda d: d.code("M.from_pretrained('a/b')"), "from_pretrained('a/b'), which uses the network"),
    "download": ("safety", lambda d: d.code("MNIST(root, download=True)"), "download=True, which uses the network"),
    "weights": ("safety", lambda d: d.code("resnet18(weights='DEFAULT')"), "weights='DEFAULT', which uses the network"),
    "unfinished prose": ("wording", lambda d: d.prose("TO" "DO: more"), "unfinished"),
    "path in code": ("wording", lambda d: d.code("open('/tm" "p/x')"), "a path or a secret of one machine"),
    "path in outputs": ("wording", output("stream", name="stdout", text="wrote /ho" "me/me/x"), "a path or a secret of one machine"),
    "secret": ("wording", lambda d: d.code("token = 'hf_" + "a1B2" * 8 + "'"), "a path or a secret of one machine"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(draft, fault):
    name, plant, expected = FAULTS[fault]
    d = article(draft)
    plant(d)
    problems = getattr(audit, name)(scored(d))
    assert any(expected in p for p in problems), f"expected {expected!r} among {problems}"
    assert all(re.match(r"\S+: ", p) for p in problems)  # file: what
    if fault != "syntax":  # no other audit stumbles over it
        for look in audit.PAGE_AUDITS:
            look(book.Page(d.path))


RECORDS = {
    "older code": (dict(code_hash="0" * 64), "the code has changed since its outputs were made"),
    "slow": (dict(seconds=121.0), "121.0 s, at most 120.0 allowed"),
    "memory": (dict(memory_mib=5000), "5,000 MiB, at most 4,096 allowed"),
}


@pytest.mark.parametrize("record", RECORDS)
def test_a_false_record_is_found(draft, record):
    meta, expected = RECORDS[record]
    assert any(expected in p for p in audit.outputs(article(draft).save(**meta)))


def test_a_mutation_score_is_of_this_code_and_high_enough(draft):
    assert audit.mutation(scored(article(draft))) == []
    assert "has no mutation score" in audit.mutation(article(draft).save())[0]
    assert "35 of 40 mutants killed" in audit.mutation(scored(article(draft), killed=35))[0]
    assert "score is of 10 mutants" in audit.mutation(scored(article(draft), n=10))[0]
    page = scored(article(draft), exports_hash="0" * 64)
    assert "mutation score is of older code" in audit.mutation(page)[0]
    commented = scored(article(draft)).meta["mutation"]
    page = article(draft).replace("  # position", "  # where one stands").save(mutation=commented)
    assert audit.mutation(page) == []  # a comment changes no result


# --- planted faults in a book ------------------------------------------------------------------------------------------------------------

def test_package_in_step(tmp_path, draft):
    draft("core/01_one.ipynb").prose("# One").code("#| default_exp core.one").code("#| exports\ndef f(): return 1").save()
    (tmp_path / "nbs" / "index.ipynb").write_bytes(draft("index.ipynb").prose("# Index").save().path.read_bytes())
    for name in ("settings.ini", "setup.py", "README.md"):
        (tmp_path / name).write_bytes((book.ROOT / name).read_bytes())
    assert any("ml_notes/core/one.py: is missing" in p for p in audit.package(tmp_path))
    subprocess.run([audit.sys.executable, "-c", "from nbdev.export import nb_export; from pathlib import Path; nb_export(Path('nbs/core/01_one.ipynb'), 'ml_notes')"],
                   cwd=tmp_path, check=True)
    (tmp_path / "ml_notes" / "core" / "one.py").open("a").write("\nedited = True\n")
    (tmp_path / "ml_notes" / "core" / "orphan.py").write_text("")
    problems = audit.package(tmp_path)
    assert any("core/one.py: differs" in p for p in problems) and any("core/orphan.py: is exported by no notebook" in p for p in problems)


def modules(tmp_path, **sources):
    for name, source in sources.items():
        file = tmp_path / "ml_notes" / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return tmp_path


ORDER = ["core.check", "core.train", "generative.gan", "diffusion.ddpm", "diffusion.ddim", "rl.bellman"]


def test_imports_that_are_allowed(tmp_path):
    root = modules(tmp_path, core__check="import torch", core__train="from .check import verify", diffusion__ddpm="from ml_notes.core import check",
                   generative__gan="", diffusion__ddim="from .ddpm import f\nfrom ..core.train import g\nimport ml_notes.generative.gan")
    assert audit.imports(root, ORDER) == []


@pytest.mark.parametrize("sources, expected", [
    (dict(diffusion__ddpm="from .ddim import f", diffusion__ddim=""), "a later page of its family"),
    (dict(rl__bellman="from ml_notes.diffusion.ddpm import f", diffusion__ddpm=""), "rl.bellman: imports diffusion.ddpm; a family may import"),
    (dict(core__check="from ..rl import bellman", rl__bellman=""), "core.check: imports rl.bellman; a family may import"),
    (dict(rl__bellman="def f():\n    from ml_notes.core.chekc import g"), "imports ml_notes.core.chekc, which does not exist"),
    (dict(core__check="from .train import f", core__train="from .check import g"), "imports in a circle"),
])
def test_imports_that_are_not(tmp_path, sources, expected):
    assert any(expected in p for p in audit.imports(modules(tmp_path, **sources), ORDER))


def test_references(tmp_path, draft):
    bib = tmp_path / "references.bib"
    entry = "@article{{{0},\n  title = {{{0}}},\n  eprint = {{{1}}}\n}}\n".format
    bib.write_text(entry("ho2020ddpm", "2006.11239") + entry("song2020ddim", "2010.02502") + entry("song2020ddim", "2010.02502")
                   + entry("Smith2020", "1.2") + "@misc{doe1999lost,\n  title = {Lost}\n}\n")
    page = draft("a.ipynb").prose("[@ho2020ddpm; @song2020ddim], @eq-a, me@there.org, `@code` and @kingma2013vae").save()
    found = "\n".join(audit.references([page], bib))
    for expected in ("song2020ddim stands 2 times", "eprint 2010.02502 stands 2 times", "doe1999lost has neither eprint, doi nor url", "doe1999lost is cited by no page",
                     "Smith2020 is not first author", "a.ipynb: @kingma2013vae has no entry in references.bib, cell 0"):
        assert expected in found
    assert not any(word in found for word in ("ho2020ddpm", "@eq-a", "there", "code"))
    assert "cannot be read" not in found
    bib.write_text("@misc{doe1999lost,\n  title = {Lost},\n" + entry("ho2020ddpm", "2006.11239"))
    assert any("references.bib: cannot be read" in p for p in audit.references([page], bib))


def test_sidebar(tmp_path, draft):
    for name in ("core/01_a.ipynb", "core/02_a.ipynb", "core/03_b.ipynb", "index.ipynb"):
        draft(name).save()
    (tmp_path / "nbs" / "sidebar.yml").write_text(
        "website: {sidebar: {contents: [index.ipynb, {section: Core, contents: [core/02_a.ipynb, core/01_a.ipynb, core/09_gone.ipynb]}, index.ipynb]}}")
    found = "\n".join(audit.sidebar(tmp_path / "nbs"))
    for expected in ("index.ipynb stands 2 times", "core/09_gone.ipynb does not exist", "nbs/core/03_b.ipynb: is not in sidebar.yml", "not in the order of their numbers",
                     "2 notebooks are called a"):
        assert expected in found


def test_hygiene(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    modules(tmp_path, core__a="path = '/ro" "ot/x'", core__b="# FIX" "ME: later", core__c="url = 'https://a.org/home/x'")
    (tmp_path / "notes.md").write_text("an editor may write to /tm" "p/x")
    found = "\n".join(audit.hygiene(tmp_path))
    assert "ml_notes/core/a.py: a path" in found and "ml_notes/core/b.py: unfinished" in found and "c.py" not in found and "notes.md" not in found


def test_derived_pages_are_of_today(draft):
    page = scored(article(draft))
    ledger = draft("ledger.ipynb").prose("# Ledger").save(facts=book.digest(book.facts([page])))
    assert audit.derived([page, ledger]) == []
    page = scored(article(draft).prose("$$1$$ {#eq-def-new}"))
    assert "is made from older facts" in audit.derived([page, ledger])[0]
