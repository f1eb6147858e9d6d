from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from job_runs import KILLED_JOBS, CountedFaces, PlainExtractor, content, draw_photos, job
from PIL import Image

from fergeneral import DataError, Detection, ExpressionExtractor, Face, __version__
from fergeneral.cli import main
from fergeneral.detection import MTCNNDetector
from fergeneral.encoder import Encoder, build_network, weights_sha256
from fergeneral.hub import load_folder
from fergeneral.jobs import (
    FileResult,
    Job,
    Summary,
    check_output,
    face_parts,
    job_options,
    run_job,
    write_shard,
)
from fergeneral.sources import Source, list_photos
from fergeneral.storage import read_table

COUNTS = [1, 0, 2, None, 9, 0, 1, 1, None, 3]  # faces; in shards of 4, the second has 11: three files
TOTALS = Summary(photos=10, faces=17, without_face=2, unreadable=2)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos", COUNTS)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def small_extractor(random_folder: Path) -> ExpressionExtractor:
    return ExpressionExtractor(load_folder(random_folder, "cpu"), CountedFaces())


def files_table(output: Path) -> list[tuple[str, str, int, str | None]]:
    """Photo, status, faces and error of all finished shards, in their order."""
    frames = [pd.read_parquet(part) for part in sorted((output / "files").glob("part-*.parquet"))]
    rows = pd.concat(frames).astype(object)
    return list(rows.where(rows.notna(), None).itertuples(index=False, name=None))


def test_every_photo_has_its_rows_or_its_reason(drawn: Path, out: Path, small_extractor: ExpressionExtractor) -> None:
    truncated = drawn / "0010.png"
    truncated.write_bytes((drawn / "0000.png").read_bytes()[:1500])
    (drawn / "0011.jpg").write_bytes(b"")
    totals = job(small_extractor, drawn, out)
    assert totals == Summary(12, 17, 2, 4)
    faces, files = read_table(out), files_table(out)
    expected = [(str(drawn / f"{i:04d}.png"), n) for i, count in enumerate(COUNTS) for n in range(count or 0)]
    assert list(zip(faces["path"].tolist(), faces["face"].tolist(), strict=True)) == expected
    for path in sorted(set(faces["path"])):  # against each photo by itself
        alone = small_extractor.extract(path)
        mine = faces["path"] == path
        assert faces["embedding"][mine] == pytest.approx(np.array([face.embedding for face in alone]), abs=1e-4)
        assert (faces["box"][mine] == [face.box for face in alone]).all()
        assert (faces["landmarks"][mine] == [face.landmarks for face in alone]).all()
    assert set(faces["model_id"]) == {"random"}
    assert [row[0] for row in files] == [str(path) for path in sorted(drawn.iterdir())]
    status = {None: "error", 0: "none"}
    assert [row[1] for row in files] == [*(status.get(count, "faces") for count in COUNTS), "error", "error"]
    assert [row[2] for row in files] == [*(count or 0 for count in COUNTS), 0, 0]
    reasons = {Path(path).name: error for path, _, _, error in files if error is not None}
    assert "not an image in a format" in reasons["0003.png"]
    assert "corrupt or truncated" in reasons["0010.png"]
    assert "is empty (0 bytes)" in reasons["0011.jpg"]
    assert len(reasons) == 4


def test_the_layout_and_the_manifest(drawn: Path, out: Path) -> None:
    job(PlainExtractor(), drawn, out)
    assert sorted(content(out)) == [
        "faces/part-000000.parquet",
        "faces/part-000001-1.parquet",
        "faces/part-000001-2.parquet",
        "faces/part-000001.parquet",
        "faces/part-000002.parquet",
        *(f"files/part-00000{i}.parquet" for i in range(3)),
        "manifest.json",
        "plan.parquet",
    ]
    assert [len(pd.read_parquet(part)) for part in face_parts(out)] == [3, 4, 4, 3, 3]
    assert json.loads((out / "manifest.json").read_text()) == {
        "model_id": "plain",
        "weights_sha256": "ab" * 32,
        "embedding_size": 12,
        "options": {"detector": "job_runs.CountedFaces", "shard_rows": 4},
        "fergeneral_version": __version__,
        "totals": {"photos": 10, "faces": 17, "without_face": 2, "unreadable": 2},
        "format_version": 1,
    }


