"""The one reader of the book's notebooks: their order, cells, equations, checks, and how they are run.

`run`, the audits, the mutation tool, the ledger, the index and the renderer all ask here.
"""
from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import re
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
CHECKS_MIME = "application/vnd.ml-notes.checks+json"  # what ml_notes.core.check puts beside each displayed check
SECONDS_LIMIT, BYTES_LIMIT, MEMORY_LIMIT = 120.0, 1_000_000, 4_096  # a page's hard limits: seconds, stored bytes, MiB
MUTANTS, KILL_RATE = 40, 0.9  # an article's checks are held against so many mutants of its code, and notice this share

# families whose pages are articles (the others, `core` and the front matter, are tools of the book)
ARTICLE_FAMILIES = ("training", "generative", "diffusion", "attention", "llm", "vision", "detection", "segmentation", "selfsup", "rl")

DERIVED = ("index", "ledger")  # pages made from the facts of all the others
HEADING = re.compile(r"^## (.+?)[ \t]*(?:\{.*\})?[ \t]*$", re.M)  # a second-level heading, without its label
EVAL_FALSE = re.compile(r"^#\| *eval: *false", re.M)
EQUATION = re.compile(r"\$\$(?P<tex>(?:(?!\$\$).)+)\$\$\s*\{#(?P<label>eq-[\w-]+)\}", re.S)
CODE_IN_PROSE = re.compile(r"^(```+).*?^\1|`[^`\n]+`", re.M | re.S)


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
        folders = list(self.path.parent.parts)
        family = folders[len(folders) - folders[::-1].index("nbs"):] if "nbs" in folders else []  # a notebook elsewhere has no family
        return "/".join([*family, re.sub(r"^\d+_", "", self.path.stem)])

    @property
    def url(self) -> str:
        "Address within the site."
        return f"{self.name}.html"

    @property
    def is_article(self) -> bool:
        return self.name.split("/")[0] in ARTICLE_FAMILIES

    @property
    def meta(self) -> dict:
        "What was recorded: code_hash, seconds, memory_mib (and facts, on a page made from them) by the last run, mutation by `mutate`; by hand, equivalent_mutants."
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
        return [h for c in self.prose for h in HEADING.findall(c.source)]

    def section(self, heading: str) -> list[nbformat.NotebookNode]:
        "The cells from the one with the second-level heading to the next such heading."
        found: list[nbformat.NotebookNode] = []
        for cell in self.nb.cells:
            headings = HEADING.findall(cell.source) if cell.cell_type == "markdown" else []
            if heading in headings:
                found = [cell]
            elif headings and found:
                break
            elif found:
                found.append(cell)
        return found

    def anchors(self) -> list[str]:
        "Every label that the page defines: eq-, fig-, sec-, tbl-."
        written = [m for c in self.prose for m in re.findall(r"\{#((?:eq|fig|sec|tbl)-[\w-]+)", CODE_IN_PROSE.sub("", c.source))]
        return written + [m for c in self.code for m in re.findall(r"^#\| *label: *((?:fig|tbl)-[\w-]+)", c.source, re.M)]

    def cited(self) -> list[tuple[int, str]]:
        "(cell index, name) of each `@name` in the prose and the captions: citations, and references to the page's own labels."
        def words(cell: nbformat.NotebookNode) -> str:
            return cell.source if cell.cell_type == "markdown" else "\n".join(re.findall(r"^#\| *[\w-]+-cap: *(.*)", cell.source, re.M))

        return [(i, name) for i, c in enumerate(self.nb.cells) for name in re.findall(r"(?<![\w.\\])@([A-Za-z][\w-]*)", CODE_IN_PROSE.sub("", words(c)))]

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

    def text_outputs(self, cells: list[nbformat.NotebookNode] | None = None) -> str:
        "What the stored outputs, of the whole page or of some cells, say in words."
        outs = [out for c in (self.code if cells is None else cells) for out in c.get("outputs", [])]
        texts = [out.get("text", "") for out in outs] + [v for out in outs for k, v in out.get("data", {}).items() if k.startswith("text/")]
        return "\n".join("".join(t) for t in texts)

    def gpu(self) -> str:
        "`measured` when the section On a GPU shows a device's figures, `not measured` when it does not, empty without such a section."
        cells = self.section("On a GPU")
        return "" if not cells else "measured" if re.search(r"NVIDIA|AMD Instinct", self.text_outputs(cells)) else "not measured"

    def facts(self) -> dict:
        "What is verified on this page, and what its last run took, all from the stored notebook."
        labels = {label for _, label, _ in self.equations()}
        claims, checks = {label for label in labels if not label.startswith("eq-def-")}, self.checks()
        return dict(
            name=self.name, title=self.title, claim=self.claim, equations=len(claims), definitions=len(labels - claims),
            verified=len(claims & {c["label"] for c in checks}),
            kinds=dict(Counter(c["kind"] for c in checks)), parity=list(dict.fromkeys(c["label"] for c in checks if c["kind"] == "parity")),
            mutation={k: v for k, v in self.meta.get("mutation", {}).items() if k != "exports_hash"}, figures=self.figures(), gpu=self.gpu(),
            seconds=self.meta.get("seconds"), memory_mib=self.meta.get("memory_mib"), kilobytes=round(self.path.stat().st_size / 1e3))

    def figures(self) -> int:
        return sum("image/png" in out.get("data", {}) or "image/svg+xml" in out.get("data", {})
                   for c in self.code for out in c.get("outputs", []))

    def exports(self) -> list[tuple[int, str]]:
        "(cell index, source) of the cells that go into the package."
        return [(i, c.source) for i, c in enumerate(self.nb.cells)
                if c.cell_type == "code" and re.search(r"^#\| *exports?\b", c.source, re.M)]

    def runnable(self, before: str = "") -> list[tuple[int, str]]:
        "(cell index, source) of the code cells that a run executes, up to the second-level heading `before`, or all."
        found: list[tuple[int, str]] = []
        for i, c in enumerate(self.nb.cells):
            if c.cell_type == "markdown" and before in HEADING.findall(c.source):
                break
            if c.cell_type == "code" and not EVAL_FALSE.search(c.source):
                found.append((i, c.source))
        return found

    @property
    def exports_hash(self) -> str:
        "SHA-256 of the exported code without its comments and blank lines: what a mutation score is a score of."
        return hashlib.sha256("\0".join(without_comments(source) for _, source in self.exports()).encode()).hexdigest()


