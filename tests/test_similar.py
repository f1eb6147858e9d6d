"""Similar faces: against a computation by hand, on a real job, and what their picture shows."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from conftest import PHOTOS, ROOT
from PIL import Image

from fergeneral import DataError, ExpressionExtractor, Face, ImageError, TrackedFace
from fergeneral.alignment import TEMPLATE
from fergeneral.cli import main
from fergeneral.jobs import run_job
from fergeneral.similar import Neighbour, contact_sheet, find_similar
from fergeneral.sources import list_photos
from fergeneral.storage import FaceTable, iter_table, read_table

LONDON = ROOT / "examples" / "london"


def made_up(embedding: Any, model_id: str = "model") -> Face:
    box, landmarks = np.array([10, 20, 110, 120], np.float32), np.array(TEMPLATE, np.float32) * 100 + (10, 20)
    return Face(box, landmarks.astype(np.float32), 0.5, np.asarray(embedding, np.float32), model_id)


def write(path: Path, faces: Sequence[Face], *, video: bool = False) -> Path:
    """A photo a face: 0.jpg, 1.jpg, ..."""
    with FaceTable(path, len(faces[0].embedding) if faces else 4, video) as table:
        for number, face in enumerate(faces):
            table.add(f"{number}.jpg", [face])
    return path


def by_hand(query: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every row's place and cosine similarity, the most similar first."""
    q, x = query.astype(np.float64), rows.astype(np.float64)
    cosine = np.array([sum(q * row) / (sum(q * q) * sum(row * row)) ** 0.5 for row in x])
    order = sorted(range(len(cosine)), key=lambda row: (-cosine[row], row))
    return np.array(order), cosine[order]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, extractor: ExpressionExtractor) -> Path:
    """Of 24 London photos and one of three faces, in four shards."""
    folder = tmp_path_factory.mktemp("similar") / "out"
    run_job(extractor, list_photos([LONDON / "neutral", LONDON / "smiling", PHOTOS]), folder, shard_rows=8)
    assert len(list((folder / "faces").iterdir())) == 4
    return folder


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
@pytest.mark.parametrize("k", [1, 7, 5000])
def test_against_a_computation_by_hand(suffix: str, k: int, tmp_path: Path) -> None:
    """More rows than are read at once, of lengths that differ by a factor of a million."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4500, 6)) * 10.0 ** generator.integers(-3, 4, size=(4500, 1))
    query = generator.normal(size=6)
    table = write(tmp_path / f"faces{suffix}", [made_up(row) for row in rows])
    found = find_similar(query, table, k)
    order, cosine = by_hand(query, rows.astype(np.float32))
    assert [neighbour.path for neighbour in found] == [f"{row}.jpg" for row in order[:k]]
    assert [neighbour.similarity for neighbour in found] == pytest.approx(cosine[:k], abs=1e-12)
    assert (found[0].face.embedding == rows[order[0]].astype(np.float32)).all()


def test_on_a_job(job: Path, extractor: ExpressionExtractor) -> None:
    photo = LONDON / "smiling" / "025.jpg"
    face = extractor.extract(photo)[0]
    rows = read_table(job)
    order, cosine = by_hand(face.embedding, rows["embedding"])
    for query in (face, face.embedding, face.embedding.tolist(), photo, Image.open(photo)):
        found = find_similar(query, job, 9, extractor=extractor)
        assert [(n.path, n.number) for n in found] == [(rows["path"][i], rows["face"][i]) for i in order[:9]]
        assert [n.similarity for n in found] == pytest.approx(cosine[:9], abs=1e-5)
    assert found[0].path == str(photo)
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    for place, neighbour in zip(order, found, strict=False):
        assert type(neighbour.face) is Face
        for name in ("box", "landmarks", "score", "embedding", "model_id"):
            assert np.array_equal(getattr(neighbour.face, name), rows[name][place]), name
    assert sum("smiling" in neighbour.path for neighbour in found) >= 6  # a third of the faces are


def test_of_three_faces_in_a_photo_each_finds_itself(job: Path, extractor: ExpressionExtractor) -> None:
    for number, face in enumerate(extractor.extract(PHOTOS / "three_faces.jpg")):
        (first,) = find_similar(face, job, 1)
        assert (Path(first.path).name, first.number) == ("three_faces.jpg", number)


def test_a_table_of_a_video(tmp_path: Path) -> None:
    faces = [TrackedFace(**vars(made_up([1, i, 0, 0])), time=i / 4, track=i % 2) for i in range(3)]
    table = write(tmp_path / "faces.parquet", faces, video=True)
    first = find_similar([0, 1, 0, 0], table, 1)[0].face
    assert isinstance(first, TrackedFace)
    assert (first.time, first.track) == (0.5, 0)


def test_lengths_do_not_matter(tmp_path: Path) -> None:
    """Of four rows of one direction, in two parts of the table, none is missed and none is above 1."""
    rows = np.zeros((4000, 2))
    rows[:, 0] = -1
    rows[[10, 40, 2100, 3999]] = [[1, 1], [2, 2], [3e30, 3e30], [5e-30, 5e-30]]
    found = find_similar([7, 7], write(tmp_path / "faces.parquet", [made_up(row) for row in rows]), 5)
    assert {n.path for n in found[:4]} == {"10.jpg", "40.jpg", "2100.jpg", "3999.jpg"}
    assert [n.similarity for n in found] == pytest.approx([1, 1, 1, 1, -(0.5**0.5)], abs=1e-12)
    assert max(n.similarity for n in found) <= 1


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_a_table_without_a_face(suffix: str, tmp_path: Path) -> None:
    assert find_similar([1, 2, 3, 4], write(tmp_path / f"faces{suffix}", [])) == []


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_what_cannot_be_compared_is_refused(suffix: str, tmp_path: Path) -> None:
    table = write(tmp_path / f"faces{suffix}", [made_up([1, 2, 3]), made_up([1, 0, 0])])
    for query, message in (
        (made_up([1, 2, 3], "other"), "has embeddings of the weights 'model', wanted 'other'"),
        ([1, 2, 3, 4], "has 4 numbers, those of .* have 3"),
        ([1, np.nan, 3], "embedding of the query is not finite"),
        ([1, np.inf, 3], "embedding of the query is not finite"),
        (made_up([0, 0, 0]), "embedding of the query is not finite, or all its numbers are 0"),
        (["a", "b"], "the query is no embedding"),
        ([[1, 2, 3]], r"one embedding of shape \(D,\), got shape \(1, 3\)"),
    ):
        with pytest.raises(DataError, match=message):
            find_similar(query, table)
    for wrong in (np.nan, np.inf):
        broken = write(tmp_path / f"broken{suffix}", [made_up([1, 2, 3]), made_up([1, wrong, 3])])
        with pytest.raises(DataError, match=r"1\.jpg in .*broken.* not finite"):
            find_similar([1, 2, 3], broken, 1)
    mixed = write(tmp_path / f"mixed{suffix}", [made_up([1, 2, 3]), made_up([1, 2, 3], "other")])
    with pytest.raises(DataError, match="weights 'other', wanted 'model'"):
        find_similar([1, 2, 3], mixed)
    for k, kind in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="k must be a positive integer"):
            find_similar([1, 2, 3], table, k)  # type: ignore[arg-type]


def test_tables_that_are_none(tmp_path: Path, job: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no table")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "others.parquet")
    for name, message in (
        ("empty", "holds no finished shard"),
        ("missing.parquet", "not a readable table"),
        ("text.parquet", "not a readable table"),
        ("others.parquet", "not a readable table"),
        ("faces.xlsx", "must end in one of"),
    ):
        with pytest.raises(DataError, match=message):
            find_similar([1.0], tmp_path / name)
    broken = tmp_path / "broken"
    shutil.copytree(job, broken)
    part = sorted((broken / "faces").iterdir())[1]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{part.name} is not a readable table"):
        find_similar(read_table(job)["embedding"][0], broken)


def test_a_photo_without_a_face(job: Path, extractor: ExpressionExtractor) -> None:
    with pytest.raises(ImageError, match=r"no face was found in .*coffee\.png"):
        find_similar(PHOTOS / "coffee.png", job, extractor=extractor)
    with pytest.raises(ImageError, match="not an image"):
        find_similar(b"no image", job, extractor=extractor)


def test_the_parts_of_a_table_are_the_table(job: Path, tmp_path: Path) -> None:
    many = write(tmp_path / "many.parquet", [made_up([i, 1]) for i in range(5000)])
    for table, least in ((job, 4), (many, 2)):
        parts, whole = list(iter_table(table)), read_table(table)
        assert len(parts) >= least
        for name, column in whole.items():
            assert np.array_equal(np.concatenate([part[name] for part in parts]), column), name


def test_without_pyarrow(job: Path) -> None:
    code = (
        f"import sys; sys.modules['pyarrow'] = None\nfrom fergeneral.similar import find_similar\n"
        f"try: find_similar([1.0], {str(job)!r})\nexcept ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("MissingExtraError"), done.stderr
    assert "pip install 'fergeneral[parquet]'" in done.stdout


def test_the_module_is_cheap_to_import() -> None:
    code = (
        "import sys, fergeneral.similar; print([name for name in ('torch', 'PIL', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def tile_of(sheet: Image.Image, place: int, tile: int = 160, columns: int = 6) -> np.ndarray:
    """Pixels of a tile, without its edge."""
    gap, line = tile // 20, tile // 7
    left, top = gap + place % columns * (tile + gap), gap + place // columns * (tile + line + gap)
    return np.asarray(sheet)[top + 8 : top + tile - 8, left + 8 : left + tile - 8].astype(int)


def test_the_tiles_of_a_contact_sheet(tmp_path: Path) -> None:
    """Photos of one colour each, so that every tile says which photo it came from."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (250, 0, 250), (0, 250, 250), (90, 40, 10)]
    neighbours = []
    for number, colour in enumerate(colours):
        Image.new("RGB", (200, 200), colour).save(tmp_path / f"{number}.png")
        neighbours.append(Neighbour(1 - number / 10, str(tmp_path / f"{number}.png"), 0, made_up([1, 2])))
    query = (Image.new("RGB", (200, 200), (120, 130, 140)), made_up([1, 2]))
    sheet = contact_sheet(neighbours, query)
    assert (sheet.mode, sheet.size) == ("RGB", (6 * 168 + 8, 2 * 190 + 8))
    for place, colour in enumerate([(120, 130, 140), *colours]):
        assert (tile_of(sheet, place) == colour).all(), place
        below = np.asarray(sheet)[8 + 160 + place // 6 * 190 :][:22, 8 + place % 6 * 168 :][:, :160]
        assert 20 < (below.max(axis=2) < 128).sum() < 1000, place  # letters
    assert (np.asarray(sheet)[-100:, -168 * 4 :] == 255).all()  # where there is no tile
    frame = (np.asarray(sheet) == (255, 196, 0)).all(axis=2)
    assert frame[:, :175].sum() > 4 * 150 * 4 * 0.9
    assert not frame[:, 175:].any()
    assert not (np.asarray(contact_sheet(neighbours)) == (255, 196, 0)).all(axis=2).any()


def test_tiles_without_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), (250, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    face, nowhere = made_up([1, 2]), dataclasses.replace(made_up([1, 2]), landmarks=np.zeros((5, 2), np.float32))
    tracked = TrackedFace(**vars(face), time=1.5, track=0)
    there = Neighbour(0.9, str(tmp_path / "a.png"), 0, face)
    grey = [
        there._replace(path=str(tmp_path / "gone.png")),
        there._replace(path=str(tmp_path / "b.png")),
        there._replace(face=nowhere),
        there._replace(face=tracked),
        there._replace(path=str(tmp_path / "a.tar/a.png")),
    ]
    sheet = contact_sheet([there, *grey])
    assert (tile_of(sheet, 0) == (250, 0, 0)).all()
    texts = []
    for place in range(1, 6):
        pixels = tile_of(sheet, place)
        assert 0.8 < (pixels == 208).all(axis=2).mean() < 0.995, place
        texts.append(pixels.tobytes())
    assert len(set(texts)) == 4  # two cannot be read
    assert contact_sheet([]).size == (176, 198)


def test_real_faces_are_cut_as_they_are(job: Path, extractor: ExpressionExtractor) -> None:
    """Detected again in the tile, eyes and mouth are in their places."""
    (neighbour,) = find_similar(LONDON / "neutral" / "140.jpg", job, 1, extractor=extractor)
    sheet = contact_sheet([neighbour], tile=300)
    (face,) = extractor.extract(sheet)
    eyes, mouth = face.landmarks[:2], face.landmarks[3:]
    assert eyes.mean(axis=0) == pytest.approx([15 + 150, 15 + 300 * (0.53 - 0.16 * 0.66)], abs=12)
    assert mouth.mean(axis=0) == pytest.approx([15 + 150, 15 + 300 * (0.53 + 0.255 * 0.66)], abs=15)


def test_the_command(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = str(LONDON / "smiling" / "002.jpg")
    arguments = ["similar", photo, str(job), "--device", "cpu"]
    assert main([*arguments, "-k", "4", "--sheet", "sheet.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["similarity", "face", "photo"]
    assert lines[1].split() == ["1.0000", "0", photo]
    assert len(lines) == 5
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (5 * 168 + 8, 198)
        assert abs(tile_of(sheet, 0) - tile_of(sheet, 1)).mean() < 1  # the query finds itself
        assert abs(tile_of(sheet, 0) - tile_of(sheet, 2)).mean() > 10
    assert main([*arguments, "-k", "2", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["path"], first["face"], "embedding" in first) == (photo, 0, False)
    assert first["similarity"] > second["similarity"] > 0.8
    shutil.copy(PHOTOS / "coffee.png", "empty.png")
    shutil.copy(photo, "photo.jpg")
    assert main(["extract", "photo.jpg", "-o", "one.parquet", "--device", "cpu"]) == 0
    for arguments_now, status, message in (
        ([*arguments, "--sheet", "sheet.png"], 2, "is there already"),
        ([*arguments, "--sheet", "sheet.txt"], 2, "must end in one of"),
        (["similar", "gone.jpg", str(job)], 2, "no such file"),
        (["similar", photo, "gone"], 2, "no such file"),
        (["similar", "empty.png", str(job)], 1, "no face was found in empty.png"),
        (["similar", photo, "one.parquet", "--sheet", "photo.jpg", "--overwrite"], 1, "is read by this command"),
    ):
        assert main([*arguments_now, *([] if "--device" in arguments_now else ["--device", "cpu"])]) == status
        assert message in capsys.readouterr().err


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "similar.md").read_text(), flags=re.DOTALL)


def test_the_snippets_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order, in one folder; DuckDB finds what `find_similar` finds. LanceDB is no dependency: read alone."""
    search, sql, database = SNIPPETS
    shutil.copytree(LONDON / "smiling", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(search, "similar.md", "exec"), names)
    assert "1.000  photos/002.jpg, face 0" in capsys.readouterr().out
    with Image.open("sheet.png") as sheet:
        assert sheet.width == 6 * 168 + 8
    exec(compile(sql, "similar.md", "exec"), names)
    found = [(neighbour.path, neighbour.number) for neighbour in names["neighbours"]]
    assert [row[:2] for row in names["rows"]] == found[:10]
    assert [row[2] for row in names["rows"]] == pytest.approx(
        [n.similarity for n in names["neighbours"][:10]], abs=1e-5
    )
    compile(database, "similar.md", "exec")
