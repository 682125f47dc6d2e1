"""A benchmark script for test_bench.py: run in a checkout of its own, and killed after some rows. Its argument says after how many (0: never)."""
import os
import signal
import sys

import torch

from ml_notes.core.bench import Bench

torch.set_num_threads(1)
bench = Bench("toy", device="cpu", budget_s=0.01)
for done, n in enumerate((16, 33, 64, 100), 1):
    x = torch.randn(n, n, generator=torch.Generator().manual_seed(n))
    fresh = len(bench.rows) < done
    row = bench.case("ours", {"n": n}, run=lambda: x @ x, truth=lambda: x.double() @ x.double())
    print(f"row {done} {'measured' if fresh else 'kept'}", flush=True)
    if done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
