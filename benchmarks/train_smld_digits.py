"""Train the noise-conditional score network of the SMLD page, a small U-Net that is not told the noise level, on scikit-learn's digits.

    python benchmarks/train_smld_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_smld_digits.py --steps 3  # prints the first losses and writes nothing
"""
from __future__ import annotations

from functools import partial

import torch
from training import device, main  # first, because it puts this checkout's package on the path

from ml_notes.core.data import digits
from ml_notes.core.train import fit, seed_everything
from ml_notes.diffusion.ddpm import UNet
from ml_notes.diffusion.smld import ScoreNet, ncsn_loss, ncsnv2_schedule

SEED, STEPS, BATCH, LR, EMA, DROP = 0, 3000, 128, 2e-3, 0.998, 0.15
SIGMA_MIN = 0.05  # pixels have steps of 0.125


def train(steps: int, progress: bool = True):
    "The first `steps` of the run; the learning rate falls along a cosine over all of `STEPS`."
    seed_everything(SEED)
    net = ScoreNet(UNet(classes=10)).to(device())
    data = tuple(x.to(device()) for x in digits("train"))
    loss = partial(ncsn_loss, sigmas=ncsnv2_schedule(data[0], SIGMA_MIN), drop=DROP)
    return fit(net, loss, data, steps=steps, batch_size=BATCH, lr=LR, ema=EMA, seed=SEED, progress=progress,
               scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS))


@torch.no_grad()
def held_out(net: torch.nn.Module, draws: int = 20) -> float:
    "The loss of the 297 test digits, with their labels, averaged over `draws` draws of noise level and noise."
    sigmas = ncsnv2_schedule(digits("train")[0], SIGMA_MIN)
    images, labels = (x.to(device()) for x in digits("test"))
    generator = torch.Generator().manual_seed(SEED)
    return sum(ncsn_loss(net, images, labels, sigmas=sigmas, generator=generator).item() for _ in range(draws)) / draws


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, STEPS, seed=SEED, batch_size=BATCH, lr=LR, ema=EMA, drop=DROP, sigma_min=SIGMA_MIN)
