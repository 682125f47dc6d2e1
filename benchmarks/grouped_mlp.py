"""A mixture of experts on a GPU: our sorted, dropless Triton kernels against a loop over experts, grouped_mm and transformers, forward and backward.

    python benchmarks/grouped_mlp.py              # check, tune, time; writes benchmarks/results/<device>/grouped_mlp.json; under ten minutes
    python benchmarks/grouped_mlp.py --check      # correctness only: every candidate block, odd sizes, every dtype, empty experts, dropped choices, no wait for the device
    python benchmarks/grouped_mlp.py --compile    # no GPU needed: compile every candidate block for sm_90, show registers, stack, shared memory

Every implementation has to agree with float64 before it is timed, ours also in every block of 128 rows of every gradient.
A peer that does not run is recorded with the reason. What a run has written stays: a second run of the same commit goes on where the first was stopped.
"""
from __future__ import annotations

import sys
import time

from kernels import HALF, SINGLE, by_block, compile_report, late, main  # first: see there

import torch
from torch import Tensor

from ml_notes.core.bench import Bench
from ml_notes.core.kernel import poisoned, rel_rmse
from ml_notes.llm import experts as grouped

SHAPES = {"Mixtral": (4096, 14336, 8, 2), "OLMoE": (2048, 1024, 64, 8)}  # d, ff, experts, choices
TOKENS = (32768, 4096, 1024, 8192, 16384, 2048)  # in this order, so that what matters most is there first
UNEVEN = 8192  # tokens of the case in which one expert gets all of them, as one of their choices, and a quarter of the experts nothing
PEER = 2e-2  # relative RMSE that passes for peers, which round more often; a wrong row shows far above it
GOAL = 0.7  # of an equal product's rate
NAMES = ("y", "dx", "dweight", "dw_gate_up", "dw_down")


