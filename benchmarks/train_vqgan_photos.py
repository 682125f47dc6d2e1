"""Train both stages of `generative/vqgan` on patches of scikit-learn's two photographs: one autoencoder to a point, from there on once with and once without
the adversarial term, and a prior of the codes of the former, told which photograph.

    python benchmarks/train_vqgan_photos.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_vqgan_photos.py --steps 3  # prints the first losses of the autoencoder and writes nothing
"""
from __future__ import annotations

import copy
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
from functools import partial

import torch
from torch import nn
from training import device, main  # before the package, because it puts this checkout's on the path

from ml_notes.core.data import photos
from ml_notes.core.train import Fitted, fit, seed_everything
from ml_notes.generative.autoregressive import GPT
from ml_notes.generative.vqgan import VQGAN, FeatureNet, PatchDiscriminator, PerceptualLoss, Stage1, VQModel, prior_loss

SEED, STEPS, MORE, BATCH, LR, LATE, SIDE = 0, 600, 450, 8, 2e-3, 5e-4, 32  # LATE: the autoencoder's rate in both continuations
PRIOR_STEPS, PRIOR_LR, DROP, PATCHES, COLUMNS = 500, 2e-3, 0.15, 4000, 480  # columns of a photograph that are trained on; the rest is held out
NET = dict(channels=3, widths=(16, 32, 32), blocks=1, latent=32, codes=256, dim=8, attention=(), groups=8, decay=0.97, restart=0.25)
PRIOR = dict(vocab=256, length=64, dim=64, depth=3, heads=4, classes=3, dropout=0.1)


def networks() -> nn.ModuleDict:
    "Features (random), the autoencoder without the adversarial term, the players, and the prior, untrained."
    net = VQModel(**NET)
    return nn.ModuleDict({"features": FeatureNet(3, (16, 32, 64)), "plain": net, "vqgan": VQGAN(copy.deepcopy(net), PatchDiscriminator(3, 32, 1, norm=False)), "prior": GPT(**PRIOR)})


def training_patches() -> tuple[torch.Tensor, torch.Tensor]:
    "Patches in [-1, 1] from the left part of both photographs, half of them each, and the number of the photograph."
    generator, both = torch.Generator().manual_seed(SEED), 2 * photos()[..., :COLUMNS] - 1
    tops, lefts = (torch.randint(side - SIDE + 1, (PATCHES,), generator=generator).tolist() for side in both.shape[2:])
    which = torch.arange(PATCHES) % 2
    return torch.stack([both[i, :, y:y + SIDE, x:x + SIDE] for i, y, x in zip(which.tolist(), tops, lefts)]), which


def cosine(steps: int):
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def train(steps: int, progress: bool = True) -> Fitted:
    "The first `steps` of the common part, and when these are all, both continuations and the prior."
    seed_everything(SEED)
    model, (images, which) = networks().to(device()), (x.to(device()) for x in training_patches())
    perceptual, (fast, slow) = PerceptualLoss(model["features"]), (partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.9)) for lr in (LR, LATE))
    rest = dict(batch_size=BATCH, seed=SEED, progress=progress)
    plain = Stage1(perceptual, weight=0.0, perceptual_weight=0.5).autoencoder
    players = VQGAN(model["plain"])
    first = fit(players, {"autoencoder": plain}, (images,), steps=steps, optimizer={"autoencoder": fast}, **rest)
    losses = first.losses["autoencoder"]
    if steps == STEPS:
        model["vqgan"]["autoencoder"].load_state_dict(model["plain"].state_dict())
        losses = losses + fit(players, {"autoencoder": plain}, (images,), steps=MORE, optimizer={"autoencoder": slow}, scheduler={"autoencoder": cosine(MORE)}, **rest).losses["autoencoder"]
        fit(model["vqgan"], Stage1(perceptual, perceptual_weight=0.5).players(), (images,), steps=MORE, optimizer={"autoencoder": slow, "discriminator": fast},
            scheduler={name: cosine(MORE) for name in ("autoencoder", "discriminator")}, **rest)
        tokens = model["vqgan"]["autoencoder"].tokenize(images).flatten(1)
        fit(model["prior"], partial(prior_loss, drop=DROP), (tokens, which), steps=PRIOR_STEPS, lr=PRIOR_LR, scheduler=cosine(PRIOR_STEPS), **{**rest, "batch_size": 32})
    return Fitted(model, model, losses, steps)


@torch.no_grad()
def held_out(model: nn.Module) -> float:
    "Mean absolute error, without the adversarial term, of the right part of both photographs, in patches."
    images = (2 * photos()[..., COLUMNS:] - 1).unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).to(device())
    return (model["plain"](images)[0] - images).abs().mean().item()


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, STEPS, family="generative", seed=SEED, batch_size=BATCH, lr=LR, late_lr=LATE, more=MORE, prior_steps=PRIOR_STEPS, prior_lr=PRIOR_LR, drop=DROP, patches=PATCHES, columns=COLUMNS)
