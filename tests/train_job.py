"""Training runs for test_train.py that need processes of their own: one that is killed, and one that is started by torchrun."""
from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from ml_notes.core import train

STEPS, SAVE_EVERY = 24, 5


def problem(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    "A network with buffers and dropout, and 50 examples, which the batch size does not divide."
    train.seed_everything(0)
    x = torch.randn(50, 3, dtype=dtype)
    net = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(0.1), nn.Linear(16, 1)).to(dtype)
    return net, (x, x.prod(1, keepdim=True))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(point: str, step: int) -> None:
    "Make the process die at `point` of writing the checkpoint of step `step`."
    name = f"step_{step:08d}.safetensors"

    class HalfWritten:
        def __init__(self, path, mode):
            self.file, self.fatal = open(path, mode), name in str(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, blob):
            self.file.write(blob[:len(blob) // 2] if self.fatal else blob)
            if self.fatal:
                self.file.flush()
                die()

        def __getattr__(self, attribute):
            return getattr(self.file, attribute)

    def replace(old, new):
        if name in str(new) and point == "before the rename":
            die()
        rename(old, new)
        if name in str(new) and point == "after the rename":
            die()

    rename = os.replace
    if point == "half of the file":
        train.open = HalfWritten  # shadows the built-in within the module
    else:
        train.os.replace = replace


def job(folder: str, point: str = "", step: int = -1) -> None:
    "Train in `folder` and die at `point` of step `step`: in its loss, in its backward pass, or in writing its checkpoint."
    torch.set_num_threads(1)
    net, data = problem()
    done = train.latest(folder)
    calls = iter(range(int(done.stem[5:]) if done else 0, STEPS))

    def loss(model, x, y, generator):
        now = next(calls)
        if now == step and point == "the loss":
            die()
        out = model(x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
        if now == step and point == "the backward pass":
            out.register_hook(lambda _: die())
        return (out - y).square().mean()

    if "file" in point or "rename" in point:
        _arm(point, step)
    train.fit(net, loss, data, steps=STEPS, batch_size=12, ema=0.9, folder=folder, save_every=SAVE_EVERY, progress=False,
              optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [7, 13]))


def slow_job(folder: str) -> None:
    "The same with a pause in each step and a checkpoint after each, to be killed from outside at any moment."
    import time

    global SAVE_EVERY
    SAVE_EVERY, step = 1, train._step
    train._step = lambda *args: (time.sleep(0.01), step(*args))[1]
    job(folder)


def adversaries() -> tuple[nn.Module, dict, tuple[torch.Tensor, torch.Tensor]]:
    "A discriminator and a generator, their losses, and data: real points, and what the generator makes its own of."
    train.seed_everything(1)
    make = lambda out: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, out))  # noqa: E731
    model = nn.ModuleDict({"discriminator": make(1), "generator": make(3)})
    lost = nn.functional.softplus

    def discriminate(model, x, z, generator):
        return lost(-model["discriminator"](x)).mean() + lost(model["discriminator"](model["generator"](z))).mean()

    def generate(model, x, z, generator):
        return lost(-model["discriminator"](model["generator"](z))).mean()

    return model, {"discriminator": discriminate, "generator": generate}, (torch.randn(50, 3) + 2, torch.randn(50, 3))


def parallel(folder: str) -> None:
    "What each process of a torchrun does: one plain step, whose change of the weights is the gradient, then a real run, and a game; errors on one process alone."
    torch.set_num_threads(1)
    square = lambda model, x, y, generator: (model(x) - y).square().mean()  # noqa: E731

    def network():
        net, data = problem()
        return nn.Sequential(net[0], nn.SiLU(), net[4]), data  # statistics and masks are each process's own: left out

    for name, steps, make in (("gradient", 1, lambda p: torch.optim.SGD(p, lr=1.0)), ("weights", 20, lambda p: torch.optim.AdamW(p, lr=1e-3))):
        net, data = network()
        fitted = train.fit(net, square, data, steps=steps, batch_size=12, clip=None, ema=0.9, optimizer=make, folder=f"{folder}/{name}", progress=False)
        print(f"{name} of process {os.environ.get('RANK', 0)}: {len(fitted.losses)} losses")
    model, losses, data = adversaries()
    fitted = train.fit(model, losses, data, steps=20, batch_size=12, clip=0.1, ema=0.9, optimizer={"generator": lambda p: torch.optim.SGD(p, lr=0.5)},
                       every={"generator": 3}, folder=f"{folder}/game", progress=False)
    print(f"game of process {os.environ.get('RANK', 0)}: { {name: len(x) for name, x in fitted.losses.items()} }")
    net, data = network()

    def broken(model, x, y, generator):  # not finite on the second process only
        return square(model, x, y, generator) * (float("nan") if os.environ.get("RANK") == "1" else 1.0)

    if "RANK" in os.environ:
        for bad in (lambda: train.fit(net, broken, data, steps=1, batch_size=12, progress=False),
                    lambda: train.fit(net, square, data, steps=1, batch_size=13, progress=False)):
            try:
                bad()
            except (FloatingPointError, ValueError) as e:
                print(f"process {os.environ['RANK']} refused: {e}\n", end="")


if __name__ == "__main__":
    parallel(str(Path(sys.argv[1])))
