"""What the command line refuses before any work, so that nothing of the user's is lost, and what it says."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from job_runs import CountedFaces, PlainExtractor, content, draw_photos, job
from PIL import Image
from test_jobs import COUNTS, TOTALS, files_table, run_apart
from test_video import RED, SquareDetector, picture, write_video

from fergeneral import DataError, ExpressionExtractor, ExpressionFeatures, ModelError
from fergeneral import cli as module
from fergeneral.cli import main
from fergeneral.console import printable
from fergeneral.errors import positive_integer
from fergeneral.evaluate import evaluate
from fergeneral.hub import load_folder
from fergeneral.jobs import Job, Summary, run_job
from fergeneral.sources import list_photos
from fergeneral.storage import read_table


@pytest.fixture(scope="module")
def small(random_folder: Path) -> ExpressionExtractor:
    """Random weights, and a detector that finds as many faces as a photo's first pixel says."""
    return ExpressionExtractor(load_folder(random_folder, "cpu"), CountedFaces())


@pytest.fixture
def run(
    small: ExpressionExtractor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A command with this extractor: its exit status, and what it printed to stdout and stderr."""
    monkeypatch.setattr(module, "_load", lambda options, detector=None: small)

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse's
            status = int(str(error.code))
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Check that a command is refused in one line before the weights are loaded, and that no file changes."""

    def not_now(*_: object, **__: object) -> None:
        raise AssertionError("the weights must not be loaded for this")

    def check(message: str, *arguments: str | Path) -> None:
        before, entries = content(tmp_path), sorted(tmp_path.rglob("*"))
        with monkeypatch.context() as patch:
            patch.setattr(module, "_load", not_now)
            status, out, err = run(*arguments)
        assert status == 2, err
        assert message in err
        assert err.startswith("error: ")
        assert (out, err.count("\n")) == ("", 1)
        assert (content(tmp_path), sorted(tmp_path.rglob("*"))) == (before, entries)

    return check


@pytest.fixture
def photos_here(tmp_path: Path) -> Path:
    """Five photos of 1, 0 and 2 faces, two of them in a folder inside; the current folder is the one above."""
    draw_photos(tmp_path / "photos", [1, 0, 2])
    draw_photos(tmp_path / "photos" / "inside", [1, 0], seed=1)
    with contextlib.chdir(tmp_path):
        yield tmp_path / "photos"  # type: ignore[misc]


# ---- nothing is lost: pictures


@pytest.mark.parametrize("option", ["--draw", "--save-crops"])
def test_pictures_never_land_among_the_photos(option: str, photos_here: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "link").symlink_to(photos_here)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").symlink_to(photos_here / "0000.png")
    (tmp_path / "empty").mkdir()
    reads, holds = "is a folder that this command reads", "holds files that this command reads"
    for message, *arguments in (
        (holds, "photos/0000.png", option, "photos"),
        (holds, "photos/0000.png", option, "one/../photos/"),
        (holds, "photos/0000.png", option, "link"),
        (holds, "link/0000.png", option, "photos"),
        (holds, "one/a.png", option, "photos"),  # what the link leads to lies there
        (holds, "one", option, "photos", "--overwrite"),
        (reads, "photos", option, "photos"),
        (reads, "photos", option, "photos", "--overwrite"),
        (reads, "photos", option, "link"),
        (reads, "link", option, photos_here),
        (reads, "empty", "photos", option, "empty"),
        (reads, "photos", "--recursive", option, "photos/drawn/new"),
        (reads, "link", "--recursive", option, "photos/inside"),
        ("cannot be made: photos/0000.png is not a folder", "photos", option, "photos/0000.png"),
        ("cannot be made", "photos", option, "photos/0000.png/new"),
        ("must name two folders", "photos", "--draw", "new", "--save-crops", "one/../new"),
    ):
        refused(message, "extract", *arguments)


def test_existing_pictures_are_kept(photos_here: Path, tmp_path: Path, refused: Any, run: Any) -> None:
    arguments = ("extract", "photos", "--draw", "drawn", "--save-crops", "crops")
    status, _, err = run(*arguments)
    assert status == 0, err
    first = content(tmp_path)
    assert {"drawn/0001.png", "crops/0000_0.png", "crops/0002_1.png"} <= first.keys()
    refused("drawn holds 0000.png and 2 other files already: add --overwrite", *arguments)
    shutil.rmtree(tmp_path / "drawn")
    refused("crops holds 0000_0.png and 2 other files already: add --overwrite", *arguments)
    (tmp_path / "crops" / "0000_0.png").write_text("of an earlier run")
    (tmp_path / "crops" / "other_0.png").write_text("of another photo")
    assert run(*arguments, "--overwrite")[0] == 0
    after = content(tmp_path)
    assert after.pop("crops/other_0.png") == b"of another photo"
    assert after == first
    draw_photos(tmp_path / "more", [1])
    (tmp_path / "more" / "0000.png").rename(tmp_path / "more" / "new.png")
    assert run("extract", "more", "--draw", "drawn", "--save-crops", "crops")[0] == 0  # others stay beside them
    assert first.items() <= content(tmp_path).items()


# ---- nothing is lost: tables


def test_tables_replace_neither_inputs_nor_files(photos_here: Path, tmp_path: Path, refused: Any, run: Any) -> None:
    encoded = [path.read_bytes() for path in sorted(photos_here.glob("*.png"))]
    pq.write_table(pa.table({"image": encoded}), tmp_path / "photos.parquet")
    (tmp_path / "link.parquet").symlink_to("photos.parquet")
    os.link(tmp_path / "photos.parquet", tmp_path / "hard.parquet")
    (tmp_path / "faces.csv").write_text("a good table")
    (tmp_path / "gone.csv").symlink_to("nowhere.csv")
    for target in ("photos.parquet", "./photos/../photos.parquet", "link.parquet", "hard.parquet"):
        for more in ([], ["--overwrite"]):
            refused("is read by this command and would be replaced", "extract", "photos.parquet", "-o", target, *more)
    refused("is read by this command", "extract", "link.parquet", "-o", "photos.parquet", "--overwrite")
    refused("faces.csv is there already: add --overwrite", "extract", "photos", "-o", "faces.csv")
    refused("gone.csv is there already: add --overwrite", "extract", "photos", "-o", "gone.csv")
    refused("its folder nowhere does not exist", "extract", "photos", "-o", "nowhere/faces.csv")
    refused("its folder faces.csv is not a folder", "extract", "photos", "-o", "faces.csv/faces.csv")
    refused("must end in one of", "extract", "photos", "-o", "faces.txt")
    refused("--overwrite is for files", "extract", "photos", "-o", "job/", "--overwrite")
    assert run("extract", "photos", "-o", "faces.csv", "--overwrite")[0] == 0
    assert read_table("faces.csv")["path"].tolist() == ["photos/0000.png", "photos/0002.png", "photos/0002.png"]
    assert run("extract", "photos.parquet", "-o", "photos/faces.parquet")[0] == 0  # a folder's tables are not read
    assert run("extract", "photos", "-o", "again.csv")[0] == 0
    assert read_table("again.csv")["path"].tolist() == read_table("faces.csv")["path"].tolist()


def test_paths_are_checked_before_any_work(photos_here: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "faces.parquet").write_text("a good table")
    (tmp_path / "to-nowhere.png").symlink_to("nowhere.png")
    both = ("phoots", "photos", "to-nowhere.png", "-o", "faces.parquet", "--overwrite")
    refused("no such file or folder: phoots, to-nowhere.png\n", "extract", *both)
    refused("no such file or folder: phoots, to-nowhere.png\n", "extract", "phoots", "to-nowhere.png", "-o", "job")
    refused("n18, n19 and 5 more\n", "extract", *(f"n{i}" for i in range(25)))
    refused("one of the paths is empty", "extract", "")
    refused("https://x.org/a.jpg is a URL; nothing is downloaded", "extract", "photos", "https://x.org/a.jpg")
    refused("s3://bucket/a.mp4 is a URL", "video", "s3://bucket/a.mp4")
    refused("no such file or folder: clip.mp4", "video", "clip.mp4")
    refused("no photos in", "extract", tmp_path, "-o", "faces.parquet", "--overwrite")
    refused("no such file or folder: nowhere", "probe", "--train", "nowhere", "--test", "photos")
    refused("no such file or folder: nowhere", "export", "--int8", "new", "--crops", "nowhere")
    refused("no such file or folder: nowhere, report.json", "card", "nowhere", "--report", "report.json")
    with pytest.raises(DataError, match="no such file or folder: phoots"):
        list_photos(["photos", "phoots"])
    with pytest.raises(DataError, match=r"https:/x\.org/a\.jpg is a URL"):
        list_photos(Path("https://x.org/a.jpg"))


def test_a_run_that_reads_nothing_replaces_nothing(photos_here: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "broken.png").write_bytes(b"no photo")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "faces.csv").write_text("a good table")
    for command, output in (("extract", "faces.csv"), ("extract", "new.csv"), ("video", "faces.csv")):
        name = "broken.png" if command == "extract" else "broken.mp4"
        status, _, err = run(command, name, "-o", output, "--overwrite")
        assert status == 1
        assert f"could be read; {output} is not written\n" in err
    assert (tmp_path / "faces.csv").read_text() == "a good table"
    assert not (tmp_path / "new.csv").exists()
    assert run("extract", "photos/0001.png", "-o", "faces.csv", "--overwrite")[0] == 0  # read, and no face in it
    assert len(read_table("faces.csv")["path"]) == 0