def test_other_libraries_read_the_tables_as_they_are(
    drawn: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    from datasets import load_dataset

    job(PlainExtractor(), drawn, out)
    expected = read_table(out)
    order = [f"{path} {face}" for path, face in zip(expected["path"], expected["face"], strict=True)]
    files = str(out / "faces" / "*.parquet")
    frames: dict[str, Any] = {
        "pandas": pd.read_parquet(out / "faces"),
        "polars": pl.read_parquet(files).to_pandas(),
        "duckdb": duckdb.sql(f"SELECT * FROM '{files}'").df(),
        "datasets": load_dataset(
            "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf")
        ).to_pandas(),
    }
    for name, frame in frames.items():
        frame.index = frame["path"] + " " + frame["face"].astype(str)
        frame = frame.loc[order]
        assert list(frame.columns) == list(expected), name
        for column in ("box", "landmarks", "embedding"):
            values = np.stack(frame[column].to_list())
            assert (values == expected[column].reshape(len(values), -1)).all(), (name, column)
        assert (frame["score"] == expected["score"]).all(), name
    assert pl.read_parquet_schema(out / "faces" / "part-000000.parquet")["embedding"] == pl.Array(pl.Float32, 12)
    query = f"SELECT status, count(*), sum(faces) FROM '{out}/files/*.parquet' GROUP BY status ORDER BY status"
    assert duckdb.sql(query).fetchall() == [("error", 2, 0), ("faces", 6, 17), ("none", 2, 0)]


def test_resuming_reads_nothing_twice_and_takes_what_is_new(drawn: Path, out: Path) -> None:
    first, second, third = PlainExtractor(), PlainExtractor(), PlainExtractor()
    assert job(first, drawn, out) == TOTALS
    before = content(out)
    assert job(second, drawn, out, resume=True) == TOTALS
    assert content(out) == before
    draw_photos(drawn / "more", [2, 0, 1])
    sources = list_photos([drawn, drawn / "more", drawn / "more" / ".." / "more", drawn / "more" / "0000.png"])
    totals = run_job(third, sources, out, shard_rows=4, resume=True, extend=True)
    assert totals == Summary(16, 23, 4, 2)  # "more/../more" is another path, and so other photos
    assert (first.seen, second.seen, third.seen) == (10, 0, 6)
    assert len({row[0] for row in files_table(out)}) == 16
    after = content(out)
    changed = {"manifest.json", "plan.parquet"}
    assert {name: after[name] for name in before if name not in changed}.items() <= before.items()


def test_progress_counts_what_was_done_before(drawn: Path, out: Path) -> None:
    calls: list[tuple[str, int, int]] = []

    def note(result: FileResult, done: int, total: int) -> None:
        calls.append((Path(result.path).name, done, total))

    run_job(PlainExtractor(), list_photos([drawn])[:7], out, progress=note)
    run_job(PlainExtractor(), list_photos([drawn]), out, resume=True, extend=True, progress=note)
    assert calls == [(f"{i:04d}.png", i + 1, 7 if i < 7 else 10) for i in range(10)]


def test_names_that_are_no_utf8(tmp_path: Path, out: Path) -> None:
    (photo,) = draw_photos(tmp_path / "photos", [1])
    odd = os.fsencode(tmp_path / "photos") + b"/\xff.png"
    os.rename(photo, odd)
    Path(os.fsdecode(odd[:-5] + b"\xfe.png")).write_bytes(b"no photo")
    assert job(PlainExtractor(), tmp_path / "photos", out) == Summary(2, 1, 0, 1)
    assert [Path(row[0]).name for row in files_table(out)] == ["\\udcfe.png", "\\udcff.png"]
    assert "\\udcfe.png is not an image" in str(files_table(out)[0][3])
    assert main(["extract", str(tmp_path / "photos"), "-o", str(tmp_path / "t.csv"), "--device", "cpu"]) == 1


# ---- cut off at any moment


def run_apart(*arguments: str | Path, **options: Any) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("job_runs.py")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments_and_resumed(tmp_path: Path, random_folder: Path) -> None:
    """The folder is then, byte for byte, that of a run nobody killed."""
    photos = draw_photos(tmp_path / "photos", [1, 0, None, 5, 0, 1] * 4)[0].parent
    root = tmp_path / "jobs"
    kills = run_apart("kills", random_folder, photos, root)["shards_there"]
    assert len(kills) >= KILLED_JOBS
    assert len(set(kills)) > 4  # of 7, from none to all 6 shards: the kills fell all over the job
    unkilled = content(root / "unkilled-first")
    totals = {"photos": 24, "faces": 28, "without_face": 8, "unreadable": 4}
    assert json.loads(unkilled["manifest.json"])["totals"] == totals
    killed = sorted(root.glob("killed-*"))
    assert len(killed) == KILLED_JOBS
    for folder in killed:
        assert content(folder) == unkilled, folder.name


