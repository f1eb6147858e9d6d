from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fergeneral import DataError, ExpressionExtractor
from fergeneral.datasets import open_dataset
from fergeneral.evaluate import embed_dataset, fit_probe, linear_probe, probe_datasets
from fergeneral.evaluate.logistic import Standardised
from fergeneral.evaluate.probe import C_GRID


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
    assert result.accuracy >= 0.83
    assert result.uar >= 0.715


def faces(count: int, seed: int, classes: int = 4, features: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Classes of unequal size that overlap; features of unequal size that depend on each other, one constant."""
    generator = np.random.default_rng(seed)
    names = np.array(["neutral", "happiness", "surprise", "fear"])[:classes]
    labels = generator.choice(names, size=count, p=np.arange(classes, 0, -1) / np.arange(classes + 1).sum())
    centres = np.random.default_rng(99).normal(size=(4, features))
    mixing = np.random.default_rng(98).normal(size=(features, features)) * np.geomspace(0.01, 10, features)
    x = (centres[[*map(names.tolist().index, labels)]] + generator.normal(0, 2, (count, features))) @ mixing + 5
    x[:, 3] = 7.0
    return x.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_the_path_of_fits_is_that_of_cold_fits_by_scikit_learn(classes: int) -> None:
    x, y = faces(600, 0, classes)
    names, column = np.unique(y, return_inverse=True)
    path = Standardised(x, column, len(names)).fit(C_GRID)
    for c, (weights, bias) in zip(C_GRID, path, strict=True):
        cold = LogisticRegression(C=2 * c if classes == 2 else c, tol=1e-8, max_iter=10_000)
        standard = StandardScaler().fit_transform(x.astype(np.float64))
        wanted = cold.fit(standard, y).predict_proba(standard)
        assert softmax(x @ weights + bias, axis=1) == pytest.approx(wanted, abs=0.003)


def test_the_chosen_strength_is_the_best_on_validation_and_logits_follow() -> None:
    x, y = faces(900, 0)
    probe = fit_probe(x[:600], y[:600])
    result = probe.read(x[600:], y[600:])
    rows, kept = train_test_split(np.arange(600), test_size=90, stratify=y[:600], random_state=0)
    accuracies = []
    for c in C_GRID:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-6, max_iter=5000))
        accuracies.append(model.fit(x[rows], y[rows]).score(x[kept], y[kept]))
    assert probe.validation_accuracy == pytest.approx(max(accuracies), abs=1.5 / 90)
    assert accuracies[C_GRID.index(probe.c)] == pytest.approx(max(accuracies), abs=1.5 / 90)
    right = np.array(probe.labels)[probe.validation_logits.argmax(axis=1)] == y[kept]
    assert right.mean() == pytest.approx(probe.validation_accuracy)
    assert (np.array(probe.labels)[probe.validation_true] == y[kept]).all()
    final = make_pipeline(StandardScaler(), LogisticRegression(C=probe.c, tol=1e-6, max_iter=5000)).fit(
        x[:600], y[:600]
    )
    order = [final.classes_.tolist().index(label) for label in probe.labels]
    assert softmax(result.logits, axis=1) == pytest.approx(final.predict_proba(x[600:])[:, order], abs=0.003)
    assert (result.predicted == np.array(probe.labels)[result.logits.argmax(axis=1)]).all()
    assert (np.array(probe.labels)[result.true] == y[600:]).all()
    assert result.n_test == result.n == 300
    assert result.to_dict()["c"] == probe.c


def test_two_classes_have_two_columns() -> None:
    x, y = faces(200, 0, 2)
    assert fit_probe(x, y).read(x, y).logits.shape == (200, 2)


def test_groups_stay_on_one_side_of_the_split() -> None:
    # Each person's images are copies of one, with labels by chance: only who sees copies can do better than chance.
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(100), 6)
    x = generator.normal(size=(100, 80))[people]
    y = generator.choice(["anger", "fear"], size=100)[people]
    assert fit_probe(x, y).validation_accuracy > 0.85
    assert fit_probe(x, y, groups=people.astype(str).tolist()).validation_accuracy < 0.75


def test_groups_that_cannot_be_split_are_named() -> None:
    x, y = faces(60, 0)
    few = [str(i % 6) for i in range(60)]
    with pytest.raises(DataError, match=r"7 folds .* 6 different"):
        fit_probe(x, y, groups=few)
    with pytest.raises(DataError, match="got 59"):
        fit_probe(x, y, groups=few[1:])
