"""What the training scripts share: the command line, and the record that goes with the weights."""
from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's package, also when another one is installed

from ml_notes.core.train import device, save_weights  # noqa: E402


def main(script: str, doc: str, train: Callable, held_out: Callable, steps: int, **settings) -> None:
    """Run a training script: `train(steps)` gives what `fit` gave, `held_out(net)` a loss on unseen data, `settings` go into the record.

    With fewer than all the steps it prints the first losses and writes nothing; a test holds these against the record.
    """
    name = Path(script).stem
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps, help="fewer than all: print the losses and write nothing")
    wanted = parser.parse_args().steps
    start = time.perf_counter()
    fitted = train(wanted)
    seconds = round(time.perf_counter() - start, 1)
    if wanted < steps:
        print(json.dumps([round(x, 6) for x in fitted.losses]))
        return
    weights = ROOT / "nbs" / "diffusion" / "weights" / f"{name.removeprefix('train_')}.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    sha256 = save_weights(fitted.ema_model, weights, dtype=torch.float16)
    where = device()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    record = {
        "name": name, "device": torch.cuda.get_device_name() if where.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(), "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "steps": steps, **settings,
        "seconds": seconds, "parameters": sum(p.numel() for p in fitted.model.parameters()), "weights": weights.relative_to(ROOT).as_posix(), "sha256": sha256,
        "first_losses": fitted.losses[:20],  # a test runs these again
        "loss_curve": [round(sum(fitted.losses[i:i + 50]) / 50, 5) for i in range(0, steps, 50)],  # means of 50 steps
        "held_out_loss": held_out(fitted.ema_model),
    }
    path = ROOT / "benchmarks" / "results" / ("cpu" if where.type == "cpu" else where.type) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{seconds} s, held-out loss {record['held_out_loss']:.4f}, {weights.stat().st_size / 1e6:.2f} MB, SHA-256 {sha256}")
