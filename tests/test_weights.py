"""Committed weights come from the committed scripts: the digest is the recorded one, and the first steps give the recorded losses again."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "benchmarks" / "results").rglob("train_*.json"))
STEPS, LIMIT = 3, 2_000_000  # steps run again; bytes that a weights file may have


def test_every_weights_file_has_a_record():
    recorded = {json.loads(r.read_text(encoding="utf-8"))["weights"] for r in RECORDS}
    stored = {w.relative_to(ROOT).as_posix() for w in (ROOT / "nbs").rglob("*.safetensors")}
    assert stored == recorded


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_weights_are_those_of_the_record(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    blob = (ROOT / record["weights"]).read_bytes()
    assert len(blob) <= LIMIT
    assert hashlib.sha256(blob).hexdigest() == record["sha256"]


def by_player(losses: list | dict) -> dict:
    "Losses by the players' names; those of a single model, which is no player, have none."
    return losses if isinstance(losses, dict) else {"": losses}


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_first_steps_give_the_recorded_losses(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    script = ROOT / "benchmarks" / f"{record['name']}.py"
    done = subprocess.run([sys.executable, str(script), "--steps", str(STEPS)], capture_output=True, text=True, timeout=300, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # as recorded; two workers with two threads each would fight for two cores
    losses, recorded = by_player(json.loads(done.stdout.splitlines()[-1])), by_player(record["first_losses"])
    assert losses.keys() == recorded.keys() and max(map(len, losses.values())) == STEPS  # some players do not play at every step
    for player, ours in losses.items():
        assert ours == pytest.approx(recorded[player][:len(ours)], rel=1e-3, abs=1e-6)  # printed with six decimals
