"""Every notebook, top to bottom in a fresh kernel: it raises nothing, and the checks that pass are those that its stored outputs show."""
import difflib
import re

import book
import pytest
from conftest import shown
from nbclient.exceptions import CellExecutionError

# the slowest first, so that no worker is left alone with one at the end; those never run may be slow
PAGES = sorted((p for p in book.pages() if p.path.exists()), key=lambda p: -p.meta.get("seconds", book.SECONDS_LIMIT))


def differs(page: book.Page) -> str:
    "What goes wrong when a page runs again, or nothing."
    try:
        ran = book.execute(page.path, seconds=2 * book.SECONDS_LIMIT, threads=1)  # two workers share two cores
    except (CellExecutionError, TimeoutError) as e:
        return re.sub(r"\x1b\[[\d;]*m", "", str(e))
    again = book.Page(page.path)
    again.nb = ran
    now, stored = ([f"{c['kind']}: {c['label']}" for c in p.checks()] for p in (again, page))
    return "\n".join(difflib.unified_diff(stored, now, "checks in the stored outputs", f"checks that pass now: make run NB={page.path}", n=1, lineterm=""))


@pytest.mark.timeout(3 * book.SECONDS_LIMIT)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_notebook(page):
    if problem := differs(page):
        pytest.fail(problem, pytrace=False)


def test_a_notebook_that_differs_is_noticed(draft):
    check = "from ml_notes.core.check import verify\nverify('one is one', 1.0, 1.0)"
    assert not differs(draft("a.ipynb").code(check, shown("one is one")).save())
    assert "+identity: one is one" in differs(draft("b.ipynb").code(check).save())
    assert "-identity: gone" in differs(draft("c.ipynb").code(check, shown("one is one", "gone")).save())
    assert "ZeroDivisionError" in differs(draft("d.ipynb").code("1 / 0").save())
