"""The linear probe: logistic regression on frozen embeddings, its strength chosen without the test set."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from fergeneral.crop_check import looked_at, warn_of_photos
from fergeneral.datasets import Dataset, open_dataset
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import classes_of_train, columns, labelled, same_width
from fergeneral.evaluate.cache import Crops
from fergeneral.evaluate.logistic import Standardised
from fergeneral.evaluate.metrics import Metrics, score

C_GRID = tuple(10.0**k for k in np.arange(-5, 1.01, 0.5))  # inverse strength of the L2 penalty
VALIDATION_SHARE = 0.15  # of train, stratified, for choosing C


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeResult(Metrics):
    """What a linear probe reads from a test set: its `Metrics`, and how it came to them.

    `c`: the chosen inverse strength; `validation_accuracy`: on the split of train it was chosen on; `n_train`: images;
    `predicted` (M,) str; `logits` (M, C), whose columns are `labels`; `true` (M,) int: the columns of the true classes.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import linear_probe
    >>> result = linear_probe(x[:80], labels[:80], x[80:], labels[80:])
    >>> result.n_train, result.n, result.logits.shape
    (80, 20, (20, 2))
    """

    c: float
    validation_accuracy: float
    n_train: int
    predicted: np.ndarray
    logits: np.ndarray
    true: np.ndarray

    @property
    def n_test(self) -> int:
        """The same as `n`."""
        return self.n

    def to_dict(self) -> dict[str, Any]:
        """Without the values of single images."""
        fit = {"c": self.c, "validation_accuracy": self.validation_accuracy, "n_train": self.n_train}
        return {**super().to_dict(), **fit}

    def __str__(self) -> str:
        width = max(map(len, self.labels))
        lines = [
            f"accuracy {self.accuracy:.4f}  UAR {self.uar:.4f}  ({self.n_test} test, {self.n_train} train images)",
            f"C = {self.c:.3g}, chosen on {VALIDATION_SHARE:.0%} of train (accuracy {self.validation_accuracy:.4f})",
            "",
            "recall, and confusion (rows true, columns predicted):",
            " " * (width + 8) + " ".join(f"{label:>{width}}" for label in self.labels),
        ]
        for label, row in zip(self.labels, self.confusion, strict=True):
            recall = f"{self.recall[label]:6.3f}" if label in self.recall else "     -"
            lines.append(f"{label:<{width}}  {recall}" + "".join(f" {count:>{width}}" for count in row))
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """A fitted linear probe; `read` applies it to a test set.

    `weights` (D, C), `bias` (C,): the logits of embeddings x are x @ weights + bias, their columns `labels`.
    `validation_logits` (V, C), `validation_true` (V,) int columns: of the split of train that C was chosen on, by the
    classifier fitted on the rest of train. What a temperature may be fitted on.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import fit_probe
    >>> probe = fit_probe(x, labels)
    >>> probe.weights.shape, probe.bias.shape
    ((8, 2), (2,))
    """

    weights: np.ndarray
    bias: np.ndarray
    labels: tuple[str, ...]
    c: float
    validation_accuracy: float
    n_train: int
    validation_logits: np.ndarray
    validation_true: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(M, C) float64 of embeddings (M, D)."""
        return np.asarray(x, dtype=np.float64) @ self.weights + self.bias

    def read(self, test: np.ndarray, test_labels: Sequence[str]) -> ProbeResult:
        """Predict `test` (M, D) once. Raises DataError for a label that train did not have."""
        x, y = labelled(test, test_labels, "test")
        same_width(self.weights.T, x)
        true = columns(y, self.labels, "the test labels (known are those of train)")
        logits = self.logits(x)
        predicted = np.array(self.labels)[logits.argmax(axis=1)]
        return ProbeResult(
            **vars(score(y, predicted, self.labels)),
            c=self.c,
            validation_accuracy=self.validation_accuracy,
            n_train=self.n_train,
            predicted=predicted,
            logits=logits,
            true=true,
        )


def fit_probe(
    train: np.ndarray, train_labels: Sequence[str], *, groups: Sequence[str] | None = None, seed: int = 0
) -> Probe:
    """Fit L2 logistic regression on standardised features, `train` (N, D) embeddings of any system.

    C is chosen by accuracy from C_GRID on a stratified split of train, then the classifier is fitted on all of it.
    With `groups` (N, the person of each image, say) no group is on both sides of that split, for which there must be
    seven groups or more.
    C is scikit-learn's for three classes or more; for two, which it fits by one column, it is half of scikit-learn's.
    Raises DataError for shapes that do not fit, values that are not finite, or a class with one example.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import fit_probe
    >>> fit_probe(x[:80], labels[:80]).read(x[80:], labels[80:]).accuracy > 0.9
    True
    """
    x, y = labelled(train, train_labels, "train")
    labels = classes_of_train(y)
    column = columns(y, labels, "train")
    fit, validation = _split(y, groups, seed)
    parts = Standardised(x[fit], column[fit], len(labels)).fit(C_GRID)
    logits = [x[validation] @ weights + bias for weights, bias in parts]
    accuracies = [float((values.argmax(axis=1) == column[validation]).mean()) for values in logits]
    best = int(np.argmax(accuracies))
    ((weights, bias),) = Standardised(x, column, len(labels)).fit([C_GRID[best]])
    return Probe(weights, bias, labels, C_GRID[best], accuracies[best], len(y), logits[best], column[validation])