def test_ctrl_c_never_replaces_the_rows_of_an_earlier_one(
    photos_here: Path, small: ExpressionExtractor, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[list[Any]]:
        yield small.extract("photos/0000.png")
        raise KeyboardInterrupt

    monkeypatch.setattr(small, "extract_many", interrupted)
    for name in ("faces.partial.csv", "faces.partial-2.csv", "faces.partial-3.csv"):
        status, _, err = run("extract", "photos", "-o", "faces.csv", "--overwrite")
        assert (status, err) == (
            130,
            f"interrupted; the faces found so far, up to those in photos/0000.png, are in {name}\n",
        )
        assert len(read_table(name)["path"]) == 1
    assert not Path("faces.csv").exists()


# ---- nothing is lost: other commands


def test_videos(tmp_path: Path, photos_here: Path, refused: Any, run: Any, small: ExpressionExtractor) -> None:
    write_video(tmp_path / "clip.mp4", [picture((4, 4, RED))] * 3)
    (tmp_path / "faces.csv").write_text("a good table")
    refused("faces.csv is there already", "video", "clip.mp4", "-o", "faces.csv")
    os.link("clip.mp4", "clip.csv")
    refused("clip.csv is read by this command", "video", "clip.mp4", "-o", "clip.csv", "--overwrite")
    refused("but videos: use fergeneral video", "extract", "clip.mp4")
    refused("for photos use fergeneral extract", "video", "photos/0000.png")
    refused("for photos use fergeneral extract", "video", "photos")
    (tmp_path / "clips").mkdir()
    shutil.copy("clip.mp4", "clips")
    refused("no photos in clips, but videos: use fergeneral video", "extract", "clips")
    status, _, err = run("extract", "photos", "clip.mp4")
    assert status == 1
    assert err.splitlines()[0].endswith("; for videos there is: fergeneral video clip.mp4")
    small.detector, before = SquareDetector(), small.detector
    try:
        status, out, _ = run("video", "clip.mp4", "--json")
    finally:
        small.detector = before
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["path"], row["face"], row["track"], row["time"]) for row in rows] == [
        ("clip.mp4", 0, 0, pytest.approx(0.04 * i)) for i in range(3)
    ]


