"""Train the character models of `attention/linear`, softmax and linear attention from the same weights on the same batches, with three seeds of each.

    python benchmarks/train_linear_chars.py            # writes all six models' weights beside the notebooks, and the record, with recall half-way and at the end, beside the benchmarks
    python benchmarks/train_linear_chars.py --steps 3  # prints the first losses and writes nothing
"""
from __future__ import annotations

import tempfile

import torch
from torch import nn
from training import device, main  # before the package, because it puts this checkout's on the path

from ml_notes.attention.linear import CHAR_MODELS, char_bits, char_loss, char_models, char_recall, char_text, char_windows
from ml_notes.core.train import Fitted, fit, seed_everything

SEEDS, STEPS, BATCH, LR, SENTENCES = (0, 1, 2), 1200, 12, 1e-2, 4000


def train(steps: int, seed: int, folder: str | None = None, progress: bool = True) -> Fitted:
    "The first `steps` of one seed's two models, initial weights and order of the batches by `seed`; the learning rates fall linearly to zero over all of `STEPS`."
    seed_everything(seed)
    models, data = char_models((seed,)).to(device()), (char_windows(char_text(SENTENCES, 1)).to(device()),)
    return fit(models, {name: char_loss(name) for name in models}, data, steps=steps, batch_size=BATCH, lr=LR, seed=seed, folder=folder, progress=progress,
               scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS))


def tested(models: nn.ModuleDict) -> dict[str, dict]:
    "Bits a character on new text and recall of subject, verb and object, by model."
    windows, pairs = (char_windows(char_text(n, seed), length).to(device()) for n, seed, length in ((300, 2, 48), (400, 3, 51)))
    return {name: {"bits": round(char_bits(model, windows), 5), "recall": char_recall(model, pairs)} for name, model in models.items()}


def held_out(models: nn.ModuleDict) -> float:
    "Bits a character of linear attention on new text, mean of the seeds."
    return sum(found["bits"] for name, found in tested(models).items() if name.startswith("linear")) / len(SEEDS)


if __name__ == "__main__":
    half_way, end = {}, {}  # filled by `runs` and kept in the record

    def runs(steps: int) -> Fitted:
        "All seeds' runs, the models together."
        models, losses = char_models(SEEDS), {}
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:  # to stop half-way, look, and go on
                if steps == STEPS:
                    half_way.update(tested(train(STEPS // 2, seed, folder).model))
                fitted = train(steps, seed, folder)
            for name, model in fitted.model.items():
                models[name], losses[name] = model, fitted.losses[name]
        end.update(tested(models) if steps == STEPS else {})
        return Fitted(models, None, losses, steps)

    main(__file__, __doc__, runs, held_out, STEPS, family="attention", seeds=SEEDS, batch_size=BATCH, lr=LR, sentences=SENTENCES, models=[*CHAR_MODELS], half_way=half_way, end=end)
