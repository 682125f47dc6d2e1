"""Train both stages of `generative/vqgan` on scikit-learn's digits, enlarged to 16 × 16: features, autoencoder and discriminator, prior of the codes.

    python benchmarks/train_vqgan_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_vqgan_digits.py --steps 3  # prints the first losses of the autoencoder and writes nothing
"""
from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from training import device, main  # before the package, because it puts this checkout's on the path

from ml_notes.core.data import digits
from ml_notes.core.train import Fitted, fit, seed_everything
from ml_notes.generative.autoregressive import GPT
from ml_notes.generative.vqgan import VQGAN, FeatureNet, PatchDiscriminator, PerceptualLoss, Stage1, VQModel, prior_loss

SEED, STEPS, BATCH, LR, START = 0, 900, 32, 2e-3, 500  # the discriminator joins after START
FEATURE_STEPS, PRIOR_STEPS, PRIOR_LR, DROP = 400, 2500, 2e-3, 0.15
NET = dict(channels=1, widths=(16, 16, 32), blocks=1, latent=16, codes=64, dim=8, attention=(), groups=8, decay=0.97, restart=1.0)
PRIOR = dict(vocab=64, length=16, dim=64, depth=3, heads=4, classes=11, dropout=0.1)


def networks() -> nn.ModuleDict:
    "Features, players and prior, untrained."
    return nn.ModuleDict({"features": FeatureNet(1, (16, 32, 64), classes=10), "vqgan": VQGAN(VQModel(**NET), PatchDiscriminator(1, 16, 1)), "prior": GPT(**PRIOR)})


def cosine(steps: int):
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def classify(net: FeatureNet, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return F.cross_entropy(net.classify(images), labels)


def train(steps: int, progress: bool = True) -> Fitted:
    "The first `steps` of the autoencoder's run, and when these are all, the prior's."
    seed_everything(SEED)
    model, (images, labels) = networks().to(device()), (x.to(device()) for x in digits("train", 16))
    fit(model["features"], classify, (images, labels), steps=FEATURE_STEPS, batch_size=BATCH, lr=LR, seed=SEED, progress=progress)
    stage1 = Stage1(PerceptualLoss(model["features"]), start=START, perceptual_weight=0.5)
    adam = {"autoencoder": partial(torch.optim.Adam, lr=LR, betas=(0.5, 0.9)), "discriminator": partial(torch.optim.Adam, lr=LR / 2, betas=(0.5, 0.9))}
    first = fit(model["vqgan"], stage1.players(), (images,), steps=steps, batch_size=BATCH, optimizer=adam, scheduler={name: cosine(STEPS) for name in adam}, seed=SEED, progress=progress)
    losses = first.losses["autoencoder"]
    if steps == STEPS:
        tokens = model["vqgan"]["autoencoder"].tokenize(images).flatten(1)
        second = fit(model["prior"], partial(prior_loss, drop=DROP), (tokens, labels), steps=PRIOR_STEPS, batch_size=64, lr=PRIOR_LR, scheduler=cosine(PRIOR_STEPS), seed=SEED, progress=progress)
        losses = losses + second.losses
    return Fitted(model, model, losses, steps)


@torch.no_grad()
def held_out(model: nn.Module) -> float:
    "Mean absolute error of the 297 test digits, reconstructed."
    images = digits("test", 16)[0].to(device())
    return (model["vqgan"]["autoencoder"](images)[0] - images).abs().mean().item()


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, STEPS, family="generative", seed=SEED, batch_size=BATCH, lr=LR, start=START, feature_steps=FEATURE_STEPS, prior_steps=PRIOR_STEPS, prior_lr=PRIOR_LR, drop=DROP)
