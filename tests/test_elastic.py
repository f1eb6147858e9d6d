"""Training on several processes that are lost and come back in other numbers: real torchrun, real signals."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from test_train import TINY
from torch import distributed as dist

from fergeneral.train import checkpoint, loop
from fergeneral.train.config import RECIPES
from fergeneral.train.distributed import _store_of_this_start
from fergeneral.train.loop import Trainer

SMALL = dataclasses.replace(TINY, name="small", optimizer="adamw", learning_rate=1e-3, average_decay=0.9)
STEPS = 24  # 6 epochs of 4 batches of 16 images


class Small(torch.nn.Sequential):
    """In the encoder's place: quick, and without batch statistics, which differ between a half and a whole batch."""

    num_features = 32


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Train a small network by the real command, with a line in the log for each step."""

    def build(architecture: str) -> Small:
        return Small(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 32))

    patch.setattr(loop, "build_network", build)
    patch.setattr(loop, "_LOG_EVERY", 1)
    patch.setitem(RECIPES, "small", SMALL)


def die_before(step: int, number: signal.Signals, patch: pytest.MonkeyPatch) -> None:
    """This process sends itself a signal at the beginning of a step."""
    real = Trainer.step

    def dying(self: Trainer) -> dict[str, torch.Tensor]:
        if self.run.step == step:
            os.kill(os.getpid(), number)
        return real(self)

    patch.setattr(Trainer, "step", dying)


def die_between_the_files_of(step: int, patch: pytest.MonkeyPatch) -> None:
    """SIGKILL when the last checkpoint has become the previous one and the new one is not there yet."""
    real = os.replace

    def dying(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target).name == "checkpoint-previous.safetensors" and step_of(Path(target)) == step - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    patch.setattr(os, "replace", dying)


def step_of(path: Path) -> int:
    return int(checkpoint.read_checkpoint(path)[1]["counters"]["step"])


# What torchrun starts: the real command, for the small network, with the loss that the test wants.
WORKER = """
import os, runpy, signal, sys
sys.path.insert(0, {tests!r})
import pytest, test_elastic
patch = pytest.MonkeyPatch()
test_elastic.make_small(patch)
life = (int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"]))
{loss}
runpy.run_module("fergeneral.train", run_name="__main__")
"""


def torchrun(folder: Path, loss: str, arguments: list[str], *, restarts: int) -> subprocess.CompletedProcess[str]:
    script = folder / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), loss=loss))
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launch, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def run_here(arguments: list[str]) -> int:
    """The real command in this process."""
    from fergeneral.train.__main__ import main  # here, since the workers run it as a program

    return main(arguments)


def arguments(data: Path, out: Path) -> list[str]:
    """Of the command, with a checkpoint after every step."""
    often = ["--checkpoint-minutes", "1e-9", "--resume"]
    return ["--recipe", "small", "--data", str(data), "--out", str(out), "--device", "cpu", *often]


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same_run(out: Path, expected: Path) -> None:
    """Each step once, its loss terms, rate and stage those of the other run, and the same weights at the end.

    To a relative 1e-3 and not bit for bit: two processes sum in another order, and AdamW makes more of it.
    """
    got, want = log_of(out), log_of(expected)
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    for name in ("total", "contrastive", "cross_entropy", "consistency", "fine", "learning_rate", "pixels"):
        assert [row[name] for row in got] == pytest.approx([row[name] for row in want], rel=1e-3), name
    weights, others = (load_file(folder / "model.safetensors") for folder in (out, expected))
    assert weights["2.weight"].float().numpy() == pytest.approx(others["2.weight"].float().numpy(), abs=1e-3)
    sha256 = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((out / "config.json").read_text())["weights_sha256"] == sha256
    record = json.loads((out / "training.json").read_text())
    assert (record["steps"], record["images_drawn"]) == (STEPS, STEPS * SMALL.batch_size)
    assert not list(out.glob(".*"))  # nothing half-written is left


def test_a_run_survives_the_loss_of_processes(
    faces_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command: the second process is killed, then the first in the middle of saving; the run ends as if not."""
    loss = """
if life == (0, 1):
    test_elastic.die_before(9, signal.SIGKILL, patch)
if life == (1, 0):
    test_elastic.die_between_the_files_of(17, patch)
"""
    done = torchrun(tmp_path, loss, arguments(faces_folder.parent, tmp_path / "two"), restarts=2)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "two"
    assert f"no checkpoint in {out} yet: starting" in done.stderr
    assert done.stderr.count("going on from step") == 2
    assert "checkpoint.safetensors is missing; going on from step 16 in" in done.stderr
    make_small(monkeypatch)
    assert run_here(arguments(faces_folder.parent, tmp_path / "unbroken")) == 0
    same_run(out, tmp_path / "unbroken")


def test_a_run_goes_on_with_another_number_of_processes(
    faces_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, then two, then one: the batch stays that of the recipe, and so does all that follows from it."""
    out = tmp_path / "changing"
    command = arguments(faces_folder.parent, out)
    make_small(monkeypatch)
    with monkeypatch.context() as patch:
        die_before(8, signal.SIGINT, patch)  # Ctrl-C
        assert run_here(command) == 130
    loss = "if life[1] == 1: test_elastic.die_before(16, signal.SIGTERM, patch)"  # of one machine, say by its scheduler
    done = torchrun(tmp_path, loss, command, restarts=0)
    assert "going on from step 9 in" in done.stderr
    assert step_of(out / "checkpoint.safetensors") == 17, done.stderr
    assert run_here(command) == 0
    assert run_here(arguments(faces_folder.parent, tmp_path / "unbroken")) == 0
    same_run(out, tmp_path / "unbroken")


def test_each_start_has_a_store_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the starts before have left in torchrun's store, also those that died on the way."""
    shared = dist.HashStore()
    monkeypatch.setattr(dist, "rendezvous", lambda *arguments, **options: iter([(shared, 0, 0)]))
    for start in range(20):
        count = 2 + start % 2
        shared.set(f"question/{1 + start % 2}", f"of a process that died before start {start}")
        order = sorted(range(count), key=lambda rank: (rank + start) % count)  # each comes first at times
        with ThreadPoolExecutor(count) as pool:
            stores = list(pool.map(lambda rank: _store_of_this_start(rank, count), order))  # noqa: B023
        assert not any(store.check(["address"]) for store in stores)
        stores[0].set("address", str(start))
        assert [store.get("address").decode() for store in stores] == [str(start)] * count