def test_ended_before_and_after_every_step_in_the_file_system(tmp_path: Path, drawn: Path) -> None:
    root = tmp_path / "jobs"
    places = run_apart("crashes", drawn, root)["places"]
    assert places > 80
    unkilled = content(root / "unkilled")
    assert json.loads(unkilled["manifest.json"])["totals"]["photos"] == 10
    for place in range(places):
        assert content(root / f"ended-{place}") == unkilled, place


def test_ctrl_c_ends_at_once_and_keeps_what_is_done(
    tmp_path: Path, out: Path, random_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_photos(tmp_path / "photos", [0])
    for i in range(1, 400):
        shutil.copy(tmp_path / "photos" / "0000.png", tmp_path / "photos" / f"{i:04d}.png")
    arguments = ["extract", str(tmp_path / "photos"), "-o", f"{out}/", "--model", str(random_folder)]
    arguments += ["--device", "cpu", "--shard-rows", "10"]
    command = [sys.executable, "-m", "fergeneral.cli", *arguments]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a job of a shell may have it ignored)
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=heard)
    try:
        while not (out / "files" / "part-000001.parquet").exists():
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert err.splitlines()[-1] == f"interrupted; what is done is kept in {out}/: resume with --resume"
    assert "Traceback" not in err
    done = files_table(out)
    assert 20 <= len(done) < 400
    assert main([*arguments, "--resume"]) == 0
    assert "0 faces in 400 photos, 400 without a face, 0 unreadable" in capsys.readouterr().err
    rows = files_table(out)
    assert rows[: len(done)] == done
    assert len({row[0] for row in rows}) == len(rows) == 400


def test_ctrl_c_keeps_the_photos_of_an_unfinished_shard(drawn: Path, out: Path) -> None:
    def interrupt(result: FileResult, done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(PlainExtractor(), drawn, out, progress=interrupt)
    assert [row[0] for row in files_table(out)] == [str(drawn / f"{i:04d}.png") for i in range(6)]
    assert json.loads((out / "manifest.json").read_text())["totals"] is None
    rest = PlainExtractor()
    assert job(rest, drawn, out, resume=True) == TOTALS
    assert rest.seen == 4


# ---- disks and folders that fail


def test_a_disk_that_takes_no_more(tmp_path: Path, out: Path) -> None:
    """A real refusal of the operating system to write on: a limit on the size of files."""
    photos = draw_photos(tmp_path / "photos", [0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1])[0].parent
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"out cannot be written to: .*Finished shards are kept.*--resume"):
            job(PlainExtractor(size=4096), photos, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(content(out)) == [
        *(f"{kind}/part-00000{i}.parquet" for kind in ("faces", "files") for i in (0, 1)),
        "manifest.json",
        "plan.parquet",
    ]
    assert len(read_table(out)["path"]) == 2
    job(PlainExtractor(size=4096), photos, out, resume=True)
    job(PlainExtractor(size=4096), photos, tmp_path / "other")
    assert content(out) == content(tmp_path / "other")


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number", range(1, 9))
def test_no_space_at_any_step(step: str, number: int, drawn: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1, 1000))
    right = getattr(os, step)

    def full(*arguments: Any) -> None:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        right(*arguments)

    monkeypatch.setattr(os, step, full)
    with pytest.raises(DataError, match="No space left on device"):
        job(PlainExtractor(), drawn, out)
    monkeypatch.undo()
    assert not [name for name in content(out) if Path(name).name.startswith(".")]
    assert job(PlainExtractor(), drawn, out, resume=True) == TOTALS


