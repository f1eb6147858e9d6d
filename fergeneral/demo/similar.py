"""The tab Similar of the demo: the faces of a collection whose expressions are most like that of a face."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from fergeneral.demo.photo import NO_FACE, crop_gallery, html_table, note, photo_input, readable
from fergeneral.demo.settings import DemoSettings
from fergeneral.errors import DataError, FergeneralError, ImageError
from fergeneral.extractor import ExpressionExtractor
from fergeneral.similar import Neighbour, face_tile, find_similar
from fergeneral.storage import face_columns
from fergeneral.types import Face, TrackedFace

_HEADINGS = ["Rank", "Distance", "Photo", "Face"]
_TILE = 200  # pixels
_STYLE = ".fer-table-box { contain: inline-size; }"  # a long name does not widen the page
_MOST_SHOWN = 50

_HELP = (
    """This finds faces with a **similar expression**, not the same person. It must not be used to identify persons."""
)
_LIMITS = """The distance is 1 − the cosine similarity of two embeddings: 0 for the same direction. It ranks the faces
for one query; no value of it means "the same expression". A face that is itself among the photos is found, at 0.

Neighbours also share what else shapes a face in a photo: pose, lighting, sharpness, glasses, age, the person. Of the
ten nearest faces in the London set, measured with the weights `general-r18-cpu`, 86 % had the expression of the query
(50 % by chance), and 1.0 % were the same person (0.5 % by chance)."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Faces that can be searched.

    `table`: in memory, as `read_table` returns it, or the path of a job or table. `root`: names are given from this
    folder on; None: without any folder. `photos`, `empty`, `unreadable`: how many were looked at, had no face, could
    not be read; 0 for a table.
    """

    table: dict[str, np.ndarray] | Path
    root: Path | None = None
    photos: int = 0
    empty: int = 0
    unreadable: int = 0

    def name(self, path: str) -> str:
        """Of a photo, as visitors may see it."""
        return Path(path).name if self.root is None else os.path.relpath(path, self.root)


def embed_photos(
    photos: Sequence[Any],
    names: Sequence[str],
    extractor: ExpressionExtractor,
    *,
    root: Path | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Collection:
    """Embed every face of photos, to be searched in memory.

    Parameters
    ----------
    photos : sequence
        Anything `load_image` takes.
    names : sequence of str
        Of each photo, its path.
    extractor : ExpressionExtractor
        Finds and embeds the faces.
    root : path, optional
        Of the `Collection`.
    progress : callable, optional
        `progress(done, total)` is called after each photo.

    Returns
    -------
    Collection
        Photos that cannot be read are counted.
    """
    unreadable: list[int] = []
    rows: list[tuple[str, int, Face]] = []
    empty = 0
    found = extractor.extract_many(photos, on_error=lambda place, _: unreadable.append(place))
    for place, faces in enumerate(found):
        rows += [(names[place], number, face) for number, face in enumerate(faces)]
        empty += not faces
        progress(place + 1, len(names))
    return Collection(
        table=face_columns(rows, extractor.config.embedding_size),
        root=root,
        photos=len(names),
        empty=empty - len(unreadable),
        unreadable=len(unreadable),
    )


def open_search(
    search: Path, extractor: ExpressionExtractor, *, progress: Callable[[int, int], object] = lambda done, total: None
) -> Collection:
    """What `DemoSettings.search` names: a job or a table as it is, a folder of photos embedded.

    Parameters
    ----------
    search : path
        Folder of photos, looked into recursively; folder of a job; or a .parquet, .csv or .npz file of faces.
    extractor : ExpressionExtractor
        For photos.
    progress : callable, optional
        As for `embed_photos`.

    Returns
    -------
    Collection

    Raises
    ------
    DataError
        For a path that is not there.
    """
    from fergeneral.jobs import face_parts
    from fergeneral.sources import list_photos

    if search.is_file() or face_parts(search):
        return Collection(table=search)
    photos = list_photos(search, recursive=True)
    names = [photo.path for photo in photos]
    return embed_photos([photo.read() for photo in photos], names, extractor, root=search, progress=progress)


def nearest(face: Face, collection: Collection, k: int) -> tuple[list[tuple[Image.Image, str]], list[list[str]]]:
    """The faces with the smallest distance, as pictures with captions, and as rows.

    Parameters
    ----------
    face : Face
        The query.
    collection : Collection
        That is searched.
    k : int
        How many faces are wanted, 1 or more.

    Returns
    -------
    pictures : list of (PIL.Image.Image, str)
        Of the faces whose photo can be read.
    rows : list of list of str
        Of all: rank, distance, name of the photo, place of the face in it.

    Raises
    ------
    DataError
        For a table that cannot be read, or of other weights.
    """
    pictures, rows = [], []
    for rank, neighbour in enumerate(find_similar(face, collection.table, k), 1):
        distance, name = 1 - neighbour.similarity, _name(neighbour, collection)
        rows.append([str(rank), f"{distance:.4f}", name, str(neighbour.number)])
        tile = face_tile(neighbour.path, neighbour.face, _TILE)
        if not isinstance(tile, str):
            pictures.append((tile, f"{distance:.3f}  {Path(name).name}"))
    return pictures, rows


def _name(neighbour: Neighbour, collection: Collection) -> str:
    name = collection.name(neighbour.path)
    if isinstance(neighbour.face, TrackedFace):
        return f"{name}, {neighbour.face.time:.2f} s, track {neighbour.face.track}"
    return name


def describe(collection: Collection, pictures: int, rows: int) -> str:
    """In a sentence or three, what was searched.

    Parameters
    ----------
    collection : Collection
        That was searched.
    pictures, rows : int
        How many faces of the result are shown, and how many it has.

    Returns
    -------
    str
        Plain text.
    """
    if not rows:
        return NO_FACE
    parts = [f"The {rows} nearest faces." if rows > 1 else "The nearest face."]
    if isinstance(collection.table, dict):
        parts.append(f"{len(collection.table['path'])} faces in {collection.photos} photos were searched.")
    if collection.empty:
        parts.append(f"Photos without a face: {collection.empty}.")
    if collection.unreadable:
        parts.append(f"Photos that cannot be read: {collection.unreadable}.")
    if pictures < rows:
        parts.append(f"The photos of {rows - pictures} of them are not at hand; the table names them.")
    return " ".join(parts)


class _Searches:
    """What the tab's events call. A visitor's faces and photos are in the state that they are given."""

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        self._extractor = settings.classifier.extractor
        self._search = None if settings.search is None else settings.search.resolve()
        self._served: Collection | None = None
        self._serving = threading.Lock()

    def read_query(self, path: str | None) -> tuple[Any, ...]:
        """Faces of the query's photo, the chosen one's place, their pictures, a message, the button to search."""
        try:
            faces = self._faces(path)
        except FergeneralError as error:
            text = readable(error, str(path))
            return [], 0, gr.Gallery(value=None, visible=False), note(text), gr.Button(interactive=False)
        text = f"{len(faces)} faces were found: choose one. The largest is chosen now." if len(faces) > 1 else ""
        tiles = [(face_tile(str(path), face, _TILE), f"face {number}") for number, face in enumerate(faces)]
        shown = gr.Gallery(value=tiles, visible=len(faces) > 1, selected_index=0 if tiles else None)
        return faces, 0, shown, note(text), gr.Button(interactive=bool(faces))

    def _faces(self, path: str | None) -> list[Face]:
        if path is None:
            return []
        faces = self._extractor.extract(path)[: self._settings.max_faces]
        if not faces:
            raise ImageError(NO_FACE)
        return faces

    def search(
        self,
        faces: list[Face],
        chosen: int,
        files: list[str] | None,
        k: int,
        kept: tuple[list[str], Collection] | None,
        progress: Any = gr.Progress(),  # noqa: B008 (Gradio knows it by this)
    ) -> tuple[Any, ...]:
        """A message, pictures, rows, and the visitor's collection with its files, for the next time."""
        hidden = gr.Gallery(value=None, visible=False)
        if not faces:
            return note("Give a photo with a face first."), hidden, "", kept
        try:
            if files and (kept is None or kept[0] != files):
                kept = files, self._mine(files, progress)
            collection = kept[1] if files and kept else self._theirs(progress)
            pictures, rows = nearest(faces[chosen], collection, int(k))
        except FergeneralError as error:
            return note(readable(error, str(self._search))), hidden, "", kept
        text = note(describe(collection, len(pictures), len(rows)))
        gallery = gr.Gallery(value=pictures, visible=bool(pictures))
        return text, gallery, html_table(_HEADINGS, rows) if rows else "", kept

    def choose(
        self,
        faces: list[Face],
        files: list[str] | None,
        k: int,
        kept: tuple[list[str], Collection] | None,
        event: gr.SelectData,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        """The place of the face that was clicked, then as `search`."""
        return event.index, *self.search(faces, event.index, files, k, kept, progress)

    def _theirs(self, progress: Any) -> Collection:
        if self._search is None:
            raise DataError("Upload the photos that are to be searched first.")
        with self._serving:
            if self._served is None:
                self._served = open_search(self._search, self._extractor, progress=_shown(progress))
            return self._served

    def _mine(self, files: list[str], progress: Any) -> Collection:
        most = self._settings.max_photos
        if len(files) > most:
            raise DataError(f"{len(files)} photos were uploaded; at most {most} are taken.")
        return embed_photos(files, files, self._extractor, progress=_shown(progress))


def _shown(progress: Any) -> Callable[[int, int], object]:
    return lambda done, total: progress((done, total), desc="Embedding the photos", unit="photos")


def add_tab(settings: DemoSettings) -> None:
    """Add the tab Similar to the page that is being built.

    Parameters
    ----------
    settings : DemoSettings
        What finds and embeds faces, what is searched, and the limits.
    """
    searches = _Searches(settings)
    without = " Without photos of yours, the collection of this demo is searched." if settings.search else ""
    with gr.Tab("Similar", id="similar"):
        gr.Markdown(_HELP + without, elem_classes="fer-note")
        faces, kept, chosen = gr.State([]), gr.State(None), gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                query = photo_input("A photo of the face to look for", elem_id="similar-query")
                found = crop_gallery("Faces in this photo", elem_id="similar-faces")
                files = gr.File(
                    label=f"Photos to search, at most {settings.max_photos}",
                    file_count="multiple",
                    file_types=["image"],
                    height=170,
                    elem_id="similar-photos",
                )
                k = gr.Slider(1, _MOST_SHOWN, value=10, step=1, label="How many faces", elem_id="similar-k")
                run = gr.Button("Find similar expressions", variant="primary", interactive=False)
            with gr.Column(scale=3, min_width=300):
                message = gr.HTML(
                    note("The nearest faces appear here."),
                    elem_id="similar-message",
                    elem_classes="fer-note",
                    padding=False,
                )
                gallery = crop_gallery("Nearest faces", elem_id="similar-nearest")
                table = gr.HTML(elem_id="similar-table", padding=False, css_template=_STYLE)
                gr.Markdown(_LIMITS, elem_classes="fer-note")
        found.visible = gallery.visible = False
        outputs = [message, gallery, table, kept]
        query.change(
            searches.read_query,
            query,
            [faces, chosen, found, message, run],
            api_visibility="private",
            show_progress_on=message,
        )
        options: dict[str, Any] = {"api_visibility": "private", "show_progress_on": message}
        found.select(searches.choose, [faces, files, k, kept], [chosen, *outputs], **options)
        for event in (run.click, k.release):
            event(searches.search, [faces, chosen, files, k, kept], outputs, **options)
