"""Train the class-conditional denoiser of the diffusion pages, a small U-Net in EDM's preconditioning, on scikit-learn's digits.

    python benchmarks/train_denoiser_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_denoiser_digits.py --steps 3  # prints the first losses and writes nothing
"""
from __future__ import annotations

from functools import partial

import torch
from training import device, main  # first, because it puts this checkout's package on the path

from ml_notes.core.data import digits
from ml_notes.core.train import fit, seed_everything
from ml_notes.diffusion.ddpm import UNet
from ml_notes.diffusion.process import Preconditioned, denoising_loss, edm_weight, lognormal

SEED, STEPS, BATCH, LR, EMA, DROP = 0, 4000, 128, 2e-3, 0.998, 0.15
SIGMA_DATA = 0.75  # of the digits' pixels
MEAN, STD = -0.5, 1.4  # of log sigma: a digit of 8 x 8 pixels is decided at higher noise than an image of 64 x 64
LOSS = partial(denoising_loss, sigmas=partial(lognormal, mean=MEAN, std=STD), weight=partial(edm_weight, sigma_data=SIGMA_DATA))


def train(steps: int, progress: bool = True):
    "The first `steps` of the run; the learning rate falls along a cosine over all of `STEPS`."
    seed_everything(SEED)
    net = Preconditioned(UNet(classes=10), SIGMA_DATA).to(device())
    data = tuple(x.to(device()) for x in digits("train"))
    return fit(net, partial(LOSS, drop=DROP), data, steps=steps, batch_size=BATCH, lr=LR, ema=EMA, seed=SEED, progress=progress,
               scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS))


@torch.no_grad()
def held_out(net: torch.nn.Module, draws: int = 20) -> float:
    "The loss of the 297 test digits, with their labels, averaged over `draws` draws of noise level and noise."
    images, labels = (x.to(device()) for x in digits("test"))
    generator = torch.Generator().manual_seed(SEED)
    return sum(LOSS(net, images, labels, generator=generator).item() for _ in range(draws)) / draws


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, STEPS, seed=SEED, batch_size=BATCH, lr=LR, ema=EMA, drop=DROP, sigma_data=SIGMA_DATA, log_sigma_mean=MEAN, log_sigma_std=STD)
