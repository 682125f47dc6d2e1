"""Train the class-conditional DCGAN of `generative/gan`, its discriminator spectrally normalised, on scikit-learn's digits, enlarged to 16 × 16.

    python benchmarks/train_gan_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_gan_digits.py --steps 3  # prints the first losses of both players and writes nothing
"""
from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from training import device, main  # before the package, because it puts this checkout's on the path

from ml_notes.core.data import digits
from ml_notes.core.train import Fitted, fit, seed_everything
from ml_notes.generative.gan import DCGANDiscriminator, DCGANGenerator, gan_sample, init_dcgan, players

SEED, STEPS, BATCH, LR, BETAS, EMA = 0, 6000, 64, 2e-4, (0.5, 0.999), 0.998
NET = dict(size=16, channels=1, width=32, latent=32, classes=10)


def train(steps: int, progress: bool = True) -> Fitted:
    "The first `steps` of the run; the learning rates fall along a cosine over all of `STEPS`."
    seed_everything(SEED)
    judge = DCGANDiscriminator(NET["size"], NET["channels"], NET["width"], NET["classes"], spectral=True)
    model = nn.ModuleDict({"discriminator": init_dcgan(judge), "generator": init_dcgan(DCGANGenerator(**NET))}).to(device())
    data = tuple(x.to(device()) for x in digits("train", 16))
    return fit(model, players(), data, steps=steps, batch_size=BATCH, clip=None, ema=EMA, seed=SEED, progress=progress,
               optimizer=lambda params: torch.optim.Adam(params, LR, betas=BETAS),
               scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS))


def held_out(net: nn.Module) -> float:
    "Wasserstein-2 distance between the 297 test digits and as many samples of the same classes."
    images, labels = digits("test", 16)
    made = gan_sample(net, len(labels), labels, torch.Generator().manual_seed(SEED)).cpu()
    cost = torch.cdist(made.flatten(1).double(), images.flatten(1).double()).square().numpy()
    return float(cost[linear_sum_assignment(cost)].mean() ** 0.5)


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, STEPS, family="generative", part="generator", seed=SEED, batch_size=BATCH, lr=LR, betas=BETAS, ema=EMA, **NET)
