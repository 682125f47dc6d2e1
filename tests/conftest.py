"""The tests read the book through tools/book.py, as everything else does."""
import base64
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import book  # noqa: E402

PIXEL = base64.b64encode(bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082")).decode()


def shown(*labels: str, kind: str = "identity") -> list:
    "Stored outputs of a cell that displays passed checks."
    return [new_output("execute_result", data={book.CHECKS_MIME: [dict(label=x, kind=kind, error=0.0, tol=1e-10, n=7) for x in labels],
                                               "text/markdown": "\n\n".join(f"✓ {x}" for x in labels)})]


def picture() -> list:
    return [new_output("display_data", data={"image/png": PIXEL})]


class Draft:
    "A notebook being written for a test: cells are added, then it is saved with the metadata of an honest run."

    def __init__(self, path: Path):
        self.path, self.nb = path, new_notebook()

    def prose(self, source: str) -> "Draft":
        self.nb.cells.append(new_markdown_cell(source))
        return self

    def code(self, source: str, outputs: list = ()) -> "Draft":
        self.nb.cells.append(new_code_cell(source, outputs=list(outputs)))
        return self

    def replace(self, old: str, new: str) -> "Draft":
        "Change the text of the one cell that contains `old`."
        (cell,) = [c for c in self.nb.cells if old in c.source]
        cell.source = cell.source.replace(old, new)
        return self

    def save(self, **meta) -> book.Page:
        "Write it; what `meta` names takes the place of what a run would have recorded."
        honest = dict(code_hash=book.code_hash(self.nb), seconds=1.0, memory_mib=100)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.nb.metadata["ml_notes"] = {**honest, **meta}
        nbformat.write(self.nb, self.path)
        return book.Page(self.path)


@pytest.fixture
def draft(tmp_path):
    "A maker of notebooks in a book of their own: `draft('diffusion/07_walk.ipynb')`."
    return lambda name: Draft(tmp_path / "nbs" / name)
