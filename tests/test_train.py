"""Training processes that are killed, damaged checkpoints, and two processes against one."""
from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ml_notes.core import train

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import train_job  # noqa: E402

# a fork server imports torch (and what optimizers import late) once; each run is a fresh process forked from it
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["ml_notes.core.train", "torch._dynamo"])


def start(target, *args) -> multiprocessing.Process:
    process = processes.Process(target=target, args=args)
    process.start()
    return process


def finish(process, expected: int) -> None:
    process.join(60)
    assert process.exitcode == expected


def fingerprint(folder: Path) -> str:
    "Digest of everything in the newest checkpoint, which has to be whole."
    newest = train._checkpoints(folder)[0]
    tensors: dict = {}
    return train._digest(tensors, json.dumps(train._pack(train._read(newest), "state", tensors)))


@pytest.fixture(autouse=True)
def one_thread():
    "As the runs have it: another number of threads may round sums otherwise."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    "The folder of a run that nothing happened to."
    folder = tmp_path_factory.mktemp("whole")
    finish(start(train_job.job, str(folder)), 0)
    return folder


def assert_same(folder: Path, whole: Path) -> None:
    "Weights, optimiser state, moving average, schedule and losses are equal bit for bit."
    ours, theirs = train._read(train._checkpoints(folder)[0]), train._read(train._checkpoints(whole)[0])
    assert len(ours["losses"]) == train_job.STEPS and torch.equal(ours["losses"], theirs["losses"])
    for a, b in ((ours["model"], theirs["model"]), (ours["ema"]["model"], theirs["ema"]["model"]),
                 *((ours["optimizer"]["state"][i], theirs["optimizer"]["state"][i]) for i in theirs["optimizer"]["state"])):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)
    assert ours["scheduler"] == theirs["scheduler"] and fingerprint(folder) == fingerprint(whole)


draw = random.Random(20)
KILLS = [(point, draw.randrange(train_job.STEPS)) for point in ("the loss", "the backward pass") for _ in range(3)]
KILLS += [(point, draw.choice([5, 10, 15, 20])) for point in ("half of the file", "before the rename", "after the rename") for _ in range(2)]


@pytest.mark.parametrize("point,step", KILLS)
def test_killed_and_resumed(point: str, step: int, whole: Path, tmp_path: Path):
    finish(start(train_job.job, str(tmp_path), point, step), -signal.SIGKILL)
    saved = step if point == "after the rename" else (step - 1 if "file" in point or "rename" in point else step) // 5 * 5
    assert (train.latest(tmp_path).stem if saved else train.latest(tmp_path)) == (f"step_{saved:08d}" if saved else None)
    assert bool(list(tmp_path.glob("*.tmp"))) == (point in ("half of the file", "before the rename"))
    finish(start(train_job.job, str(tmp_path)), 0)
    assert_same(tmp_path, whole)
    assert len(list(tmp_path.iterdir())) == 2  # the last two checkpoints, nothing left over


def test_killed_again_and_again_from_outside(whole: Path, tmp_path: Path):
    draw, kills = random.Random(7), 0
    while True:
        process = start(train_job.slow_job, str(tmp_path))
        begin = train._checkpoints(tmp_path)[0].name if train._checkpoints(tmp_path) else ""
        while process.is_alive() and not any(p.name > begin for p in train._checkpoints(tmp_path)):
            time.sleep(0.001)  # until it has got somewhere
        time.sleep(draw.random() * 0.06)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 2
    assert_same(tmp_path, whole)


def damage(path: Path, how: str) -> str:
    "Damage a checkpoint; returns a part of the message that has to follow."
    blob = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(blob[:-7])
    elif how == "bit flipped":
        blob[-9] ^= 4
        path.write_bytes(blob)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "another model":
        state = train._read(path)
        state["model"]["0.weight"] = torch.zeros(4, 4)
        train._save(path.parent, int(path.stem[5:]), state)
    elif how == "not ours":
        path.write_bytes(safetensors.torch.save({"w": torch.ones(3)}))
    return {"truncated": "not a whole safetensors file", "bit flipped": "corrupt, its content has SHA-256", "empty": "of 0 bytes",
            "another model": "belongs to another model: 0.weight has shape (4, 4), the model's has (16, 3)", "not ours": "format None"}[how]


@pytest.mark.parametrize("how", ["truncated", "bit flipped", "empty", "another model", "not ours"])
def test_damaged_checkpoint(how: str, whole: Path, tmp_path: Path):
    for path in train._checkpoints(whole):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    newest, older = train._checkpoints(tmp_path)
    reason = damage(newest, how)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    net, data = train_job.problem()
    options = dict(steps=train_job.STEPS, batch_size=12, ema=0.9, folder=tmp_path, progress=False, clip=1.0,
                   optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [7, 13]))

    def loss(model, x, y, generator):
        return (model(x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)) - y).square().mean()

    with pytest.raises(ValueError) as refused:
        train.fit(net, loss, data, **options)
    assert str(newest) in str(refused.value) and reason in str(refused.value) and f"The last good checkpoint is {older}" in str(refused.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before  # nothing was touched
    if how != "another model":
        assert train.latest(tmp_path) == older
    with pytest.warns(UserWarning, match="Going on from"):
        train.fit(net, loss, data, **options, on_corrupt="previous")
    assert newest.with_suffix(".refused").read_bytes() == before[newest.name]
    assert_same(tmp_path, whole)


def torchrun(folder: Path) -> str:
    "Run train_job.py in two processes of torchrun; returns what they printed."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = dict(os.environ, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(HERE.parent))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port)]
    run = subprocess.Popen([*command, str(HERE / "train_job.py"), str(folder)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = run.communicate(timeout=100)
    finally:
        if run.poll() is None:
            run.terminate()  # torchrun ends its workers
            run.wait(30)
    assert run.returncode == 0, err
    return out


def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path):
    finish(start(train_job.parallel, str(tmp_path / "one")), 0)
    printed = torchrun(tmp_path / "two")
    for name, steps in (("gradient", 1), ("weights", 20)):
        two, one = (train._read(train.latest(tmp_path / n / name)) for n in ("two", "one"))
        assert len(two["losses"]) == steps and [p.name for p in (tmp_path / "two" / name).iterdir()] == [f"step_{steps:08d}.safetensors"]
        assert torch.allclose(two["losses"], one["losses"], rtol=0, atol=1e-6)
        for part in (lambda s: s["model"], lambda s: s["ema"]["model"]):
            for key in part(one):
                assert torch.allclose(part(two)[key], part(one)[key], rtol=0, atol=1e-6), (name, key)
        moved = two["model"]["0.weight"] - train_job.problem()[0][0].weight  # with rate 1, the gradient
        assert moved.abs().max() > 1e-3
    two, one = (train._read(train.latest(tmp_path / n / "game")) for n in ("two", "one"))
    for part in (lambda s: s["model"], lambda s: s["ema"]["model"], lambda s: s["losses"]):
        assert part(one).keys() == part(two).keys() and all(torch.allclose(part(two)[key], part(one)[key], rtol=0, atol=1e-6) for key in part(one))
    begin = train_job.adversaries()[0].state_dict()
    assert all((one["model"][key] - begin[key]).abs().max() > 1e-3 for key in begin)
    for rank in (0, 1):
        assert f"weights of process {rank}: 20 losses" in printed
        assert f"game of process {rank}: {{'discriminator': 20, 'generator': 6}}" in printed
        assert f"process {rank} refused: step 0: the loss is nan" in printed  # also the one whose own loss was finite
        assert f"process {rank} refused: batch_size: got 13, expected a multiple of the 2 processes" in printed
