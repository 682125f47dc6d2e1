"""What can be known of the GPU kernels without a GPU, beyond what Triton's interpreter shows on their pages: they compile for Hopper."""
import os
import subprocess
import sys
from pathlib import Path

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