def test_weights_cards_and_reports(
    tmp_path: Path, random_folder: Path, faces_folder: Path, small: ExpressionExtractor, refused: Any, run: Any
) -> None:
    mine, crops = tmp_path / "mine", faces_folder / "train"
    shutil.copytree(random_folder, mine)
    export = ("export", "--model", mine, "--crops", crops)
    crop = next(crops.rglob("*.png"))
    for more in ([], ["--overwrite"]):
        refused("is read by this command", *export, "--onnx", mine / "model.safetensors", *more)
        refused("is read by this command", *export, "--onnx", crop, *more)
        refused("holds other weights, model.safetensors", *export, "--int8", mine, *more)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    refused("config.json is there already", *export, "--int8", tmp_path / "old")
    refused("config.json is there already", *export, "--onnx", tmp_path / "old" / "config.json")
    refused("cannot be made", *export, "--int8", crop)

    (mine / "README.md").write_text("by hand")
    refused("README.md is there already: add --overwrite", "card", mine)
    refused("is read by this command", "card", mine, "--notes", mine / "README.md", "--overwrite")
    assert run("card", mine, "--overwrite")[0] == 0
    assert (mine / "README.md").read_text().startswith("---\n")
    (mine / "README.md").unlink()
    refused("LICENSE.md is there already", "card", mine)
    (mine / "LICENSE.md").unlink()
    (tmp_path / "notes" / "pictures").mkdir(parents=True)
    (tmp_path / "notes" / "pictures" / "a.png").write_text("new")
    (tmp_path / "notes" / "notes.md").write_text("![a](pictures/a.png)")
    (mine / "pictures").mkdir()
    (mine / "pictures" / "a.png").write_text("old")
    refused("a.png is there already", "card", mine, "--notes", tmp_path / "notes" / "notes.md")

    report = tmp_path / "report"
    refused("no such file or folder: nowhere", "evaluate", "nowhere", "-o", report)
    refused("is a folder that this command reads", "evaluate", faces_folder, "-o", faces_folder / "report")
    refused("cannot be made", "evaluate", faces_folder, "-o", crop)
    refused("is not empty: add --overwrite", "evaluate", faces_folder, "-o", tmp_path / "old")
    with pytest.raises(DataError, match="no such folder"):
        evaluate(small, [tmp_path / "nowhere"], report)
    assert not report.exists()


