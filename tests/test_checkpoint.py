from __future__ import annotations

import dataclasses
import json
import math
import pickle
import random
import resource
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from test_train import TINY, images, trainer
from torch import nn

from fergeneral import TrainingError
from fergeneral.train import loop
from fergeneral.train.checkpoint import Run, previous_of, read_checkpoint, seal
from fergeneral.train.config import Recipe
from fergeneral.train.distributed import Processes
from fergeneral.train.log import Log

NAME = "checkpoint.safetensors"
FUZZ = hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)


def small_run(recipe: Recipe = TINY, data: str = "2 images, 0") -> Run:
    """A run whose checkpoints take 2 kB."""
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    return Run(recipe, data, network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))


def advance(run: Run, steps: int) -> Run:
    for _ in range(steps):
        run.optimizer.zero_grad()
        run.network(torch.ones(2, 4)).square().sum().backward()
        run.optimizer.step()
        run.step += 1
        run.seconds += 0.5
    return run


def state(run: Run) -> list[Any]:
    """All that a checkpoint must bring back, to compare."""
    momenta = [run.optimizer.state[p]["momentum_buffer"].tolist() for p in run.network.parameters()]
    return [run.step, run.seconds, momenta, [p.tolist() for p in run.network.parameters()]]


def two_checkpoints(folder: Path) -> tuple[Path, list[list[Any]]]:
    """The path of the newest of two checkpoints, after 3 and 5 steps, and what is in the first and in the second."""
    run, states = small_run(), []
    for steps in (3, 2):
        advance(run, steps).save(folder / NAME)
        states.append(state(run))
    return folder / NAME, states


Fuzzed = tuple[Path, list[list[Any]], bytes]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Fuzzed:
    """As `two_checkpoints`, and the bytes of the newest, made once for many damages."""
    path, states = two_checkpoints(tmp_path_factory.mktemp("fuzzed"))
    return path, states, path.read_bytes()


def test_the_newest_checkpoint_is_used_and_one_before_it_kept(tmp_path: Path) -> None:
    path, (first, second) = two_checkpoints(tmp_path)
    run = small_run()
    assert run.load(path) == f"going on from step 5 in {path}"
    assert state(run) == second
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-previous.safetensors", NAME]
    path.unlink()  # as after a crash between the two renames
    assert "checkpoint.safetensors is missing; going on from step 3 in" in run.load(path)
    assert state(run) == first


