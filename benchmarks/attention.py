"""Attention on a GPU: our Triton kernels against SDPA's flash, cuDNN and math backends and a compiled flex_attention, forward and backward.

    python benchmarks/attention.py              # check, tune, time; writes benchmarks/results/<device>/attention.json; under ten minutes
    python benchmarks/attention.py --check      # correctness only: odd lengths, shared heads, every dtype, mask and head dimension
    python benchmarks/attention.py --compile    # no GPU needed: compile every candidate block for sm_90, show registers, spills, shared memory

Every implementation has to agree with float64 before it is timed, ours also at odd lengths and in every block of 128 rows.
A peer that does not run is recorded with the reason. What a run has written stays: a second run of the same commit goes on where the first was stopped.
"""
from __future__ import annotations

import sys
import time

from kernels import HALF, SINGLE, by_block, compile_report, late, main  # first: see there

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ml_notes.attention import flash
from ml_notes.core.bench import Bench
from ml_notes.core.kernel import poisoned, rel_rmse

TOKENS, WIDTH = 16_384, 2_048  # batch × length, heads × dim
LENGTHS = (4096, 16384, 8192, 2048, 1024, 512)  # in this order, so that what matters most is there first
BACKENDS = {"SDPA flash": SDPBackend.FLASH_ATTENTION, "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION, "SDPA math": SDPBackend.MATH}


def inputs(b: int, h: int, kv: int, n_q: int, n_k: int, d: int, dtype: torch.dtype) -> list[torch.Tensor]:
    "Queries, keys, values and an output gradient, seeded."
    g = torch.Generator(device="cuda").manual_seed(0)
    shapes = ((b, h, n_q, d), (b, kv, n_k, d), (b, kv, n_k, d), (b, h, n_q, d))
    q, k, v, do = (torch.randn(*shape, generator=g, device="cuda").to(dtype) for shape in shapes)
    return [*(x.requires_grad_() for x in (q, k, v)), do]


def truth(q, k, v, do, causal: bool) -> tuple[torch.Tensor, ...]:
    "Output and gradients in float64, by the tiled form, which fits in memory at every length."
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    o = flash.tiled_attention(*leaves, causal=causal, block_q=2048, block_k=2048)
    return o.detach(), *torch.autograd.grad(o, leaves, do.double())


# --- timing ------------------------------------------------------------------------------------------------------------------------------

def implementations(causal: bool, length: int) -> dict:
    "label → a function of (q, k, v)."
    def sdpa(backend):
        def f(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return f

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device="cuda") if causal else None
    compiled = torch.compile(flex_attention)
    return {"ours": lambda q, k, v: flash.attention(q, k, v, causal=causal, backend="triton"), **{name: sdpa(b) for name, b in BACKENDS.items()},
            "flex_attention": lambda q, k, v: compiled(q, k, v, block_mask=mask)}


def time_shape(bench: Bench, length: int, d: int, causal: bool, deadline: float) -> None:
    "Forward and backward of every implementation at one shape."
    b, h = TOKENS // length, WIDTH // d
    q, k, v, do = inputs(b, h, h, length, length, d, torch.bfloat16)
    want = truth(q, k, v, do, causal)
    for name, f in implementations(causal, length).items():
        f = late(f, deadline) if name == "flex_attention" else f
        shape = dict(length=length, dim=d, causal="yes" if causal else "no", batch=b, heads=h)

        def forward():
            with torch.no_grad():
                return f(q, k, v)

        if name == "ours":  # a wrong block in a long sequence hardly shows in the error of the whole
            with poisoned():
                o = f(q, k, v)
                dq, dk, dv = torch.autograd.grad(o, (q, k, v), do)
                by_block(f"{name}, {shape}", dict(o=o.detach(), dq=dq, dk=dk, dv=dv), want)
            del o, dq, dk, dv
        graph = []

        def backward():
            if not graph:  # the forward pass runs once, outside of what is timed
                graph.append(f(q, k, v))
            return torch.autograd.grad(graph[0], (q, k, v), do, retain_graph=True)

        bench.case(name, {"pass": "forward", **shape}, forward, want[0], tol=HALF, peer=name != "ours")
        bench.case(name, {"pass": "backward", **shape}, backward, want[1:], tol=HALF, peer=name != "ours")


def summary(bench: Bench) -> None:
    "TFLOP/s of every row, and the goals."
    product = next(2 * r["shape"]["size"] ** 3 / r["median_s"] / 1e12 for r in bench.rows if r["label"] == "matrix product")
    rate = {}
    for r in bench.rows:
        s = r["shape"]
        if "pass" in s and "not_run" not in r:
            work = flash.attention_flops(s["batch"], s["heads"], s["length"], s["length"], s["dim"], s["causal"] == "yes", s["pass"] == "backward")
            rate[s["pass"], s["dim"], s["causal"], s["length"], r["label"]] = work / r["median_s"] / 1e12
    print(f"\nmatrix product, bfloat16: {product:.0f} TFLOP/s")
    for (*shape, name), value in rate.items():
        against = f", {value / rate[*shape, 'SDPA flash']:.2f} × SDPA flash" if (*shape, "SDPA flash") in rate else ""
        print(*shape, name, f"{value:.0f} TFLOP/s, {value / product:.0%} of the product{against}")


def measure(minutes: float) -> None:
    deadline = time.monotonic() + 60 * minutes
    if check(quick=True):
        sys.exit("wrong results at odd lengths: nothing is timed")
    flash._tuned.cache_clear()  # blocks are to be chosen anew, at the lengths that are timed
    bench = Bench("attention", page="attention/04_flash.ipynb", device="cuda", budget_s=0.3)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    bench.case("matrix product", dict(size=8192), lambda: a @ b, lambda: a.double() @ b.double())
    for d in (128, 64):
        for causal in (False, True):
            torch._dynamo.reset()  # each variant may compile afresh: none falls back to eager for having too many
            for length in LENGTHS:
                start = time.monotonic()
                time_shape(bench, length, d, causal, deadline)
                torch.cuda.empty_cache()
                print(f"-- d={d} causal={causal} length={length}: {time.monotonic() - start:.0f} s, {deadline - time.monotonic():.0f} s left for flex", flush=True)
    summary(bench)


# --- correctness on the device ------------------------------------------------------------------------------------------------------------

def check(quick: bool = False) -> int:
    "Kernels against float64 with poisoned outputs; the number of failures. Quick: only what is timed, bfloat16 at d = 64 and 128."
    bad = 0
    cases = [(torch.bfloat16, d) for d in flash.HEAD_DIMS] + [(torch.float16, 64), (torch.float16, 128), (torch.float32, 32), (torch.float32, 128)]
    cases = [(torch.bfloat16, 64), (torch.bfloat16, 128)] if quick else cases
    for dtype, d in cases:
        for causal in (False, True):
            for dims in ((2, 4, 2, 333, 333), (1, 4, 4, 129, 517), (1, 2, 1, 517, 65), (1, 2, 2, 1, 40)):
                if quick and dims[1] != dims[2]:  # shared heads are tuned apart, and not timed
                    continue
                q, k, v, do = inputs(*dims, d, dtype)
                with poisoned():
                    o = flash.attention(q, k, v, causal=causal, backend="triton")
                    got = (o, *torch.autograd.grad(o, (q, k, v), do))
                errors = [rel_rmse(x, y) if y.abs().max() > 1e-9 else x.abs().max().item() for x, y in zip(got, truth(q, k, v, do, causal))]
                good = all(e <= (SINGLE if dtype == torch.float32 else HALF) for e in errors)  # not max(), which may pass over a NaN
                bad += not good
                print("ok  " if good else "FAIL", str(dtype)[6:], f"d={d} causal={causal}", dims, " ".join(f"{e:.1e}" for e in errors), flush=True)
    print(f"{bad} failures")
    return bad


# --- compilation without a device ---------------------------------------------------------------------------------------------------------

def compile_one(kernel: str, d: int, half: bool, causal: bool, blocks: dict, warps: int, stages: int) -> str:
    "Compile for sm_90 and say what it takes."
    f = flash.KERNELS[kernel]
    data, single = "*bf16" if half else "*fp32", {"LSE": "*fp32", "DELTA": "*fp32", "scale": "fp32"}
    types = {n: single.get(n, data if n.isupper() else "i32") for n in f.arg_names}
    aligned = [n for n in f.arg_names if n.startswith("s_") or n in ("n_q", "n_k")]
    return compile_report(f, types, dict(CAUSAL=causal, D=d, **blocks), aligned, warps, stages)


def compile_all() -> None:
    for kernel in flash.KERNELS:
        for d, half in ((128, True), (64, True), (32, True), (256, True), (128, False)):
            for causal in (False, True):
                for blocks, warps, stages in flash._candidates(kernel, d, half, tma=True):
                    said = compile_one(kernel, d, half, causal, blocks, warps, stages)
                    print(f"{kernel:8s} d={d:3d} {'bf16' if half else 'fp32'} causal={causal!s:5} {blocks} warps={warps} stages={stages}: {said}", flush=True)


if __name__ == "__main__":
    main(__doc__, check, compile_all, measure, "flex_attention is left out")
