"""What can be found wrong with the book without running it.

Each audit is a function that returns problems, one string each: `file: what, where`. Those in PAGE_AUDITS look at one page, those in
BOOK_AUDITS at the whole. `python tools/audit.py` prints them all; the tests run each as an item of its own, and each on a planted fault.
"""
from __future__ import annotations

import ast
import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from urllib.parse import unquote

import pypandoc
import yaml

import book
from book import BYTES_LIMIT, CODE_IN_PROSE, DERIVED, KILL_RATE, MEMORY_LIMIT, MUTANTS, NBS, ROOT, SECONDS_LIMIT, Page, parse

TESTS_ITSELF = "core.check"  # on this page checks are the subject, not the means: it calls them in order to look at what they return
LINES_LIMIT = 25  # lines of code in a cell of an article
SECTIONS = ("Notation", "Derivation", "Implementation", "Equivalences", "Parity", "On a GPU", "Experiment", "Against the paper", "Exercises", "References")
OPTIONAL = {"On a GPU"}

# Beside `core` and its own family, what a family may import, and why. An entry is made when a page needs it.
ALLOWED = {
    ("diffusion", "generative"): "latent diffusion works in the space of VQGAN's autoencoder",
    ("diffusion", "attention"): "denoisers with attention",
    ("detection", "attention"): "DETR is a transformer",
    ("llm", "attention"): "language models are made of attention",
}

# An exported name of an article says where it comes from: an equation (`eq-…`, eq. 7), a part of a paper (Algorithm 1, Table 2, § 3),
# a paper (arXiv number, year, or a key of references.bib), the implementation that it mirrors (a dotted name of a library), or, in backticks,
# another exported name of the page, which it serves and whose source is its own.
SOURCE = re.compile(r"\beq-[\w-]+|\b[Ee]qs?\. ?\(?\w|\b([Ee]quation|[Aa]lgorithm|[Ss]ection|[Aa]ppendix|[Tt]able|[Ff]igure|§) ?[A-Z0-9(]|arXiv|\b(19|20)\d\d\b"
                    r"|\b(torch|torchvision|torchmetrics|diffusers|transformers|triton|timm|peft|gymnasium|ot|sklearn|scipy|numpy)\.\w")

NETWORK_MODULES = {"requests", "urllib.request", "http.client", "socket", "httpx", "aiohttp", "ftplib", "wget"}
NETWORK_CALLS = {"hf_hub_download", "snapshot_download", "load_dataset", "load_state_dict_from_url", "download_url_to_file", "urlopen", "urlretrieve"}
NETWORK_PAGE = "core.data"  # the one module that may fetch, when the reader asks for it
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib"}

UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")  # written apart, so that this file passes
MACHINE = re.compile(r"(?<![\w.:/])/(?:work|root|tmp|home|mnt|Users|workspace|content)/\w|\bsite-packages/|\b(?:ghp|hf|sk)_[A-Za-z0-9]{20,}")


# --- a page ------------------------------------------------------------------------------------------------------------------------------

def equations(page: Page) -> list[str]:
    "Each labelled equation is checked below, each check names an equation, and each check's result is shown."
    at = _at(page)
    found = page.equations()
    labels = Counter(page.anchors())
    problems = [at(f"label {label} is used {n} times") for label, n in labels.items() if n > 1]
    problems += [at(f"{label} is not attached to a $$…$$") for label in labels if label.startswith("eq-") and label not in {x for _, x, _ in found}]
    verified = [] if page.module == TESTS_ITSELF else page.verified()
    for cell, label, _ in found:
        if not label.startswith("eq-def-") and not any(name == label and i > cell for i, name in verified):
            where = "only before it" if any(name == label for _, name in verified) else "nowhere"
            problems.append(at(f"equation {label} is verified {where}", cell))
    problems += [at(f"a check names {label}, which is no equation of this page", i) for i, label in verified if labels[label] == 0]
    if page.meta.get("code_hash") == book.code_hash(page.nb):  # otherwise there is nothing to compare with, and `outputs` says so
        shown = Counter(c["label"] for c in page.checks())
        problems += [at(f"the check of {label} is {n} times in the source, {shown[label]} times in the stored outputs")
                     for label, n in Counter(label for _, label in verified).items() if shown[label] < n]
        problems += [at(f"{called} checks are called, {n} are displayed", i) for i, called, n in _displayed(page) if n < called]
    anchors = set(labels)
    problems += [at(f"@{name} is not on this page", i) for i, name in page.cited() if re.match(r"(eq|fig|sec|tbl)-", name) and name not in anchors]
    return problems