# ---- jobs


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    draw_photos(tmp_path / "photos", COUNTS)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def mend(folder: Path) -> None:
    """Put a photo of one face in the place of every broken one."""
    for path in folder.iterdir():
        if path.stat().st_size == 8:  # as draw_photos breaks them
            shutil.copy(folder / "0000.png", path)


def rows_of(output: Path) -> tuple[list[Any], list[Any]]:
    """The rows of both tables as pandas reads them, sorted."""
    files, faces = (pd.read_parquet(output / name) for name in ("files", "faces"))
    return (
        sorted(map(str, files.itertuples(index=False))),
        sorted(zip(faces["path"], faces["face"], map(np.ndarray.tolist, faces["embedding"]), strict=True)),
    )


def test_failed_photos_are_read_again_when_asked_for(drawn: Path, tmp_path: Path, out: Path) -> None:
    job(PlainExtractor(), drawn, out)
    before = content(out)
    mend(drawn)
    (drawn / "0001.png").write_bytes(b"no photo")  # read before, so it is not read again
    again = PlainExtractor()
    assert job(again, drawn, out, resume=True) == TOTALS
    assert (again.seen, content(out)) == (0, before)
    totals = job(again, drawn, out, resume=True, retry_errors=True)
    assert (again.seen, totals) == (2, Summary(10, 19, 2, 0))
    (drawn / "0001.png").unlink()
    draw_photos(tmp_path / "copy", [1, 0])
    shutil.copy(tmp_path / "copy" / "0001.png", drawn)
    job(PlainExtractor(), drawn, tmp_path / "at-once")
    assert rows_of(out)[1] == rows_of(tmp_path / "at-once")[1]
    assert [row[:3] for row in sorted(files_table(out))] == [row[:3] for row in files_table(tmp_path / "at-once")]
    assert job(again, drawn, out, resume=True, retry_errors=True) == totals  # nothing to do
    assert again.seen == 2


def test_a_shard_of_errors_alone_is_read_again(tmp_path: Path, out: Path) -> None:
    photos = draw_photos(tmp_path / "photos", [1, None, None, 2, None])[0].parent
    run_job(PlainExtractor(), list_photos(photos), out, shard_rows=1)
    assert run_job(PlainExtractor(), list_photos(photos), out, shard_rows=1, resume=True, retry_errors=True) == Summary(
        5, 3, 0, 3
    )
    mend(photos)
    assert run_job(PlainExtractor(), list_photos(photos), out, shard_rows=1, resume=True, retry_errors=True) == Summary(
        5, 6, 0, 0
    )
    assert sorted(row[0] for row in files_table(out)) == [str(path) for path in sorted(photos.iterdir())]