def test_folders_that_cannot_be_written(drawn: Path, out: Path) -> None:
    with pytest.raises(DataError, match="cannot be written to"):
        job(PlainExtractor(), drawn, Path("/proc/no-such-process/out"))
    with pytest.raises(DataError, match="cannot be written to"):
        job(PlainExtractor(), drawn, drawn / "0000.png" / "out")
    with pytest.raises(DataError, match="is not a folder"):
        job(PlainExtractor(), drawn, drawn / "0000.png")
    job(PlainExtractor(), drawn, out)
    shutil.rmtree(out / "faces")
    (out / "faces").write_text("")
    with pytest.raises(DataError, match="cannot be written to"):
        job(PlainExtractor(), drawn, out, resume=True)


def test_a_photo_that_vanishes_is_an_error_of_its_own(drawn: Path, out: Path) -> None:
    sources = list_photos([drawn])
    (drawn / "0002.png").unlink()
    assert run_job(PlainExtractor(), sources, out) == Summary(10, 15, 2, 3)
    assert files_table(out)[2] == (str(drawn / "0002.png"), "error", 0, f"{drawn / '0002.png'}: no such file")


@pytest.mark.parametrize("stays", [False, True])
def test_a_folder_that_vanishes_stops_the_job(stays: bool, tmp_path: Path, drawn: Path, out: Path) -> None:
    """As by a drive that drops out; what it was mounted on may stay, empty."""

    def vanish(result: FileResult, done: int, total: int) -> None:
        if done == 6:
            drawn.rename(tmp_path / "elsewhere")
            if stays:
                drawn.mkdir()

    with pytest.raises(DataError, match=r"0006\.png cannot be read, for its folder is gone, empty or closed to you"):
        job(PlainExtractor(), drawn, out, progress=vanish)
    assert len(files_table(out)) == 4
    shutil.rmtree(drawn, ignore_errors=True)
    (tmp_path / "elsewhere").rename(drawn)
    assert job(PlainExtractor(), drawn, out, resume=True) == TOTALS


def test_a_source_that_cannot_be_read(tmp_path: Path, drawn: Path, out: Path) -> None:
    class Closed(Source):
        def read(self) -> Any:
            raise OSError(errno.EIO, "Input/output error")

        def check(self) -> None:
            pass

    photo = drawn / "0000.png"
    assert run_job(PlainExtractor(), [Closed("a.tar/1.png"), Source(str(photo))], out) == Summary(2, 1, 0, 1)
    assert files_table(out)[0] == ("a.tar/1.png", "error", 0, "[Errno 5] Input/output error")


# ---- what is refused