def _displayed(page: Page) -> Iterator[tuple[int, int, int]]:
    "(cell, checks that its source calls, checks that its stored outputs show), for the cells that are not exported."
    exported = {i for i, _ in page.exports()}
    for i, cell in enumerate(page.nb.cells):
        if cell.cell_type == "code" and i not in exported and page.module != TESTS_ITSELF:
            called = sum(c.direct for c in book.checks_in(cell.source))
            yield i, called, sum(len(out.get("data", {}).get(book.CHECKS_MIME, [])) for out in cell.get("outputs", []))


def links(page: Page) -> list[str]:
    "Each link to another notebook or file of the book leads somewhere."
    problems = []
    for i, cell in enumerate(page.nb.cells):
        if cell.cell_type != "markdown":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", CODE_IN_PROSE.sub("", cell.source)):
            if re.match(r"[a-z]+:|#", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            there = (page.path.parent / file).resolve()
            if not there.exists():
                problems.append(_at(page)(f"link to {file}, which does not exist", i))
            elif anchor and there.suffix == ".ipynb" and re.match(r"(eq|fig|sec|tbl)-", anchor) and anchor not in Page(there).anchors():
                problems.append(_at(page)(f"link to {target}, but that page has no such label", i))
    return problems


def outputs(page: Page) -> list[str]:
    "The stored outputs come from the code as it stands, whole, clean and within the budgets."
    at = _at(page)
    meta = page.meta
    problems = []
    if meta.get("code_hash") != book.code_hash(page.nb):
        problems.append(at("the code has changed since its outputs were made" if "code_hash" in meta else "has never been run", hint="make run"))
    for i, cell in enumerate(page.nb.cells):
        for out in cell.get("outputs", []):
            if out.output_type == "error":
                problems.append(at(f"an error is stored, {out.get('ename')}: {str(out.get('evalue'))[:80]}", i))
            if out.get("name") == "stderr" or re.search(r"^\S+\.py:\d+: \w*Warning", out.get("text", ""), re.M):
                problems.append(at("a warning, or what was written to stderr, is stored", i))
    size = page.path.stat().st_size
    for value, limit, unit in ((size, BYTES_LIMIT, "bytes"), (meta.get("seconds", 0), SECONDS_LIMIT, "s"), (meta.get("memory_mib", 0), MEMORY_LIMIT, "MiB")):
        if value > limit:
            problems.append(at(f"{value:,} {unit}, at most {limit:,} allowed"))
    if page.is_article and not page.figures():
        problems.append(at("no image is stored"))
    return problems


def cells(page: Page) -> list[str]:
    "Every code cell is Python that a kernel needs no help with, and short."
    at = _at(page)
    problems = []
    for i, cell in enumerate(page.nb.cells):
        if cell.cell_type != "code":
            continue
        if magic := re.search(r"^\s*(?:[%!]\S.*|get_ipython\(.*|\?\S.*|\S+\?\??)$", cell.source, re.M):
            problems.append(at(f"magic or shell line `{magic[0].strip()[:40]}`", i))
            continue
        try:
            ast.parse(cell.source)
        except SyntaxError as e:
            problems.append(at(f"does not parse, line {e.lineno}: {e.msg}", i))
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if page.is_article and len(lines) > LINES_LIMIT:
            problems.append(at(f"{len(lines)} lines of code, at most {LINES_LIMIT} allowed", i))
    return problems


def structure(page: Page) -> list[str]:
    "An article has the sections of CONTRIBUTING in their order, and its first cells say what it is."
    at = _at(page)
    prose = [c.source for c in page.prose]
    if not prose or not re.match(r"# \S", prose[0]) or not page.claim:
        return [at("the first text cell has to be `# Name` and `> one-sentence claim`")]
    if not page.is_article:
        return []
    problems = [at(f"## {s} is missing") for s in SECTIONS if s not in page.sections and s not in OPTIONAL]
    problems += [at(f"## {s} is not one of the sections of an article") for s in page.sections if s not in SECTIONS]
    present = [s for s in page.sections if s in SECTIONS]
    if present != sorted(set(present), key=SECTIONS.index):
        problems.append(at(f"sections are repeated or out of order: {', '.join(present)}"))
    family, stem = (page.name.split("/") + [""])[:2]
    if page.module != f"{family}.{stem}":
        problems.append(at(f"`#| default_exp` names {page.module}, expected {family}.{stem}"))
    text = "\n".join(prose)
    places = {
        "a link [Open in Colab](…)": r"Open in Colab\]\(|\[!\[[^\]]*Colab[^\]]*\]\(",
        'the folded callout title="中文提要"': r':::+ *\{(?=[^}]*collapse="true")[^}]*title="中文提要"',
        'the callout title="At a glance"': r':::+ *\{[^}]*title="At a glance"',
        "## Notation": r"^## Notation",
    }
    at_index = {what: m.start() for what, pattern in places.items() if (m := re.search(pattern, text, re.M))}
    problems += [at(f"{what} is missing") for what in places if what not in at_index and what != "## Notation"]
    if list(at_index.values()) != sorted(at_index.values()):
        problems.append(at("the first cells are out of order: " + ", ".join(sorted(at_index, key=at_index.get))))
    answers = len(re.findall(r':::+ *\{[^}]*callout-tip[^}]*collapse="true"', "\n".join(c.source for c in page.section("Exercises"))))
    if not 4 <= answers <= 6:
        problems.append(at(f"{answers} exercises with a folded answer, expected 4 to 6"))
    if "{#refs}" not in "\n".join(c.source for c in page.section("References")):
        problems.append(at("## References lacks `::: {#refs}`"))
    return problems


def exports(page: Page) -> list[str]:
    "Every exported name says what it does and takes; in an article, also where it comes from."
    problems = []
    keys = {key for key, _ in book.bibliography()} if (NBS / "references.bib").exists() else set()
    labels, names = set(page.anchors()), {node.name for _, source in page.exports() for node in parse(source).body if hasattr(node, "name")}
    for i, source in page.exports():
        comments = {line for line, _ in book.comments(source)}
        for node in parse(source).body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            def at(what: str) -> str:
                return _at(page)(f"`{node.name}` {what}", i)
            doc = ast.get_docstring(node) or ""
            if not doc:
                problems.append(at("has no docstring"))
            kernel = any("jit" in ast.unparse(d) for d in node.decorator_list)  # its parameters are its launcher's
            problems += [] if kernel else [at(f"does not say what `{name}` is") for name, lines in _parameters(node)
                                           if not lines & comments and not re.search(rf"\b{re.escape(name)}\b", doc)]
            served = set(re.findall(r"`(\w+)(?:\(.*?\))?`", doc)) & names - {node.name}
            patched = any("patch" in ast.unparse(d) for d in node.decorator_list)  # a method added to a class, which names its source
            if page.is_article and doc and not patched and not SOURCE.search(doc) and not served and not any(key in doc for key in keys):
                problems.append(at("names no source: an equation, a paper or the implementation that it mirrors"))
            problems += [at(f"cites {label}, which is no equation of this page") for label in re.findall(r"@(eq-[\w-]+)", doc) if label not in labels]
    return problems


def mutation(page: Page) -> list[str]:
    "An article's checks have been held against mutants of the code that it exports now, and noticed nine in ten."
    at, score = _at(page), page.meta.get("mutation")
    if not page.is_article or not page.exports():
        return []
    if not score:
        return [at("has no mutation score", hint="make mutate")]
    problems = []
    if score["exports_hash"] != page.exports_hash:
        problems.append(at("mutation score is of older code", hint="make mutate"))
    if score["n"] < MUTANTS:
        problems.append(at(f"mutation score is of {score['n']} mutants, {MUTANTS} wanted", hint="make mutate"))
    counted = score["tried"] - score["equivalent"]
    if not counted or score["killed"] / counted < KILL_RATE:
        problems.append(at(f"{score['killed']} of {counted} mutants killed, {KILL_RATE:.0%} wanted"))
    return problems


def safety(page: Page) -> list[str]:
    "No `.cuda()`, no pickle and, outside core.data, no network."
    problems = []
    for i, cell in enumerate(page.nb.cells):
        if cell.cell_type == "code":
            problems += [_at(page)(what, i) for what in unsafe(parse(cell.source), may_fetch=page.module == NETWORK_PAGE)]
    return problems


def unsafe(tree: ast.AST, may_fetch: bool = False) -> Iterator[str]:
    "What a piece of code does that no page may do."
    for _, names in book.imports_in(tree):
        yield from sorted({f"imports {n.split('.')[0]}" for n in names if n.split(".")[0] in PICKLES})
        yield from (f"imports {n}, which uses the network" for n in names if n in NETWORK_MODULES and not may_fetch)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, last = ast.unparse(node.func), ast.unparse(node.func).split(".")[-1]
        given = {k.arg: k.value for k in node.keywords}
        on = {k for k, v in given.items() if isinstance(v, ast.Constant) and v.value is True}
        if last == "cuda" and isinstance(node.func, ast.Attribute):
            yield f"calls {name}(): take a device argument, or core.train.device()"
        if name == "torch.load" and "weights_only" not in on:
            yield "calls torch.load without weights_only=True"
        if "allow_pickle" in on:
            yield f"calls {name} with allow_pickle=True"
        if may_fetch:
            continue
        if last in NETWORK_CALLS or name.startswith("torch.hub."):
            yield f"calls {name}, which uses the network"
        if last == "from_pretrained" and node.args and isinstance(node.args[0], ast.Constant):
            yield f"calls {name}({node.args[0].value!r}), which uses the network"
        if on & {"download", "pretrained"}:
            yield f"calls {name} with {', '.join(sorted(on & {'download', 'pretrained'}))}=True, which uses the network"
        weights = given.get("weights")
        if isinstance(weights, ast.Constant) and isinstance(weights.value, str):
            yield f"calls {name} with weights={weights.value!r}, which uses the network"


def wording(page: Page) -> list[str]:
    "Nothing unfinished, and nothing that belongs to one machine, in what the page says, runs or shows."
    problems = []
    for i, cell in enumerate(page.nb.cells):
        shown = page.text_outputs([cell]) if cell.cell_type == "code" else ""
        problems += [_at(page)(what, i) for what in _unclean(f"{cell.source}\n{shown}", machine=True)]
    return problems


PAGE_AUDITS = (equations, links, outputs, cells, structure, exports, mutation, safety, wording)


# --- the book ----------------------------------------------------------------------------------------------------------------------------

def package(root: Path = ROOT) -> list[str]:
    "The package is what `nbdev_export` makes of the notebooks, no more and no less."
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        shutil.copytree(root / "nbs", fresh / "nbs", ignore=shutil.ignore_patterns("katex", ".*", "weights", "*.tmp"))
        for name in ("settings.ini", "setup.py", "README.md", "pyproject.toml"):
            if (root / name).exists():
                shutil.copy(root / name, fresh)
        made = subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=fresh, capture_output=True, text=True)
        if made.returncode:
            return [f"ml_notes: nbdev_export fails, {(made.stderr.strip().splitlines() or ['without a word'])[-1]}"]
        ours, theirs = ({f.relative_to(r / "ml_notes").as_posix() for f in (r / "ml_notes").rglob("*.py")} for r in (root, fresh))
        problems = [f"ml_notes/{f}: is exported by no notebook" for f in sorted(ours - theirs)]
        problems += [f"ml_notes/{f}: is missing, make export" for f in sorted(theirs - ours)]
        return problems + [f"ml_notes/{f}: differs from what its notebook exports, make export" for f in sorted(ours & theirs)
                           if not filecmp.cmp(root / "ml_notes" / f, fresh / "ml_notes" / f, shallow=False)]


