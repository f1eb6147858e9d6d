"""`fergeneral predict`, `video --head`, and what a head adds to tables, jobs and pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from conftest import ROOT, random_head
from job_runs import content
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from test_surface import at
from test_video import GREEN, RED, SquareDetector, picture, write_video

from fergeneral import (
    ClassifiedFace,
    ClassifiedTrackedFace,
    DataError,
    ExpressionClassifier,
    ExpressionExtractor,
    Head,
)
from fergeneral.cli import main
from fergeneral.drawing import draw_faces
from fergeneral.storage import FaceTable, read_table
from fergeneral.timeline import Timeline, moving_mean

LONDON = ROOT / "examples" / "london"
PEOPLE = sorted(path.name for path in (LONDON / "neutral").glob("*.jpg"))
FITTED, NEW = PEOPLE[:8], PEOPLE[8:11]
ODD = ("a,b", 'ü"x', "with space")  # names of classes that a table must keep


@pytest.fixture(scope="module")
def model(extractor: ExpressionExtractor) -> Pipeline:
    """Neutral against smiling, fitted by scikit-learn on eight people."""
    photos = [LONDON / label / name for label in ("neutral", "smiling") for name in FITTED]
    rows = [faces[0].embedding for faces in extractor.extract_many(photos)]
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    return fitted.fit(np.stack(rows), [photo.parent.name for photo in photos])


@pytest.fixture(scope="module")
def head(model: Pipeline, extractor: ExpressionExtractor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "smiling"
    Head.from_sklearn(model, extractor.encoder, name="smiling").save_pretrained(folder)
    return folder


@pytest.fixture
def new_people(tmp_path: Path) -> Path:
    """Three people whom the head never saw, neutral and smiling, and a photo without a face."""
    folder = tmp_path / "in"
    folder.mkdir()
    for label in ("neutral", "smiling"):
        for name in NEW:
            shutil.copy(LONDON / label / name, folder / f"{label}_{name}")
    shutil.copy(ROOT / "examples" / "photos" / "coffee.png", folder)
    return folder


@pytest.fixture
def predict(head: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command with this head: its exit status, and what it printed to stdout and stderr."""

    def command(*arguments: str | Path, name: str = "predict") -> tuple[int, str, str]:
        capsys.readouterr()
        given = [name, *map(str, arguments), "--device", "cpu", "--head", str(head)]
        status = main(given)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


# Tables


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_a_heads_columns_come_after_all_others(tmp_path: Path, suffix: str, video: bool) -> None:
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    faces: list[Any] = []
    for number in range(1100):
        row = generator.dirichlet([1, 1, 1]).astype(np.float32).tolist()
        common = {"box": draw(4), "landmarks": draw(5, 2), "score": 0.5, "embedding": draw(8), "model_id": "m"}
        common |= {"expression": ODD[int(np.argmax(row))], "confidence": max(row)}
        common["probabilities"] = dict(zip(ODD, row, strict=True))
        faces.append(
            ClassifiedTrackedFace(**common, time=number / 30, track=number % 3) if video else ClassifiedFace(**common)
        )
    faces[3] = type(faces[3])(**{**vars(faces[3]), "expression": "uncertain"})
    with FaceTable(tmp_path / f"with{suffix}", 8, video, classes=ODD) as table:
        table.add("a.jpg", faces)
    with FaceTable(tmp_path / f"without{suffix}", 8, video) as table:
        table.add("a.jpg", faces)
    read, before = read_table(tmp_path / f"with{suffix}"), read_table(tmp_path / f"without{suffix}")
    further = ["expression", "confidence", *(f"probability_{name}" for name in ODD)]
    assert list(read) == [*before, *further]
    assert ("track" in before) == video
    for name, column in before.items():
        np.testing.assert_array_equal(read[name], column)
        assert read[name].dtype == column.dtype
    assert read["expression"].tolist() == [face.expression for face in faces]
    assert read["confidence"].tolist() == [face.confidence for face in faces]
    for name in ODD:
        assert read[f"probability_{name}"].tolist() == [face.probabilities[name] for face in faces]
        assert read[f"probability_{name}"].dtype == np.float32
    if suffix == ".parquet":
        assert pyarrow.parquet.read_schema(tmp_path / "with.parquet").names == list(read)
        assert pd.read_parquet(tmp_path / "with.parquet")["expression"].tolist() == read["expression"].tolist()
    with FaceTable(tmp_path / f"empty{suffix}", 8, video, classes=ODD):
        pass
    assert {name: len(column) for name, column in read_table(tmp_path / f"empty{suffix}").items()} == dict.fromkeys(
        read, 0
    )


