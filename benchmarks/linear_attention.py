"""Linear attention on a GPU: our Triton kernels against flash-linear-attention's and against softmax attention (SDPA's flash backend), forward and backward.

    python benchmarks/linear_attention.py              # check, tune, time; writes benchmarks/results/<device>/linear_attention.json; under ten minutes
    python benchmarks/linear_attention.py --check      # correctness only: odd lengths, unequal and odd widths, every dtype, decay, states carried on
    python benchmarks/linear_attention.py --compile    # no GPU needed: compile every candidate block for sm_90, show registers, stack, shared memory

flash-linear-attention is looked for in the environment and in the folder .peers, into which its wheels can be unpacked
(`pip install --no-deps -t .peers flash-linear-attention fla-core einops`); without it its rows say that it was not run, and why.
Every implementation has to agree with float64 before it is timed, ours also in every block of 128 rows; peers that keep their normaliser in bfloat16 have
some more room. What a run has written stays: a second run of the same commit goes on where the first was stopped.
"""
from __future__ import annotations

import sys
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from kernels import HALF, SINGLE, by_block, compile_report, late, main  # first: see there

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ml_notes.attention import linear
from ml_notes.core.bench import Bench
from ml_notes.core.kernel import poisoned, rel_rmse

sys.path.append(str(Path(__file__).resolve().parents[1] / ".peers"))

OURS, SOFTMAX = "ours", "SDPA flash"
TOKENS, WIDTH = 65_536, 2_048  # batch × length, heads × dim
LENGTHS = (4096, 16384, 65536, 8192, 32768, 2048, 1024)  # in this order, so that what matters most is there first
CASES = [("normalised", 128, LENGTHS), ("retention", 128, (4096, 16384, 65536)), ("sums", 64, (4096, 16384, 65536)), ("normalised", 64, (4096, 16384, 65536))]
PEER = 3e-2  # relative RMSE that passes for flash-linear-attention


def decays(heads: int) -> Tensor:
    "RetNet's, one a head."
    return 1 - 2.0 ** (-5.0 - torch.arange(heads, dtype=torch.float64, device="cuda"))


