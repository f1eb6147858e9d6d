"""Labelled images to fit a head on: read from a folder, a manifest or lists, and embedded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fergeneral.crop_check import looked_at, warn_of_photos
from fergeneral.datasets import open_dataset
from fergeneral.errors import DataError, ImageError
from fergeneral.extractor import ExpressionExtractor
from fergeneral.images import as_image_list
from fergeneral.transformer import encode_crops

_BATCH = 32  # images at once


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """N labelled images: their `names`, for messages; `groups`, the person on each. `images` may be an iterator."""

    images: Iterable[Any]
    names: tuple[str, ...]
    labels: tuple[Any, ...]
    groups: tuple[Any, ...] | None


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddedExamples:
    """`rows` (N, D) float32, of NaN where `no_face` or `unreadable` (with the reason) has the position."""

    rows: np.ndarray
    no_face: tuple[int, ...]
    unreadable: dict[int, str]


def read_examples(data: Any, labels: Sequence[Any] | None, groups: Sequence[Any] | None) -> Examples:
    """The list of images, as `ExpressionClassifier.fit` takes it; none is read yet.

    Raises DataError for a folder or manifest that is not there or broken, other numbers of images and labels, and
    people who are known for some images alone; TypeError for a path beside labels, or images without any.
    """
    if isinstance(data, (str, os.PathLike)):
        if labels is not None or groups is not None:
            raise TypeError("labels and groups go with a list of images; a folder or a manifest has its own")
        return _read_dataset(Path(data))
    images = as_image_list(data, what="fit")
    if labels is None:
        raise TypeError("a list of images needs labels, one for each")
    for what, given in (("labels", labels), ("groups", groups)):
        if given is not None and len(given) != len(images):
            raise DataError(f"{what} must be as many as the {len(images)} images, got {len(given)}")
    names = (
        os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else f"image {position}"
        for position, image in enumerate(images)
    )
    return Examples(images, tuple(names), tuple(labels), None if groups is None else tuple(groups))


def _read_dataset(path: Path) -> Examples:
    dataset = open_dataset(path, drop_duplicates=False, labels_as_given=True).split("train")
    samples, root = dataset.samples, dataset.root
    unpacked = all((root / sample.path).is_file() for sample in samples)
    subjects = tuple(sample.subject for sample in samples)
    unknown = [sample.path for sample in samples if sample.subject is None]
    if 0 < len(unknown) < len(samples):
        raise DataError(
            f"{path} has no subject for {len(unknown)} of {len(samples)} images, the first: {unknown[0]}; give each "
            f"one, or leave the column out"
        )
    return Examples(
        [root / sample.path for sample in samples] if unpacked else dataset.files(),
        tuple(str(root / sample.path) for sample in samples),
        tuple(dataset.labels),
        None if unknown else subjects,
    )


def embed_examples(
    extractor: ExpressionExtractor, examples: Examples, *, aligned: bool, show_progress: bool | None, stacklevel: int
) -> EmbeddedExamples:
    """The embedding of the largest face in each image, or of each image as a face crop where `aligned`.

    Gives a UserWarning where crops look like whole photos; `stacklevel` as for `warnings.warn`.
    """
    from tqdm import tqdm

    count = len(examples.names)
    if aligned and isinstance(examples.images, Sequence):
        sample = (examples.images[position] for position in looked_at(count))
        what, advice = "aligned=True (--crops) says that these are face crops", "leave it out for photos"
        warn_of_photos(sample, count, extractor.config, what=what, advice=advice, stacklevel=stacklevel + 1)
    rows = np.full((count, extractor.config.embedding_size), np.nan, dtype=np.float32)
    no_face, unreadable = [], {}
    hidden = None if show_progress is None else not show_progress  # None: tqdm looks whether stderr is a terminal
    with closing(_embed(extractor, examples.images, aligned)) as found:
        for position, row in enumerate(tqdm(found, "embed", count, unit="image", disable=hidden, leave=None)):
            if isinstance(row, ImageError):
                unreadable[position] = str(row)
            elif row is None:
                no_face.append(position)
            else:
                rows[position] = row
    return EmbeddedExamples(rows, tuple(no_face), unreadable)


def _embed(extractor: ExpressionExtractor, images: Iterable[Any], aligned: bool) -> Generator[Any]:
    """An embedding (D,), None for a photo without a face, or the ImageError of one that cannot be read, of each."""
    if aligned:
        yield from encode_crops(extractor.encoder, images, _BATCH)
        return
    errors: dict[int, ImageError] = {}
    found = extractor.extract_many(images, batch_size=_BATCH, on_error=errors.__setitem__)
    for position, faces in enumerate(found):
        yield errors.pop(position, None) or (faces[0].embedding if faces else None)