def test_a_heads_columns_are_documented() -> None:
    text = (ROOT / "docs" / "tables.md").read_text().partition("## With a head")[2].partition("## Read them")[0]
    columns = re.findall(r"^\| `(\w+)` \| (\w+) ", text, flags=re.MULTILINE)
    assert columns == [("expression", "string"), ("confidence", "float32"), ("probability_CLASS", "float32")]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_the_command_writes_what_scikit_learn_says(
    new_people: Path, model: Pipeline, predict: Any, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"out{suffix}"
    status, out, err = predict(new_people, "-o", table)
    assert (status, out) == (0, "")
    assert err.splitlines()[-1] == "6 faces in 7 photos, 1 without a face, 0 unreadable"
    rows = read_table(table)
    expected = model.predict_proba(rows["embedding"])
    assert model.classes_.tolist() == ["neutral", "smiling"]
    found = np.column_stack([rows["probability_neutral"], rows["probability_smiling"]])
    assert found == pytest.approx(expected, abs=1e-5)
    assert rows["expression"].tolist() == model.predict(rows["embedding"]).tolist()
    assert rows["confidence"] == pytest.approx(expected.max(axis=1), abs=1e-5)
    labels = [Path(path).name.partition("_")[0] for path in rows["path"]]
    assert (rows["expression"] == labels).sum() >= 5  # of six faces of people whom it never saw


def test_on_a_terminal_and_as_json(
    new_people: Path, head: Path, extractor: ExpressionExtractor, predict: Any, tmp_path: Path
) -> None:
    classifier = ExpressionClassifier.from_pretrained(head, encoder=extractor)
    paths = sorted(new_people.iterdir())
    faces = {path: classifier.predict(path) for path in paths}
    header, *lines = predict(new_people)[1].splitlines()
    assert header.split() == ["face", "expression", "confidence", "photo"]
    assert [line.split() for line in lines] == [
        ["0", found[0].expression, f"{found[0].confidence:.2f}", str(path)] if found else ["-", "-", "-", str(path)]
        for path, found in faces.items()
    ]
    assert len({line.index(str(path)) for line, path in zip(lines, paths, strict=True)} | {header.index("photo")}) == 1
    rows = [json.loads(line) for line in predict(new_people, "--json")[1].splitlines()]
    assert len(rows) == 6
    for row in rows:
        (face,) = faces[Path(row["path"])]
        assert row.keys() == {"path", "face", *face.to_dict()}
        assert (row["expression"], row["probabilities"]) == (face.expression, pytest.approx(face.probabilities))


def test_below_min_confidence_the_answer_is_uncertain(new_people: Path, predict: Any, tmp_path: Path) -> None:
    assert predict(new_people, "-o", tmp_path / "all.csv")[0] == 0
    everything = read_table(tmp_path / "all.csv")
    threshold = float(np.sort(everything["confidence"])[2:4].mean())  # three of six are below
    assert predict(new_people, "-o", tmp_path / "sure.csv", "--min-confidence", str(threshold))[0] == 0
    rows = read_table(tmp_path / "sure.csv")
    below = everything["confidence"] < threshold
    assert below.sum() == 3
    assert (rows["expression"] == np.where(below, "uncertain", everything["expression"])).all()
    assert (rows["confidence"] == everything["confidence"]).all()


# Refusals


def test_what_is_refused(
    new_people: Path, random_folder: Path, predict: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(new_people, "-o", tmp_path / "a.txt")[::2] == (
        2,
        f"error: {tmp_path}/a.txt must end in one of .parquet, .csv, .npz\n",
    )
    assert predict(tmp_path / "nowhere")[0] == 2
    for wrong in ("1.5", "-0.1", "nan", "sure"):
        with pytest.raises(SystemExit) as caught:
            main(["predict", "a.jpg", "--min-confidence", wrong])
        assert caught.value.code == 2
        assert f"must be a number from 0 to 1, got '{wrong}'" in capsys.readouterr().err
    status, _, err = predict(new_people, "--model", random_folder)
    assert (status, err.count("\n")) == (1, 1)
    assert "belongs to the encoder 'general-r18-cycle'" in err
    assert main(["predict", str(new_people), "--head", "no-head", "--device", "cpu"]) == 1
    assert "'no-head' is neither a folder" in capsys.readouterr().err
    assert main(["extract", str(new_people), "--device", "cpu"]) == 0  # no head, as before
    assert capsys.readouterr().out.split()[:3] == ["face", "score", "left"]


# Pictures


def words(expression: str, face: Any) -> ClassifiedFace:
    named = {"expression": expression, "confidence": 0.97, "probabilities": {}}
    return ClassifiedFace(**vars(face), embedding=np.zeros(8, np.float32), model_id="m", **named)


@pytest.mark.parametrize("size", [(300, 300), (300, 200), (6000, 4000)])
def test_expressions_are_drawn_beside_the_face(size: tuple[int, int]) -> None:
    """Wider than a score, no smaller, and not on the face, on a thumbnail and on 24 megapixels."""
    image = Image.new("RGB", size, (90, 90, 90))
    side = min(size) / 2
    face = at(size[0] / 4, size[1] / 3, side)
    extents = {}
    for name, drawn_face in {"score": face, "short": words("fear", face), "long": words("happiness", face)}.items():
        drawn = draw_faces(image, [drawn_face])
        factor = drawn.width // size[0]
        marked = (np.asarray(drawn) == (255, 196, 0)).all(axis=2)
        left, top, right, bottom = (face.box * factor).round().astype(int)
        assert not marked[top:bottom, left:right].any()
        rows, columns = np.nonzero(marked[: top - max(4, drawn.width // 200)])  # above the box's line
        extents[name] = (np.ptp(columns), np.ptp(rows))
        assert extents[name][1] >= max(11, drawn.width / 160)
        assert extents[name][0] < drawn.width
    assert extents["score"][0] < extents["short"][0] < extents["long"][0]


def test_a_long_name_is_cut_and_uncertain_is_drawn() -> None:
    image, face = Image.new("RGB", (600, 400), (90, 90, 90)), at(200, 150, 150)
    as_it_is = {name: draw_faces(image, [words(name, face)]).tobytes() for name in ("x" * 21 + "...", "uncertain")}
    assert draw_faces(image, [words("x" * 200, face)]).tobytes() == as_it_is["x" * 21 + "..."]
    assert len(set(as_it_is.values())) == 2


def test_the_command_draws_expressions(new_people: Path, predict: Any, tmp_path: Path) -> None:
    assert predict(new_people, "--draw", tmp_path / "named")[0] == 0
    assert main(["extract", str(new_people), "--draw", str(tmp_path / "scored"), "--device", "cpu"]) == 0
    name = f"smiling_{NEW[0]}"
    named, scored = (np.asarray(Image.open(tmp_path / kind / name)).astype(int) for kind in ("named", "scored"))
    assert (abs(named - scored) > 60).any()
    empty = [np.asarray(Image.open(tmp_path / kind / "coffee.png")) for kind in ("named", "scored")]
    assert (empty[0] == empty[1]).all()


# Jobs


@pytest.fixture
def few(tmp_path: Path, photos: Path) -> Path:
    """Six small photos of a face, one without, and one damaged."""
    folder = tmp_path / "few"
    folder.mkdir()
    with Image.open(photos / "astronaut.png") as image:
        astronaut = image.convert("RGB").resize((200, 200))
    for number in range(6):
        astronaut.rotate(2 * number).save(folder / f"{number}.png")
    Image.new("RGB", (64, 64)).save(folder / "6.png")
    (folder / "7.png").write_bytes(b"not an image")
    return folder


def test_a_job_keeps_its_head(
    few: Path, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = [random_head(random_folder, tmp_path / f"head-{seed}", seed) for seed in (0, 1)]
    out, plain = tmp_path / "out", tmp_path / "plain"
    common = ["--model", str(random_folder), "--device", "cpu"]
    job = [str(few), "-o", str(out), "--shard-rows", "3", *common]
    sure = ["--head", str(heads[0]), "--min-confidence", "0.5"]

    def run(command: str, *arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        return main([command, *arguments]), capsys.readouterr().err

    assert run("predict", *job, *sure)[0] == 1  # one is unreadable
    assert run("predict", str(few), "-o", str(tmp_path / "one.parquet"), *sure, *common)[0] == 1
    rows, expected = read_table(out), read_table(tmp_path / "one.parquet")
    assert list(rows) == list(expected)
    for name, column in expected.items():
        if column.dtype.kind == "f":  # batches of other sizes differ in the last bits
            assert rows[name] == pytest.approx(column, abs=1e-4)
        else:
            assert rows[name].tolist() == column.tolist()
    assert {"probability_happiness", "probability_neutral", "probability_surprise"} <= rows.keys()

    for part in ("files", "faces"):
        (out / part / "part-000001.parquet").unlink()  # as if it had been interrupted
    before = content(out)
    there, now = (Head.from_pretrained(folder).sha256 for folder in heads)
    for message, command, *arguments in (
        (f"head_sha256 is '{there}' there, '{now}' now", "predict", "--head", str(heads[1]), "--min-confidence", "0.5"),
        ("min_confidence is 0.5 there, 0.0 now.", "predict", "--head", str(heads[0])),
        ("head is 'drawn-0' there, None now; head_sha256 is ", "extract"),
    ):
        status, err = run(command, *job, "--resume", *arguments)
        assert (status, err.count("\n")) == (1, 1)
        assert "holds a job with other settings: " in err
        assert message in err
        assert content(out) == before
    assert run("predict", *job, *sure, "--resume")[0] == 1
    again = read_table(out)
    assert sorted(zip(again["path"], again["expression"], strict=True)) == sorted(
        zip(rows["path"], rows["expression"], strict=True)
    )
    kept = {name: data for name, data in before.items() if name.endswith(".parquet")}
    assert kept.items() <= content(out).items()  # not made again
    assert run("predict", *job, *sure)[0] == 2  # it is there

    plain_job = [str(few), "-o", str(plain), "--shard-rows", "3", *common]
    assert run("extract", *plain_job)[0] == 1
    options = json.loads((plain / "manifest.json").read_text())["options"]
    # As version 0.2.0 wrote it.
    assert options == {"detector": "mtcnn", "min_face_size": None, "shard_rows": 3}
    assert "probability_neutral" not in read_table(plain)
    status, err = run("predict", *plain_job, *sure, "--resume")
    assert status == 1
    assert "head is None there, 'drawn-0' now" in err


# Videos


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two squares, of which the green one is away for half a second."""
    monkeypatch.setattr("fergeneral.extractor.make_detector", lambda *_, **__: SquareDetector())
    red, green = (4, 4, RED), (60, 30, GREEN)
    return write_video(
        tmp_path / "clip.mp4", [picture(red) if 20 <= i < 32 else picture(red, green) for i in range(50)]
    )


def test_videos_with_a_head(
    clip: Path, random_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = random_head(random_folder, tmp_path / "head")
    model = ["--model", str(random_folder), "--device", "cpu"]
    table, plot = tmp_path / "t.parquet", tmp_path / "timeline.png"
    arguments = [str(clip), "--head", str(head), "-o", str(table), "--plot", str(plot), *model]
    assert main(["video", *arguments]) == 0
    rows = read_table(table)
    assert len(rows["path"]) == 50 + 38
    assert set(rows["track"].tolist()) == {0, 1}
    assert rows["time"].max() == pytest.approx(49 * 0.04)
    loaded = Head.from_pretrained(head)
    expected = loaded.to_sklearn().predict_proba(rows["embedding"])
    found = np.column_stack([rows[f"probability_{name}"] for name in loaded.classes])
    assert found == pytest.approx(expected, abs=1e-5)
    with Image.open(plot) as image:
        assert min(image.size) > 500
        assert np.asarray(image.convert("RGB")).std() > 20  # it is not blank

    capsys.readouterr()
    assert main(["video", *arguments]) == 2
    assert "t.parquet is there already" in capsys.readouterr().err
    assert main(["video", *arguments[:3], "--plot", str(plot), *model]) == 2
    assert "timeline.png is there already" in capsys.readouterr().err
    assert main(["video", *arguments[:3], "--plot", str(tmp_path / "t.jpeg"), *model]) == 2
    assert "must end in one of .png, .pdf, .svg" in capsys.readouterr().err

    assert main(["predict", str(clip), "--head", str(head), "-o", str(tmp_path / "same.csv"), *model]) == 0
    for name, column in read_table(tmp_path / "same.csv").items():
        assert column.tolist() == rows[name].tolist()
    capsys.readouterr()
    assert main(["video", str(clip), "--head", str(head), "--fps", "5", *model]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["time", "track", "expression", "confidence", "video"]
    assert {line.split()[2] for line in lines} <= set(loaded.classes)

    write_video(tmp_path / "grey.mp4", [picture()] * 3)
    unseen = [str(tmp_path / "grey.mp4"), "--head", str(head), "--plot", str(tmp_path / "none.png"), *model]
    assert main(["video", *unseen]) == 0
    assert "no face to draw" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CLIP", "--draw", "DIR"], "--draw is for photos, and these are videos"),
        (["CLIP", "--save-crops", "DIR"], "--save-crops is for photos"),
        (["CLIP", "--engine", "ray"], "--engine ray is for photos"),
        (["CLIP", "-o", "DIR/"], "for videos name a table"),
        (["CLIP", "--json", "-o", "a.csv"], "give one of them"),
        (["nowhere.mp4"], "no such file or folder: nowhere.mp4"),
        (["FOLDER"], "but videos: use fergeneral video with --head"),
    ],
)
def test_what_predict_does_not_do_with_videos(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    clip = write_video(tmp_path / "clips" / "clip.mp4", [picture()])
    places = {"CLIP": clip, "FOLDER": tmp_path / "clips", "DIR": tmp_path / "new", "DIR/": f"{tmp_path}/new/"}
    assert main(["predict", *(str(places.get(argument, argument)) for argument in arguments)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


# Timelines


def tracked(time: float, track: int, probabilities: dict[str, float]) -> ClassifiedTrackedFace:
    face = at(0, 0, 10)
    best = max(probabilities, key=lambda name: probabilities[name])
    named = {"expression": best, "confidence": probabilities[best], "probabilities": probabilities}
    return ClassifiedTrackedFace(**vars(face), embedding=face.box, model_id="m", time=time, track=track, **named)


def test_the_moving_mean_is_that_of_the_definition() -> None:
    generator = np.random.default_rng(0)
    times = np.sort(generator.uniform(0, 20, 300))
    values = generator.random((300, 4))
    expected = [values[abs(times - time) <= 0.25].mean(axis=0) for time in times]
    assert moving_mean(times, values, 0.5) == pytest.approx(np.array(expected), abs=1e-9)
    even = np.arange(30) * 0.25  # on the window's edge
    wanted = [values[:30][max(0, i - 1) : i + 2].mean(axis=0) for i in range(30)]
    assert moving_mean(even, values[:30], 0.5) == pytest.approx(np.array(wanted))


def test_a_panel_for_each_of_the_longest_tracks() -> None:
    timeline = Timeline()
    lengths = [40, 3, 30, 31, 4, 32, 33, 34]  # of eight tracks
    for frame in range(60):
        faces = [
            tracked(frame / 10, track, {"a$b": 0.25, "_c": 0.75})
            for track, length in enumerate(lengths)
            if track <= frame < track + length and not (track == 0 and 10 <= frame < 16)
        ]
        timeline.add("folder/v$1$.mp4", frame / 10, faces)
    figure = timeline.figure()
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[0] == "track 0: 34 frames, 0.0 to 3.9 s"
    assert [title.partition(":")[0] for title in titles] == [f"track {i}" for i in (0, 2, 3, 5, 6, 7)]
    assert figure.get_suptitle() == "Expressions in v$1$.mp4: the 6 longest of 8 tracks, 2 shorter left out"
    line = figure.axes[0].get_lines()[0]
    times, values = line.get_data()
    assert times == pytest.approx(np.arange(60) / 10)
    seen = ~np.isnan(values)
    assert np.flatnonzero(seen).tolist() == [*range(10), *range(16, 40)]
    assert values[seen] == pytest.approx(0.25)
    legend = figure.legends[0]
    assert "centred moving mean over 0.5 s" in legend.get_title().get_text()
    assert [text.get_text().strip() for text in legend.get_texts()] == [r"a\$b", "_c", "face not seen"]
    assert figure.axes[-1].get_xlabel() == "time in the video (seconds)"


def test_many_classes_and_videos() -> None:
    timeline = Timeline()
    names = [f"class {i}" for i in range(14)]
    for video, seconds in (("a.mp4", 1), ("b.mp4", 3)):
        for frame in range(10 * seconds):
            timeline.add(video, frame / 10, [tracked(frame / 10, 0, {n: (i + 1) / 105 for i, n in enumerate(names)})])
        timeline.add(video, seconds, [])
    figure = timeline.figure()
    assert [axis.get_title(loc="left").partition(":")[0] for axis in figure.axes] == [
        "a.mp4, track 0",
        "b.mp4, track 0",
    ]
    assert [axis.get_xlim()[1] for axis in figure.axes] == [1, 3]
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [*names[4:], "face not seen"]
    assert "4 classes that stay lower are left out" in legend.get_title().get_text()
    with pytest.raises(DataError, match="no face was found"):
        Timeline().figure()


# Programs


def test_pyinstallers_hook_collects_packaged_heads(tmp_path: Path) -> None:
    """From the package as it is installed: the weights are in it, as _weights."""
    package = tmp_path / "site" / "fergeneral"
    shutil.copytree(ROOT / "fergeneral", package, ignore=shutil.ignore_patterns("__pycache__"))
    folder = package / "_weights" / "heads" / "general-r18-cycle" / "expressions-8"
    folder.mkdir(parents=True)
    names = ("head.json", "head.safetensors", "README.md")
    for name in names:
        (folder / name).write_text("")
    code = (
        "import fergeneral, pathlib, runpy\n"
        "hook = pathlib.Path(fergeneral.__file__).parent / '_pyinstaller' / 'hook-fergeneral.py'\n"
        "for source, target in runpy.run_path(str(hook))['datas']: print(target + '/' + pathlib.Path(source).name)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    collected = done.stdout.splitlines()
    for name in names:
        assert f"fergeneral/_weights/heads/general-r18-cycle/expressions-8/{name}" in collected
