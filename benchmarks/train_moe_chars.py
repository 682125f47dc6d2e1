"""Train the three character models of `llm/moe` on the same text: dense, a mixture with the same arithmetic, and dense with the mixture's parameters; then the first two with other seeds.

    python benchmarks/train_moe_chars.py            # writes the first seed's weights beside the notebooks, and the record, with all seeds' held-out losses, beside the benchmarks
    python benchmarks/train_moe_chars.py --steps 3  # prints the first losses of the first seed's models and writes nothing
"""
from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from training import device, main  # before the package, because it puts this checkout's on the path

from ml_notes.core.train import Fitted, fit, seed_everything
from ml_notes.llm.moe import CHAR_MODELS, char_data, char_loss, char_models

SEED, STEPS, BATCH, LR, LINES = 0, 1500, 32, 1e-2, 72_000  # so many lines are one pass
MORE_SEEDS, AGAIN = (1, 2), ("dense", "moe")  # trained once more with each


def train(steps: int, seed: int = SEED, names: Iterable[str] = CHAR_MODELS, progress: bool = True) -> Fitted:
    "The first `steps` of one run on the same text, initial weights and order by `seed`; the learning rates fall along a cosine over all of `STEPS`."
    seed_everything(seed)
    models = char_models(seed).to(device())
    data = tuple(x.to(device()) for x in char_data(LINES, SEED + 1))
    return fit(models, {name: char_loss(name) for name in names}, data, steps=steps, batch_size=BATCH, lr=LR, seed=seed, progress=progress,
               scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS))


@torch.no_grad()
def held_out(models: nn.ModuleDict, name: str = "moe") -> float:
    "Cross entropy of one model on new lines, nats a character."
    tokens, _ = (x.to(device()) for x in char_data(1000, SEED + 2))
    logits, _ = models[name](tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


if __name__ == "__main__":
    by_seed = {}  # held-out losses, filled by `runs` and kept in the record

    def runs(steps: int) -> Fitted:
        "The first seed's run; when it is whole, the other seeds' as well."
        first = train(steps)
        if steps == STEPS:
            by_seed[SEED] = {name: held_out(first.model, name) for name in CHAR_MODELS}
            for seed in MORE_SEEDS:
                models = train(steps, seed, AGAIN).model
                by_seed[seed] = {name: held_out(models, name) for name in AGAIN}
        return first

    main(__file__, __doc__, runs, held_out, STEPS, family="llm", seed=SEED, batch_size=BATCH, lr=LR, lines=LINES, models=CHAR_MODELS, held_out_by_seed=by_seed)
