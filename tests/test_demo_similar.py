"""The tab Similar of the demo: its neighbours against a computation by hand, and what is said where there are none."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS, ROOT
from PIL import Image

from fergeneral import DataError, ExpressionClassifier, ExpressionExtractor, Face
from fergeneral.alignment import TEMPLATE
from fergeneral.demo import similar
from fergeneral.demo.settings import DemoSettings
from fergeneral.demo.similar import Collection, add_tab, describe, embed_photos, nearest, open_search
from fergeneral.jobs import run_job
from fergeneral.similar import find_similar
from fergeneral.sources import list_photos
from fergeneral.storage import FaceTable, face_columns, read_table

# Gradio leaves event loops open that it has made for its locks.
pytestmark = [
    pytest.mark.usefixtures("gradio_event_loops"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LONDON = ROOT / "examples" / "london"
FILES = [str(LONDON / label / f"{person}.jpg") for label in ("neutral", "smiling") for person in ("002", "025", "030")]


@pytest.fixture(scope="module")
def settings(extractor: ExpressionExtractor) -> DemoSettings:
    return DemoSettings(classifier=ExpressionClassifier.from_pretrained(encoder=extractor), max_photos=8, max_faces=2)


@pytest.fixture(scope="module")
def faces(extractor: ExpressionExtractor) -> list[Face]:
    return [extractor.extract(file)[0] for file in FILES]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders, with a photo without a face and a file that is no photo."""
    folder = tmp_path_factory.mktemp("served") / "photos"
    for file in FILES:
        (folder / Path(file).parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / Path(file).parent.name)
    shutil.copy(PHOTOS / "coffee.png", folder)
    (folder / "broken.jpg").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def served(photos: Path, extractor: ExpressionExtractor) -> Collection:
    return open_search(photos, extractor)


