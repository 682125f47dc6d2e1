"""Train the networks of `generative/autoregressive` that want more time than its page has, on scikit-learn's digits: PixelCNN, Gated PixelCNN and a
causal transformer on binary pictures, and a transformer conditioned on the class on all 17 grey levels. They share nothing but the loop.
Few steps, of one cycle, for the convolutions: trained for longer, they learn the 1,500 digits by heart. The transformers, with dropout, take twice as many.

    python benchmarks/train_autoregressive_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_autoregressive_digits.py --steps 3  # prints the first losses and writes nothing
"""
from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from training import device, main  # first, because it puts this checkout's package on the path

from ml_notes.core.data import digits
from ml_notes.core.train import fit, seed_everything
from ml_notes.generative.autoregressive import GPT, GatedPixelCNN, PixelCNN, nll

SEED, STEPS, BATCH, EMA = 0, {"convolutions": 500, "transformers": 1000}, 64, 0.99
RATES = {"pixelcnn": 1e-2, "gated": 1e-2, "transformer": 5e-3, "prior": 4e-3}


def networks() -> nn.ModuleDict:
    "The four, as the page builds them to load the weights; the convolutions are deep enough for the last pixel to see the first."
    return nn.ModuleDict({"pixelcnn": PixelCNN(16, 5), "gated": GatedPixelCNN(16, 8), "transformer": GPT(2, 64, 32, 3, dropout=0.1), "prior": GPT(17, 64, 64, 3, classes=10, dropout=0.2)})


def data(split: str) -> tuple[Tensor, Tensor, Tensor]:
    "Binary pictures, grey levels 0 to 16 in reading order, labels."
    images, labels = (x.to(device()) for x in digits(split))
    return (images >= 0).float(), (8 * images + 8).round().long().flatten(1), labels


def losses(nets: nn.ModuleDict, binary: Tensor, grey: Tensor, labels: Tensor) -> dict[str, Tensor]:
    "Mean negative log-likelihood of each of the networks that are there, in nats a pixel."
    shown = {"pixelcnn": (binary,), "gated": (binary,), "transformer": (binary.flatten(1).long(),), "prior": (grey, labels)}
    return {name: nll(net, *shown[name]).mean() / 64 for name, net in nets.items()}


def train(steps: int, progress: bool = True) -> SimpleNamespace:
    "The first `steps` of both runs, convolutions and transformers; the learning rates rise and fall over all of a run's steps."
    seed_everything(SEED)
    nets, fitted = networks().to(device()), {}
    for kind, names in {"convolutions": ("pixelcnn", "gated"), "transformers": ("transformer", "prior")}.items():
        groups, rates = [{"params": nets[name].parameters(), "lr": RATES[name]} for name in names], [RATES[name] for name in names]
        fitted[kind] = fit(nn.ModuleDict({name: nets[name] for name in names}), lambda model, *batch, generator: sum(losses(model, *batch).values()), data("train"),
                           steps=min(steps, STEPS[kind]), batch_size=BATCH, ema=EMA, clip=None, seed=SEED, progress=progress, optimizer=torch.optim.AdamW(groups, weight_decay=0.05),
                           scheduler=lambda optimizer, rates=rates, kind=kind: torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, STEPS[kind], pct_start=0.1))
    found = {name: net for run in fitted.values() for name, net in run.ema_model.items()}
    return SimpleNamespace(losses={kind: run.losses for kind, run in fitted.items()}, model=nets, ema_model=nn.ModuleDict({name: found[name] for name in nets}))


@torch.no_grad()
def held_out(nets: nn.ModuleDict) -> float:
    "The sum of the four losses on the 297 test digits."
    found = losses(nets, *data("test"))
    print({name: round(value.item(), 4) for name, value in found.items()}, "nats a pixel")
    return sum(found.values()).item()


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, max(STEPS.values()), family="generative", steps_of=STEPS, seed=SEED, batch_size=BATCH, rates=RATES, ema=EMA)