def opened(output: Path, **changes: Any) -> Job:
    values = {"model_id": "m", "weights_sha256": "ab", "embedding_size": 8, "options": {"detector": "mtcnn"}}
    return Job.open(output, **{**values, "resume": True, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "cd"}, "weights_sha256 is 'ab' there, 'cd' now"),
        ({"model_id": "n", "embedding_size": 9}, "model_id is 'm' there, 'n' now; embedding_size is 8 there, 9 now"),
        ({"options": {"detector": "yunet"}}, "detector is 'mtcnn' there, 'yunet' now"),
        ({"options": {"detector": "mtcnn", "more": 1}}, "more is None there, 1 now"),
        ({"options": {}}, "detector is 'mtcnn' there, None now"),
        ({"shard_rows": 5}, "shard_rows is 10000 there, 5 now"),
        ({"resume": False}, "holds a job already: resume it with --resume"),
    ],
)
def test_another_job_in_the_folder_is_refused(changes: dict[str, Any], message: str, out: Path) -> None:
    opened(out).finish()
    before = content(out)
    with pytest.raises(DataError, match=message):
        opened(out, **changes)
    assert content(out) == before
    assert opened(out).finish() == Summary()  # and the lock was given back


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(DataError, match=r"is not empty and holds no job \(no manifest.json, but 'notes.txt'\)"):
            opened(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_at_once_are_refused(out: Path) -> None:
    message = rf"another process is writing to .*\(process {os.getpid()} on "
    with opened(out), pytest.raises(DataError, match=message):
        opened(out)
    opened(out).close()


def manifest(**changes: Any) -> bytes:
    values = {"model_id": "m", "weights_sha256": "ab", "embedding_size": 8, "totals": None, "format_version": 1}
    options = {"detector": "mtcnn", "shard_rows": 10000}
    return json.dumps({**values, "options": options, "fergeneral_version": "0", **changes}).encode()


def test_detectors_are_stored_by_stable_names(extractor: ExpressionExtractor, out: Path) -> None:
    """Not by the module that they are in today; manifests of 0.3.0 and older, which were, are read."""

    class Own:
        def detect(self, image: Image.Image) -> list[Detection]:
            return []

    class Named(Own):
        name = "retina"

        def settings(self) -> dict[str, Any]:
            return {"threshold": 0.5}

    def options(detector: Any) -> dict[str, Any]:
        return job_options(ExpressionExtractor(extractor.encoder, detector))

    assert options("mtcnn") == {"detector": "mtcnn", "min_face_size": None}
    assert options(MTCNNDetector(min_face_size=60)) == {"detector": "mtcnn", "min_face_size": 60}
    assert options("yunet").keys() == {"detector", "min_face_size", "score_threshold"}
    assert options(Own())["detector"].endswith(".Own")
    assert options(Named()) == {"detector": "retina", "threshold": 0.5}

    class Stricter(MTCNNDetector):
        pass

    assert options(Stricter())["detector"].endswith(".Stricter")
    opened(out).finish()
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"mtcnn"', '"fergeneral.mtcnn.MTCNNDetector"'))
    assert opened(out).finish() == Summary()
    with pytest.raises(DataError, match="detector is 'mtcnn' there, 'yunet' now"):
        opened(out, options={"detector": "yunet"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (manifest()[:-9], "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "is not the manifest of a job"),
        (b"{}", "is not the manifest of a job"),
        (manifest(more=1), "is not the manifest of a job"),
        (manifest(format_version="1"), "is not the manifest of a job"),
        (manifest(format_version=2), r"of a newer format \(2; this package knows 1\): run: pip install --upgrade"),
        (manifest(options=[]), "options is"),
        (manifest(embedding_size="8"), "embedding_size is '8'"),
        (manifest(totals={"cats": 1}), "totals is"),
        (manifest(options={"deep": json.loads("[" * 300 + "]" * 300)}), "other settings: "),
    ],
)
def test_a_damaged_manifest_is_named(data: bytes, message: str, out: Path) -> None:
    out.mkdir()
    (out / "manifest.json").write_bytes(data)
    with pytest.raises(DataError, match=message):
        opened(out)
    assert content(out) == {"manifest.json": data}


def test_the_manifest_is_a_folder(out: Path) -> None:
    (out / "manifest.json").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read"):
        opened(out)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def open_or_refuse(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    with contextlib.suppress(DataError):
        opened(folder).close()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=20,
)
FUZZ = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@FUZZ
@given(data=st.binary())
def test_any_bytes_as_a_manifest(data: bytes, fuzzed: Path) -> None:
    open_or_refuse(fuzzed, data)


@FUZZ
@given(value=ANY_JSON)
def test_any_json_as_a_manifest(value: Any, fuzzed: Path) -> None:
    open_or_refuse(fuzzed, json.dumps(value).encode())


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(sorted(json.loads(manifest()))), ANY_JSON, min_size=1))
def test_any_values_in_a_manifest(changes: dict[str, Any], fuzzed: Path) -> None:
    open_or_refuse(fuzzed, manifest(**changes))


# ---- shards by themselves


def face() -> Face:
    return Face(np.zeros(4), np.zeros((5, 2)), 0.5, np.arange(8.0), "m")


def results(*counts: int, prefix: str = "") -> list[FileResult]:
    return [FileResult(f"{prefix}{i}.png", (face(),) * count, None) for i, count in enumerate(counts)]


def test_a_shard_holds_no_more_faces_than_it_has_photos(out: Path) -> None:
    alive: weakref.WeakSet[Face] = weakref.WeakSet()
    most = 0

    def many() -> Iterator[FileResult]:
        nonlocal most
        for i in range(100):
            result = FileResult(f"{i}.png", tuple(face() for _ in range(7)), None)
            for one in result.faces or ():
                alive.add(one)
            yield result
            most = max(most, len(alive))

    opened(out).close()
    assert write_shard(out, 0, many(), 8, 20) == Summary(100, 700, 0, 0)
    assert len(face_parts(out)) == 35
    assert most < 20 + 7 + 7  # a part, the rest of its last photo, and the next photo


