"""The site in a headless browser: nothing is fetched from elsewhere, every formula is drawn, every link leads somewhere, and it fits a phone.

`SITE=<folder>` tests a site that exists, whichever renderer made it; without it one is built with pandoc. The checks are checked too: on small
pages with a planted fault each has to report that fault and no other.
"""
from __future__ import annotations

import fcntl
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from book import pages  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
PHONE = 390

# what the reader must never see in a text: TeX, markup and references that were not resolved
RAW = {r"\$\$": "raw $$", r"\\begin\{": r"raw \begin", r"\{#[\w-]+\}": "raw label", r"\?@|@(?:eq|fig|tbl|sec)-": "unresolved reference",
       r"\[-?@\w": "unresolved citation",
       r"\?\?\?": "unresolved citation", ":::": "raw fence", r"(?m)^ *[-*] \w": "list that is no list: a blank line is missing before it"}

# one look at a page: what is on it, as data
LOOK = r"""() => {
  const text = document.body.cloneNode(true);
  text.querySelectorAll("script, style, pre, code, .katex").forEach((e) => e.remove());
  const all = (selector) => [...document.querySelectorAll(selector)];
  const start = (e) => e.textContent.trim().slice(0, 60);
  const formulas = all(".math").filter((e) => !e.parentElement.closest(".katex"));
  all("details").forEach((d) => { d.open = true; });
  return {
    text: text.textContent,
    formulas: formulas.length,
    undrawn: formulas.filter((e) => e.querySelectorAll(".katex").length !== 1).map(start),
    red: all(".katex-error, .katex *").filter((e) => e.matches(".katex-error") || getComputedStyle(e).color === "rgb(204, 0, 0)").map(start),
    uncited: all(".citation strong").map(start),
    images: all("img").filter((e) => !(e.naturalWidth > 0 && e.getBoundingClientRect().width > 0)).map((e) => e.getAttribute("src").slice(0, 80)),
    links: all("a[href]").map((e) => e.href),
    ids: all("[id]").map((e) => e.id),
  };
}"""


@contextmanager
def watched(browser, base: str) -> Iterator[tuple]:
    "A tab in which nothing may come from elsewhere than `base`: (tab, the growing list of what went wrong)."
    faults: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()

    def route(route) -> None:
        if route.request.url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            faults.append(f"request to another place: {route.request.url}")
            route.abort()

    tab.route("**/*", route)
    tab.on("requestfailed", lambda r: r.url.startswith(base) and faults.append(f"failed request: {r.url}"))
    tab.on("response", lambda r: r.status >= 400 and faults.append(f"failed request: {r.status} {r.url}"))
    tab.on("pageerror", lambda e: faults.append(f"script error: {e}"))
    # that a request failed is already reported by its address
    tab.on("console", lambda m: m.type == "error" and "Failed to load resource" not in m.text and faults.append(f"console: {m.text}"))
    try:
        yield tab, faults
    finally:
        context.close()


def look(tab, faults: list[str], address: str) -> dict:
    "Open one page, add its faults to the list, and return what is on it."
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(address, wait_until="load")
    seen = tab.evaluate(LOOK)
    tab.set_viewport_size({"width": PHONE, "height": 844})
    wide = tab.evaluate("document.scrollingElement.scrollWidth")
    faults += [f"{what}: {m[0].strip()!r}" for pattern, what in RAW.items() for m in [re.search(pattern, seen["text"])] if m]
    faults += [f"formula not drawn: {tex}" for tex in seen["undrawn"]] + [f"formula with an error: {tex}" for tex in seen["red"]]
    faults += [f"unresolved citation: {key}" for key in seen["uncited"]] + [f"image not shown: {src}" for src in seen["images"]]
    if wide > PHONE:
        faults.append(f"wider than a phone: {wide} px")
    return seen


