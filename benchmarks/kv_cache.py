"""Decoding with and without a KV cache: `generate` of `generative/autoregressive`, and GPT-2 of transformers with its own cache, the weights copied.

    OMP_NUM_THREADS=1 python benchmarks/kv_cache.py    # checks, times, writes benchmarks/results/<device>/kv_cache.json; about two minutes on a CPU

Greedy decoding from a start token. Every run has to give the tokens that float64 gives, without a cache, before it is timed.
"""
from __future__ import annotations

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's package, also when another one is installed

import torch  # noqa: E402
import transformers  # noqa: E402
from torch import Tensor  # noqa: E402

from ml_notes.core.bench import Bench, ratio  # noqa: E402
from ml_notes.generative.autoregressive import GPT, generate  # noqa: E402

VOCAB, DIM, DEPTH, HEADS, BATCH, LENGTHS = 256, 128, 4, 4, 8, (32, 64, 128, 256)


def pair(length: int, device: torch.device) -> tuple[torch.nn.Module, GPT]:
    "GPT-2 of transformers with random weights, wide enough that the best token is clear, and ours with the same."
    config = transformers.GPT2Config(vocab_size=VOCAB + 1, n_positions=length + 1, n_embd=DIM, n_layer=DEPTH, n_head=HEADS, tie_word_embeddings=False,
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=VOCAB, eos_token_id=None, pad_token_id=VOCAB)
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(config).to(device).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn_like(p)
        theirs.lm_head.weight[VOCAB] = 0.0
    return theirs, GPT.from_transformers(theirs)


def reference(theirs: torch.nn.Module, length: int) -> Tensor:
    "Greedy tokens of transformers' `generate`, which starts from the start token and may not write it."
    start = torch.full((BATCH, 1), VOCAB, device=theirs.device)
    out = theirs.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=length, min_new_tokens=length, do_sample=False, use_cache=True, suppress_tokens=[VOCAB])
    return out[:, 1:].double()


@torch.no_grad()
def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    bench = Bench("kv_cache", page="generative/01_autoregressive.ipynb", budget_s=3.0)
    for length in LENGTHS:
        theirs, ours = pair(length, bench.device)
        truth, shape = pair(length, bench.device)[1].double(), dict(length=length, batch=BATCH)
        want = generate(truth, BATCH, length, top_k=1, cached=False).double()
        bench.case("ours, cache", shape, lambda: generate(ours, BATCH, length, top_k=1).double(), want, tol=1e-9)
        bench.case("ours, no cache", shape, lambda: generate(ours, BATCH, length, top_k=1, cached=False).double(), want, tol=1e-9)
        bench.case("transformers, cache", shape, lambda: reference(theirs, length), want, tol=1e-9, peer=True)
    for r in ratio(bench.rows, "ours, cache", "ours, no cache"):
        print(f"{r.shape}: the cache makes decoding {r.speed:.1f} times as fast")


if __name__ == "__main__":
    main()
