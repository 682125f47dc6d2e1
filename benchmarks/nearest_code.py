"""Nearest code on a GPU: our search, which never writes the N × K distances, against torch.cdist(...).argmin and the matrix form, eager and compiled.

    python benchmarks/nearest_code.py              # check, tune, time; writes benchmarks/results/<device>/nearest_code.json; under ten minutes
    python benchmarks/nearest_code.py --check      # correctness only: odd sizes, every dtype, ties, near-ties, and how much of the slack is used
    python benchmarks/nearest_code.py --compile    # no GPU needed: compile every candidate block for sm_90, show registers, stack, shared memory

Before ours is timed, the distance of every index that it returns has been compared with the smallest in float64: it may exceed it by the bound that
the page proves, and by nothing where two codes are equal. Peers work in float32 and are off here and there; they have to be nearly right to be timed.
What a run has written stays: a second run of the same commit goes on where the first was stopped.
"""
from __future__ import annotations

import sys
import time

from kernels import compile_report, late, main  # first: see there

import torch
from torch import Tensor

from ml_notes.core.bench import Bench, ratio
from ml_notes.core.kernel import poisoned
from ml_notes.generative import nearest_code as nc

OURS, PEERS = "ours", ("cdist", "matrix form", "matrix form, compiled")
GOAL = 2.0  # times as fast as the best peer, at K = 16,384
SIZES = [(n, 16_384, d) for n in (2**20, 2**18, 2**16) for d in (256, 64, 16, 4)]  # in this order, so that what matters most is there first
SIZES += [(2**20, 16_384, d) for d in (128, 32, 8)] + [(n, 1024, d) for n in (2**20, 2**18, 2**16) for d in (256, 64, 16, 4)]
NEARLY = 0.05  # relative RMSE of the indices that passes, about two wrong rows in a thousand: enough for peers, and ours is tested row by row


