"""The one reader of the book's notebooks: their order, cells, equations, checks, and how they are run.

`run`, the audits, the mutation tool, the ledger, the index and the renderer all ask here.
"""
from __future__ import annotations

import ast
import hashlib
import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
CHECKS_MIME = "application/vnd.ml-notes.checks+json"  # what ml_notes.core.check puts beside each displayed check
SECONDS_LIMIT, BYTES_LIMIT, MEMORY_LIMIT = 120.0, 1_000_000, 4_096  # a page's hard limits: seconds, stored bytes, MiB

# families whose pages are articles (the others, `core` and the front matter, are tools of the book)
ARTICLE_FAMILIES = ("training", "generative", "diffusion", "attention", "llm", "vision", "detection", "segmentation", "selfsup", "rl")

EQUATION = re.compile(r"\$\$(?P<tex>.+?)\$\$\s*\{#(?P<label>eq-[\w-]+)\}", re.S)


@dataclass
class Page:
    "One notebook of the book."

    path: Path

    @cached_property
    def nb(self) -> nbformat.NotebookNode:
        return nbformat.read(self.path, as_version=4)

    @property
    def name(self) -> str:
        "Family and stem as the site shows them: `diffusion/ddim`, `index`."
        stem = re.sub(r"^\d+_", "", self.path.stem)
        family = self.path.parent.relative_to(NBS).as_posix()
        return stem if family == "." else f"{family}/{stem}"

    @property
    def url(self) -> str:
        "Address within the site."
        return f"{self.name}.html"

    @property
    def is_article(self) -> bool:
        return self.name.split("/")[0] in ARTICLE_FAMILIES

    @property
    def meta(self) -> dict:
        "What the last run recorded: code_hash, seconds, memory_mib; and, by hand, equivalent_mutants."
        return self.nb.metadata.get("ml_notes", {})

    @property
    def code(self) -> list[nbformat.NotebookNode]:
        return [c for c in self.nb.cells if c.cell_type == "code"]

    @property
    def prose(self) -> list[nbformat.NotebookNode]:
        return [c for c in self.nb.cells if c.cell_type == "markdown"]

    @property
    def title(self) -> str:
        found = re.search(r"^# (.+)$", self.prose[0].source, re.M) if self.prose else None
        return found[1].strip() if found else self.name

    @property
    def claim(self) -> str:
        "The one-sentence claim under the title."
        found = re.search(r"^> ((?:.+\n?(?:> )?)+)", self.prose[0].source, re.M) if self.prose else None
        return " ".join(line.lstrip("> ").strip() for line in found[0].splitlines()) if found else ""

    @property
    def module(self) -> str | None:
        "The module that the page exports, without the package: `diffusion.ddim`."
        found = re.search(r"^#\| *default_exp +(\S+)", "\n".join(c.source for c in self.code), re.M)
        return found[1] if found else None

    @property
    def sections(self) -> list[str]:
        "Second-level headings in order."
        return [h.strip() for c in self.prose for h in re.findall(r"^## (.+?)(?:\s*\{.*\})?$", c.source, re.M)]

    def equations(self) -> list[tuple[int, str, str]]:
        "(cell index, label, TeX) of each labelled equation."
        return [(i, m["label"], m["tex"].strip()) for i, c in enumerate(self.nb.cells) if c.cell_type == "markdown"
                for m in EQUATION.finditer(c.source)]

    def verified(self) -> list[tuple[int, str]]:
        "(cell index, label) of each `verify*` call with an equation's label, read from the source."
        return [(i, label) for i, c in enumerate(self.nb.cells) if c.cell_type == "code" for label in labels_in(c.source)]

    def checks(self) -> list[dict]:
        "The checks that the stored outputs show as passed, in order."
        return [check for c in self.code for out in c.get("outputs", []) for check in out.get("data", {}).get(CHECKS_MIME, [])]

    def figures(self) -> int:
        return sum("image/png" in out.get("data", {}) or "image/svg+xml" in out.get("data", {})
                   for c in self.code for out in c.get("outputs", []))

    def exports(self) -> list[tuple[int, str]]:
        "(cell index, source) of the cells that go into the package."
        return [(i, c.source) for i, c in enumerate(self.nb.cells)
                if c.cell_type == "code" and re.search(r"^#\| *exports?\b", c.source, re.M)]