def imports(root: Path = ROOT, order: list[str] | None = None) -> list[str]:
    "Modules import only from core, from earlier pages of their family, and from the families in ALLOWED; never in a circle."
    order = [p.name.replace("/", ".") for p in book.pages()] if order is None else order
    position = {name: i for i, name in enumerate(order)}
    files = {f.relative_to(root / "ml_notes").with_suffix("").as_posix().replace("/", "."): f
             for f in (root / "ml_notes").rglob("*.py") if f.stem not in ("__init__", "_modidx")}
    graph = {name: set(_package_imports(name, f, set(files))) for name, f in files.items()}
    problems = []
    for name, targets in graph.items():
        family = name.split(".")[0]
        for target in sorted(targets):
            other = target.split(".")[0]
            if target not in files:
                problems.append(f"ml_notes/{name}: imports ml_notes.{target}, which does not exist")
            elif other == family != "core" and position.get(target, -1) >= position.get(name, len(order)):
                problems.append(f"ml_notes/{name}: imports {target}, a later page of its family")
            elif other not in (family, "core") and (family, other) not in ALLOWED:
                problems.append(f"ml_notes/{name}: imports {target}; a family may import core, itself and what audit.ALLOWED lists")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        problems.append(f"ml_notes: imports in a circle, {' -> '.join(e.args[1])}")
    return problems