def rows_and_codes(n: int, k: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    "Normal rows and codes, seeded."
    g = torch.Generator(device="cuda").manual_seed(0)
    codes = torch.randn(k, d, generator=g, device="cuda").to(dtype)
    return torch.randn(n, d, generator=g, device="cuda").to(dtype), codes


def distance(x: Tensor, codes: Tensor, index: Tensor) -> Tensor:
    "(n,) squared distance of each row to the code of its index, by differences in float64."
    return torch.cat([(x_i.double() - codes.double()[i]).square().sum(1) for x_i, i in zip(x.split(2**16), index.split(2**16))])


def truth(x: Tensor, codes: Tensor) -> Tensor:
    "(n,) index of the nearest code by scores in float64; the first of equal ones."
    e = codes.double()
    rows = max(1, 2**27 // len(e))
    return torch.cat([torch.addmm(e.square().sum(1) / 2, x_i.double(), e.T, alpha=-1).argmin(1) for x_i in x.split(rows)])


def wrong(x: Tensor, codes: Tensor, index: Tensor, counts: Tensor, best: Tensor) -> str:
    "What breaks the promise of `nearest_code`, or an empty string; best is the smallest distance in float64."
    if not bool(((index >= 0) & (index < len(codes))).all()):
        return "an index that is none"
    excess = (distance(x, codes, index) / best.clamp(min=1e-300) - 1).max().item()
    if not excess <= nc.tie_bound(x.shape[1]):
        return f"a code that is {excess:.1e} farther than the nearest, {nc.tie_bound(x.shape[1]):.1e} allowed"
    return "" if torch.equal(counts, torch.bincount(index, minlength=len(codes))) else "a histogram that is not that of the indices"


# --- timing ------------------------------------------------------------------------------------------------------------------------------

def matrix_form(x: Tensor, codes: Tensor) -> Tensor:
    return torch.addmm(codes.square().sum(1) / 2, x, codes.T, alpha=-1).argmin(1)


def peers(deadline: float) -> dict:
    "label → a function of rows and codes that returns indices."
    compiled = torch.compile(lambda x, codes: (codes.square().sum(1) / 2 - x @ codes.T).argmin(1), dynamic=False)
    return dict(zip(PEERS, (lambda x, codes: torch.cdist(x, codes).argmin(1), matrix_form, late(compiled, deadline))))


def time_ours(bench: Bench, shape: dict, x: Tensor, codes: Tensor, want: Tensor) -> None:
    "Ours at one size, once every row has been tested."
    with poisoned():
        index, counts = nc.nearest_code(x, codes, "triton")
    if why := wrong(x, codes, index, counts, distance(x, codes, want)):
        sys.exit(f"{shape}, not timed: {why}")
    bench.case(OURS, shape, lambda: nc.nearest_code(x, codes, "triton")[0], want.double(), tol=NEARLY)


def time_size(bench: Bench, n: int, k: int, d: int, deadline: float) -> None:
    "Every implementation at one size."
    x, codes = rows_and_codes(n, k, d)
    want = truth(x, codes)
    shape = dict(rows=n, codes=k, dim=d, data="normal")
    time_ours(bench, shape, x, codes, want)
    for name, f in peers(deadline).items():
        bench.case(name, shape, lambda: f(x, codes), want.double(), tol=NEARLY, peer=True)
        torch.cuda.empty_cache()


def time_worst(bench: Bench, n: int = 2**18, k: int = 16_384, d: int = 64) -> None:
    "Ours where it is slowest: every code is there twice, so that no row can be certified."
    x, codes = rows_and_codes(n, k // 2, d)
    codes = torch.cat([codes, codes])
    want = truth(x, codes[: k // 2])
    time_ours(bench, dict(rows=n, codes=k, dim=d, data="twins"), x, codes, want)


def summary(bench: Bench) -> None:
    "Times as fast as the best peer, memory, and the goal."
    def by(label):
        return {tuple(r["shape"].values()): r for r in bench.rows if r["label"] == label and "not_run" not in r}

    for shape, row in by(OURS).items():
        others = {name: by(name)[shape] for name in PEERS if shape in by(name)}
        if others:
            best = min(others, key=lambda name: others[name]["median_s"])
            speed = others[best]["median_s"] / row["median_s"]
            said = "" if shape[1] != 16_384 else ", goal met" if speed >= GOAL else ", GOAL MISSED"
            print(f"{shape}: {1e3 * row['median_s']:.2f} ms, {row['memory_bytes'] / 2**20:.0f} MiB; {speed:.2f} × {best}, "
                  f"{row['memory_bytes'] / others[best]['memory_bytes']:.4f} of its memory{said}")
    print("against cdist:", ", ".join(f"{r.speed:.1f}" for r in ratio(bench.rows, OURS, "cdist")))


def measure(minutes: float) -> None:
    deadline = time.monotonic() + 60 * minutes
    if check(quick=True):
        sys.exit("wrong results: nothing is timed")
    nc._tuned.cache_clear()  # blocks are to be chosen anew, at the sizes that are timed
    bench = Bench("nearest_code", page="generative/04_nearest_code.ipynb", device="cuda", budget_s=0.2)
    for n, k, d in SIZES:
        start = time.monotonic()
        torch._dynamo.reset()
        time_size(bench, n, k, d, deadline)
        torch.cuda.empty_cache()
        print(f"-- N={n} K={k} d={d}: {time.monotonic() - start:.0f} s, {deadline - time.monotonic():.0f} s left for the compiled form", flush=True)
    time_worst(bench)
    summary(bench)


# --- correctness on the device ------------------------------------------------------------------------------------------------------------

def slack_used(x: Tensor, codes: Tensor) -> tuple[float, float]:
    "The largest error of a row's smallest score over its slack, which must not exceed 1; and the share of rows that are left open."
    codes = codes.float()
    index, least, slack = nc._half_scores(x, codes)
    _, _, centre, stats = nc._half_codes(codes, nc._width(x.shape[1]))
    shift = centre[: x.shape[1]].double()
    e, moved, b2 = codes.double() - shift, x.double() - shift, (1 / stats[0].double()) ** 2
    g = torch.cat([torch.addmm(e.square().sum(1) / 2, part, e.T, alpha=-1).amin(1) for part in moved.split(2**14)])
    return ((least.double() / b2 - g).abs() / (slack.double() / b2)).max().item(), (index < 0).double().mean().item()


def cases(quick: bool):
    "(name, rows, codes) on which everything is checked."
    single, half, brain = torch.float32, torch.float16, torch.bfloat16
    dims = (4, 16, 64, 256) if quick else (1, 3, 4, 7, 8, 16, 17, 33, 64, 100, 128, 256, 257, 512, 513)
    for d in dims:
        for n, k in ((4097, 1000), (129, 16_385)) if quick else ((4097, 1000), (129, 16_385), (70_001, 129), *([(1, 1)] if d in (4, 16) else [])):
            yield f"normal, N={n} K={k} d={d}", *rows_and_codes(n, k, d)
    for d in (7, 48):
        x, e = rows_and_codes(3001, 700, d)
        yield f"far from the origin, d={d}", x + 1000, e + 1000
        yield f"tiny and huge, d={d}", x * 1e-12, e * 1e12
        yield f"in a small ball, d={d}", x[:1] + 1e-4 * x, x[:1] + 1e-4 * e
        yield f"transposed, d={d}", x.T.contiguous().T, e.T.contiguous().T
        yield f"every second element, d={d}", x.repeat_interleave(2, 1)[:, ::2], e
        for one in (half, brain, single):
            for other in (half, brain, single):
                yield f"{str(one)[6:]} and {str(other)[6:]}, d={d}", x.to(one), e.to(other)


def check(quick: bool = False) -> int:
    "Both kernels against float64 with poisoned outputs; the number of failures. Quick: the dimensions that are timed, fewer sizes."
    bad = 0

    def report(name: str, why: str, note: str = "") -> None:
        nonlocal bad
        bad += bool(why)
        print("FAIL" if why else "ok  ", name, why or note, flush=True)

    for name, x, e in cases(quick):
        best = distance(x, e, truth(x, e))
        with poisoned():
            index, counts = nc.nearest_code(x, e, "triton")
            direct = nc._direct(x, e.float())
        why = wrong(x, e, index, counts, best) or wrong(x, e, direct, torch.bincount(direct.clamp(min=0), minlength=len(e)), best)
        used, left = slack_used(x, e) if nc.HALF_DIMS[0] <= x.shape[1] <= nc.HALF_DIMS[1] else (0.0, 1.0)
        report(name, why or ("" if used <= 1 else f"{used:.2f} of the slack is used"), f"slack used {used:.2f}, open {left:.1%}" if left < 1 else "")
    for d in (5, 8, 40):  # whole numbers: distances are exact, and most are there more than once
        x, e = (t.mul(3).round() for t in rows_and_codes(2001, 300, d))
        e = torch.cat([e, e.flip(0), -e])
        want = torch.cdist(torch.cat([x, e, 0 * x[:9]]).double(), e.double(), compute_mode="donot_use_mm_for_euclid_dist").square().round().argmin(1)
        report(f"ties, d={d}", "" if torch.equal(nc.nearest_code(torch.cat([x, e, 0 * x[:9]]), e, "triton")[0], want) else "not the lowest index")
        x[3, 0], x[7, 1], e[5, 2], e[300, 0] = float("nan"), float("inf"), float("nan"), float("inf")
        index, counts = nc.nearest_code(x, e, "triton")
        good = index[3] == index[7] == -1 and (index >= 0).sum() == 1999 and not ((index == 5) | (index == 300)).any() and counts.sum() == 1999
        report(f"NaN and infinity, d={d}", "" if good else "chosen or counted")
    print(f"{bad} failures")
    return bad


# --- compilation without a device ---------------------------------------------------------------------------------------------------------

def compile_one(kernel: str, d: int, dtype: str, blocks: dict, warps: int, stages: int) -> str:
    "Compile for sm_90 and say what it takes; rows are contiguous for the scores, coordinates for the differences."
    f, scores = nc.KERNELS[kernel], kernel == "scores"
    constants = dict(blocks, **(dict(D=nc._width(d), s_d=1) if scores else dict(s_n=1)))
    pointers = dict(X=dtype, CODES="fp16" if scores else "fp32", INDEX="i64")
    types = {n: "*" + pointers.get(n, "fp32") if n.isupper() else "i32" for n in f.arg_names}
    aligned = {"n", "k"} | ({"s_n", "d"} if d % 16 == 0 and scores else {"s_d"})
    return compile_report(f, types, constants, aligned, warps, stages)


def compile_all() -> None:
    todo = [("scores", d, *c) for d in (16, 20, 64, 128, 256, 512) for c in nc.BLOCKS[max(64, nc._width(d))]]
    for kernel, d, m, n, warps, stages in todo + [("direct", 8, *c) for c in nc.DIRECT_BLOCKS]:
        said = compile_one(kernel, d, "fp32", dict(BLOCK_M=m, BLOCK_N=n), warps, stages)
        print(f"{kernel:6s} d={d:3d} {m:3d} rows × {n:3d} codes, warps={warps} stages={stages}: {said}", flush=True)


if __name__ == "__main__":
    main(__doc__, check, compile_all, measure, "the compiled form is left out")