def labels_in(source: str) -> list[str]:
    "Equation labels that the `verify*` calls of a cell name (literal strings only)."
    return [node.args[0].value for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("verify")
            and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
            and node.args[0].value.startswith("eq-")]


def code_hash(nb: nbformat.NotebookNode) -> str:
    "SHA-256 over the sources of the code cells, in order."
    return hashlib.sha256("\0".join(c.source for c in nb.cells if c.cell_type == "code").encode()).hexdigest()


def contents() -> list[tuple[str, list[Page]]]:
    "The book in reading order, from sidebar.yml: (part, pages)."
    sidebar = yaml.safe_load((NBS / "sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    parts: list[tuple[str, list[Page]]] = []
    for entry in sidebar:
        if isinstance(entry, str):
            parts.append(("", [Page(NBS / entry)]))
        elif "section" in entry:
            parts.append((entry["section"], [Page(NBS / (p if isinstance(p, str) else p["href"])) for p in entry["contents"]]))
        else:
            parts.append(("", [Page(NBS / entry["href"])]))
    return parts


def pages() -> list[Page]:
    "Every page of the book in reading order."
    return [page for _, part in contents() for page in part]


def execute(path: Path, seconds: float = SECONDS_LIMIT, threads: int | None = None, progress: bool = False) -> nbformat.NotebookNode:
    "Run a notebook top to bottom in a fresh kernel, offline; the returned copy holds the outputs and what the run took."
    from nbclient import NotebookClient
    from tqdm import tqdm

    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    env = dict(os.environ, HF_HUB_OFFLINE="1", PYTHONHASHSEED="0", TOKENIZERS_PARALLELISM="false", PYTHONWARNINGS="ignore::FutureWarning")
    env.pop("MPLBACKEND", None)  # the kernel chooses its inline backend
    if threads:
        env.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    client = NotebookClient(nb, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
                            store_widget_state=False, record_timing=False)
    client.extra_arguments = ["--log-level=ERROR"]
    start = time.perf_counter()
    with client.setup_kernel(env=env):
        for i, cell in enumerate(tqdm(nb.cells, desc=path.stem, disable=not progress, unit="cell")):
            if cell.cell_type == "code" and not re.search(r"^#\| *eval: *false", cell.source, re.M):
                client.execute_cell(cell, i, execution_count=None)
            if time.perf_counter() - start > seconds:
                raise TimeoutError(f"{path}: more than {seconds:g} s after cell {i}")
        taken = time.perf_counter() - start
        nb.cells.append(nbformat.v4.new_code_cell("import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"))
        memory = int(client.execute_cell(nb.cells[-1], len(nb.cells) - 1).outputs[0].text)
        nb.cells.pop()
    _merge_streams(nb)
    nb.metadata["ml_notes"] = {**nb.metadata.get("ml_notes", {}), "code_hash": code_hash(nb),
                               "seconds": round(taken, 1), "memory_mib": memory}
    nb.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata.pop("language_info", None)
    nb.metadata.pop("jupytext", None)
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
    return nb


def _merge_streams(nb: nbformat.NotebookNode) -> None:
    "Drop what progress bars write to stderr, and join the pieces of each stdout."
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        kept: list = []
        for out in cell.outputs:
            if out.output_type == "stream" and out.name == "stderr":
                continue
            if out.output_type == "stream" and kept and kept[-1].output_type == "stream":
                kept[-1].text += out.text
            else:
                kept.append(out)
        cell.outputs = kept
