"""Experts on several processes that exchange rows over gloo: outputs and all gradients are those of one process."""
from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import moe_job  # noqa: E402

processes = multiprocessing.get_context("spawn")


@pytest.mark.parametrize("n", [1, 2])
def test_processes_are_one(n: int, tmp_path: Path):
    started = [processes.Process(target=moe_job.job, args=(rank, n, str(tmp_path / "store"))) for rank in range(n)]
    try:
        for process in started:
            process.start()
        for process in started:
            process.join(120)
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
    assert [process.exitcode for process in started] == [0] * n
