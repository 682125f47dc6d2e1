"""Train the small U-Net of `diffusion/ddpm` on scikit-learn's digits for longer than a page has time for.

    python benchmarks/train_ddpm_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_ddpm_digits.py --steps 3  # prints the first losses and writes nothing
"""
from __future__ import annotations

from functools import partial

import torch
from training import device, main  # first, because it puts this checkout's package on the path

from ml_notes.core.data import digits
from ml_notes.core.train import fit, seed_everything
from ml_notes.diffusion.ddpm import UNet, linear_schedule, loss_simple

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


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, STEPS, seed=SEED, batch_size=BATCH, lr=LR, ema=EMA, drop=DROP)