def inputs(b: int, h: int, n: int, d: int, dv: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> list[Tensor]:
    "Queries and keys after elu + 1, values and an output gradient, seeded."
    g = torch.Generator(device="cuda").manual_seed(seed)
    q, k, v, do = (torch.randn(b, h, n, w, generator=g, device="cuda") for w in (d, d, dv, dv))
    return [*(x.to(dtype).requires_grad_() for x in (F.elu(q) + 1, F.elu(k) + 1, v)), do.to(dtype)]


def options(kind: str, heads: int, d: int) -> dict:
    "Arguments of `linear_attention`."
    return dict(normalize=kind == "normalised", scale=d**-0.5, decay=decays(heads) if kind == "retention" else None)


def with_grads(f, q: Tensor, k: Tensor, v: Tensor, do: Tensor) -> tuple[Tensor, ...]:
    o = f(q, k, v)
    return o.detach(), *torch.autograd.grad(o, (q, k, v), do)


def truth(q: Tensor, k: Tensor, v: Tensor, do: Tensor, **chosen) -> tuple[Tensor, ...]:
    "Output and gradients in float64, head by head, which fits in memory at every length."
    decay, parts = chosen.pop("decay"), []
    for i in range(q.shape[1]):
        leaves = [x.detach()[:, i:i + 1].double().requires_grad_() for x in (q, k, v)]
        f = partial(linear.linear_attention, **chosen, decay=None if decay is None else decay[i:i + 1], backend="chunked", chunk=256)
        parts.append(with_grads(f, *leaves, do[:, i:i + 1].double()))
    return tuple(torch.cat(x, 1) for x in zip(*parts))


# --- timing ------------------------------------------------------------------------------------------------------------------------------

def fla(name: str, **chosen):
    "A function of flash-linear-attention, on (batch, length, heads, dim); what keeps it from loading is raised when it is called."
    def f(q, k, v):
        from fla.ops import linear_attn, retention

        return {**vars(linear_attn), **vars(retention)}[name](q, k, v, **chosen)[0]
    return f


def peers(kind: str, d: int) -> dict:
    "label → a function of q, k, v in (batch, length, heads, dim)."
    chosen = dict(scale=d**-0.5)
    if kind == "retention":
        return {"fla chunk_retention": fla("chunk_retention", **chosen)}
    chosen["normalize"] = kind == "normalised"
    return {"fla chunk": fla("chunk_linear_attn", **chosen), "fla fused_chunk": fla("fused_chunk_linear_attn", **chosen)}


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def softmax_truth(q: Tensor, k: Tensor, v: Tensor, do: Tensor) -> tuple[Tensor, ...]:
    "Output and gradients of softmax attention in float64, by the tiled form of the FlashAttention page."
    from ml_notes.attention import flash

    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    return with_grads(lambda *x: flash.tiled_attention(*x, causal=True, block_q=2048, block_k=2048), *leaves, do.double())


def time_one(bench: Bench, label: str, shape: dict, f, q: Tensor, k: Tensor, v: Tensor, do: Tensor, want: tuple, tol: float) -> None:
    "Forward and backward of one implementation."
    graph = []

    def forward():
        with torch.no_grad():
            return f(q, k, v)

    def backward():
        if not graph:  # the forward pass runs once, outside of what is timed
            graph.append(f(q, k, v))
        return torch.autograd.grad(graph[0], (q, k, v), do, retain_graph=True)

    bench.case(label, {"pass": "forward", **shape}, forward, want[0], tol=tol, peer=label != OURS)
    bench.case(label, {"pass": "backward", **shape}, backward, want[1:], tol=tol, peer=label != OURS)
    graph.clear()
    torch.cuda.empty_cache()


def time_shape(bench: Bench, kind: str, length: int, d: int, deadline: float) -> None:
    "Every implementation at one shape."
    b, h = TOKENS // length, WIDTH // d
    q, k, v, do = inputs(b, h, length, d, d)
    chosen = options(kind, h, d)
    want = truth(q, k, v, do, **chosen)
    shape = dict(kind=kind, length=length, dim=d, batch=b, heads=h)
    ours = partial(linear.linear_attention, **chosen, backend="triton")
    with poisoned():  # a wrong block in a long sequence hardly shows in the error of the whole
        by_block(f"{OURS}, {shape}", dict(zip(("o", "dq", "dk", "dv"), with_grads(ours, q, k, v, do))), want, limit=6 * HALF)
    time_one(bench, OURS, shape, ours, q, k, v, do, want, HALF)
    leaves = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v)]
    turned = tuple(x.transpose(1, 2) for x in want)
    for name, f in peers(kind, d).items():
        time_one(bench, name, shape, f, *leaves, do.transpose(1, 2).contiguous(), turned, PEER)
    if kind == "normalised" and d == 128:
        del want, turned, leaves
        q, k, v, do = (torch.randn_like(x).requires_grad_() for x in (q, k, v, do))  # the softmax needs no positive features
        do = do.detach()
        time_one(bench, SOFTMAX, shape, late(softmax, deadline), q, k, v, do, softmax_truth(q, k, v, do), HALF)