def _package_imports(name: str, file: Path, known: set[str]) -> Iterator[str]:
    "Modules of the package, without its name, that a file imports."
    for _, names in book.imports_in(ast.parse(file.read_text(encoding="utf-8")), f"ml_notes.{name}"):
        own = [n.removeprefix("ml_notes.") for n in names if n.startswith("ml_notes.")]
        yield from [n for n in own if n in known] or own[:1]


def _unreadable(bib: Path) -> list[str]:
    "What pandoc, which makes the site, says to the file, if it cannot read it."
    try:
        pypandoc.convert_file(str(bib), "csljson", format="bibtex")
    except RuntimeError as e:
        return [f"{bib.name}: cannot be read, {' '.join(str(e).split())}"]
    return []


def references(book_pages: Iterable[Page] | None = None, bib: Path = NBS / "references.bib") -> list[str]:
    "Every citation has an entry, every entry is cited, unique, and can be found: by its arXiv number, its DOI, or, for a journal that gives neither, the address of its page."
    entries = book.bibliography(bib)
    keys = Counter(key for key, _ in entries)
    problems = [f"{bib.name}: {key} stands {n} times" for key, n in keys.items() if n > 1] + _unreadable(bib)
    problems += [f"{bib.name}: {key} has neither eprint, doi nor url" for key, fields in entries if not any(fields.get(name) for name in ("eprint", "doi", "url"))]
    problems += [f"{bib.name}: {key} is not first author, year, short name" for key in keys if not re.fullmatch(r"[a-z]+\d{4}[a-z0-9]+", key)]
    for field in ("eprint", "doi", "title"):
        same = Counter(fields[field].lower() for _, fields in entries if field in fields)
        problems += [f"{bib.name}: {field} {value} stands {n} times" for value, n in same.items() if n > 1]
    cited = [(page, i, name) for page in _existing(book_pages) for i, name in page.cited() if not re.match(r"(eq|fig|sec|tbl)-", name)]
    problems += [_at(page)(f"@{name} has no entry in {bib.name}", i) for page, i, name in cited if name not in keys]
    return problems + [f"{bib.name}: {key} is cited by no page" for key in keys if key not in {name for _, _, name in cited}]


