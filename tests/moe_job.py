"""What each process of test_moe_parallel.py does: its share of a mixture of experts, its share of the tokens, and what one process makes of all of them."""
from __future__ import annotations

from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from ml_notes.llm.moe import ExpertParallel, MoE, sigmoid_top_k, top_k

CASES = {"top-2 and a shared expert": (partial(top_k, k=2), dict(shared=3)), "top-1": (partial(top_k, k=1, renormalize=False), {}), "a bias": (partial(sigmoid_top_k, k=2), dict(biased=True))}


def problem(name: str, processes: int) -> tuple[MoE, torch.Tensor, torch.Tensor]:
    "The same layer, tokens and output gradient on every process; sequences of an odd length."
    router, options = CASES[name]
    torch.manual_seed(3)
    moe = MoE(10, 7, 4, router, **options).double()
    if moe.bias is not None:
        moe.bias += torch.tensor([0.3, 0.0, -0.2, 0.1])
    x, dy = torch.randn(2, processes, 3, 5, 10, dtype=torch.float64)
    return moe, x, dy


def passed(layer: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    "Output, and gradient of the tokens; those of the weights stay in the layer."
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * dy).sum().backward()
    return y.detach(), x.grad


def job(rank: int, processes: int, store: str) -> None:
    "Raise AssertionError unless this process's part is that part of the whole."
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes, timeout=timedelta(seconds=60))
    for name in CASES:
        moe, x, dy = problem(name, processes)
        layer = ExpertParallel(moe, dist.group.WORLD)
        if moe.bias is not None:
            without = moe.router(moe.route(x.flatten(0, 1)).logits).index
            assert torch.equal(layer.moe.bias, moe.bias) and not torch.equal(without, moe.route(x.flatten(0, 1)).index), "the bias changes no choice"
        y, dx = passed(layer, x[rank], dy[rank])
        whole_y, whole_dx = passed(moe, x.flatten(0, 1), dy.flatten(0, 1))
        own = slice(rank * 4 // processes, (rank + 1) * 4 // processes)
        close = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
        close(y, whole_y.view_as(x)[rank])
        close(dx, whole_dx.view_as(x)[rank])
        close(layer.w_gate_up.grad, moe.w_gate_up.grad[own])
        close(layer.w_down.grad, moe.w_down.grad[own])
        for (part, ours), (_, theirs) in zip(layer.moe.named_parameters(), [(n, p) for n, p in moe.named_parameters() if n not in ("w_gate_up", "w_down")], strict=True):
            assert ours.grad.abs().max() > 1e-3, part
            dist.all_reduce(ours.grad)
            close(ours.grad, theirs.grad)
        assert layer.w_down.shape[0] == 4 // processes and dx.abs().max() > 1e-3
    dist.destroy_process_group()
