"""What the scripts that check, compile and time the book's GPU kernels share. Import it first: it makes sure that kernels are real ones.

    def check(quick=False): …        # correctness on the device, the number of failures
    def compile_all(): …             # a line of `compile_report` for each candidate block
    def measure(minutes): …          # the timed run
    if __name__ == "__main__":
        main(__doc__, check, compile_all, measure, "the slow peer is left out")
"""
from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported, whatever the shell says

import torch
from torch import Tensor

HALF, SINGLE = 5e-3, 1e-5  # relative RMSE that passes, in half precision and in float32


def by_block(label: str, got: dict[str, Tensor], want: Iterable[Tensor], limit: float = 4 * HALF, rows: int = 128) -> None:
    "ValueError if in any block of rows of (batch, heads, length, dim) the error exceeds the limit, relative to that block or to 1 % of the whole tensor; NaN does."
    for (name, x), y in zip(got.items(), want, strict=True):
        floor = max(0.01 * y.square().mean().sqrt().item(), 1e-9)
        for at in range(0, y.shape[2], rows):
            a, b = x[:, :, at:at + rows].double(), y[:, :, at:at + rows]
            error = (a - b).square().mean((2, 3)).sqrt() / b.square().mean((2, 3)).sqrt().clamp(min=floor)
            worst = error.max().item()  # torch's max keeps a NaN
            if not worst <= limit:  # 128 rows of one head scatter more than all rows together
                raise ValueError(f"{label}: {name}, rows from {at} on: relative error {worst:.1e}, limit {limit:.0e}")


def late(f: Callable, deadline: float) -> Callable:
    "`f`, or once the deadline (of time.monotonic) has passed a function that says so, which the results file records."
    def refuse(*args):
        raise RuntimeError("no time left in this run")
    return refuse if time.monotonic() > deadline else f


def compile_report(kernel, types: dict[str, str], constants: dict, aligned: Iterable[str], warps: int, stages: int, registers: int | None = None) -> str:
    """Compile a `triton.jit` function for sm_90, without a device, and say what it takes.

    types: Triton's type of each argument that is not in `constants`, such as "*bf16", "i32", "fp32"; pointers are taken to be multiples of 16 bytes.
    aligned: names of whole numbers that are multiples of 16, strides above all.
    registers: the most that a thread may have, if there is a limit.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, aligned = kernel.arg_names, set(aligned)
    signature = {n: "constexpr" if n in constants else types[n] for n in names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*" or n in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs={(i,): constants[n] for i, n in enumerate(names) if n in constants}, attrs=attrs)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=warps, num_stages=stages, maxnreg=registers))
    dump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        used = subprocess.run([dump, "-res-usage", file.name], capture_output=True, text=True).stdout
    registers, spilled = re.search(r"REG:(\d+) STACK:(\d+)", used).groups()
    return f"{registers:>3} registers, {spilled:>4} B on the stack, {built.metadata.shared / 1024:5.0f} KiB shared, {built.asm['ptx'].count('wgmma.mma'):3d} wgmma"


def main(doc: str, check: Callable[[], int], compile_all: Callable[[], None], measure: Callable[[float], None], left_out: str) -> None:
    "The command line of a script: --check, --compile, or the timed run."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="correctness only")
    parser.add_argument("--compile", action="store_true", help="compile for sm_90, without a GPU")
    parser.add_argument("--minutes", type=float, default=6.0, help=f"after so many, {left_out} (default 6)")
    options = parser.parse_args()
    if options.compile:
        compile_all()
    elif not torch.cuda.is_available():
        sys.exit("no CUDA device: only --compile works here")
    elif options.check:
        sys.exit(min(check(), 1))
    else:
        measure(options.minutes)
