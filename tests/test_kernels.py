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