def sidebar(nbs: Path = NBS) -> list[str]:
    "The sidebar lists every notebook once, in the order of the file numbers, and nothing that is not there."
    tree = yaml.safe_load((nbs / "sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    listed = [str(p) if isinstance(p, str) else p["href"] for e in tree for p in (e["contents"] if isinstance(e, dict) and "section" in e else [e])]
    files = {f.relative_to(nbs).as_posix() for f in nbs.rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in f.relative_to(nbs).parts)}
    problems = [f"sidebar.yml: {name} stands {n} times" for name, n in Counter(listed).items() if n > 1]
    problems += [f"sidebar.yml: {name} does not exist" for name in listed if name not in files]
    problems += [f"nbs/{name}: is not in sidebar.yml" for name in sorted(files - set(listed))]
    for family in sorted({name.rpartition("/")[0] for name in files | set(listed)}):
        mine = [name for name in listed if name.rpartition("/")[0] == family]
        if family and mine != sorted(mine):
            problems.append(f"sidebar.yml: the pages of {family} are not in the order of their numbers")
        stems = Counter(re.sub(r"^\d+_", "", Path(name).stem) for name in files if name.rpartition("/")[0] == family)
        problems += [f"nbs/{family}: {n} notebooks are called {stem}" for stem, n in stems.items() if n > 1]
    return problems


def hygiene(root: Path = ROOT) -> list[str]:
    "Nothing unfinished in any file, and no path of one machine in the package or the results."
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    problems = []
    for name in listed:
        file = root / name
        if file.suffix in (".ipynb", ".png", ".safetensors", ".woff2", ".ico") or not file.is_file():  # notebooks have an audit of their own
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        machine = name.startswith(("ml_notes/", "benchmarks/"))
        problems += [f"{name}: {what}" for what in _unclean(text, machine)]
    return problems


def derived(book_pages: Iterable[Page] | None = None) -> list[str]:
    "The pages made from the others' facts were made from today's."
    every = list(_existing(book_pages))
    today = book.digest(book.facts(every))
    return [_at(page)("is made from older facts", hint="make run") for page in every if page.name in DERIVED and page.meta.get("facts") != today]


BOOK_AUDITS = (package, imports, references, sidebar, hygiene, derived)


# --- shared ------------------------------------------------------------------------------------------------------------------------------

def _at(page: Page):
    "How a problem of this page is written."
    file = page.path.relative_to(ROOT).as_posix() if page.path.is_relative_to(ROOT) else page.path.name
    return lambda what, cell=None, hint="": f"{file}: {what}" + (f", cell {cell}" if cell is not None else "") + (f" ({hint} NB={file})" if hint else "")


def _existing(book_pages: Iterable[Page] | None) -> Iterable[Page]:
    return [p for p in (book.pages() if book_pages is None else book_pages) if p.path.exists()]


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, set[int]]]:
    "(name, lines that it stands on) of what a function, a class's `__init__` or a dataclass takes."
    if isinstance(node, ast.ClassDef):
        if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            yield from ((s.target.id, set(range(s.lineno, s.end_lineno + 1))) for s in node.body if isinstance(s, ast.AnnAssign))
        yield from (p for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__" for p in _parameters(f))
        return
    a = node.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [*[None] * (len(positional) - len(a.defaults)), *a.defaults, *a.kw_defaults]
    for arg, default in zip([*positional, *a.kwonlyargs], defaults):
        if arg.arg not in ("self", "cls"):
            yield arg.arg, {arg.lineno, arg.end_lineno, (default or arg).end_lineno}


def _unclean(text: str, machine: bool) -> Iterator[str]:
    for match in UNFINISHED.finditer(text):
        yield f"unfinished, {match[0]}: {_line(text, match)}"
    for match in MACHINE.finditer(text) if machine else ():
        yield f"a path or a secret of one machine: {_line(text, match)}"
    if machine and str(ROOT) in text:
        yield "the path of this checkout"


def _line(text: str, match: re.Match) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    return text[start:].split("\n", 1)[0].strip()[:100]


def problems_of(book_pages: Iterable[Page]) -> Iterator[tuple[str, list[str]]]:
    "(audit, problems) for everything: the pages given, and the book."
    every = list(book_pages)
    for audit in PAGE_AUDITS:
        yield audit.__name__, [problem for page in every for problem in audit(page)]
    for audit in BOOK_AUDITS:
        yield audit.__name__, audit()


def main() -> int:
    total = 0
    for name, problems in problems_of(_existing(None)):
        print(f"{name}: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}")
        print(*(f"  {p}" for p in problems), sep="\n", end="\n" if problems else "")
        total += len(problems)
    print(f"\n{total} problems" if total else "\nnothing found")
    return bool(total)


if __name__ == "__main__":
    sys.exit(main())
