from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fergeneral import DataError, ExpressionExtractor
from fergeneral.datasets import Dataset, open_dataset
from fergeneral.encoder import Encoder
from fergeneral.evaluate import embed_dataset
from fergeneral.evaluate.cache import EmbeddingCache, data_hash, default_folder


class CountingEncoder(Encoder):
    """An encoder that is made from another and counts the crops it is given."""

    def __init__(self, encoder: Encoder) -> None:
        self.__dict__.update(encoder.__dict__)
        self.count = 0

    def encode(self, crops: np.ndarray, **options: object) -> np.ndarray:
        self.count += len(crops)
        return super().encode(crops, **options)


@pytest.fixture
def encoder(random_folder: Path) -> CountingEncoder:
    return CountingEncoder(ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder)


@pytest.fixture
def dataset(faces_folder: Path) -> Dataset:
    return open_dataset(faces_folder).split("test")


def test_computed_once_and_equal_to_embedding_without_a_cache(
    encoder: CountingEncoder, dataset: Dataset, tmp_path: Path
) -> None:
    cache = EmbeddingCache(tmp_path / "made" / "here")
    first = cache.embed(encoder, dataset)
    assert encoder.count == 24
    again = EmbeddingCache(tmp_path / "made" / "here").embed(encoder, dataset)
    assert encoder.count == 24
    assert (again.embeddings == first.embeddings).all()
    assert not first.missed.any()
    assert first.embeddings == pytest.approx(embed_dataset(encoder, dataset), abs=1e-4)


@pytest.mark.parametrize("damage", ["cut", "flipped", "overwritten", "other"])
def test_a_damaged_file_is_computed_again(
    encoder: CountingEncoder, dataset: Dataset, tmp_path: Path, damage: str
) -> None:
    cache = EmbeddingCache(tmp_path / "cache")
    first = cache.embed(encoder, dataset)
    (file,) = cache.folder.iterdir()
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:1000])
    elif damage == "flipped":
        file.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    elif damage == "overwritten":
        file.write_bytes(b"nothing")
    else:
        np.savez(file, embeddings=np.zeros((24, 512), np.float32), missed=np.zeros(24, bool), key=np.array("other"))
    assert (cache.embed(encoder, dataset).embeddings == first.embeddings).all()
    assert encoder.count == 48
    cache.embed(encoder, dataset)  # the file is whole again
    assert encoder.count == 48


def test_whatever_changes_the_embeddings_changes_the_key(
    encoder: CountingEncoder, dataset: Dataset, faces_folder: Path, tmp_path: Path
) -> None:
    cache = EmbeddingCache(tmp_path / "cache")

    def size() -> int:
        return len(list(cache.folder.iterdir()))

    cache.embed(encoder, dataset)
    cache.embed(encoder, dataclasses.replace(dataset, samples=dataset.samples[:-1]))
    assert size() == 2
    other = CountingEncoder(encoder)
    other.config = dataclasses.replace(encoder.config, weights_sha256="0" * 64)
    cache.embed(other, dataset)
    assert size() == 3
    cache.embed(encoder, dataset, lambda image, index: np.zeros((64, 64, 3), np.uint8), variant="v")
    cache.embed(encoder, dataset, lambda image, index: np.ones((64, 64, 3), np.uint8), variant="v")
    assert size() == 5
    image = faces_folder / dataset.samples[-1].path
    Image.open(image).rotate(90).save(image)
    cache.embed(encoder, dataset)
    assert size() == 6


def test_crops_get_their_place_and_a_missed_face_the_clean_crop(
    encoder: CountingEncoder, dataset: Dataset, tmp_path: Path
) -> None:
    cache = EmbeddingCache(tmp_path / "cache")
    clean = cache.embed(encoder, dataset).embeddings

    def crop(image: Image.Image, index: int) -> np.ndarray | None:
        return None if index % 2 else np.full((64, 64, 3), index, np.uint8)

    for _ in range(2):  # computed, then stored
        found = cache.embed(encoder, dataset, crop, variant="odd ones missed")
        assert found.missed.tolist() == [False, True] * 12
        assert found.embeddings[1::2] == pytest.approx(clean[1::2], abs=1e-4)
        grey = encoder.encode(np.full((1, 64, 64, 3), 6, np.uint8), show_progress=False)
        assert found.embeddings[6] == pytest.approx(grey[0], abs=1e-4)


def test_the_data_hash_can_be_computed_by_hand(dataset: Dataset, faces_folder: Path) -> None:
    two = dataclasses.replace(dataset, samples=dataset.samples[:2])
    lines = b""
    for sample in two.samples:
        digest = hashlib.sha256((faces_folder / sample.path).read_bytes()).hexdigest()
        lines += json.dumps([sample.path, sample.label, "test", None, None, digest]).encode() + b"\n"
    assert data_hash(two) == hashlib.sha256(lines).hexdigest()


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fergeneral"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "fergeneral"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/cache cannot be made"):
        EmbeddingCache(tmp_path / "file" / "cache")