def test_a_shard_written_again_takes_the_place_of_the_first(out: Path) -> None:
    opened(out).close()
    assert write_shard(out, 7, results(3, 0, 4), 8, 2) == Summary(3, 7, 1, 0)
    assert len(face_parts(out)) == 4
    assert write_shard(out, 7, iter(results(1, 1, prefix="b")), 8, 2) == Summary(2, 2, 0, 0)
    assert [part.name for part in face_parts(out)] == ["part-000007.parquet"]
    assert read_table(out)["path"].tolist() == ["b0.png", "b1.png"]
    with opened(out) as again:
        assert (again.next_shard, again.done) == (8, 2)
        assert [source.path for source in again.pending(map(Source, ["a", "b0.png", "c", "a"]))] == ["a", "c"]


def test_an_error_among_the_results_leaves_nothing_of_the_shard(out: Path) -> None:
    def fail() -> Any:
        yield from results(3, 3)
        raise RuntimeError

    opened(out).close()
    before = content(out)
    with pytest.raises(RuntimeError):
        write_shard(out, 0, fail(), 8, 2)
    assert write_shard(out, 0, [], 8, 2) == Summary()
    assert content(out) == before
    with pytest.raises(DataError, match="holds no finished shard"):
        read_table(out)


@pytest.mark.parametrize(
    "part", ["faces/part-000001-2.parquet", "faces/part-000001.parquet", "faces/part-000000.parquet"]
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_shard_is_named_and_can_be_made_again(part: str, cut: bool, drawn: Path, out: Path) -> None:
    job(PlainExtractor(), drawn, out)
    whole = content(out)
    damaged = out / part
    damaged.write_bytes(damaged.read_bytes()[:-20]) if cut else damaged.unlink()
    number = int(part[11:17])
    files = out / "files" / f"part-{number:06d}.parquet"
    with pytest.raises(DataError, match=rf"shard {number} of .* is corrupt: .*Delete {files} and add --resume"):
        job(PlainExtractor(), drawn, out, resume=True)
    files.unlink()
    assert job(PlainExtractor(), drawn, out, resume=True) == TOTALS
    assert sorted(read_table(out)["path"]) == [
        str(drawn / f"{i:04d}.png") for i, n in enumerate(COUNTS) for _ in range(n or 0)
    ]
    assert whole.keys() != content(out).keys()  # its photos are in a new shard


def test_the_hash_of_weights(small_extractor: ExpressionExtractor, random_folder: Path) -> None:
    encoder = small_extractor.encoder
    assert weights_sha256(encoder) == hashlib.sha256((random_folder / "model.safetensors").read_bytes()).hexdigest()
    unsaved = dataclasses.replace(encoder.config, weights_sha256="")
    network = build_network("resnet18")
    network.load_state_dict(encoder.state_dict())
    first = weights_sha256(Encoder(network, unsaved, "cpu"))
    assert first == weights_sha256(Encoder(network, unsaved, "cpu"))
    with torch.no_grad():
        network.conv1.weight[0, 0, 0, 0] += 1e-3
    assert weights_sha256(Encoder(network, unsaved, "cpu")) != first


# ---- the command line


def test_the_command(
    drawn: Path, out: Path, random_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["extract", str(drawn), "-o", str(out), "--model", str(random_folder), "--device", "cpu"]
    assert main(arguments) == 1  # for two photos are unreadable
    err = capsys.readouterr().err
    assert err.count("skipped: ") == 2
    assert "0 faces in 8 photos, 8 without a face, 2 unreadable" in err

    def not_now(*_: object, **__: object) -> None:
        raise AssertionError("the weights must not be loaded for this")

    assert main([*arguments, "--resume"]) == 1
    assert capsys.readouterr().err == "0 faces in 8 photos, 8 without a face, 2 unreadable\n"
    monkeypatch.setattr(ExpressionExtractor, "from_pretrained", not_now)
    for more, message in (
        ([], "holds a job already"),
        (["-o", str(drawn) + "/"], "is not empty and holds no job"),
        (["-o", str(drawn / "0000.png") + "/"], "is not a folder"),
        (["--draw", str(out / "d")], "--draw and --save-crops do not go with"),
        (["-o", str(out / "a.csv"), "--resume"], "want a folder to write to"),
        (["-o", str(out / "a.parquet"), "--shard-rows", "9"], "want a folder to write to"),
    ):
        assert main([*arguments, *more]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
    with pytest.raises(DataError, match="holds a job already"):
        check_output(out, resume=False)


def test_without_pyarrow(drawn: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom fergeneral.cli import main\n"
        f"print(main(['extract', {str(drawn)!r}, '-o', 'out/']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["1", "False"]
    assert "pip install 'fergeneral[parquet]'" in done.stderr