def test_reading_again_survives_an_end_at_every_step(tmp_path: Path, drawn: Path) -> None:
    root = tmp_path / "jobs"
    places = run_apart("retries", drawn, root)["places"]
    assert places > 20
    wanted = rows_of(root / f"ended-{places}")  # which came to its end
    assert len(wanted[0]) == 10
    for place in range(places):
        assert rows_of(root / f"ended-{place}") == wanted, place


def test_other_paths_are_said_and_refused(drawn: Path, tmp_path: Path, out: Path) -> None:
    """Whether the job is done or not: nothing changes, and the numbers are of all its photos, done or not."""
    draw_photos(drawn / "wrong", [1, 1])
    run_job(PlainExtractor(), list_photos([drawn, drawn / "wrong"]), out, shard_rows=4)
    for part in ("files/part-000002", "faces/part-000002"):
        (out / f"{part}.parquet").unlink()  # as if it had been interrupted: 0008, 0009 and those in wrong/ are missing
    before = content(out)
    (drawn / "0000.png").rename(drawn / "new.png")
    shutil.copy(drawn / "new.png", drawn / "new2.png")
    message = (
        rf"not among the paths given: 3 of its 12 photos, first {drawn}/0000.png; new among them: 2 photos, first "
        rf"{drawn}/new.png; give the same paths, or add --extend"
    )
    again = PlainExtractor()
    for options in ({}, {"retry_errors": True}):
        with pytest.raises(DataError, match=message):
            job(again, drawn, out, resume=True, **options)
        assert content(out) == before
    assert again.seen == 0
    totals = job(again, drawn, out, resume=True, extend=True)
    assert (again.seen, totals.photos) == (4, 12)  # 0008, 0009 and the two new ones; the row of 0000 stays
    plan = pd.read_parquet(out / "plan.parquet")["path"]
    assert sorted(plan) == sorted(row[0] for row in files_table(out))
    assert not any("wrong" in path for path in plan)
    with pytest.raises(DataError, match=f"1 of its 12 photos, first {drawn}/0000.png; give the same"):
        job(again, drawn, out, resume=True)
    (out / "plan.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"plan.parquet is corrupt: .*Delete it"):
        job(again, drawn, out, resume=True)
    with pytest.raises(ValueError, match="set resume=True"):
        job(again, drawn, tmp_path / "other", extend=True)
    assert not (tmp_path / "other").exists()


def test_a_job_of_version_0_1_0_is_resumed(drawn: Path, out: Path) -> None:
    """It has no plan: what it lacks may be new or not yet done, but photos that it has must be among those given."""
    run_job(PlainExtractor(), list_photos(drawn), out, shard_rows=4)
    (out / "plan.parquet").unlink()
    for part in ("files/part-000002", "faces/part-000002"):
        (out / f"{part}.parquet").unlink()
    with pytest.raises(DataError, match="not among the paths given: 7 of its 8 photos"):
        run_job(PlainExtractor(), list_photos(drawn / "0000.png"), out, shard_rows=4, resume=True)
    assert not (out / "plan.parquet").exists()
    assert job(PlainExtractor(), drawn, out, resume=True) == TOTALS
    assert pd.read_parquet(out / "plan.parquet")["path"].tolist() == [str(path) for path in sorted(drawn.iterdir())]


def test_the_options_of_a_job(photos_here: Path, tmp_path: Path, refused: Any, run: Any) -> None:
    (photos_here / "0001.png").write_bytes(b"no photo")
    arguments = ("extract", "photos", "-o", "out")
    assert run(*arguments)[0] == 1
    for more in (["--extend"], ["--retry-errors"]):
        refused("--extend and --retry-errors go with --resume", *arguments, *more)
        refused("want a folder to write to", "extract", "photos", "-o", "new.csv", "--resume", *more)
    refused("those in out/files have them", *arguments, "--resume", "--list-empty")
    shutil.copy(photos_here / "0000.png", photos_here / "0001.png")
    status, _, err = run(*arguments, "--resume")
    assert (status, err.splitlines()[-1]) == (1, "3 faces in 2 photos, 0 without a face, 1 unreadable")
    assert run(*arguments, "--resume", "--retry-errors")[::2] == (
        0,
        "4 faces in 3 photos, 0 without a face, 0 unreadable\n",
    )
    refused("new among them: 2 photos, first photos/inside/0000.png", *arguments, "--resume", "--recursive")
    assert run(*arguments, "--resume", "--recursive", "--extend")[::2] == (
        0,
        "5 faces in 5 photos, 1 without a face, 0 unreadable\n",
    )


# ---- what is said


def test_photos_without_a_face_are_counted_and_named(photos_here: Path, run: Any) -> None:
    status, _, err = run("extract", "photos", "--recursive", "-o", "faces.csv")
    assert (status, err) == (0, "4 faces in 5 photos, 2 without a face, 0 unreadable\n")
    status, _, err = run("extract", "photos", "--recursive", "-o", "faces.csv", "--overwrite", "--list-empty")
    named = [f"no face: photos/{name}.png" for name in ("0001", "inside/0001")]
    assert err.splitlines() == [*named, "4 faces in 5 photos, 2 without a face, 0 unreadable"]


def test_rows_on_a_terminal_come_without_a_bar(photos_here: Path, random_folder: Path) -> None:
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "fergeneral.cli", "extract", "photos", "--model", random_folder, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # as Linux tells the end of a terminal
            while data := os.read(screen, 4096):
                shown += data
    os.close(screen)
    assert process.returncode == 0, shown
    *lines, last, end = shown.decode().split("\r\n")
    assert (len(lines), last, end) == (4, "0 faces in 3 photos, 3 without a face, 0 unreadable", "")
    assert [line.split()[-1] for line in lines] == ["photo", *(f"photos/000{i}.png" for i in range(3))]


def test_paths_and_messages_stay_on_their_line(tmp_path: Path, run: Any) -> None:
    photos = draw_photos(tmp_path / "photos", [1, None, 0])
    photos[0].rename(tmp_path / "photos" / "a\n\x1b[31m\u2028\u202eb \N{SNOWMAN}.png")
    photos[1].rename(tmp_path / "photos" / "c\rd.png")
    status, out, err = run("extract", tmp_path / "photos", "--list-empty")
    assert status == 1
    _, second, first = out.splitlines()
    assert first.endswith(r"a\n\x1b[31m\u2028\u202eb " + "\N{SNOWMAN}.png")
    assert second.endswith("0002.png")
    empty, skipped, summary = err.splitlines()
    assert skipped.startswith(f"skipped: {tmp_path}/photos/c\\rd.png is not an image")
    assert empty == f"no face: {tmp_path}/photos/0002.png"
    assert summary == "1 face in 2 photos, 1 without a face, 1 unreadable"
    assert r"no such file or folder: e\nf" in run("extract", "e\nf")[2]
    latin = type("Latin", (), {"encoding": "latin-1"})()
    assert printable("é\N{SNOWMAN}\udcff", latin) == r"é\u2603\udcff"


def test_json(photos_here: Path, small: ExpressionExtractor, refused: Any, run: Any) -> None:
    odd = photos_here / "inside" / "0000.png"
    odd.rename(odd.with_name("a\nb.png"))
    status, out, err = run("extract", "photos", "--recursive", "--json")
    assert (status, err) == (0, "4 faces in 5 photos, 2 without a face, 0 unreadable\n")
    rows = [json.loads(line) for line in out.splitlines()]
    places = [("photos/0000.png", 0), ("photos/0002.png", 0), ("photos/0002.png", 1), ("photos/inside/a\nb.png", 0)]
    assert [(row["path"], row["face"]) for row in rows] == places
    face = small.extract("photos/0000.png")[0]
    assert rows[0] == {"path": "photos/0000.png", "face": 0, **face.to_dict()}
    refused("--json prints the faces, -o writes them", "extract", "photos", "--json", "-o", "faces.csv")

    models = json.loads(run("models", "--json")[1])
    assert models[0]["embedding_size"] == 512
    info = json.loads(run("info", "--json")[1])
    assert info["device"] == "cpu"
    assert info["weights"]["model_id"] == "random"
    assert info["versions"]["torch"]


def test_a_probe_as_json(faces_folder: Path, run: Any) -> None:
    result = json.loads(run("probe", "--train", faces_folder, "--test", faces_folder, "--json")[1])
    assert 0 <= result["accuracy"] <= 1
    assert result["labels"] == ["neutral", "happiness", "surprise", "sadness"]


def test_wrong_values_are_named(run: Any) -> None:
    for arguments, message in (
        (["extract", "a.png", "--batch-size", "many"], "--batch-size: must be a positive integer, got 'many'"),
        (["extract", "a.png", "--batch-size", "0"], "--batch-size: must be a positive integer, got '0'"),
        (["extract", "a.png", "--shard-rows", "1e4"], "--shard-rows: must be a positive integer, got '1e4'"),
        (["extract", "a.png", "--num-gpus", "all"], "--num-gpus: must be a number more than 0, got 'all'"),
        (["video", "a.mp4", "--fps", "nan"], "--fps: must be a number more than 0, got 'nan'"),
        (["extract", "a.png", "--device", "gpu"], "--device: must be cpu, cuda, cuda:N or mps, got 'gpu'"),
    ):
        status, _, err = run(*arguments)
        assert status == 2
        assert err.rstrip().endswith(message)


def test_too_few_crops_for_int8(photos_here: Path, tmp_path: Path, run: Any) -> None:
    status, _, err = run("export", "--int8", tmp_path / "new", "--crops", "photos")
    assert (status, err) == (
        1,
        "error: at least 64 face crops are needed to find the ranges of activations, got 5\n",
    )


def test_exit_codes_are_documented_and_the_package_runs(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-m", "fergeneral", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: fergeneral ")
    for shown in (done.stdout, run("extract", "--help")[1]):
        assert "0 success; 1 something failed" in " ".join(shown.split())
        assert "130 interrupted by Ctrl-C" in " ".join(shown.split())

    def fail(*_: object, **__: object) -> None:
        raise ModelError("no weights")

    monkeypatch.setattr(module, "_load", fail)
    assert run("info") == (1, "", "error: no weights\n")


def test_any_integer_is_a_batch_size(small: ExpressionExtractor, photos_here: Path, tmp_path: Path) -> None:
    photo = Image.open("photos/0002.png")
    crops = [np.asarray(photo.convert("RGB"))] * 3
    expected = small.encode(crops)
    for size in (np.int64(2), np.uint8(2), np.array(2)):
        assert small.encode(crops, batch_size=size) == pytest.approx(expected, abs=1e-4)
        assert [len(faces) for faces in small.extract_many([photo] * 3, batch_size=size)] == [2, 2, 2]
        assert ExpressionFeatures(aligned=True, batch_size=size).fit(crops) is not None
    job(PlainExtractor(), photos_here, tmp_path / "out", shard_rows=np.int64(2))
    job(PlainExtractor(), photos_here, tmp_path / "out", shard_rows=2, batch_size=np.int64(2), resume=True)
    for wrong, kind in ((0, ValueError), (-1, ValueError), (2.5, TypeError), ("8", TypeError), (True, TypeError)):
        for call in (
            lambda size: small.encode(crops, batch_size=size),
            lambda size: small.extract_many([], batch_size=size),
            lambda size: small.extract_video("a.mp4", batch_size=size),
            lambda size: ExpressionFeatures(batch_size=size).fit(crops),
            lambda size: Job.open(
                tmp_path / "new", model_id="", weights_sha256="", embedding_size=1, options={}, shard_rows=size
            ),
            lambda size: positive_integer(size, "batch_size"),
        ):
            with pytest.raises(kind, match=r"(batch_size|shard_rows) must be a positive integer, got"):
                call(wrong)
    assert not (tmp_path / "new").exists()


def test_what_is_left_out_of_a_folder_is_counted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photos / "astronaut.png", folder)
    for name in ("a.json", "b.json", "notes", ".hidden", "Thumbs.db"):
        (folder / name).write_text("")
    assert main(["extract", str(folder), "--device", "cpu"]) == 0
    said = "3 files left out, not images by their suffix: 2 .json, 1 no suffix"
    assert capsys.readouterr().err.splitlines()[0] == said


def test_pillows_warnings_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from corpus import tiff, with_segment

    photo = tmp_path / "a.jpg"
    photo.write_bytes(with_segment(0xE1, b"Exif\0\0" + tiff([(274, "H", [1])])[:-6]))  # EXIF that ends early
    assert main(["extract", str(photo), "--device", "cpu"]) == 0
    assert capsys.readouterr().err == "0 faces in 1 photo, 1 without a face, 0 unreadable\n"