def inputs(t: int, d: int, ff: int, experts: int, k: int, load: str, dtype: torch.dtype, drop: bool = False, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    "Leaves (x, weight, w_gate_up, w_down), the chosen experts, and an output gradient, seeded."
    g = torch.Generator(device="cuda").manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, device="cuda")  # noqa: E731
    scores = normal(t, experts)
    if load == "uneven":
        scores[:, experts - 1] += 100
        scores[:, : experts // 4] -= 100
    index, weight = scores.topk(k, 1).indices, normal(t, k).softmax(1)
    if drop:
        index[::5, 0], index[1::7, k - 1] = -1, experts
    leaves = (normal(t, d), weight, normal(experts, 2 * ff, d) * d**-0.5, normal(experts, d, ff) * ff**-0.5)
    return [leaf.to(dtype).requires_grad_() for leaf in leaves], index, normal(t, d).to(dtype)


def truth(leaves: list[Tensor], index: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    "Output and gradients in float64, one expert after the other, by formulas written out here."
    x, weight, w_gate_up, w_down = (leaf.detach() for leaf in leaves)
    y, dx, dweight, d_gate_up, d_down = (torch.zeros(leaf.shape, dtype=torch.float64, device="cuda") for leaf in (x, *leaves))
    for e in range(len(w_down)):
        token, choice = torch.where(index == e)
        rows, out, w = x[token].double(), dy[token].double(), weight[token, choice, None].double()
        w_in, w_out = w_gate_up[e].double(), w_down[e].double()
        gate, up = (rows @ w_in.T).chunk(2, 1)
        s = gate.sigmoid()
        h = gate * s * up
        y.index_add_(0, token, w * (h @ w_out.T))
        back = out @ w_out
        dweight[token, choice] = (back * h).sum(1)
        d_down[e] = out.T @ (w * h)
        d_in = torch.cat([w * back * up * s * (1 + gate * (1 - s)), w * back * gate * s], 1)
        d_gate_up[e] = d_in.T @ rows
        dx.index_add_(0, token, d_in @ w_in)
    return y, dx, dweight, d_gate_up, d_down


def both(f, leaves: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    "Output and gradients of an implementation."
    y = f()
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


# --- timing ------------------------------------------------------------------------------------------------------------------------------

def transformer(implementation: str, leaves: list[Tensor], index: Tensor):
    "transformers' own experts, on the same weights."
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    x, weight, w_gate_up, w_down = leaves
    experts, d, ff = w_down.shape
    config = MixtralConfig(hidden_size=d, intermediate_size=ff, num_local_experts=experts, num_experts_per_tok=index.shape[1])
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = MixtralExperts(config)
    del module.gate_up_proj, module.down_proj  # parameters, in whose place come the leaves
    module.gate_up_proj, module.down_proj = w_gate_up, w_down
    return lambda: module(x, index, weight)


def implementations(leaves: list[Tensor], index: Tensor) -> dict:
    "label → a function that builds the function to be timed: a peer that cannot be built is recorded as one that cannot run."
    def ours(copy_from):
        def f():
            grouped.COPY_FROM = copy_from
            return grouped.moe_mlp(leaves[0], index, *leaves[1:], backend="triton")
        return lambda: f

    def torch_only(backend):
        return lambda: lambda: grouped.moe_mlp(leaves[0], index, *leaves[1:], backend=backend)

    return {"ours": ours(grouped.COPY_FROM), "ours, the other way to read": ours(0 if leaves[3].shape[2] < grouped.COPY_FROM else 2**30),
            "F.grouped_mm": torch_only("grouped"), "transformers, grouped_mm": lambda: transformer("grouped_mm", leaves, index),
            "loop": torch_only("loop"), "transformers, eager": lambda: transformer("eager", leaves, index)}


def lazily(build):
    "The function that `build` returns, built when it is first called."
    made = []

    def f():
        if not made:
            made.append(build())
        return made[0]()
    return f


def blocks_agree(label: str, got: tuple, want: tuple) -> None:
    "ValueError where a block of 128 rows of anything is wrong."
    four = lambda x: x[None, None] if x.dim() == 2 else x[None]  # noqa: E731
    by_block(label, {name: four(x) for name, x in zip(NAMES, got)}, map(four, want))


def time_case(bench: Bench, model: str, t: int, load: str, deadline: float) -> None:
    "Forward, and forward with backward, of every implementation at one size."
    d, ff, experts, k = SHAPES[model]
    leaves, index, dy = inputs(t, d, ff, experts, k, load, torch.bfloat16)
    shape = dict(model=model, tokens=t, load=load)
    want, rule = truth(leaves, index, dy), grouped.COPY_FROM
    for name, build in implementations(leaves, index).items():
        mine = name.startswith("ours")
        f = lazily(build)
        if mine:  # a wrong block of rows hardly shows in the error of the whole
            with poisoned():
                blocks_agree(f"{name}, {shape}", both(f, leaves, dy), want)
        else:
            f = late(f, deadline)
        with torch.no_grad():
            bench.case(name, {"pass": "forward", **shape}, f, want[0], tol=HALF if mine else PEER, peer=not mine)
        bench.case(name, {"pass": "both", **shape}, lambda: both(f, leaves, dy), want, tol=HALF if mine else PEER, peer=not mine)
        grouped.COPY_FROM = rule
        torch.cuda.empty_cache()
    flops = grouped.moe_flops(t * k, d, ff) * 3
    side = min(12288, max(1024, round((flops / 2) ** (1 / 3) / 256) * 256))
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    bench.case("matrix product", dict(size=side), lambda: a @ b, lambda: a.double() @ b.double())


def summary(bench: Bench) -> None:
    "TFLOP/s of every row, and the goals."
    product = {r["shape"]["size"]: 2 * r["shape"]["size"] ** 3 / r["median_s"] / 1e12 for r in bench.rows if "size" in r["shape"]}
    print("\nmatrix products, bfloat16:", ", ".join(f"{n}: {rate:.0f} TFLOP/s" for n, rate in sorted(product.items())))
    timed = [r for r in bench.rows if "model" in r["shape"] and "not_run" not in r]
    for which in {tuple(r["shape"].values()): None for r in timed}:
        rows = {r["label"]: r for r in timed if tuple(r["shape"].values()) == which}
        d, ff, _, k = SHAPES[which[1]]
        work = grouped.moe_flops(which[2] * k, d, ff) * (1 if which[0] == "forward" else 3)
        rate = {name: work / r["median_s"] / 1e12 for name, r in rows.items()}
        side = min(12288, max(1024, round((grouped.moe_flops(which[2] * k, d, ff) * 3 / 2) ** (1 / 3) / 256) * 256))
        print(*which, "|", "; ".join(f"{name} {x:.0f} TFLOP/s, {rows[name]['memory_bytes'] / 2**30:.1f} GiB" for name, x in rate.items()))
        peers = [x for name, x in rate.items() if not name.startswith("ours")]
        if "ours" in rate and peers and which[0] == "both":
            share = rate["ours"] / product[side]
            print(f"    {rate['ours'] / max(peers):.2f} × the fastest peer, {share:.0%} of the product's rate: "
                  + ("goals met" if rate["ours"] >= max(peers) and share >= GOAL else "GOAL MISSED"))


def measure(minutes: float) -> None:
    deadline = time.monotonic() + 60 * minutes
    if check(quick=True):
        sys.exit("wrong results: nothing is timed")
    grouped._tuned.cache_clear()  # blocks are to be chosen anew, at the sizes that are timed
    bench = Bench("grouped_mlp", page="llm/01_experts.ipynb", device="cuda", budget_s=0.2)
    cases = [(model, t, "even") for t in TOKENS for model in SHAPES]
    for model, t, load in cases[:6] + [(model, UNEVEN, "uneven") for model in SHAPES] + cases[6:]:
        start = time.monotonic()
        time_case(bench, model, t, load, deadline)
        torch.cuda.empty_cache()
        print(f"-- {model}, {t} tokens, {load}: {time.monotonic() - start:.0f} s, {deadline - time.monotonic():.0f} s left for peers", flush=True)
    summary(bench)
    for kernel in grouped.KERNELS:
        for gather in (False, True):
            for key, config in grouped._tuned(kernel, True, True, gather).cache.items():
                print(kernel, "tokens gathered" if gather else "sorted rows", key[:3], config, flush=True)


# --- correctness on the device ------------------------------------------------------------------------------------------------------------

CASES = [(77, 64, 128, 5, 2), (1, 64, 64, 3, 1), (1000, 192, 320, 9, 4), (333, 72, 40, 4, 2), (129, 33, 17, 6, 3)]  # tokens, d, ff, experts, choices


def errors(case: tuple, load: str, dtype: torch.dtype) -> list[float]:
    "Relative errors of the output and of each gradient, from poisoned memory; routing weights are in float32 where the load is uneven."
    leaves, index, dy = inputs(*case, load, dtype, drop=case[0] > 100)
    if load == "uneven":
        leaves[1] = leaves[1].detach().float().requires_grad_()
    with poisoned():
        got = both(lambda: grouped.moe_mlp(leaves[0], index, *leaves[1:], backend="triton"), leaves, dy)
    return [rel_rmse(x, y) for x, y in zip(got, truth(leaves, index, dy))]


def check_plan() -> int:
    "The counting sort against torch's stable sort; the number of failures."
    bad = 0
    for t, k, experts in ((1, 1, 1), (5, 2, 3), (1000, 8, 64), (32768, 8, 64), (4099, 6, 300), (70_001, 1, 1000)):
        index = torch.randint(-1, experts + 1, (t, k), device="cuda", generator=torch.Generator(device="cuda").manual_seed(t))
        ours, theirs = (grouped.sort_by_expert(index, experts, backend) for backend in ("triton", "torch"))
        good = all(torch.equal(getattr(ours, f), getattr(theirs, f)) for f in ("order", "inverse", "offsets"))
        bad += not good
        print("ok  " if good else "FAIL", f"plan of {t} × {k} choices among {experts} experts", flush=True)
    return bad


def check_waits() -> int:
    "A forward and a backward pass, blocks chosen before, in which nothing on the host may wait for the device; 1 if something does."
    leaves, index, dy = inputs(*CASES[0], "even", torch.bfloat16)
    run = lambda: both(lambda: grouped.moe_mlp(leaves[0], index, *leaves[1:], backend="triton"), leaves, dy)  # noqa: E731
    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
        said = ""
    except RuntimeError as error:
        said = str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    print("FAIL" if said else "ok  ", "the host does not wait", said, flush=True)
    return bool(said)


def check(quick: bool = False) -> int:
    "Kernels against float64 with poisoned outputs, each candidate block by itself; the number of failures. Quick: bfloat16, two sizes."
    bad, blocks, rule = check_plan(), grouped.BLOCKS, grouped.COPY_FROM
    dtypes = (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16, torch.float32)
    for i in range(max(map(len, blocks.values()))):
        grouped.BLOCKS = {kernel: [candidates[min(i, len(candidates) - 1)]] for kernel, candidates in blocks.items()}
        grouped._tuned.cache_clear()
        for dtype in dtypes if i == 0 else dtypes[:1]:
            for case in CASES[::2] if quick or i else CASES:
                for load, grouped.COPY_FROM in (("even", 0), ("uneven", 2**30)):
                    found = errors(case, load, dtype)
                    good = all(e <= (SINGLE if dtype == torch.float32 else HALF) for e in found)  # not max(), which may pass over a NaN
                    bad += not good
                    print("ok  " if good else "FAIL", f"candidate {i}", str(dtype)[6:], case, load, " ".join(f"{e:.1e}" for e in found), flush=True)
    grouped.BLOCKS, grouped.COPY_FROM = blocks, rule
    grouped._tuned.cache_clear()
    bad += check_waits()
    print(f"{bad} failures")
    return bad


# --- compilation without a device ---------------------------------------------------------------------------------------------------------

VARIANTS = {"up": [dict(GATHER=g, ACT="silu", SAVE=True, WHOLE=True) for g in (True, False)],
            "rows": [dict(TRANS=t, WHOLE=True) for t in (True, False)],
            "hidden": [dict(GATHER=g, ACT="silu", OUTER=True, WHOLE=True) for g in (True, False)],
            "outer": [dict(GATHER=g, **{one: 1}) for g in (True, False) for one in ("s_n", "s_m")]}


def compile_one(kernel: str, half: bool, values: dict, blocks: dict, options: dict) -> str:
    "Compile for sm_90 and say what it takes."
    f, single = grouped.KERNELS[kernel], dict.fromkeys(("ORDER", "TOKENS", "OFFSETS", "TILES"), "*i32") | dict.fromkeys(("SHARES", "WEIGHT"), "*fp32")
    types = {n: single.get(n, ("*bf16" if half else "*fp32") if n.isupper() else "i32") for n in f.arg_names}
    return compile_report(f, types, dict(values, **blocks), ("d", "ff", "wide", "deep", "m", "s_m", "s_n") + ("n",) * (kernel == "outer"),
                          options["num_warps"], options["num_stages"], options["maxnreg"])


def compile_all() -> None:
    for kernel, variants in VARIANTS.items():
        for half in (True, False):
            for values in variants:
                for blocks, options in grouped._candidates(kernel, half, half, values.get("GATHER", False)):
                    said = compile_one(kernel, half, values, blocks, options)
                    what = ", ".join(f"{k}={v}" for k, v in values.items() if k not in ("ACT", "SAVE", "OUTER", "WHOLE"))
                    print(f"{kernel:6s} {'bf16' if half else 'fp32'} {what:19s} {blocks['BLOCK_M']:3d} × {blocks['BLOCK_N']:3d} {'TMA' if blocks['TMA'] else '   '} "
                          f"{'stays' if blocks['PERSISTENT'] else '     '} warps={options['num_warps']} stages={options['num_stages']}: {said}", flush=True)


if __name__ == "__main__":
    main(__doc__, check, compile_all, measure, "peers are left out")