def summary(bench: Bench) -> None:
    "Forward + backward of ours and of the others, against the floor of bytes, and the goal."
    times: dict = {}
    for r in bench.rows:
        if "pass" in r["shape"] and "not_run" not in r:
            s = r["shape"]
            times.setdefault((s["kind"], s["dim"], s["length"]), {}).setdefault(r["label"], {})[s["pass"]] = 1e3 * r["median_s"]
    copy = next(2 * r["shape"]["bytes"] / r["median_s"] for r in bench.rows if r["label"] == "copy")
    print(f"\ncopy: {copy / 1e12:.2f} TB/s")
    for (kind, d, n), by in times.items():
        both = {name: sum(ms.values()) for name, ms in by.items() if len(ms) == 2}
        if OURS not in both:
            continue
        floor = 1e3 * sum(linear.linear_bytes(TOKENS * WIDTH // d, d, normalize=kind == "normalised", backward=b) for b in (False, True)) / copy
        said = f"{kind} d={d} n={n}: ours {by[OURS]['forward']:.2f} + {by[OURS]['backward']:.2f} ms, {floor / both[OURS]:.0%} of the bytes' rate"
        rivals = {name: ms for name, ms in both.items() if name.startswith("fla")}
        if rivals:
            best = min(rivals, key=rivals.get)
            said += f"; {rivals[best] / both[OURS]:.2f} × {best}" + ("" if n < 4096 else ", goal met" if rivals[best] >= both[OURS] else ", GOAL MISSED")
        print(said + (f"; {both[SOFTMAX] / both[OURS]:.2f} × {SOFTMAX}" if SOFTMAX in both else ""))


def compile_task(task: tuple) -> None:
    "Run one implementation once, for the compiled kernels that it leaves in Triton's cache: the shape is the first that is timed, as peers compile for it."
    kind, d, length, name = task
    b, h = TOKENS // length, WIDTH // d
    q, k, v, do = inputs(b, h, length, d, d)
    try:
        if name == OURS:
            with_grads(partial(linear.linear_attention, **options(kind, h, d), backend="triton"), q, k, v, do)
        else:
            leaves = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v)]
            with_grads(peers(kind, d)[name], *leaves, do.transpose(1, 2).contiguous())
    except Exception as e:  # a mistake is reported where it counts, in the timed run
        print(f"-- {task}: {type(e).__name__}", flush=True)


def compile_ahead() -> None:
    "Everything at once, in processes of their own: compilation is most of the time of a first run."
    start = time.monotonic()
    tasks = [(kind, d, lengths[0], name) for kind, d, lengths in CASES for name in (OURS, *peers(kind, d))]
    with get_context("spawn").Pool(len(tasks)) as pool:
        pool.map(compile_task, tasks, chunksize=1)
    print(f"-- compiled ahead in {time.monotonic() - start:.0f} s", flush=True)


