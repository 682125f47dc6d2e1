"""Train the small U-Net of `diffusion/ddpm` on scikit-learn's digits for longer than a page has time for.

    python benchmarks/train_ddpm_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_ddpm_digits.py --steps 3  # prints the first losses and writes nothing
"""
from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's package, also when another one is installed

from ml_notes.core.data import digits  # noqa: E402
from ml_notes.core.train import device, fit, save_weights, seed_everything  # noqa: E402
from ml_notes.diffusion.ddpm import UNet, linear_schedule, loss_simple  # noqa: E402

WEIGHTS = ROOT / "nbs" / "diffusion" / "weights" / "ddpm_digits.safetensors"
SEED, STEPS, BATCH, LR, EMA, DROP = 0, 3000, 128, 2e-3, 0.998, 0.15


def train(steps: int, progress: bool = True):
    "The first `steps` of the run; the learning rate falls along a cosine over all of `STEPS`."
    seed_everything(SEED)
    net = UNet(classes=10).to(device())
    data = tuple(x.to(device()) for x in digits("train"))
    return fit(net, partial(loss_simple, schedule=linear_schedule(), drop=DROP), data, steps=steps, batch_size=BATCH, lr=LR, ema=EMA, seed=SEED, progress=progress,
               scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS))


@torch.no_grad()
def held_out(net: torch.nn.Module, draws: int = 20) -> float:
    "L_simple of the 297 test digits, with their labels, averaged over `draws` draws of step and noise."
    images, labels = (x.to(device()) for x in digits("test"))
    generator = torch.Generator().manual_seed(SEED)
    return sum(loss_simple(net, images, labels, schedule=linear_schedule(), generator=generator).item() for _ in range(draws)) / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer than all: print the losses and write nothing")
    steps = parser.parse_args().steps
    start = time.perf_counter()
    fitted = train(steps)
    seconds = round(time.perf_counter() - start, 1)
    if steps < STEPS:
        print(json.dumps([round(x, 6) for x in fitted.losses]))
        return
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    sha256 = save_weights(fitted.ema_model, WEIGHTS, dtype=torch.float16)
    where = device()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    record = {
        "name": "train_ddpm_digits", "device": torch.cuda.get_device_name() if where.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(), "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "seed": SEED, "steps": STEPS, "batch_size": BATCH, "lr": LR, "ema": EMA, "drop": DROP,
        "seconds": seconds, "parameters": sum(p.numel() for p in fitted.model.parameters()), "weights": WEIGHTS.relative_to(ROOT).as_posix(), "sha256": sha256,
        "first_losses": fitted.losses[:20],  # a test runs these again
        "loss_curve": [round(sum(fitted.losses[i:i + 50]) / 50, 5) for i in range(0, STEPS, 50)],  # means of 50 steps
        "held_out_loss": held_out(fitted.ema_model),
    }
    path = ROOT / "benchmarks" / "results" / ("cpu" if where.type == "cpu" else where.type) / "train_ddpm_digits.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{seconds} s, held-out loss {record['held_out_loss']:.4f}, {WEIGHTS.stat().st_size / 1e6:.2f} MB, SHA-256 {sha256}")


if __name__ == "__main__":
    main()
