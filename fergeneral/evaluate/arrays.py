"""Checks of what is scored: embeddings of any system, and their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fergeneral.datasets import class_counts
from fergeneral.errors import DataError


def embeddings(features: np.ndarray, name: str) -> np.ndarray:
    """(N, D) float32, finite, N and D > 0; else DataError that calls the array `name`."""
    try:
        x = np.asarray(features, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} needs (N, D) embeddings, got what is no array of numbers: {error}") from error
    if x.ndim != 2 or x.size == 0:
        raise DataError(f"{name} needs (N, D) embeddings, N > 0 and D > 0; got {x.shape}")
    broken = int((~np.isfinite(x).all(axis=1)).sum())
    if broken:
        raise DataError(f"{name} has {broken} rows with values that are not finite; leave those images out")
    return x


def labelled(features: np.ndarray, labels: Sequence[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    """`embeddings`, and their labels as an (N,) array of str; DataError also where the counts differ."""
    shape, y = np.shape(features), np.asarray(labels, dtype=str)
    if len(shape) != 2 or len(y) == 0 or shape[0] != len(y):
        raise DataError(f"{name} needs (N, D) embeddings and N labels, N > 0; got {shape} and {len(y)} labels")
    return embeddings(features, name), y


def same_width(train: np.ndarray, test: np.ndarray) -> None:
    """Raise DataError unless both have as many columns."""
    if train.shape[1] != test.shape[1]:
        raise DataError(
            f"train has {train.shape[1]} features, test has {test.shape[1]}; they must come from one encoder"
        )


def columns(labels: Sequence[str] | np.ndarray, vocabulary: Sequence[str], name: str) -> np.ndarray:
    """The place of each label in the vocabulary, (N,) int. Raises DataError that names labels outside it."""
    place = {label: i for i, label in enumerate(vocabulary)}
    texts = [str(label) for label in labels]
    unknown = sorted(set(texts) - set(place))
    if unknown:
        raise DataError(f"{name}: {unknown} are not among {', '.join(vocabulary)}")
    return np.array([place[text] for text in texts], dtype=np.int64)


def classes_of_train(y: np.ndarray) -> tuple[str, ...]:
    """The classes, known expressions first. Raises DataError for fewer than two, and names those with one example."""
    counts = class_counts(y.tolist())
    if len(counts) < 2:
        raise DataError(f"train needs two classes or more; it has {counts}")
    single = [label for label, count in counts.items() if count < 2]
    if single:
        raise DataError(f"train needs two examples or more of each class; it has one of {', '.join(single)}")
    return tuple(counts)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Each row scaled to unit length; rows of zeros stay as they are."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
