"""Embeddings of whole data sets, computed once and kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fergeneral import __version__
from fergeneral.datasets import Dataset
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError
from fergeneral.storage import whole_file

# Upright RGB image, its place in the data set -> (S, S, 3) uint8; None where no face is found.
Crop = Callable[[Image.Image, int], np.ndarray | None]

_CHUNK = 256  # crops held in memory at once
_PROBED = 16  # crops whose pixels are part of the key


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """`embeddings` (N, D) float32; `missed` (N,) bool: no face was found there, and the clean crop was embedded."""

    embeddings: np.ndarray
    missed: np.ndarray


class EmbeddingCache:
    """A folder of embeddings, one .npz for each encoder, data set and way to cut its crops.

    The key holds the weights' SHA-256 and their preprocessing, `data_hash` of the images, the variant's name, and the
    pixels of the first 16 crops, so that a change in how crops are made (a template, a detector, this package) is
    noticed. It does not hold device and library versions, which move embeddings by rounding alone.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """`folder`: made if need be; None takes $XDG_CACHE_HOME/fergeneral or ~/.cache/fergeneral."""
        self.folder = default_folder() if folder is None else Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the cache folder {self.folder} cannot be made: {error.strerror}") from error

    def embed(
        self, encoder: Encoder, dataset: Dataset, crop: Crop | None = None, *, variant: str = "clean"
    ) -> Embedded:
        """Embed a data set's images in the order of its samples, or take that from the cache.

        `crop`: how an image is cut, the same at every call; None cuts it to the encoder's template, which is also
        done where `crop` finds no face. `variant`: the name of that crop. A stored file that is corrupt is computed
        again. Raises DataError for an image that cannot be read.
        """
        crops = Crops(encoder, dataset, crop)
        key = crops.key(variant)
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npz"
        stored = _read(path, key, (len(dataset.samples), encoder.config.embedding_size))
        if stored is not None:
            return stored
        embedded = crops.embed(f"{dataset.name}, {variant}")
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, embeddings=embedded.embeddings, missed=embedded.missed, key=np.array(key))
        return embedded


def default_folder() -> Path:
    """The folder for files that can be computed again, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fergeneral"


def data_hash(dataset: Dataset) -> str:
    """SHA-256, hexadecimal, over path, label, split, subject, votes and the file's bytes of each sample, in order."""
    whole = hashlib.sha256()
    for sample, data in zip(dataset.samples, dataset.files(), strict=True):
        fields = (sample.path, sample.label, sample.split, sample.subject, sample.votes)
        described = json.dumps([*fields, hashlib.sha256(data).hexdigest()])
        whole.update(described.encode() + b"\n")
    return whole.hexdigest()


class Crops:
    """A data set's crops, in order, and what they are when no face is found. `crop`: as for `EmbeddingCache.embed`."""

    def __init__(self, encoder: Encoder, dataset: Dataset, crop: Crop | None = None) -> None:
        self._encoder, self._dataset, self._crop = encoder, dataset, crop

    def key(self, variant: str) -> str:
        """Everything that the embeddings depend on, as text."""
        config = self._encoder.config
        pixels = hashlib.sha256()
        for crop, missed in self._cut(dataclasses.replace(self._dataset, samples=self._dataset.samples[:_PROBED])):
            pixels.update(f"{crop.shape} {crop.dtype} {missed}".encode() + crop.tobytes())
        values: dict[str, Any] = {
            "fergeneral": __version__,
            "weights": config.weights_sha256,
            "preprocessing": [config.crop_size, config.template, config.mean, config.std],
            "data": data_hash(self._dataset),
            "variant": variant,
            "first crops": pixels.hexdigest(),
        }
        return json.dumps(values)

    def embed(self, name: str, *, show_progress: bool | None = None) -> Embedded:
        """Crop and encode in chunks, so that memory is bounded; a progress bar, by default on a terminal."""
        from tqdm import tqdm

        hidden = None if show_progress is None else not show_progress  # None: tqdm looks whether stderr is a terminal
        n, done = len(self._dataset.samples), 0
        embeddings = np.empty((n, self._encoder.config.embedding_size), dtype=np.float32)
        missed = np.zeros(n, dtype=bool)
        crops = self._cut(self._dataset)
        with tqdm(total=n, desc=f"embed {name}", unit="image", disable=hidden, leave=None) as bar:
            while chunk := list(islice(crops, _CHUNK)):
                rows = slice(done, done + len(chunk))
                pixels = np.stack([crop for crop, _ in chunk])
                embeddings[rows] = self._encoder.encode(pixels, batch_size=128, show_progress=False)
                missed[rows] = [not_found for _, not_found in chunk]
                done += len(chunk)
                bar.update(len(chunk))
        return Embedded(embeddings, missed)

    def _cut(self, dataset: Dataset) -> Iterator[tuple[np.ndarray, bool]]:
        size, template = self._encoder.config.crop_size, self._encoder.config.template
        for index, pixels in enumerate(dataset.crops(np.asarray)):
            image = Image.fromarray(pixels)
            crop = None if self._crop is None else self._crop(image, index)
            missed = crop is None and self._crop is not None
            yield (dataset.align(image, size, template) if crop is None else crop), missed


def _read(path: Path, key: str, shape: tuple[int, int]) -> Embedded | None:
    """What is stored; None where there is nothing, or it is corrupt."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            embeddings, missed, found = stored["embeddings"], stored["missed"], str(stored["key"])
    except Exception:  # a truncated or overwritten file gives errors of many kinds, and all mean: compute again
        return None
    fits = found == key and embeddings.shape == shape and embeddings.dtype == np.float32
    return Embedded(embeddings, missed) if fits and missed.shape == shape[:1] and missed.dtype == bool else None