@dataclass(frozen=True)
class CheckCall:
    "One call of a check in a cell's source."

    label: str | None  # the first argument, where it is a literal
    direct: bool  # runs with its cell, not inside a function that the cell defines
    parity: bool


def parse(source: str) -> ast.Module:
    "A cell's tree, empty where it does not parse: a half-written page can be read too, and the audit reports the cell."
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def comments(source: str) -> list[tuple[int, int]]:
    "(line from 1, column) of each comment of a cell, none where it does not parse."
    try:
        return [t.start for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT]
    except (tokenize.TokenError, SyntaxError):
        return []


def without_comments(source: str) -> str:
    lines = source.splitlines()
    for line, column in comments(source):
        lines[line - 1] = lines[line - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def imports_in(tree: ast.AST, module: str = "") -> Iterator[tuple[ast.stmt, list[str]]]:
    "(statement, absolute names) of each import: the module, and what is taken from it; `module` is where relative ones start."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield node, [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*module.split(".")[:-node.level], *([node.module] if node.module else [])]) if node.level else node.module
            yield node, [base, *(f"{base}.{a.name}" for a in node.names)]


def checks_in(source: str) -> list[CheckCall]:
    "The calls of `verify*` and `parity` in a cell, without those that an `expect_fail` block means to fail."
    found: list[CheckCall] = []

    def walk(node: ast.AST, direct: bool) -> None:
        if isinstance(node, ast.With) and any(isinstance(i.context_expr, ast.Call) and ast.unparse(i.context_expr.func) == "expect_fail"
                                              for i in node.items):
            return
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (node.func.id.startswith("verify") or node.func.id == "parity"):
            first = node.args[0] if node.args else None
            label = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
            found.append(CheckCall(label, direct, node.func.id == "parity"))
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            walk(child, direct and not inside)

    walk(parse(source), True)
    return found


def labels_in(source: str) -> list[str]:
    "Equation labels that the `verify*` calls of a cell name (literal strings only)."
    return [c.label for c in checks_in(source) if not c.parity and c.label and c.label.startswith("eq-")]


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


def bibliography(path: Path = NBS / "references.bib") -> list[tuple[str, dict[str, str]]]:
    "(key, fields) of each entry of a BibTeX file written one field a line."
    entries = re.split(r"^@(?=\w+\{)", path.read_text(encoding="utf-8"), flags=re.M)[1:]
    return [(re.match(r"\w+\{\s*([^,\s]+)", e)[1], {k.lower(): v for k, v in re.findall(r"^\s*(\w+)\s*=\s*[{\"](.*)[}\"],?\s*\}?$", e, re.M)}) for e in entries]


def facts(book: list[Page] | None = None) -> list[dict]:
    "`Page.facts` of every page that exists and is not itself made from them, in reading order."
    return [p.facts() for p in (pages() if book is None else book) if p.path.exists() and p.name not in DERIVED]


def digest(rows: list[dict]) -> str:
    "A short name for a state of the book's facts: a page made from them records it, and the audit sees whether it is today's."
    return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def environment(threads: int | None = None) -> dict[str, str]:
    "The variables under which a page's code runs: offline, hashed the same each time, with so many threads or torch's own choice."
    env = dict(os.environ, HF_HUB_OFFLINE="1", PYTHONHASHSEED="0", TOKENIZERS_PARALLELISM="false", PYTHONWARNINGS="ignore::FutureWarning")
    if threads:
        env.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    return env


def save(nb: nbformat.NotebookNode, path: Path) -> None:
    "Write a notebook so that an interruption leaves the old file whole."
    temporary = path.with_suffix(".tmp")
    nbformat.write(nb, temporary)
    temporary.replace(path)


def execute(path: Path, seconds: float = SECONDS_LIMIT, threads: int | None = None, progress: bool = False) -> nbformat.NotebookNode:
    "Run a notebook top to bottom in a fresh kernel, offline; the returned copy holds the outputs and what the run took."
    from nbclient import NotebookClient
    from tqdm import tqdm

    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    env = environment(threads)
    env.pop("MPLBACKEND", None)  # the kernel chooses its inline backend
    client = NotebookClient(nb, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
                            store_widget_state=False, record_timing=False)
    client.extra_arguments = ["--log-level=ERROR"]
    start = time.perf_counter()
    with client.setup_kernel(env=env):
        for i, cell in enumerate(tqdm(nb.cells, desc=path.stem, disable=not progress, unit="cell")):
            if cell.cell_type == "code" and not EVAL_FALSE.search(cell.source):
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
    if Page(path).name in DERIVED:
        nb.metadata["ml_notes"]["facts"] = digest(facts())
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