def test_a_torn_or_altered_checkpoint_is_noticed_and_the_one_before_used(tmp_path: Path) -> None:
    path, (first, _) = two_checkpoints(tmp_path)
    whole = path.read_bytes()
    torn = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    zeroed = [part + bytes(len(whole) - len(part)) for part in torn]  # its length was written, its end was not
    for damaged in [*torn, *zeroed, whole[:-1], whole + b"\0", whole[8:]]:
        path.write_bytes(damaged)
        run = small_run()
        line = run.load(path)
        assert state(run) == first
        assert line.startswith(f"{path} is corrupt (")
        assert line.endswith(f"; going on from step 3 in {previous_of(path)}")
        assert "\n" not in line


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path, _ = two_checkpoints(tmp_path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= int(generator.integers(1, 256))
        path.write_bytes(flipped)
        with pytest.raises(TrainingError, match="is corrupt"):
            read_checkpoint(path)


def test_what_comes_after_a_damaged_checkpoint_does_not_replace_the_good_one(tmp_path: Path) -> None:
    path, _ = two_checkpoints(tmp_path)
    good = previous_of(path).read_bytes()
    path.write_bytes(path.read_bytes()[:100])
    run = small_run()
    run.load(path)
    advance(run, 1).save(path)
    assert previous_of(path).read_bytes() == good
    advance(run, 1).save(path)
    assert previous_of(path).read_bytes() != good
    assert small_run().load(path) == f"going on from step 5 in {path}"


def test_two_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    path, _ = two_checkpoints(tmp_path)
    path.write_bytes(path.read_bytes()[:-4])
    previous_of(path).write_bytes(b"")
    with pytest.raises(TrainingError) as error:
        small_run().load(path)
    both = f"{path} is corrupt (its checksum is wrong); {previous_of(path)} is corrupt (no checksum in it)"
    assert str(error.value) == f"there is no whole checkpoint: {both}; start again in another --out folder"


def test_checkpoints_of_another_recipe_or_other_data_are_refused(tmp_path: Path) -> None:
    path, _ = two_checkpoints(tmp_path)
    other = dataclasses.replace(TINY, learning_rate=0.5, repeats=(2,))
    with pytest.raises(
        TrainingError, match=r"\(repeats: \[\] there, \[2\] here; learning_rate: 0.01 there, 0.5 here\)"
    ):
        small_run(other).load(path)
    path.write_bytes(b"")  # the one before it is refused as well
    with pytest.raises(TrainingError, match=r"learning_rate: 0\.01 there, 0\.5 here"):
        small_run(other).load(path)
    with pytest.raises(TrainingError, match=r"other data \(2 images, 0\) than --data holds now \(3 images, 1\)"):
        small_run(data="3 images, 1").load(path)
    wider = small_run()
    wider.network = nn.Linear(5, 3)
    with pytest.raises(TrainingError, match="does not fit the recipe's network"):
        wider.load(path)


def test_a_recipe_of_another_version_differs() -> None:
    stored = {**TINY.as_json(), "blur": 0.5}
    del stored["seed"]
    assert TINY.differences(TINY.as_json()) == []
    assert TINY.differences(stored) == ["seed: absent there, 0 here", "blur: 0.5 there, absent here"]


def test_the_fingerprint_of_data() -> None:
    data = images(12)
    changed = dataclasses.replace(data, pool=data.pool.flip(0))
    renamed = dataclasses.replace(data, names=("x", *data.names[1:]))
    assert data.fingerprint() == images(12).fingerprint()
    assert data.fingerprint().startswith("12 images, ")
    assert len({of.fingerprint() for of in (data, changed, renamed, images(13))}) == 4


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    path, _ = two_checkpoints(tmp_path)
    before = path.read_bytes()
    run = advance(small_run(), 9)
    nn.init.constant_(run.network.bias, math.nan)
    with pytest.raises(TrainingError, match="bias is not finite at step 9, which is therefore not saved"):
        run.save(path)
    assert path.read_bytes() == before


def test_what_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / f".0123abcd.{NAME}").write_bytes(b"half of one")
    two_checkpoints(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


class limited_file_size:  # noqa: N801 - reads as a statement
    """The kernel's own limit, so that a write fails in the middle as on a full disk."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *exc: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_full_disk_leaves_the_checkpoints(tmp_path: Path) -> None:
    path, (_, second) = two_checkpoints(tmp_path)
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with limited_file_size(1000), pytest.raises(OSError, match="File too large"):
        advance(small_run(), 9).save(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files
    run = small_run()
    run.load(path)
    assert state(run) == second


def test_a_full_disk_is_one_error_of_the_run(faces_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments: dict[str, Any] = {"device": "cpu", "show_progress": False, "stop_after": 1e-9}
    with limited_file_size(100_000), pytest.raises(TrainingError, match=r"cannot write to .*out: .*File too large"):
        loop.train(TINY, faces_folder.parent, out, **arguments)
    assert sorted(file.name for file in out.iterdir()) == ["log.jsonl", "tensorboard"]


edits = st.lists(
    st.tuples(st.sampled_from(["cut", "insert", "flip"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, piece in changes:
        position = int(where * len(content))
        rest = content[position:]
        if kind == "flip":
            rest = bytes(a ^ b for a, b in zip(rest, piece, strict=False)) + rest[len(piece) :]
        content = content[:position] + (piece + rest if kind == "insert" else rest if kind == "flip" else b"")
    return content


@FUZZ
@hypothesis.given(changes=edits)
def test_any_damage_is_noticed(fuzzed: Fuzzed, changes: list[tuple[str, float, bytes]]) -> None:
    path, states, whole = fuzzed
    damaged = edited(whole, changes)
    path.write_bytes(damaged)
    run = small_run()
    run.load(path)
    assert state(run) == states[damaged == whole]  # edits can undo each other


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["step", "seconds", "x"]), inner),
    max_leaves=5,
)
texts = st.text(max_size=20) | json_values.map(json.dumps)


@FUZZ
@hypothesis.given(
    metadata=st.dictionaries(st.sampled_from(["recipe", "data", "counters"]), texts),
    names=st.sets(st.sampled_from(["network.weight", "network.bias", "optimizer.momentum_buffer.weight"])),
    extra=st.sampled_from(["", "x", "optimizer", "optimizer.x", "optimizer.step.x", "network.weight", "average.x"]),
    shape=st.lists(st.integers(0, 4), max_size=3),
    changes=st.just([]) | edits,
)
def test_a_forged_checkpoint_is_an_error(
    fuzzed: Fuzzed,
    metadata: dict[str, str],
    names: set[str],
    extra: str,
    shape: list[int],
    changes: list[tuple[str, float, bytes]],
) -> None:
    """Its checksum is right, all else is not: it is refused by a TrainingError or, where it fits, taken."""
    path, _, whole = fuzzed
    tensors = {name: tensor for name, tensor in load(whole).items() if name not in names}
    if extra:
        tensors[extra] = torch.zeros(shape)
    length = int.from_bytes(whole[:8], "little")
    stored = json.loads(whole[8 : 8 + length])["__metadata__"]
    content = edited(save(tensors, {**stored, **metadata, "sha256": "0" * 64}), changes)
    path.write_bytes(seal(content))
    run = small_run()
    try:
        run.load(path)
    except TrainingError:
        return
    assert advance(run, 1).step > 0  # it can go on


def test_the_log_is_read_up_to_the_checkpoint(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "total": 1.5}) for step in (20, 40, 60)]
    torn = ['{"step": 50, "tot', '{"total": 2.0}', "[]", '{"step": null}', "\0\0\0\0"]
    content = "\n".join([lines[0], *torn, lines[1], lines[2], '{"step": 80']).encode() + b"\xff\xfe"
    (tmp_path / "log.jsonl").write_bytes(content)
    Log(tmp_path, 40).close()
    assert (tmp_path / "log.jsonl").read_text().splitlines() == lines[:2]
    Log(tmp_path, 0).close()
    assert (tmp_path / "log.jsonl").read_text() == ""


def processes(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> Processes:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))
    return Processes("cpu")


def test_what_a_step_sees_does_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer()
    run._enter_stage(32)
    global_state = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    seen: list[int] = []
    for step in range(run.steps_per_epoch):
        run.run.step = step
        run.processes = processes(monkeypatch, 0, 1)
        index = run.batch_index()
        seen += index.tolist()
        whole = run.views(index)
        for count in (2, 4):
            shares = []
            for rank in range(count):
                run.processes = processes(monkeypatch, rank, count)
                shares.append(run.views(index).chunk(2))  # first views, second views
            joined = torch.cat([torch.cat(halves) for halves in zip(*shares, strict=True)])
            assert joined.numpy() == pytest.approx(whole.numpy(), abs=1e-6)
    assert sorted(seen) == list(range(64))  # each image once an epoch
    run.processes = processes(monkeypatch, 0, 1)
    run.step()
    now = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    assert now == global_state  # nothing was drawn from them, so there is none to save


def test_a_number_of_processes_that_does_not_divide_the_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processes(monkeypatch, 0, 3)
    with pytest.raises(
        TrainingError, match="16 images cannot be divided among 3 processes; start one of 1, 2, 4, 8, 16"
    ):
        loop.train(TINY, tmp_path, tmp_path / "out", device="cpu")


def test_an_optimizers_state_comes_back_as_torch_keeps_it(tmp_path: Path) -> None:
    for optimizer in ("sgd", "adamw"):
        recipe = dataclasses.replace(TINY, optimizer=optimizer)
        one, other = trainer(recipe), trainer(recipe)
        one.step()
        one.run.save(tmp_path / NAME)
        other.run.load(tmp_path / NAME)
        mine, theirs = (of.run.optimizer.state_dict()["state"] for of in (one, other))
        assert mine.keys() == theirs.keys()
        for number, values in mine.items():
            for key, value in values.items():
                assert torch.equal(theirs[number][key], value)
                assert theirs[number][key].stride() == value.stride()
        (tmp_path / NAME).unlink()


class Bomb:
    """What a pickle that is read would do: here it leaves a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path, target = tmp_path / NAME, tmp_path / "executed"
    path.write_bytes(pickle.dumps({"network.weight": Bomb(target)}))
    with pytest.raises(TrainingError, match="no checksum in it"):
        small_run().load(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()  # the bomb was a real one