def by_hand(query: Face, faces: Sequence[Face]) -> tuple[list[int], np.ndarray]:
    """Places of the faces, the nearest first, and their distances, in float64."""
    vectors = np.array([face.embedding for face in faces], dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = query.embedding.astype(np.float64)
    distances = np.array([1 - float(np.sum(row * wanted)) / float(np.sum(wanted * wanted)) ** 0.5 for row in vectors])
    order = np.argsort(distances, kind="stable")
    return order.tolist(), distances[order]


def searches(settings: DemoSettings, search: Path | None = None) -> Any:
    changed = DemoSettings(classifier=settings.classifier, search=search, max_photos=8, max_faces=2)
    return similar._Searches(changed)


def text(value: str) -> str:
    """Of a message in HTML, one or more."""
    return " ".join(re.findall("<p>(.*?)</p>", value))


def quiet(*_: Any, **__: Any) -> None:
    """In place of Gradio's progress bar."""


def cells(table: str) -> list[list[str]]:
    return [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", table)[1:]]


# The neighbours


@pytest.mark.parametrize("k", [1, 4, 50])
def test_photos_against_a_computation_by_hand(
    k: int, extractor: ExpressionExtractor, faces: list[Face], photos: Path, served: Collection
) -> None:
    query = extractor.extract(PHOTOS / "astronaut.png")[0]
    order, distances = by_hand(query, faces)
    pictures, rows = nearest(query, served, k)
    names = [str(Path(FILES[place]).relative_to(LONDON)) for place in order][:k]
    assert [row[2] for row in rows] == names
    assert [float(row[1]) for row in rows] == pytest.approx(distances[:k], abs=6e-5)  # four digits are shown
    assert [int(row[0]) for row in rows] == list(range(1, len(names) + 1))
    assert [caption for _, caption in pictures] == [
        f"{distance:.3f}  {Path(name).name}" for distance, name in zip(distances, names, strict=False)
    ]


def test_a_picture_is_the_face_of_its_photo(faces: list[Face], served: Collection) -> None:
    (picture, _), *_ = nearest(faces[5], served, 1)[0]
    photo = np.asarray(Image.open(FILES[5]).convert("RGB"), dtype=float)
    left, top, right, bottom = faces[5].box.astype(int).tolist()
    inside = photo[top:bottom, left:right].mean(axis=(0, 1))
    middle = np.asarray(picture, dtype=float)[60:150, 50:150].mean(axis=(0, 1))
    assert abs(middle - inside).max() < 20
    assert picture.size == (200, 200)


def test_photos_are_counted(served: Collection) -> None:
    assert (served.photos, served.empty, served.unreadable) == (8, 1, 1)
    assert describe(served, 3, 3) == (
        "The 3 nearest faces. 6 faces in 8 photos were searched. Photos without a face: 1. "
        "Photos that cannot be read: 1."
    )


def test_a_job_is_searched_where_it_is(photos: Path, extractor: ExpressionExtractor, tmp_path: Path) -> None:
    gone = tmp_path / "photos"
    shutil.copytree(photos / "smiling", gone)
    run_job(extractor, list_photos(gone), tmp_path / "out", shard_rows=2)
    collection = open_search(tmp_path / "out", extractor)
    assert collection.table == tmp_path / "out"
    query = extractor.extract(FILES[5])[0]
    pictures, rows = nearest(query, collection, 3)
    assert rows[0][2] == "030.jpg"
    assert len(pictures) == 3
    assert "searched" not in describe(collection, 3, 3)
    (gone / "002.jpg").unlink()
    pictures, again = nearest(query, collection, 3)
    assert again == rows
    assert len(pictures) == 2
    assert describe(collection, 2, 3).endswith("The photos of 1 of them are not at hand; the table names them.")


def test_a_table_of_a_video_gives_times(tmp_path: Path) -> None:
    from fergeneral.types import TrackedFace

    landmarks = np.array(TEMPLATE, np.float32)
    with FaceTable(tmp_path / "faces.npz", 3, True) as table:
        for track in range(2):
            vector = np.array([1, track, 0], np.float32)
            table.add("/secret/a.mp4", [TrackedFace(np.zeros(4, np.float32), landmarks, 1.0, vector, "m", 1.5, track)])
    query = Face(np.zeros(4, np.float32), landmarks, 1.0, np.array([1, 0, 0], np.float32), "m")
    pictures, rows = nearest(query, Collection(table=tmp_path / "faces.npz"), 5)
    assert pictures == []
    assert rows == [["1", "0.0000", "a.mp4, 1.50 s, track 0", "0"], ["2", "0.2929", "a.mp4, 1.50 s, track 1", "0"]]


def test_a_table_in_memory_is_searched_as_its_file(tmp_path: Path, faces: list[Face]) -> None:
    with FaceTable(tmp_path / "faces.npz", 512) as table:
        for file, face in zip(FILES, faces, strict=True):
            table.add(file, [face])
    memory = face_columns([(file, 0, face) for file, face in zip(FILES, faces, strict=True)], 512)
    stored = read_table(tmp_path / "faces.npz")
    assert memory.keys() == stored.keys()
    assert all((memory[name] == stored[name]).all() for name in stored)
    by_file, by_memory = (find_similar(faces[0], table, 4) for table in (tmp_path / "faces.npz", memory))
    assert [(near.path, near.similarity) for near in by_memory] == [(near.path, near.similarity) for near in by_file]
    with pytest.raises(DataError, match="the table has embeddings of the weights"):
        find_similar(Face(np.zeros(4), np.zeros((5, 2)), 1.0, faces[0].embedding, "other"), memory)


def test_progress_is_told_for_each_photo(extractor: ExpressionExtractor) -> None:
    told: list[tuple[int, int]] = []
    embed_photos(FILES[:2], FILES[:2], extractor, progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]


# What visitors do


def test_uploads_are_embedded_once(settings: DemoSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = searches(settings)
    found, chosen, gallery, message, button = calls.read_query(FILES[3])
    assert (len(found), chosen, gallery.visible, message, button.interactive) == (1, 0, False, "<p></p>", True)
    message, gallery, table, kept = calls.search(found, 0, FILES, 3, None, quiet)
    assert text(message) == "The 3 nearest faces. 6 faces in 6 photos were searched."
    assert cells(table)[0][2] == "002.jpg"
    assert cells(table)[0][1] == "0.0000"
    assert "/" not in re.sub("</?[^>]*>", "", table)
    monkeypatch.setattr(similar, "embed_photos", None)
    message, gallery, table, again = calls.search(found, 0, FILES, 2, kept, quiet)
    assert again is kept
    assert len(cells(table)) == len(gallery.value) == 2


def test_the_folder_is_embedded_once(settings: DemoSettings, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = searches(settings, photos)
    found = calls.read_query(FILES[3])[0]
    first = calls.search(found, 0, None, 2, None, quiet)
    assert cells(first[2])[0][2] == "smiling/002.jpg"
    monkeypatch.setattr(similar, "open_search", None)
    assert calls.search(found, 0, [], 2, None, quiet)[2] == first[2]


def test_one_of_several_faces_is_chosen(settings: DemoSettings) -> None:
    calls = searches(settings)
    query = str(PHOTOS / "three_faces.jpg")
    found, chosen, gallery, message, _ = calls.read_query(query)
    assert len(found) == 2  # max_faces
    assert (chosen, gallery.visible, len(gallery.value)) == (0, True, 2)
    assert text(message) == "2 faces were found: choose one. The largest is chosen now."
    chosen, message, _, table, kept = calls.choose(found, [query], 3, None, SimpleNamespace(index=1), quiet)
    assert chosen == 1
    assert cells(table)[0][3] == "1"  # itself
    assert calls.search(found, 0, [query], 3, kept, quiet)[2] != table


def test_what_cannot_be_searched_is_said(settings: DemoSettings, tmp_path: Path, photos: Path) -> None:
    calls = searches(settings)
    found = calls.read_query(FILES[0])[0]

    def said(*arguments: Any) -> str:
        message, gallery, table, _ = calls.search(*arguments, None, quiet)
        assert (gallery.visible, table) == (False, "")
        assert str(tmp_path) not in message
        return text(message)

    assert said([], 0, FILES, 3) == "Give a photo with a face first."
    assert said(found, 0, None, 3) == "Upload the photos that are to be searched first."
    assert said(found, 0, FILES * 2, 3) == "12 photos were uploaded; at most 8 are taken."
    assert said(found, 0, [str(photos / "coffee.png")], 3).startswith("No face was found.")
    with FaceTable(tmp_path / "faces.npz", 512) as table:
        table.add("a.jpg", [dataclasses.replace(found[0], model_id="x")])
    calls = searches(settings, tmp_path / "faces.npz")
    assert said(found, 0, None, 3).startswith("Faces.npz has embeddings of the weights &#x27;x&#x27;")
    calls = searches(settings, tmp_path / "gone")
    assert "gone" in said(found, 0, None, 3)


def test_queries_that_have_no_face(settings: DemoSettings, photos: Path) -> None:
    calls = searches(settings)
    for path, start in (("coffee.png", "No face was found."), ("broken.jpg", "Broken.jpg ")):
        found, _, gallery, message, button = calls.read_query(str(photos / path))
        assert (found, gallery.visible, button.interactive) == ([], False, False)
        assert text(message).startswith(start)
        assert str(photos) not in message
    found, _, _, message, button = calls.read_query(None)
    assert (found, text(message), button.interactive) == ([], "", False)


@pytest.mark.parametrize("served", [True, False])
def test_the_tab_says_what_it_is_not_for(served: bool, settings: DemoSettings, photos: Path) -> None:
    import gradio as gr

    changed = DemoSettings(classifier=settings.classifier, search=photos if served else None)
    with gr.Blocks(analytics_enabled=False) as page:
        add_tab(changed)
    shown = str(page.get_config_file())
    assert "not the same person. It must not be used to identify persons." in shown
    assert ("the collection of this demo is searched" in shown) == served
    assert str(photos) not in shown
    assert "at most 200" in shown
