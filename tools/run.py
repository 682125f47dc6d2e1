"""Run notebooks in place, in a fresh kernel, and keep their outputs: `python tools/run.py nbs/diffusion/04_ddim.ipynb …`."""
from __future__ import annotations

import sys
from pathlib import Path

from book import Page, execute, save


def main(paths: list[str]) -> int:
    if not paths:
        print("usage: make run NB=nbs/<family>/<notebook>.ipynb")
        return 2
    for path in map(Path, paths):
        nb = execute(path.resolve(), progress=True)
        save(nb, path)
        page = Page(path.resolve())
        print(f"{path}: {len(page.checks())} checks passed, {page.figures()} figures, {page.meta['seconds']} s, {page.meta['memory_mib']} MiB, "
              f"{path.stat().st_size / 1e3:.0f} kB. Look at it with `make lab` or `make site`.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
