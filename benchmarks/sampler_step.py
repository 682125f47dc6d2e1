"""A step of our samplers on a CPU, through the loop of `sample`, against a step of diffusers' schedulers, with one network at 64 × 1 × 32 × 32, and without any.

    OMP_NUM_THREADS=1 python benchmarks/sampler_step.py    # checks, times, writes benchmarks/results/<device>/sampler_step.json; about three minutes

Every run has to agree with float64 before it is timed. "none" stands for a network that costs next to nothing: what is left is the overhead of the loop.
The compiled rows are whole steps of ours under torch.compile(fullgraph=True): they have to give what the eager ones give.
"""
from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's package, also when another one is installed

import diffusers  # noqa: E402
import torch  # noqa: E402
from diffusers import EDMEulerScheduler, HeunDiscreteScheduler  # noqa: E402
from torch import Tensor  # noqa: E402

from ml_notes.core.bench import Bench  # noqa: E402
from ml_notes.diffusion.ddpm import UNet, linear_schedule  # noqa: E402
from ml_notes.diffusion.process import Preconditioned, edm, euler_step, from_schedule, grid, heun_step, noise, sample, to_denoiser  # noqa: E402

SHAPE, TOL, GOAL = (64, 1, 32, 32), 1e-3, 1.05
STEPS = {"U-Net": 2, "none": 50}  # of a run, the last one, to clean data, included


def cheap(x: Tensor, t: Tensor, *_: Tensor) -> Tensor:
    "Stands for a network."
    return x * 0.5


def euler_pair(net: Callable, steps: int) -> tuple[Callable, Callable]:
    "A run of ours and one of diffusers by Euler's method: functions of noise that return the sample."
    theirs = EDMEulerScheduler(sigma_data=0.5)
    times, denoise = grid(edm(), steps - 1, "karras"), Preconditioned(net, 0.5)

    def diffusers_run(x: Tensor) -> Tensor:
        theirs.set_timesteps(steps)
        for t in theirs.timesteps:
            x = theirs.step(net(theirs.scale_model_input(x, t), t.expand(len(x)).to(x)), t, x).prev_sample
        return x
    return lambda x: sample(denoise, edm(), x, times, euler_step, clean=True), diffusers_run


def heun_pair(net: Callable, steps: int) -> tuple[Callable, Callable]:
    "The same by Heun's method, for a network that predicts noise on DDPM's linear schedule."
    theirs = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    theirs.set_timesteps(steps)
    levels = theirs.sigmas.unique().flip(0)[:-1].double()
    process, denoise = edm(float(levels[-1]), float(levels[0])), to_denoiser(net, from_schedule(linear_schedule()))

    def diffusers_run(x: Tensor) -> Tensor:
        theirs.set_timesteps(steps)
        for t in theirs.timesteps:
            x = theirs.step(net(theirs.scale_model_input(x, t), t.expand(len(x)).to(x)), t, x).prev_sample
        return x
    return lambda x: sample(denoise, process, x, levels.clamp(process.t_min, process.t_max), heun_step, clean=True), diffusers_run


def in_double(run: Callable, net: Callable, x: Tensor) -> Tensor:
    "What a run of ours gives in float64."
    if isinstance(net, torch.nn.Module):
        net.double()
    want = run(x.double())
    if isinstance(net, torch.nn.Module):
        net.float()
    return want


def paired(a: Callable, b: Callable, seconds: float) -> tuple[float, float, int]:
    "Median of the ratio of processor times of two functions that are run in turns, the ratio of their fastest runs, and the number of turns: other processes disturb it least."
    times, end = [], time.process_time() + seconds
    while len(times) < 5 or time.process_time() < end:
        row = []
        for f in (a, b) if len(times) % 2 else (b, a):
            begin = time.process_time()
            f()
            row.append(time.process_time() - begin)
        times.append(row if len(times) % 2 else row[::-1])
    return statistics.median(x / y for x, y in times), min(x for x, _ in times) / min(y for _, y in times), len(times)


@torch.no_grad()
def compiled_steps(bench: Bench) -> None:
    "Whole steps of ours, compiled, against the eager ones."
    process = edm()
    levels, weight = process.at(grid(process, 17, "karras")), torch.full((1, 1, 32, 32), 0.5)

    def denoise(z: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(z * weight.to(z))
    for solver, step in (("Euler", euler_step), ("Heun", heun_step)):
        x, shape = noise(process, torch.empty(SHAPE), torch.Generator().manual_seed(1)), dict(solver=solver, network="tanh", steps=1)
        compiled = torch.compile(lambda x, now, to, step=step: step(denoise, x, now, to), fullgraph=True)
        want = step(denoise, x.double(), levels[3], levels[4])
        for label, f in (("ours", lambda x, now, to, step=step: step(denoise, x, now, to)), ("ours, compiled", compiled)):
            bench.case(label, shape, lambda f=f: f(x, levels[3], levels[4]), want, tol=TOL)


@torch.no_grad()
def main() -> None:
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    torch.manual_seed(0)
    bench = Bench("sampler_step", page="diffusion/09_edm.ipynb", device="cpu", budget_s=5.0)
    unet = UNet().eval()
    found = {}
    for solver, make in (("Euler", euler_pair), ("Heun", heun_pair)):
        for name, net in (("U-Net", unet), ("none", cheap)):
            ours, theirs = make(net, STEPS[name])
            x = 80 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
            want, shape = in_double(ours, net, x), dict(solver=solver, network=name, steps=STEPS[name])
            bench.case("ours", shape, lambda: ours(x), want, tol=TOL)
            bench.case("diffusers", shape, lambda: theirs(x), want, tol=TOL, peer=True)
            found[solver, name] = paired(lambda: ours(x), lambda: theirs(x), 20.0 if name == "U-Net" else 4.0)
    compiled_steps(bench)
    for (solver, name), (ratio, fastest, turns) in found.items():
        goal = f", goal {GOAL}: {'met' if ratio <= GOAL else 'missed'}" if name == "U-Net" else ""
        print(f"{solver}, network {name}: ours over diffusers {ratio:.3f} (fastest runs {fastest:.3f}) in {turns} turns{goal}")


if __name__ == "__main__":
    main()