def _split(y: np.ndarray, groups: Sequence[str] | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on, every class among them, and rows to choose C on."""
    rows, classes = np.arange(len(y)), set(y.tolist())
    if groups is not None:
        fit, validation = group_folds(y, groups, round(1 / VALIDATION_SHARE), seed)[0]
    else:
        size = max(len(classes), round(VALIDATION_SHARE * len(rows)))
        try:
            fit, validation = train_test_split(rows, test_size=size, stratify=y, random_state=seed)
        except ValueError as error:
            raise DataError(f"train is too small to split for choosing C: {error}") from error
    lacking = sorted(classes - set(y[fit].tolist()))
    if lacking:
        raise DataError(f"train cannot be split for choosing C: too few groups have the classes {lacking}")
    return fit, validation


def group_folds(
    y: np.ndarray, groups: Sequence[str] | np.ndarray, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train rows, test rows) of each fold; every group is in one test part alone, classes spread as evenly as can be.

    Raises DataError for another number of groups than of rows, or fewer different ones than folds.
    """
    names = np.asarray(groups, dtype=str)
    different = len(set(names.tolist()))
    if names.shape != y.shape or not 2 <= folds <= different:
        raise DataError(
            f"{folds} folds of {len(y)} images need the group (person) of each image, and two folds or more but "
            f"no more than groups; got {len(names)}, {different} different"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # it is then spread as far as it goes
        try:
            return list(splitter.split(y, y, names))
        except ValueError as error:
            raise DataError(f"{folds} folds cannot be made: {error}") from error


def linear_probe(
    train: np.ndarray, train_labels: Sequence[str], test: np.ndarray, test_labels: Sequence[str], *, seed: int = 0
) -> ProbeResult:
    """`fit_probe` on train, then `Probe.read` on test; their errors are this function's.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import linear_probe
    >>> linear_probe(x[:80], labels[:80], x[80:], labels[80:]).accuracy > 0.9
    True
    """
    return fit_probe(train, train_labels, seed=seed).read(test, test_labels)


def embed_dataset(encoder: Encoder, dataset: Dataset, *, show_progress: bool | None = None) -> np.ndarray:
    """(N, D) float32 embeddings of a data set's images, in the order of its samples, cut to the encoder's template.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.datasets import open_dataset
    >>> from fergeneral.evaluate import embed_dataset
    >>> encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
    >>> embed_dataset(encoder, open_dataset("examples/london", labels_as_given=True)).shape
    (24, 512)
    """
    return Crops(encoder, dataset).embed(dataset.name, show_progress=show_progress).embeddings


def probe_datasets(
    encoder: Encoder, train: str | Path, test: str | Path, *, show_progress: bool | None = None
) -> ProbeResult:
    """The linear probe from folders in any layout of `fergeneral.datasets`: train's train split, test's test split.

    Near-duplicates listed with the data are left out of train. A folder without splits is taken whole; the images
    must be face crops: where a few that are looked at seem to be whole photos, a UserWarning says so.
    Raises DataError where train and test share images.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.evaluate import probe_datasets
    >>> encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
    >>> probe_datasets(encoder, "data/rafdb", "data/rafdb").accuracy  # doctest: +SKIP
    """
    train_set, test_set = open_dataset(train).split("train"), open_dataset(test).split("test")
    if train_set.root.resolve() == test_set.root.resolve():
        shared = {sample.path for sample in train_set.samples} & {sample.path for sample in test_set.samples}
        if shared:
            raise DataError(f"train and test share {len(shared)} images of {train_set.root}, which has no splits")
    _warn_of_photos(encoder, train_set, test_set)
    embedded = [embed_dataset(encoder, dataset, show_progress=show_progress) for dataset in (train_set, test_set)]
    return linear_probe(embedded[0], train_set.labels, embedded[1], test_set.labels)


def _warn_of_photos(encoder: Encoder, *datasets: Dataset) -> None:
    """Once, from the line that called this function's caller, for the first of them that seems to be photos."""
    for dataset in datasets:
        if dataset.landmarks is None:  # else it is one of the known sets of crops
            count = len(dataset.samples)
            sample = tuple(dataset.samples[position] for position in looked_at(count))
            files = dataclasses.replace(dataset, samples=sample).files()
            what = f"a probe takes face crops, as {dataset.root} should hold"
            advice = "for photos, fit a classifier on ExpressionFeatures()"
            if warn_of_photos(files, count, encoder.config, what=what, advice=advice, stacklevel=3):
                return
