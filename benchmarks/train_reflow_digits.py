"""Straighten the flow of the digits' denoiser: a 2-rectified flow trained on its couplings, and a one-step model distilled from that.

    python benchmarks/train_reflow_digits.py            # writes the weights beside the notebooks and the record beside the benchmarks
    python benchmarks/train_reflow_digits.py --steps 3  # prints the first losses and writes nothing

Both networks start from `train_denoiser_digits.py`'s weights, are class-conditional, and never see a real digit: their data are pairs of
noise and what the flow before them makes of it. The losses are those of the reflow, then those of the distillation.
"""
from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import torch
from training import ROOT, device, main  # first, because it puts this checkout's package on the path

from ml_notes.core.train import fit, load_weights, seed_everything
from ml_notes.diffusion.ddpm import UNet
from ml_notes.diffusion.process import Preconditioned, euler_step, from_denoiser, grid, heun_step, linear
from ml_notes.diffusion.rectified_flow import distillation_loss, rectified_flow_loss, reflow, uniform_times

SEED, STEPS, REFLOW, BATCH, LR, EMA = 0, 2400, 1500, 128, 1e-3, 0.995  # steps in all, and of them for the reflow
PAIRS, HEUN, EULER = 8192, 6, 8  # couplings; steps of the first flow, and of the second, to make them
SIGMA_DATA = 0.75  # as in train_denoiser_digits.py
LINE = linear()


def build() -> torch.nn.Module:
    return Preconditioned(UNet(classes=10), SIGMA_DATA).to(device())


def teacher() -> torch.nn.Module:
    "The denoiser of the diffusion pages: viewed as a velocity, a 1-rectified flow."
    record = json.loads((ROOT / "benchmarks" / "results" / "cpu" / "train_denoiser_digits.json").read_text(encoding="utf-8"))
    return load_weights(build(), ROOT / record["weights"], sha256=record["sha256"]).eval()


def pairs(net: torch.nn.Module, n: int, seed: int, steps: int, step) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "A coupling (x0, x1) of a flow's ends, with labels, all classes alike often."
    x1 = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device())
    y = (torch.arange(n) % 10).to(device())
    parts = [reflow(lambda z, sigma, y=y[i]: net(z, sigma, y), LINE, x1[i], grid(LINE, steps), step) for i in torch.arange(n).split(512)]
    return (*(torch.cat(ends) for ends in zip(*parts)), y)


def velocity(net: torch.nn.Module):
    return lambda x, t, y: from_denoiser(lambda z, sigma: net(z, sigma, y), LINE, "velocity")(x, t)


def reflow_loss(net, x0, x1, y, *, generator):
    return rectified_flow_loss(velocity(net), x0, x1, y, times=partial(uniform_times, low=LINE.t_min, high=LINE.t_max), generator=generator)


def one_step_loss(net, x0, x1, y, *, generator):
    return distillation_loss(velocity(net), x0, x1, y, t=LINE.t_max, generator=generator)


def tune(net: torch.nn.Module, loss, data, steps: int, schedule: int):
    "Train on, with a learning rate that falls along a cosine over all of `schedule` steps."
    return fit(net, loss, data, steps=steps, batch_size=BATCH, lr=LR, ema=EMA, seed=SEED,
               scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule))


def train(steps: int):
    "The first `steps` of the run: the reflow, and after it the distillation."
    seed_everything(SEED)
    second = tune(teacher(), reflow_loss, pairs(teacher(), PAIRS, SEED, HEUN, heun_step), min(steps, REFLOW), REFLOW)
    losses, model, average = second.losses, second.model, second.ema_model
    if steps > REFLOW:
        start = build()
        start.load_state_dict(average.state_dict())
        one = tune(start, one_step_loss, pairs(average, PAIRS, SEED + 1, EULER, euler_step), steps - REFLOW, STEPS - REFLOW)
        losses = losses + one.losses
        model, average = (torch.nn.ModuleDict({"reflow": a, "one_step": b}) for a, b in ((second.model, one.model), (average, one.ema_model)))
    return SimpleNamespace(model=model, ema_model=average, losses=losses)


@torch.no_grad()
def held_out(nets: torch.nn.Module) -> float:
    "The distilled model's error of one step, on pairs of the 2-rectified flow that it was not trained on."
    return one_step_loss(nets["one_step"], *pairs(nets["reflow"], 1000, SEED + 2, EULER, euler_step), generator=None).item()


if __name__ == "__main__":
    main(__file__, __doc__, train, held_out, STEPS, seed=SEED, batch_size=BATCH, lr=LR, ema=EMA, sigma_data=SIGMA_DATA, reflow_steps=REFLOW,
         pairs=PAIRS, heun_steps=HEUN, euler_steps=EULER)
