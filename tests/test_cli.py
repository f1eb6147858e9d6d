from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fergeneral import ExpressionExtractor
from fergeneral.cli import main
from fergeneral.storage import read_table


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    (tmp_path / "in" / "inside").mkdir(parents=True)
    shutil.copy(photos / "astronaut.png", tmp_path / "in" / "a.png")
    shutil.copy(photos / "three_faces.jpg", tmp_path / "in" / "inside" / "a.jpg")
    shutil.copy(photos / "coffee.png", tmp_path / "in" / "none.png")
    (tmp_path / "in" / "notes.txt").write_text("not a photo")
    return tmp_path / "in"


def test_rows_crops_and_pictures(folder: Path, tmp_path: Path, extractor: ExpressionExtractor) -> None:
    arguments = ["extract", str(folder), "--recursive", "--device", "cpu", "-o", str(tmp_path / "o.parquet")]
    assert main([*arguments, "--save-crops", str(tmp_path / "crops"), "--draw", str(tmp_path / "drawn")]) == 0
    rows = read_table(tmp_path / "o.parquet")
    expected = [(str(folder / "a.png"), 0)] + [(str(folder / "inside" / "a.jpg"), i) for i in range(3)]
    assert list(zip(rows["path"].tolist(), rows["face"].tolist(), strict=True)) == expected
    size = extractor.config.crop_size
    crops = [Image.open(tmp_path / "crops" / name) for name in ("a_0.png", "a-2_0.png", "a-2_1.png", "a-2_2.png")]
    assert {crop.size for crop in crops} == {(size, size)}
    # A saved crop embeds as the face it was cut from.
    assert extractor.encode(crops) == pytest.approx(rows["embedding"], abs=1e-4)
    assert {file.name for file in (tmp_path / "drawn").iterdir()} == {"a.png", "a-2.jpg", "none.png"}
    drawn, photo = Image.open(tmp_path / "drawn" / "a.png"), Image.open(folder / "a.png").convert("RGB")
    changed = (np.asarray(drawn) != np.asarray(photo)).any(axis=2)
    left, top, right, bottom = rows["box"][0].round().astype(int)
    for edge in (np.s_[top : top + 2, left + 9], np.s_[bottom - 1 : bottom + 1, left + 9]):
        assert changed[edge].any()
    for edge in (np.s_[top + 9, left : left + 2], np.s_[top + 9, right - 1 : right + 1]):
        assert changed[edge].any()
    changed[top - 30 : bottom + 3, left - 3 : right + 3] = False  # the box, and the score above it
    assert not changed.any()


def test_unreadable_files_are_reported_counted_and_skipped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.jpg").write_bytes(b"nothing")
    (folder / "empty.jpg").write_bytes(b"")
    arguments = ["extract", str(folder), "--device", "cpu", "-o", str(tmp_path / "o.csv")]
    assert main(arguments) == 1
    assert read_table(tmp_path / "o.csv")["path"].tolist() == [str(folder / "a.png")]
    err = capsys.readouterr().err
    assert "broken.jpg is not an image" in err
    assert "empty.jpg is empty" in err
    assert "1 face in 2 photos, 1 without a face, 2 unreadable" in err


def test_a_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(folder), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["face", "score", "left", "top", "right", "bottom", "photo"]
    assert [line.split()[-1] for line in lines[1:]] == [str(folder / "a.png"), str(folder / "none.png")]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["extract", "EMPTY"], 2, "no photos in"),
        (["extract", "PHOTO", "-o", "a.txt"], 2, "must end in one of"),
        (["extract", "PHOTO", "-o", "/no/folder/a.csv"], 2, "does not exist"),
        (["extract", "PHOTO", "--device", "cuda:99"], 1, "not available here"),
        (["extract", "PHOTO", "--model", "no-model"], 1, "neither a folder"),
        (["extract", "PHOTO", "--draw", "PHOTO"], 2, "cannot be made"),
        (["probe", "--train", "EMPTY", "--test", "EMPTY"], 1, "no labelled images"),
        (["evaluate", "EMPTY", "-o", "OUT"], 1, "no labelled images"),
        (["evaluate", "/no/such/set", "-o", "OUT"], 2, "no such file or folder: /no/such/set"),
        (["evaluate", "EMPTY", "-o", "PHOTO/out"], 2, "cannot be made"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], status: int, message: str, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "PHOTO": photos / "astronaut.png", "OUT": tmp_path / "out"}
    for place, path in places.items():
        arguments = [argument.replace(place, str(path)) for argument in arguments]
    assert main(arguments) == status
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["extract"],
        ["extract", "a.jpg", "--batch-size", "0"],
        ["extract", "a.jpg", "--device", "gpu"],
        ["evaluate", "a"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_models_info_and_version(capsys: pytest.CaptureFixture[str], extractor: ExpressionExtractor) -> None:
    assert main(["models"]) == 0
    header, default, heads, *_ = capsys.readouterr().out.splitlines()
    assert heads.split() == ["heads:", "expressions-8,", "expressions-7"]
    assert header.split()[:4] == ["model", "crop", "embedding", "default"]
    assert default.split()[:4] == [extractor.config.model_id, str(extractor.config.crop_size), "512", "yes"]
    assert main(["info", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert extractor.config.weights_sha256 in out
    assert "torch" in out


def test_probe_prints_its_result(faces_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--train", str(faces_folder), "--test", str(faces_folder), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "UAR" in out
    assert "surprise" in out


def test_evaluate_writes_a_report_and_prints_the_main_table(
    faces_folder: Path, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(faces_folder), "-o", str(tmp_path / "out"), "--no-robustness", "--device", "cpu"]
    arguments += ["--model", str(random_folder), "--cache", str(tmp_path / "cache"), "--against", str(random_folder)]
    assert main(arguments) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["data", "set", "system", "status", "accuracy", "UAR"]
    assert [row.split()[:2] for row in rows] == [["faces", "random"], ["faces", "random"]]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert f"{report['linear_probe'][0]['accuracy']:.3f} (" in rows[0]
    assert report["robustness"] is None
    assert (tmp_path / "out" / "report.md").read_text().startswith("# Expression embeddings of `random`")
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the same weights, so embedded once


def test_a_reader_that_goes_away_is_no_crash(folder: Path) -> None:
    command = f"{sys.executable} -m fergeneral.cli extract {folder} --device cpu | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=180)
    assert "Traceback" not in done.stderr