def measure(minutes: float) -> None:
    deadline = time.monotonic() + 60 * minutes
    compile_ahead()
    if check(quick=True):
        sys.exit("wrong results: nothing is timed")
    linear._tuned.cache_clear()  # blocks are to be chosen anew, at the lengths that are timed
    bench = Bench("linear_attention", page="attention/02_linear.ipynb", device="cuda", budget_s=0.3)
    source = torch.randint(0, 255, (2**30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bench.case("copy", dict(bytes=2**30), lambda: target.copy_(source)[:2**20], source[:2**20].double(), tol=1e-9)
    del source, target
    for kind, d, lengths in CASES:
        for length in lengths:
            start = time.monotonic()
            time_shape(bench, kind, length, d, deadline)
            torch.cuda.empty_cache()
            print(f"-- {kind} d={d} length={length}: {time.monotonic() - start:.0f} s, {deadline - time.monotonic():.0f} s left for the softmax", flush=True)
    summary(bench)


# --- correctness on the device ------------------------------------------------------------------------------------------------------------

def states(b: int, h: int, d: int, dv: int, normalize: bool) -> list[Tensor]:
    "What 50 earlier positions leave, seeded."
    q, k, v, _ = inputs(b, h, 50, d, dv, torch.float32, seed=1)
    state = linear.linear_attention(q, k, v, normalize=normalize, return_state=True, backend="chunked")[1]
    return [x.detach() for x in state if x is not None]


def outcome(backend: str, q: Tensor, k: Tensor, v: Tensor, do: Tensor, first: list[Tensor], chosen: dict) -> list[Tensor]:
    "Output, last state, and the gradients of everything."
    leaves = [x.detach().requires_grad_() for x in (q, k, v, *first)]
    start = (*leaves[3:], None)[:2] if first else None
    o, state = linear.linear_attention(*leaves[:3], **chosen, initial_state=start, return_state=True, backend=backend)
    out = [o, *(x for x in state if x is not None)]
    g = torch.Generator(device="cuda").manual_seed(2)
    dout = [do.to(o.dtype), *(0.05 * torch.randn(x.shape, generator=g, device="cuda").to(x.dtype) for x in out[1:])]
    return [*(x.detach() for x in out), *torch.autograd.grad(out, leaves, dout)]


def check(quick: bool = False) -> int:
    "Kernels against float64 with poisoned outputs; the number of failures. Quick: bfloat16 at the widths that are timed."
    bad = 0
    cases = [(torch.bfloat16, d, d) for d in (64, 128)]
    if not quick:
        cases += [(torch.bfloat16, 128, 64), (torch.bfloat16, 40, 100), (torch.bfloat16, 256, 256), (torch.float16, 64, 128)]
        cases += [(torch.float32, 64, 64), (torch.float32, 33, 16)]
    for dtype, d, dv in cases:
        for kind in ("normalised", "retention", "sums"):
            if max(d, dv) > linear.WIDEST[kind == "normalised"] or quick and (kind, d) not in {case[:2] for case in CASES}:
                continue
            for b, h, n in ((1, 2, 4099), (2, 3, 130)) if quick else ((1, 2, 4099), (2, 3, 130), (1, 1, 1), (1, 2, 16384), (40, 8, 257)):
                for first in ([],) if quick else ([], states(b, h, d, dv, kind == "normalised")):
                    q, k, v, do = inputs(b, h, n, d, dv, dtype)
                    chosen = options(kind, h, d)
                    with poisoned():
                        got = outcome("triton", q, k, v, do, first, chosen)
                    want = outcome("chunked", *(x.detach().double() for x in (q, k, v, do)), [x.double() for x in first], chosen)
                    errors = [rel_rmse(x, y) if y.abs().max() > 1e-9 else x.abs().max().item() for x, y in zip(got, want)]
                    good = all(e <= (SINGLE if dtype == torch.float32 else HALF) for e in errors)  # not max(), which may pass over a NaN
                    bad += not good
                    print("ok  " if good else "FAIL", kind, str(dtype)[6:], f"d={d} dv={dv} {(b, h, n)} {'from a state' if first else ''}", " ".join(f"{e:.1e}" for e in errors), flush=True)
    print(f"{bad} failures")
    return bad


# --- compilation without a device ---------------------------------------------------------------------------------------------------------

FLAGS = {"attend": dict(NORM=False), "attend, normaliser": dict(NORM=True), "dq": {}, "pair": dict(NORM=False), "pair, normaliser": dict(NORM=True),
         "state": dict(NORM=False, DELTA=False, REVERSE=False), "state, normaliser": dict(NORM=True, DELTA=False, REVERSE=False),
         "state, backward": dict(NORM=False, DELTA=True, REVERSE=True)}
NUMBERS = ("ROW", "STATES", "LAST", "FIRST", "DELTA", "SUMS", "LOG_DECAY")  # always float32


def compile_one(mode: str, d: int, dv: int, half: bool, decay: bool, blocks: dict, warps: int, stages: int) -> str:
    "Compile for sm_90 and say what it takes."
    f = linear.KERNELS[mode.split(",")[0]]
    data = {n: "*fp32" if n in NUMBERS else "*bf16" if half else "*fp32" for n in f.arg_names if n.isupper()}
    types = {n: data.get(n, "fp32" if n == "scale" else "i32") for n in f.arg_names}
    aligned = [n for n in f.arg_names if n.startswith("s_") and n not in linear.SIZES]
    return compile_report(f, types, dict(FLAGS[mode], DECAY=decay, D=d, DX=dv, **blocks), aligned, warps, stages)


def compile_all() -> None:
    for mode in FLAGS:
        for d, half in ((128, True), (64, True), (256, True), (64, False)):
            if d > linear.WIDEST["normaliser" in mode or mode == "dq"]:
                continue
            for decay in (False, True)[:1 + (mode in ("attend", "pair"))]:
                for blocks, warps, stages in linear._candidates(mode.split(",")[0], d, d, half, tma=True):
                    said = compile_one(mode, d, d, half, decay, blocks, warps, stages)
                    print(f"{mode:18s} d={d:3d} {'bf16' if half else 'fp32'}{' decay' * decay} {blocks} warps={warps} stages={stages}: {said}", flush=True)


if __name__ == "__main__":
    main(__doc__, check, compile_all, measure, "softmax attention is left out")
