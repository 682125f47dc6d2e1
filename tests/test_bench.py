"""A benchmark script in a git checkout of its own: killed and started again, on a clean tree and on a changed one."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ml_notes.core import bench as bench_module

HERE = Path(__file__).parent


def git(where: Path, *args: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(where), *identity, *args], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("nbs", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "README").write_text("kept in git\n")
    (tmp_path / "benchmarks/bench_toy.py").write_text((HERE / "bench_toy.py").read_text(encoding="utf-8"))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    return tmp_path


def bench(checkout: Path, die_after: int) -> tuple[list[str], dict]:
    "Run the script from within nbs; returns what it said about each row, and its results file."
    env = {k: v for k, v in os.environ.items() if k not in ("ML_NOTES_RESULTS", "ML_NOTES_COMMIT")}
    env |= {"PYTHONPATH": str(HERE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "../benchmarks/bench_toy.py", str(die_after)], cwd=checkout / "nbs", env=env,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == (-signal.SIGKILL if die_after else 0), done.stderr
    (path,) = (checkout / "benchmarks/results").glob("*/*")
    assert path.name == "toy.json"
    return [line.split()[2] for line in done.stdout.splitlines() if line.startswith("row")], json.loads(path.read_text())


def test_killed_and_started_again(checkout: Path):
    said, first = bench(checkout, 2)
    assert said == ["measured"] * 2 and len(first["rows"]) == 2
    stamp = first["provenance"]
    assert stamp["commit"] == git(checkout, "rev-parse", "HEAD") and stamp["dirty"] is False and str(checkout) not in json.dumps(first)
    assert stamp["command"] == "python benchmarks/bench_toy.py 2"

    said, second = bench(checkout, 0)  # the results that it wrote do not count as a change
    assert said == ["kept"] * 2 + ["measured"] * 2 and second["rows"][:2] == first["rows"] and len(second["rows"]) == 4

    (checkout / "nbs/README").write_text("changed\n")
    said, third = bench(checkout, 1)
    assert said == ["measured"] and third["provenance"]["dirty"] is True and len(third["rows"]) == 1
    said, fourth = bench(checkout, 0)  # on a changed tree nothing is kept
    assert said == ["measured"] * 4 and fourth["provenance"]["commit"] == stamp["commit"]


def test_cuda_clock(monkeypatch):
    "Without a GPU: the cache is flushed before the first event, only the run lies between the two, and milliseconds become seconds."
    said = []

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self) -> None:
            said.append("event")

        def elapsed_time(self, end: Event) -> float:
            assert end is not self
            return 2.5

    cache = SimpleNamespace(zero_=lambda: said.append("flush"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: SimpleNamespace(L2_cache_size=8))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda where: said.append("wait"))
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: size == 16 and cache)
    assert bench_module._cuda_seconds(lambda: said.append("run"), torch.device("cuda"), 2, True) == [0.0025] * 2
    assert said == ["flush", "event", "run", "event"] * 2 + ["wait"]


def test_cuda_memory(monkeypatch):
    "Without a GPU: the peak is counted from what was allocated before."
    monkeypatch.setattr(torch.cuda, "synchronize", lambda where: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda where: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda where: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda where: 130)
    assert bench_module.memory_peak(lambda: None, "cuda") == 30
