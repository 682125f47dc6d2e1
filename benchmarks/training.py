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
from statistics import fmean

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's package, also when another one is installed

from ml_notes.core.train import device, save_weights  # noqa: E402


def each(losses: list | dict, what: Callable) -> list | dict:
    "What `what` makes of a list of losses, or of each player's in a dict."
    return {name: what(x) for name, x in losses.items()} if isinstance(losses, dict) else what(losses)


def main(script: str, doc: str, train: Callable, held_out: Callable, steps: int, family: str = "diffusion", part: str = "", **settings) -> None:
    """Run a training script: `train(steps)` gives what `fit` gave, `held_out(net)` a loss on unseen data, `settings` go into the record.

    Written to `nbs/<family>/weights/`, and given to `held_out`: the moving average, or the model where there is none; of it only the child `part` where one is named.
    With fewer than all the steps it prints the first losses (by player where there are several) and writes nothing; a test holds these against the record.
    """
    name = Path(script).stem
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps, help="fewer than all: print the losses and write nothing")
    wanted = parser.parse_args().steps
    start, cpu_start = time.perf_counter(), time.process_time()
    fitted = train(wanted)
    seconds, cpu_seconds = round(time.perf_counter() - start, 1), round(time.process_time() - cpu_start, 1)
    if wanted < steps:
        print(json.dumps(each(fitted.losses, lambda losses: [round(x, 6) for x in losses])))
        return
    weights = ROOT / "nbs" / family / "weights" / f"{name.removeprefix('train_')}.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    net = (fitted.model if fitted.ema_model is None else fitted.ema_model).get_submodule(part)
    sha256 = save_weights(net, weights, dtype=torch.float16)
    where = device()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    record = {
        "name": name, "device": torch.cuda.get_device_name() if where.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(), "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "steps": steps, "family": family, **({"part": part} if part else {}), **settings,
        "seconds": seconds, "cpu_seconds": cpu_seconds, "parameters": sum(p.numel() for p in net.parameters()), "weights": weights.relative_to(ROOT).as_posix(), "sha256": sha256,
        "first_losses": each(fitted.losses, lambda losses: losses[:20]),  # a test runs these again
        "loss_curve": each(fitted.losses, lambda losses: [round(fmean(losses[i:i + 50]), 5) for i in range(0, len(losses), 50)]),  # means of 50
        "held_out_loss": held_out(net),
    }
    path = ROOT / "benchmarks" / "results" / ("cpu" if where.type == "cpu" else where.type) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{seconds} s, held-out loss {record['held_out_loss']:.4f}, {weights.stat().st_size / 1e6:.2f} MB, SHA-256 {sha256}")