def crawl(tab, noticed: list[str], base: str, start: str = "index.html") -> tuple[list[str], dict[str, dict]]:
    "Every page that can be reached by links from `start`: (faults, page → what is on it)."
    faults: list[str] = []
    found: dict[str, dict] = {}
    queue, wanted = [start], []
    while queue:
        path = queue.pop(0)
        found[path] = look(tab, noticed, base + path)
        faults += [f"{path}: {fault}" for fault in noticed]
        noticed.clear()
        for link in dict.fromkeys(found[path]["links"]):
            if link.startswith(base):
                target, anchor = urldefrag(link[len(base):])
                target = target or "index.html"
                wanted.append((path, target, unquote(anchor)))
                if target.endswith(".html") and target not in found and target not in queue:
                    queue.append(target)
    for path, target, anchor in wanted:
        if target not in found:
            faults.append(f"{path}: link to {target}, which is not a page")
        elif anchor and anchor not in found[target]["ids"]:
            faults.append(f"{path}: link to {target}#{anchor}, where there is no such anchor")
    return faults, found


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    "The folder at an address of its own."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("Chromium is not installed: the site is not looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if os.environ.get("SITE"):
        return Path(os.environ["SITE"]).resolve()
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # the workers' common folder: whoever comes first builds for all
    folder = shared / "site"
    with open(shared / "site.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".nojekyll").exists():  # written last
            built = subprocess.run([sys.executable, ROOT / "tools" / "build_site.py", "--out", folder, "--renderer", "pandoc"], capture_output=True, text=True)
            assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page(browser, site: Path) -> None:
    "No fault on any page, and every page of the book can be reached from the first by links."
    with serving(site) as base, watched(browser, base) as (tab, noticed):
        faults, found = crawl(tab, noticed, base)
    assert not faults, "\n".join(faults)
    book = {page.url for page in pages() if page.path.exists()}
    assert book <= set(found), f"not reached from index.html: {sorted(book - set(found))}"
    assert found["notation.html"]["formulas"] > 50  # that no formula is undrawn says nothing where none is found


def test_search_colours_and_files(browser, site: Path) -> None:
    "A page is found by a name that it exports; dark is dark; from file:// the formulas are drawn and the search works."
    with serving(site) as base:
        for address in (base, site.as_uri() + "/"):
            context = browser.new_context(color_scheme="dark")
            page = context.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda e: errors.append(str(e)))
            page.on("requestfailed", lambda r: errors.append(r.url))
            page.goto(address + "notation.html", wait_until="load")
            assert page.locator(".katex").count() > 50
            background = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert sum(map(int, background[:3])) < 3 * 64, f"asked for dark, got {background}"
            if address == base or page.locator("#search-results").count():  # Quarto's search needs a server
                box = page.locator("#quarto-search input[type=search], input[type=search].aa-Input").first
                if not box.is_visible():
                    page.locator("#quarto-search button").first.click()
                box.fill("verify_order")
                hit = page.locator("#search-results a, .aa-Panel a, .aa-DetachedContainer a").and_(page.locator("[href*='core/check.html']")).first
                hit.wait_for(state="visible", timeout=10_000)
                hit.click()
                page.wait_for_url("**/core/check.html*")
            assert not errors, errors
            context.close()


GOOD = ('<!DOCTYPE html><html><head><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>'
        '<body><p id="here">Text, <code>{#eq-shown-as-code}</code>. <a href="#here">here</a> <a href="other.html#there">there</a></p>%s</body></html>')
PLANTED = {  # what is on the page → the one fault that has to be found
    "": None,
    "<p>The value is $$x$$</p>": "raw $$",
    "<p>\\begin{aligned} x</p>": r"raw \begin",
    "<p>A formula {#eq-ddim}</p>": "raw label",
    "<p>See ?@eq-ddim</p>": "unresolved reference",
    "<p>See @fig-steps.</p>": "unresolved reference",
    "<p>As in [@ho2020ddpm]</p>": "unresolved citation",
    '<p>As in <span class="citation">(<strong>ho2020?</strong>)</span></p>': "unresolved citation",
    "<p>::: {.callout-note}</p>": "raw fence",
    "<p>Three rules:\n- one\n- two</p>": "list that is no list",
    '<span class="math inline">x^2</span>': "formula not drawn",
    '<span class="math"><span class="katex"><span style="color:#cc0000">\\nothing</span></span></span>': "formula with an error",
    '<a href="#nowhere">x</a>': "no such anchor",
    '<a href="other.html#nowhere">x</a>': "no such anchor",
    '<a href="missing.html">x</a>': "failed request",
    '<img src="other.html" alt="x">': "image not shown",
    '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" style="display:none">': "image not shown",
    '<div style="width: 700px">wide</div>': "wider than a phone",
    '<script src="https://cdn.example.org/x.js"></script>': "request to another place",
    '<style>p { background: url("http://example.org/x.png") }</style>': "request to another place",
    "<script>nothing.at.all()</script>": "script error",
    '<script>console.error("no")</script>': "console",
    '<link rel="stylesheet" href="missing.css">': "failed request",
}


def test_the_checks_notice_planted_faults(browser, tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text('<!DOCTYPE html><html><head><link rel="icon" href="data:,"></head><body><p id="there">Text.</p></body></html>')
    with serving(tmp_path) as base, watched(browser, base) as (tab, noticed):
        for body, expected in PLANTED.items():
            (tmp_path / "index.html").write_text(GOOD % body)
            faults, _ = crawl(tab, noticed, base)
            if expected is None:
                assert not faults, faults
            else:
                assert faults, f"not noticed: {body}"
                assert all(expected in fault or "missing.html" in fault for fault in faults), f"{body}: expected only {expected!r}, got {faults}"
