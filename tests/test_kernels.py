"""What can be known of the GPU kernels without a GPU, beyond what Triton's interpreter shows on their pages: they compile for Hopper."""
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

COMPILE = """
import attention, re
from attention import compile_one, flash
for kernel in flash.KERNELS:
    for half in (True, False):
        blocks, warps, stages = flash._candidates(kernel, 128, half, tma=True)[-1]
        said = compile_one(kernel, 128, half, True, blocks, warps, stages)
        print(kernel, half, *(re.search(rf"(\\d+) {what}", said)[1] for what in ("registers", "KiB", "wgmma")))
"""


def test_flash_kernels_compile_for_hopper(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], cwd=BENCHMARKS, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [(kernel, half) for kernel, half, *_ in rows] == [(k, h) for k in ("forward", "dkdv", "dq") for h in ("True", "False")]
    for kernel, half, registers, kib, wgmma in rows:
        assert 0 < int(registers) <= 255 and 0 < int(kib) <= 227, (kernel, half)
        # half precision has to reach the tensor cores; IEEE products of float32 must not
        assert (int(wgmma) > 0) == (half == "True"), (kernel, half, wgmma)


CODES = """
import nearest_code, re
from nearest_code import compile_one, nc
cases = [("scores", d, dtype, nc.BLOCKS[d][0]) for d, dtype in ((64, "fp32"), (256, "bf16"))] + [("direct", 8, "fp32", nc.DIRECT_BLOCKS[0])]
for kernel, d, dtype, (m, n, warps, stages) in cases:
    said = compile_one(kernel, d, dtype, dict(BLOCK_M=m, BLOCK_N=n), warps, stages)
    print(kernel, *(re.search(rf"(\\d+) {what}", said)[1] for what in ("registers", "KiB", "wgmma")))
"""


def test_nearest_code_kernels_compile_for_hopper(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODES], cwd=BENCHMARKS, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [kernel for kernel, *_ in rows] == ["scores", "scores", "direct"]
    for kernel, registers, kib, wgmma in rows:
        assert 0 < int(registers) <= 255 and int(kib) <= 227, kernel
        # scores have to reach the tensor cores; differences have nothing to do there
        assert (int(wgmma) > 0) == (kernel == "scores"), (kernel, wgmma)


SEARCH = """
import torch
from ml_notes.core.kernel import poisoned
from ml_notes.generative.nearest_code import nearest_code

for d in (3, 17):
    for dtype in (torch.float32, torch.float16):
        g = torch.Generator().manual_seed(d)
        x, e = torch.randn(37, d, generator=g).to(dtype), torch.randn(70, d, generator=g).to(dtype)
        e = torch.cat([e, e.flip(0)])  # every code twice: the first one counts
        d2 = (x.double()[:, None] - e.double()).square().sum(-1)
        want = (d2 == d2.amin(1, keepdim=True)).int().argmax(1)
        with poisoned():
            index, counts = nearest_code(x, e, "triton")
        again, recounted = nearest_code(x, e, "chunked", chunk=300)
        assert torch.equal(index, want) and torch.equal(again, want), (d, dtype)
        assert torch.equal(counts, torch.bincount(want, minlength=140)) and torch.equal(recounted, counts)
print("ok")
"""


