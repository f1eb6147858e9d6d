"""Faces whose embeddings are most like that of a face: an exact search through the tables of a job, in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fergeneral.errors import DataError, FergeneralError, ImageError, positive_integer
from fergeneral.storage import iter_table
from fergeneral.types import Face, TrackedFace

if TYPE_CHECKING:
    from PIL import Image

    from fergeneral.extractor import ExpressionExtractor

_PAPER = (255, 255, 255)
_GREY = (208, 208, 208)
_INK = (20, 20, 20)
_MARK = (255, 196, 0)  # the frame of the query, in the colour of `draw_faces`
_ZOOM = 0.66  # side of the crop that the encoder sees in that of a tile, which shows the whole head
_DOWN = 0.03  # of the middle of the former in the latter
_ARCHIVED = (".tar/", ".parquet#")  # in the path of a photo that is no file by itself: see docs/tables.md
_COLUMNS = 6  # more, where there would be more rows than columns


class Neighbour(NamedTuple):
    """A face of a table that is like another one.

    `similarity`: cosine similarity of the two embeddings, -1..1, 1 for the same direction. `path`: the photo or video,
    as the table has it. `number`: the face's place in its photo, 0 the largest. `face`: with all that the table has of
    it; a TrackedFace, with `time` and `track`, where the table is of videos.

    Examples
    --------
    >>> from fergeneral import extract, find_similar
    >>> from fergeneral.storage import FaceTable
    >>> faces = extract("examples/photos/three_faces.jpg")
    >>> with FaceTable("neighbours.csv", 512) as table:
    ...     table.add("three_faces.jpg", faces)
    >>> nearest = find_similar(faces[0], "neighbours.csv", k=1)[0]
    >>> nearest.path, nearest.number, round(nearest.similarity, 2)
    ('three_faces.jpg', 0, 1.0)
    """

    similarity: float
    path: str
    number: int
    face: Face


def find_similar(
    query: Any,
    table: str | Path | Mapping[str, np.ndarray],
    k: int = 10,
    *,
    extractor: ExpressionExtractor | None = None,
) -> list[Neighbour]:
    """The faces of a table whose embeddings have the highest cosine similarity to that of a face.

    Every row is compared, in float64: the result is exact. A job's shards are read one after another, a million faces
    take 5 s of one core and some 130 MB.

    Parameters
    ----------
    query : Face, array_like of shape (D,), or image
        A face; an embedding; or anything `load_image` takes, in which the largest face is looked for. A face that is
        itself in the table is found, with similarity 1.
    table : path, or dict of arrays
        Folder of a job, or a .parquet, .csv or .npz file, as `extract -o` writes it. Or a table in memory, as
        `fergeneral.storage.read_table` returns it.
    k : int, default 10
        How many faces are wanted, 1 or more.
    extractor : ExpressionExtractor, optional
        For a `query` that is an image: with the weights that the table was made with. By default the packaged ones.

    Returns
    -------
    list of Neighbour
        The most similar first. As many as the table has, where that is fewer than `k`.

    Raises
    ------
    DataError
        For a table that cannot be read, or of other weights, or of several, or whose embeddings have another length or
        no direction (not finite, or all 0); and for a `query` of which that is true.
    ImageError
        For an image that cannot be read, or without a face.
    MissingExtraError
        For Parquet without pyarrow.
    TypeError, ValueError
        For a `k` that is no positive integer.

    Examples
    --------
    >>> from fergeneral import extract, find_similar
    >>> from fergeneral.storage import FaceTable
    >>> photos = ["examples/photos/three_faces.jpg", "examples/london/smiling/002.jpg"]
    >>> with FaceTable("faces.csv", 512) as table:
    ...     for photo in photos:
    ...         table.add(photo, extract(photo))
    >>> neighbours = find_similar("examples/london/smiling/002.jpg", "faces.csv", k=2)
    >>> [neighbour.path for neighbour in neighbours]
    ['examples/london/smiling/002.jpg', 'examples/photos/three_faces.jpg']
    """
    k = positive_integer(k, "k")
    embedding, model_id = _embedding(query, extractor)
    query_vector = np.asarray(embedding, dtype=np.float64)
    query_vector = query_vector / _lengths(query_vector[None], "the query")
    best: list[Neighbour] = []
    name = "the table" if isinstance(table, Mapping) else str(table)
    for rows in [table] if isinstance(table, Mapping) else iter_table(table):
        for other in dict.fromkeys(rows["model_id"].tolist()):
            model_id = other if model_id is None else model_id
            if other != model_id:
                raise DataError(
                    f"{name} has embeddings of the weights {other!r}, wanted {model_id!r}: embeddings of different "
                    f"weights cannot be compared; embed the query, or the photos, with the same weights"
                )
        if len(rows["path"]) and rows["embedding"].shape[1] != len(query_vector):
            raise DataError(
                f"the query's embedding has {len(query_vector)} numbers, those of {name} have "
                f"{rows['embedding'].shape[1]}: both must come from the same weights"
            )
        vectors = rows["embedding"].astype(np.float64)
        similarities = vectors @ query_vector / _lengths(vectors, name, rows["path"])
        first = np.argsort(-similarities, kind="stable")[:k]
        found = [_neighbour(rows, row, similarities[row]) for row in first]
        best = sorted(best + found, key=lambda neighbour: -neighbour.similarity)[:k]
    return best


def _embedding(query: Any, extractor: ExpressionExtractor | None) -> tuple[np.ndarray, str | None]:
    """With the id of its weights, if that is known."""
    if isinstance(query, Face):
        return query.embedding, query.model_id
    if isinstance(query, (list, tuple)) or (getattr(query, "ndim", None) == 1):
        try:
            embedding = np.asarray(query, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"the query is no embedding, which is (D,) numbers: {error}") from error
        if embedding.ndim != 1:
            raise DataError(f"the query is one embedding of shape (D,), got shape {embedding.shape}")
        return embedding, None
    face = query_face(query, extractor)
    return face.embedding, face.model_id


def query_face(image: Any, extractor: ExpressionExtractor | None = None) -> Face:
    """The largest face in an image.

    Parameters
    ----------
    image : image
        Anything `load_image` takes.
    extractor : ExpressionExtractor, optional
        By default with the packaged weights.

    Returns
    -------
    Face

    Raises
    ------
    ImageError
        For an image that cannot be read, or without a face.

    Examples
    --------
    >>> from fergeneral.similar import query_face
    >>> query_face("examples/photos/three_faces.jpg").embedding.shape
    (512,)
    """
    from fergeneral.extractor import shared_extractor

    faces = (extractor or shared_extractor()).extract(image)
    if not faces:
        name = image if isinstance(image, (str, Path)) else "the query"
        raise ImageError(f"no face was found in {name}: give a photo with a face, or a Face")
    return faces[0]


def _lengths(vectors: np.ndarray, name: str, paths: np.ndarray | None = None) -> np.ndarray:
    """Of each row. Raises DataError for a row that has no direction."""
    lengths: np.ndarray = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        where = name if paths is None else f"{paths[wrong[0]]} in {name}"
        raise DataError(f"the embedding of {where} is not finite, or all its numbers are 0: embed that photo again")
    return lengths


def _neighbour(rows: Mapping[str, np.ndarray], row: int, similarity: float) -> Neighbour:
    box, landmarks, embedding = (rows[name][row].copy() for name in ("box", "landmarks", "embedding"))
    detection = (box, landmarks, float(rows["score"][row]), embedding, str(rows["model_id"][row]))
    if "track" in rows:
        face: Face = TrackedFace(*detection, float(rows["time"][row]), int(rows["track"][row]))
    else:
        face = Face(*detection)
    return Neighbour(min(1.0, float(similarity)), str(rows["path"][row]), int(rows["face"][row]), face)


def contact_sheet(
    neighbours: Sequence[Neighbour], query: tuple[Any, Face] | None = None, *, tile: int = 160
) -> Image.Image:
    """One picture of faces, cut out of their photos and turned upright, each with its similarity below.

    Parameters
    ----------
    neighbours : sequence of Neighbour
        In the order in which they are drawn, row by row. A relative path is looked for from the present folder. A grey
        tile says so where a photo is no longer there, cannot be read, or is a video or inside an archive.
    query : (image, Face), optional
        The face that was looked for and its photo, anything `load_image` takes: the first tile, in a frame.
    tile : int, default 160
        Side of a face, in pixels.

    Returns
    -------
    PIL.Image.Image
        Of mode RGB.

    Raises
    ------
    ImageError
        For a query's photo that cannot be read.
    TypeError, ValueError
        For a `tile` that is no positive integer.

    Examples
    --------
    >>> from fergeneral import extract, find_similar
    >>> from fergeneral.similar import contact_sheet
    >>> from fergeneral.storage import FaceTable
    >>> photo = "examples/photos/three_faces.jpg"
    >>> with FaceTable("sheet.csv", 512) as table:
    ...     table.add(photo, extract(photo))
    >>> neighbours = find_similar("examples/photos/astronaut.png", "sheet.csv", k=3)
    >>> contact_sheet(neighbours).mode
    'RGB'
    """
    from PIL import Image, ImageDraw, ImageFont

    tile = positive_integer(tile, "tile")
    tiles = [
        (face_tile(neighbour.path, neighbour.face, tile), f"{neighbour.similarity:.3f}") for neighbour in neighbours
    ]
    if query is not None:
        tiles.insert(0, (_cut_face(*query, tile), "query"))
    columns = max(1, min(len(tiles), max(_COLUMNS, math.isqrt(len(tiles)))))
    gap, line = max(2, tile // 20), max(12, tile // 7)
    width, height = tile + gap, tile + line + gap
    rows = max(1, math.ceil(len(tiles) / columns))
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(max(10, tile // 9))
    for place, (face, text) in enumerate(tiles):
        left, top = gap + place % columns * width, gap + place // columns * height
        if isinstance(face, str):
            pen.rectangle((left, top, left + tile - 1, top + tile - 1), fill=_GREY)
            pen.text((left + tile / 2, top + tile / 2), face, _INK, font, anchor="mm", align="center")
        else:
            sheet.paste(face, (left, top))
        pen.text((left + tile / 2, top + tile + line / 2), text, _INK, font, anchor="mm")
        if query is not None and place == 0:
            pen.rectangle((left - 2, top - 2, left + tile + 1, top + tile + 1), outline=_MARK, width=4)
    return sheet


def face_tile(path: str, face: Face, tile: int = 160) -> Image.Image | str:
    """A face of a table, cut out of its photo and turned upright, with the whole head.

    Parameters
    ----------
    path : str
        The photo, as the table has it. A relative path is looked for from the present folder.
    face : Face
        In that photo.
    tile : int, default 160
        Side of the picture, in pixels.

    Returns
    -------
    PIL.Image.Image or str
        In a few words why there is no picture: the photo is no longer there, cannot be read, or is a video or inside an
        archive.
    """
    if isinstance(face, TrackedFace):
        return f"in a video,\nat {face.time:.2f} s"
    if not Path(path).exists():
        return "in an archive" if any(part in path for part in _ARCHIVED) else "photo\nnot found"
    try:
        return _cut_face(path, face, tile)
    except FergeneralError:
        return "photo\ncannot be read"


def _cut_face(image: Any, face: Face, tile: int) -> Image.Image:
    from PIL import Image

    from fergeneral.alignment import TEMPLATE, align_face

    template = (np.array(TEMPLATE) - 0.5) * _ZOOM + (0.5, 0.5 + _DOWN)
    return Image.fromarray(align_face(image, face.landmarks, size=tile, template=template))
