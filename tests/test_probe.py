from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from fergeneral import DataError, ExpressionExtractor
from fergeneral.datasets import open_dataset
from fergeneral.evaluate import embed_dataset, linear_probe, probe_datasets


def blobs(count: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    labels = np.array(["anger", "happiness", "neutral"])[np.arange(count) % 3]
    centres = {"anger": (3, 0), "happiness": (0, 3), "neutral": (-3, -3)}
    return np.array([centres[label] for label in labels]) + spread * generator.normal(size=(count, 2)), labels.tolist()


def test_separable_classes_are_separated() -> None:
    result = linear_probe(*blobs(90, 0, 0.3), *blobs(60, 1, 0.3))
    assert result.accuracy == result.uar == 1
    assert result.confusion.tolist() == [[20, 0, 0], [0, 20, 0], [0, 0, 20]]
    assert result.labels == ("neutral", "happiness", "anger")


def test_the_figures_follow_from_the_confusion() -> None:
    x, y = blobs(300, 0, 3.0)
    x_test, y_test = blobs(90, 1, 3.0)
    keep = [i for i, label in enumerate(y_test) if label != "anger" or i < 20]
    result = linear_probe(x, y, x_test[keep], [y_test[i] for i in keep])
    confusion = result.confusion
    assert result.accuracy == pytest.approx(np.trace(confusion) / confusion.sum())
    true = np.repeat(np.arange(3), confusion.sum(axis=1))
    predicted = np.concatenate([np.repeat(np.arange(3), row) for row in confusion])
    assert result.uar == pytest.approx(balanced_accuracy_score(true, predicted))
    assert result.n_test == len(keep) < 90


def test_shuffled_labels_give_chance() -> None:
    x, y = blobs(600, 0)
    x_test, _ = blobs(600, 1)
    generator = np.random.default_rng(0)
    result = linear_probe(x, generator.permutation(y).tolist(), x_test, generator.permutation(y).tolist())
    assert result.accuracy == pytest.approx(1 / 3, abs=0.07)


def test_bad_input_is_named() -> None:
    x, y = blobs(30, 0)
    for arguments, message in (
        ((x, y[:-1], x, y), "30, 2.* and 29 labels"),
        ((x, y, x[:, :1], y), "train has 2 features, test has 1"),
        ((x, [*y[:-1], "fear"], x, y), "two examples"),
        ((x, ["anger"] * 30, x, ["anger"] * 30), "two classes"),
        ((x, y, x, [*y[:-1], "fear"]), "'fear'"),
        ((np.where(x > 3, np.nan, x), y, x, y), "not finite"),
        ((x, y, x[:0], []), "N > 0"),
    ):
        with pytest.raises(DataError, match=message):
            linear_probe(*arguments)


def test_a_set_without_splits_is_not_tested_on_itself(faces_folder: Path, extractor: ExpressionExtractor) -> None:
    with pytest.raises(DataError, match="share 64 images"):
        probe_datasets(extractor.encoder, faces_folder / "train", faces_folder / "train")


def test_embedding_a_data_set_keeps_its_order(faces_folder: Path, extractor: ExpressionExtractor) -> None:
    dataset = open_dataset(faces_folder).split("test")
    rows = embed_dataset(extractor.encoder, dataset)
    for i in (0, 11, 23):
        (one,) = extractor.encode([faces_folder / dataset.samples[i].path])
        assert rows[i] == pytest.approx(one, abs=1e-4)


def test_the_packaged_weights_pass_the_bar_on_rafdb(data: Path, extractor: ExpressionExtractor) -> None:
    """The README's main figure, from the committed weights: RAF-DB, official split, near-duplicates out."""
    result = probe_datasets(extractor.encoder, data / "rafdb", data / "rafdb", show_progress=False)
    assert (result.n_train, result.n_test) == (12_246, 3_068)
    assert result.accuracy >= 0.68
    assert result.uar >= 0.52