def test_nearest_code_in_the_interpreter():
    done = subprocess.run([sys.executable, "-c", SEARCH], cwd=BENCHMARKS, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr[-2000:]


LINEAR = """
import linear_attention, re
from linear_attention import compile_one, linear
cases = [(mode, 128, True) for mode in linear_attention.FLAGS] + [("attend, normaliser", 64, False)]
for mode, d, half in cases:
    blocks, warps, stages = linear._candidates(mode.split(",")[0], d, d, half, tma=True)[0]
    said = compile_one(mode, d, d, half, False, blocks, warps, stages)
    print(half, *(re.search(rf"(\\d+) {what}", said)[1] for what in ("registers", "B on", "KiB", "wgmma")))
"""


def test_linear_attention_kernels_compile_for_hopper(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LINEAR], cwd=BENCHMARKS, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 9
    for half, registers, stack, kib, wgmma in rows:
        assert 0 < int(registers) <= 255 and 0 < int(kib) <= 227
        # half precision has to reach the tensor cores, with the state in registers; IEEE products of float32 must not
        assert (int(wgmma) > 0) == (half == "True") and (half == "False" or int(stack) <= 64), (half, wgmma, stack)


RETENTION = """
import torch
from ml_notes.attention.linear import linear_attention, linear_forward
from ml_notes.core.kernel import poisoned, rel_rmse

g = torch.Generator().manual_seed(0)
q, k = (torch.nn.functional.elu(torch.randn(1, 2, 41, 16, generator=g)) + 1 for _ in range(2))
v, do, decay = torch.randn(1, 2, 41, 33, generator=g), torch.randn(1, 2, 41, 33, generator=g), 1 - 2.0 ** -torch.tensor([5.0, 6.0], dtype=torch.float64)
for dtype in (torch.float32, torch.bfloat16):
    for normalize in (True, False):
        results = []
        for backend, to in (("recurrent", torch.float64), ("triton", dtype)):
            leaves = [x.to(dtype).to(to).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (q, k, v)]  # rows of one head lie apart
            with poisoned():
                o = linear_attention(*leaves, normalize=normalize, scale=0.25, decay=decay, backend=backend)
                results.append([o, *torch.autograd.grad(o, leaves, do.to(dtype).to(to))])
        errors = [rel_rmse(b, a.detach()) for a, b in zip(*results)]
        assert max(errors) < (1e-5 if dtype == torch.float32 else 5e-3), (dtype, normalize, errors)
example = [x.detach()[:, :, :9, :16].contiguous().requires_grad_() for x in (q, k, v)]
torch.library.opcheck(linear_forward, (*example, None, None, True, 1.0, True), test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
print("ok")
"""


def test_linear_attention_in_the_interpreter():
    done = subprocess.run([sys.executable, "-c", RETENTION], cwd=BENCHMARKS, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr[-2000:]


AUTOTUNE = """
import torch, triton
from ml_notes.attention import linear  # first: in the interpreter only, as fla may switch it off
from fla.ops.utils.cache import configure_fla_cache_autotune

own = triton.autotune
configure_fla_cache_autotune()
assert triton.autotune is not own  # what a library does to all who ask for that name afterwards, and ours are tuned on first use

x = torch.rand(1, 2, 37, 16, generator=torch.Generator().manual_seed(0))
torch.testing.assert_close(linear.linear_attention(x, x, x, backend="triton"), linear.linear_attention(x, x, x, backend="recurrent"))
kinds = {type(linear._tuned(kernel, 16, 16, False)) for kernel in linear.KERNELS}
assert kinds == {triton.runtime.autotuner.Autotuner}, kinds
print("ok")
"""


@pytest.mark.skipif(find_spec("fla") is None, reason="flash-linear-attention is not installed")
def test_linear_attention_keeps_triton_s_own_autotuner():
    done = subprocess.run([sys.executable, "-c", AUTOTUNE], cwd=BENCHMARKS, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stderr[-2000:]


EXPERTS = """
import grouped_mlp, re
from grouped_mlp import VARIANTS, compile_one, grouped
for kernel, variants in VARIANTS.items():
    for half in (True, False):
        blocks, options = grouped._candidates(kernel, half, half, True)[0]
        said = compile_one(kernel, half, variants[0], blocks, options)
        print(kernel, half, *(re.search(rf"(\\d+) {what}", said)[1] for what in ("registers", "KiB", "wgmma")))
"""


def test_expert_kernels_compile_for_hopper(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", EXPERTS], cwd=BENCHMARKS, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [(kernel, half) for kernel, half, *_ in rows] == [(k, h) for k in ("up", "rows", "hidden", "outer") for h in ("True", "False")]
    for kernel, half, registers, kib, wgmma in rows:
        assert 0 < int(registers) <= 255 and 0 < int(kib) <= 227, (kernel, half)
        assert (int(wgmma) > 0) == (half == "True"), (kernel, half, wgmma)


MIXTURE = """
import torch
from ml_notes.core.kernel import poisoned, rel_rmse
from ml_notes.llm.experts import moe_mlp, sort_by_expert

for t, k, e, d, ff, dtype, limit in ((13, 2, 3, 20, 17, torch.float16, 5e-3), (18, 1, 4, 16, 32, torch.float32, 1e-5)):
    g = torch.Generator().manual_seed(t)
    index = torch.rand(t, e, generator=g)[:, 1:].topk(k, 1).indices + 1  # the first expert gets nothing
    index[::4, 0] = -1
    plans = [sort_by_expert(index, e, backend) for backend in ("torch", "triton")]
    assert all(torch.equal(getattr(plans[0], f), getattr(plans[1], f)) for f in ("order", "inverse", "offsets"))
    leaves = [torch.randn(*shape, generator=g).to(dtype) for shape in ((t, d), (t, k), (e, 2 * ff, d), (e, d, ff))]
    dy = torch.randn(t, d, generator=g).to(dtype)

    def grads(leaves, dy, backend):
        leaves = [x.detach().requires_grad_() for x in leaves]
        y = moe_mlp(leaves[0], index, *leaves[1:], backend=backend)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    want = grads([x.double() for x in leaves], dy.double(), "loop")
    with poisoned():
        got = grads(leaves, dy, "triton")
    errors = [rel_rmse(x, y) for x, y in zip(got, want)]
    assert all(error <= limit for error in errors), (dtype, errors)

    weight = leaves[1].masked_fill(index < 0, float("nan"))  # weights of dropped choices may be anything
    assert all(torch.equal(moe_mlp(x, index, weight, *rest, backend=b), moe_mlp(x, index, w, *rest, backend=b)) for b in ("loop", "grouped", "triton") for x, w, *rest in [leaves])

x, weight, *matrices = [x.float() for x in leaves]
with torch.autocast("cpu", torch.bfloat16):
    cast = [moe_mlp(z, index, weight, *matrices, backend=b) for b in ("loop", "grouped", "triton") for z in (x, x.bfloat16())]
explicit = [moe_mlp(x.bfloat16(), index, weight, *(w.bfloat16() for w in matrices), backend=b) for b in ("loop", "grouped", "triton") for _ in range(2)]
assert all(map(torch.equal, cast, explicit)) and cast[0].dtype == torch.bfloat16
print("ok")
"""


def test_experts_in_the_interpreter():
    done = subprocess.run([sys.executable, "-c", MIXTURE], cwd=BENCHMARKS, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr[-2000:]
