"""Jobs on a Ray cluster: a real one, on this machine, of two workers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from conftest import ROOT, random_head
from PIL import Image
from test_sources import write_tar

from fergeneral import DataError, ExpressionClassifier, ExpressionExtractor, Head, ModelError
from fergeneral import distributed as module
from fergeneral.cli import main
from fergeneral.distributed import extract_dataset
from fergeneral.jobs import FileResult, Job, Summary, run_job
from fergeneral.sources import Source, list_photos
from fergeneral.storage import read_table

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:ray.data.context",  # Ray Data warns of its own defaults
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster with room for two workers, which nothing outside hears of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(module.__file__).parents[1]), prepend=os.pathsep)  # the package tested here
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    """Ten photos, one without a face and one damaged among them."""
    (tmp_path / "in").mkdir()
    with Image.open(photos / "astronaut.png") as image:
        astronaut = image.convert("RGB").resize((200, 200))
    for number in range(8):
        astronaut.rotate(number).save(tmp_path / "in" / f"{number}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "in" / "8.png")
    (tmp_path / "in" / "9.png").write_bytes(b"not an image")
    return tmp_path / "in"


def rows(output: Path) -> tuple[list[tuple[Any, ...]], dict[str, np.ndarray]]:
    """The table of files and that of faces, each sorted by path and face."""
    files = pq.read_table(output / "files").to_pylist()
    faces = read_table(output)
    order = np.lexsort((faces["face"], faces["path"]))
    return sorted(tuple(row.values()) for row in files), {name: values[order] for name, values in faces.items()}


def assert_same_rows(one: Path, other: Path) -> None:
    (files, faces), (other_files, other_faces) = rows(one), rows(other)
    assert files == other_files
    for name, values in faces.items():
        np.testing.assert_array_equal(values, other_faces[name], err_msg=name)  # to the last bit


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def stopped_worker(output: Path) -> int:
    """The process of a worker, stopped in the middle of a shard, which it has noted down."""
    while True:
        for notes in wait_for(lambda: list(output.glob(".attempts-*"))):
            with contextlib.suppress(OSError, IndexError, ValueError):  # it may be done by now
                worker = int(notes.read_text().splitlines()[-1].split()[1])
                os.kill(worker, signal.SIGSTOP)
                if notes.exists():
                    return worker
                os.kill(worker, signal.SIGCONT)


def test_the_shard_of_a_killed_worker_is_made_again(
    cluster: str, folder: Path, random_folder: Path, tmp_path: Path
) -> None:
    cells = {"image": [{"bytes": (folder / "0.png").read_bytes(), "path": None}] * 3}
    dataset = datasets.Dataset.from_dict(cells, features=datasets.Features({"image": datasets.Image()}))
    with pytest.raises(DataError, match="in the memory of this process"):
        extract_dataset(dataset, tmp_path / "out", model=random_folder)
    dataset.save_to_disk(tmp_path / "dataset")
    stored = datasets.load_from_disk(tmp_path / "dataset")
    sources = [*list_photos(folder), *list_photos(stored)]
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    expected = run_job(extractor, sources, tmp_path / "one", shard_rows=2)
    assert expected == Summary(photos=13, faces=11, without_face=1, unreadable=1)

    seen: list[tuple[int, int]] = []
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(lambda: os.kill(stopped_worker(tmp_path / "out"), signal.SIGKILL))
        found = extract_dataset(
            sources,
            tmp_path / "out",
            model=random_folder,
            shard_rows=2,
            num_workers=2,
            progress=lambda summary, done, total: seen.append((done, total)),
        )
        killed.result(timeout=0)
    assert [total for _, total in seen] == [13] * 7
    assert seen[-1] == (13, 13)
    assert found == expected
    assert_same_rows(tmp_path / "one", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        ".lock",
        ".reserved",
        "faces",
        "files",
        "manifest.json",
        "plan.parquet",
    ]
    manifests = [(tmp_path / name / "manifest.json").read_text() for name in ("one", "out")]
    assert manifests[0] == manifests[1]


def test_a_killed_driver_and_resume(
    cluster: str, folder: Path, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = write_tar(tmp_path / "t.tar", {f"{i}.png": (folder / f"{i}.png").read_bytes() for i in range(3)})
    table = tmp_path / "p.parquet"
    pq.write_table(pa.table({"photo": [(folder / f"{i}.png").read_bytes() for i in (3, 4, 9)]}), table)
    arguments = ["extract", *map(str, sorted(folder.glob("*.png"))), str(tar), str(table), "--column", "photo"]
    arguments += ["--model", str(random_folder), "--shard-rows", "3"]
    on_ray = [*arguments, "-o", str(tmp_path / "out"), "--engine", "ray", "--address", cluster, "--num-workers", "1"]
    assert main([*arguments, "-o", str(tmp_path / "one"), "--device", "cpu"]) == 1  # some are unreadable

    command = [sys.executable, "-m", "fergeneral.cli", *on_ray]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as driver:
        try:
            wait_for(lambda: list((tmp_path / "out" / "files").glob("part*")))
            worker = stopped_worker(tmp_path / "out")  # the only one: the job stands still
        finally:
            driver.kill()
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: not Path(f"/proc/{worker}").exists())  # Ray ends the workers of a driver that is gone
    parts = tmp_path / "out" / "files"
    before = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert main(on_ray) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*on_ray, "--resume"]) == 1
    assert "13 faces in 14 photos, 1 without a face, 2 unreadable" in capsys.readouterr().err
    assert_same_rows(tmp_path / "one", tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not made again
    made = sorted(int(path.stem[5:]) for path in parts.iterdir() if path not in before)
    assert made == list(
        range(6, 6 + len(made))
    )  # no number of the first run's six shards, which might still be written


def test_what_is_no_fault_of_a_photo_ends_the_job(
    cluster: str, folder: Path, random_folder: Path, tmp_path: Path
) -> None:
    sources = list_photos(folder)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"^shard \d failed on .*/\d\.png cannot be read, for its folder is gone"):
        extract_dataset(sources, tmp_path / "out", model=random_folder, shard_rows=5, num_workers=1)
    assert list((tmp_path / "out" / "files").iterdir()) == []
    wait_for(lambda: ray.available_resources().get("CPU") == 2)  # its workers are gone
    with pytest.raises(DataError, match=r"no room for a worker of 1 CPUs and 1 GPUs: it has 2 and 0"):
        extract_dataset(sources, tmp_path / "gpu", model=random_folder, num_gpus=1)
    assert not (tmp_path / "gpu").exists()


def test_failed_photos_and_other_paths(cluster: str, folder: Path, random_folder: Path, tmp_path: Path) -> None:
    options = {"model": random_folder, "shard_rows": 5, "num_workers": np.int64(1)}
    assert extract_dataset(folder, tmp_path / "out", **options) == Summary(10, 8, 1, 1)
    shutil.copy(folder / "0.png", folder / "9.png")
    found = extract_dataset(folder, tmp_path / "out", resume=True, retry_errors=True, **options)
    assert found == Summary(10, 9, 1, 0)
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    run_job(extractor, list_photos(folder), tmp_path / "one", shard_rows=5)
    assert_same_rows(tmp_path / "one", tmp_path / "out")
    (folder / "0.png").rename(folder / "new.png")
    with pytest.raises(
        DataError, match=r"1 of its 10 photos, first .*0\.png; new among them: 1 photos, first .*new\.png"
    ):
        extract_dataset(folder, tmp_path / "out", resume=True, **options)
    assert extract_dataset(folder, tmp_path / "out", resume=True, extend=True, **options) == Summary(11, 10, 1, 0)


def test_a_job_on_ray_with_a_head(cluster: str, folder: Path, random_folder: Path, tmp_path: Path) -> None:
    head = random_head(random_folder, tmp_path / "head")
    options = {"model": random_folder, "head": head, "min_confidence": 0.4, "shard_rows": 5}
    counts = Summary(photos=10, faces=8, without_face=1, unreadable=1)
    assert extract_dataset(folder, tmp_path / "out", num_workers=1, **options) == counts
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    classifier = ExpressionClassifier.from_pretrained(head, encoder=extractor, min_confidence=0.4)
    assert run_job(classifier, list_photos(folder), tmp_path / "one", shard_rows=5) == counts
    assert_same_rows(tmp_path / "one", tmp_path / "out")
    assert "probability_surprise" in read_table(tmp_path / "out")
    manifests = [(tmp_path / name / "manifest.json").read_text() for name in ("one", "out")]
    assert manifests[0] == manifests[1]
    with pytest.raises(DataError, match=r"min_confidence is 0\.4 there, 0\.0 now"):
        extract_dataset(folder, tmp_path / "out", resume=True, **{**options, "min_confidence": 0.0})

    # A worker that finds another head under the same path.
    with Job.of(classifier, tmp_path / "new", [], shard_rows=5, resume=False) as job:
        place, sha256 = str(tmp_path / "new"), classifier.head.sha256
        weights = extractor.config.weights_sha256
        plan = module._Plan(place, job.run, os.getcwd(), random_folder, None, weights, None, "cpu", 32, 5)
        random_head(random_folder, head, seed=1)
        plan = dataclasses.replace(plan, head=head, head_sha256=sha256)
        worker = module._Worker(plan, {0: ray.put(list_photos(folder)[:1])})
        row = worker({"number": np.array([0])})
    assert row["kind"] == [ModelError.__name__]
    other = Head.from_pretrained(head).sha256
    assert f"the head {head} has the SHA-256 {other} there, {sha256} where the job was begun" in row["error"][0]
    assert list((tmp_path / "new" / "faces").iterdir()) == []


@pytest.fixture
def plan(cluster: str, random_folder: Path, tmp_path: Path) -> Iterator[module._Plan]:
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    with Job.of(extractor, tmp_path / "out", [], shard_rows=10, resume=False) as job:
        weights = extractor.config.weights_sha256
        yield module._Plan(
            str(tmp_path / "out"), job.run, os.getcwd(), random_folder, None, weights, None, "cpu", 32, 10
        )


def make(plan: module._Plan, number: int, sources: list[Source]) -> dict[str, Any]:
    worker = module._Worker(plan, {number: ray.put(sources)})
    return {name: value for name, (value,) in worker({"number": np.array([number])}).items()}


def test_a_shard_that_kills_its_workers_is_given_up(plan: module._Plan, folder: Path, tmp_path: Path) -> None:
    sources = list_photos(folder)[8:]
    notes = tmp_path / "out" / ".attempts-7"
    notes.write_text("one 1\ntwo 2\none 3\n")
    row = make(plan, 7, sources)
    assert (row["photos"], row["without_face"], row["unreadable"], row["error"]) == (2, 1, 1, "")
    notes.write_text("one 1\ntwo 2\none 3\ntwo 4\n")
    row = make(plan, 7, sources)
    assert row["kind"] == "DataError"
    assert "4 workers died of it (one 1, two 2, one 3, two 4)" in row["error"]
    assert f"{folder}/8.png to {folder}/9.png" in row["error"]
    assert not notes.exists()


def test_a_worker_without_its_driver_writes_nothing_more(
    plan: module._Plan, folder: Path, random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = list_photos(folder)[8:]
    original = module.extract_shard

    def slow(*arguments: Any, **options: Any) -> Iterator[FileResult]:
        yield from original(*arguments, **options)
        (tmp_path / "out" / ".lock").write_text("process 1 on elsewhere, run 2")  # a new run, meanwhile

    monkeypatch.setattr(module, "extract_shard", slow)
    row = make(plan, 0, sources)
    assert "another run has taken over" in row["error"]
    assert "process 1 on elsewhere" in row["error"]
    assert [list((tmp_path / "out" / name).iterdir()) for name in ("faces", "files")] == [[], []]
    assert "another run" in make(plan, 0, sources)["error"]
    (tmp_path / "out" / ".lock").unlink()
    assert "all machines must share that folder" in make(plan, 0, sources)["error"]


def test_machines_of_one_mind(plan: module._Plan, folder: Path) -> None:
    other = dataclasses.replace(plan, version="0.0.1")
    assert "0.0.1 where the job was begun" in make(other, 0, list_photos(folder))["error"]
    for change, message in (
        ({"device": "cuda:99"}, "not available here"),
        ({"model": "no-such-model"}, "neither a folder"),
        ({"weights_sha256": "0" * 64}, f"SHA-256 {plan.weights_sha256} there, {'0' * 64} where the job was begun"),
    ):
        row = make(dataclasses.replace(plan, **change), 0, list_photos(folder))
        assert row["kind"] == "ModelError"
        assert message in row["error"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_no_cluster_at_the_address(
    address: str, folder: Path, random_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(DataError, match=f"no Ray cluster could be reached at {address}: "):
        extract_dataset(folder, tmp_path / "out", model=random_folder, address=address)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "ray"], "want a folder to write to"),
        (["-o", "OUT/", "--engine", "ray", "--device", "cpu"], "--device does not go with --engine ray"),
        (["-o", "OUT.csv", "--num-gpus", "0.5"], "--num-gpus is for --engine ray"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("OUT", str(tmp_path / "out")) for argument in arguments]
    assert main(["extract", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err
