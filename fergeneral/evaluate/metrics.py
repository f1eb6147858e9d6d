"""How good predictions are, with intervals: accuracy, UAR, macro-F1, paired differences, calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import columns

DRAWS = 1000  # of a bootstrap
BINS = 15  # of equal width, for the expected calibration error, as Guo et al. (ICML 2017) use
_TEMPERATURES = (0.01, 100.0)  # where the best one is looked for


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """What predictions are worth on a test set.

    `accuracy`; `uar`, the unweighted average of the class recalls; `macro_f1`, that of the class F1 scores, both over
    the classes that the test set has; `recall` of each of them; `confusion` (C, C) int: rows are true, columns
    predicted classes, in the order of `labels`; `n`: test images; `intervals`: the 95 % bootstrap interval (low, high)
    of "accuracy", "uar" and "macro_f1" over test images.

    Examples
    --------
    >>> from fergeneral.evaluate import score
    >>> metrics = score(["fear", "fear", "surprise"], ["fear", "surprise", "surprise"], ["fear", "surprise"])
    >>> metrics.confusion.tolist(), metrics.recall
    ([[1, 1], [0, 1]], {'fear': 0.5, 'surprise': 1.0})
    """

    accuracy: float
    uar: float
    macro_f1: float
    recall: dict[str, float]
    confusion: np.ndarray
    labels: tuple[str, ...]
    n: int
    intervals: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts, for JSON."""
        return {
            "accuracy": self.accuracy,
            "uar": self.uar,
            "macro_f1": self.macro_f1,
            "recall": dict(self.recall),
            "confusion": self.confusion.tolist(),
            "labels": list(self.labels),
            "n": self.n,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
        }


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How far a classifier's confidence is from its accuracy, before and after its logits are divided by `temperature`.

    `ece`: expected calibration error, 0..1, in 15 bins of equal width; `nll`: mean negative log-likelihood, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral.evaluate import calibrate
    >>> logits, true = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), np.array([0, 1, 1])
    >>> calibration = calibrate(logits, true, logits, true)
    >>> round(calibration.ece, 2), round(calibration.ece_scaled, 2)
    (0.33, 0.0)
    """

    temperature: float
    ece: float
    nll: float
    ece_scaled: float
    nll_scaled: float


def score(
    true: Sequence[str] | np.ndarray,
    predicted: Sequence[str] | np.ndarray,
    labels: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Metrics:
    """Score predictions; `true` and `predicted` are N labels of the vocabulary `labels`.

    With `groups` (N, the person on each image, say) the intervals are over whole groups instead of single images, since
    images of one group are alike.
    Raises DataError for no images, lengths that differ, or a label outside the vocabulary.

    Examples
    --------
    >>> from fergeneral.evaluate import score
    >>> true = ["fear", "fear", "fear", "surprise"]
    >>> metrics = score(true, ["fear", "fear", "surprise", "surprise"], ["fear", "surprise"])
    >>> metrics.accuracy, round(metrics.uar, 3)
    (0.75, 0.833)
    """
    rows, predictions = _pair(true, predicted, labels)
    classes = len(labels)
    confusion = np.bincount(rows * classes + predictions, minlength=classes**2).reshape(classes, classes)
    sample = _drawn(rows * classes + predictions, classes**2, groups, draws, seed)
    values, drawn = _figures(confusion), _figures(sample.reshape(draws, classes, classes))
    support = confusion.sum(axis=1)
    recall = {label: float(confusion[i, i] / support[i]) for i, label in enumerate(labels) if support[i]}
    return Metrics(
        accuracy=float(values["accuracy"]),
        uar=float(values["uar"]),
        macro_f1=float(values["macro_f1"]),
        recall=recall,
        confusion=confusion,
        labels=tuple(labels),
        n=len(rows),
        intervals={name: percentile_interval(drawn[name]) for name in drawn},
    )


def paired_bootstrap(
    true: Sequence[str] | np.ndarray,
    predicted_a: Sequence[str] | np.ndarray,
    predicted_b: Sequence[str] | np.ndarray,
    labels: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The difference a - b between two classifiers' predictions of the same images.

    Returns {"accuracy": {"difference", "interval": [low, high], "p"}, "uar": the same}. The interval holds 95 % of the
    differences over bootstrap draws of the images; p is two-sided: twice the share of draws in which the difference is
    zero or has the other sign, at least 2 / (draws + 1). Raises DataError as `score` does.

    Examples
    --------
    >>> from fergeneral.evaluate import paired_bootstrap
    >>> true = ["fear", "surprise"] * 20
    >>> difference = paired_bootstrap(true, true, ["fear"] * 40, ["fear", "surprise"])
    >>> difference["accuracy"]["difference"]
    0.5
    """
    rows, a = _pair(true, predicted_a, labels)
    _, b = _pair(true, predicted_b, labels)
    classes = len(labels)
    cube = np.bincount((rows * classes + a) * classes + b, minlength=classes**3)  # of true, a's and b's class
    sample = np.random.default_rng(seed).multinomial(len(rows), cube / len(rows), size=draws)
    result = {}
    for name in ("accuracy", "uar"):
        value, drawn = (_difference(cubes.reshape(-1, classes, classes, classes), name) for cubes in (cube, sample))
        beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p = min(1.0, 2 * (int(beyond) + 1) / (draws + 1))
        result[name] = {"difference": float(value[0]), "interval": list(percentile_interval(drawn)), "p": p}
    return result


def calibrate(
    val_logits: np.ndarray, val_true: np.ndarray, test_logits: np.ndarray, test_true: np.ndarray
) -> Calibration:
    """Temperature scaling (Guo et al., ICML 2017): the temperature is fitted on validation by NLL, all else is of test.

    Logits are (N, C); `val_true` and `test_true` are the (N,) columns of the true classes.
    Raises DataError for shapes that do not fit, no rows, values that are not finite, or a column that is not there.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral.evaluate import calibrate
    >>> logits, true = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), np.array([0, 1, 1])
    >>> calibrate(logits, true, logits, true).temperature > 1  # too sure of itself
    True
    """
    val, val_column = _logits(val_logits, val_true, "validation")
    test, test_column = _logits(test_logits, test_true, "test")
    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(lambda t: _nll(val / np.exp(t), val_column), bounds=(low, high), method="bounded")
    temperature = float(np.exp(found.x))
    return Calibration(
        temperature=temperature,
        ece=ece(test, test_column),
        nll=_nll(test, test_column),
        ece_scaled=ece(test / temperature, test_column),
        nll_scaled=_nll(test / temperature, test_column),
    )


def _pair(
    true: Sequence[str] | np.ndarray, predicted: Sequence[str] | np.ndarray, labels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    if len(true) != len(predicted) or len(true) == 0:
        raise DataError(f"N true and N predicted labels are needed, N > 0; got {len(true)} and {len(predicted)}")
    return columns(true, labels, "the true labels"), columns(predicted, labels, "the predictions")


def _drawn(cells: np.ndarray, count: int, groups: Sequence[str] | None, draws: int, seed: int) -> np.ndarray:
    """Bootstrap draws of images, or of groups of them, as counts (draws, `count`) of the confusion's cells."""
    generator = np.random.default_rng(seed)
    if groups is None:
        return generator.multinomial(len(cells), np.bincount(cells, minlength=count) / len(cells), size=draws)
    if len(groups) != len(cells):
        raise DataError(f"the group of each of the {len(cells)} images is needed, got {len(groups)}")
    different, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    counts = np.bincount(group * count + cells, minlength=len(different) * count).reshape(-1, count)
    return generator.multinomial(len(different), np.full(len(different), 1 / len(different)), size=draws) @ counts


def _figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, UAR and macro-F1 of (..., C, C) confusions, over the classes that each of them has."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    there = support > 0
    recall = np.divide(right, support, out=np.zeros(right.shape), where=there)
    # A class that occurs has support + predicted > 0. One that does not counts nowhere, like its recall.
    f1 = np.divide(2 * right, support + predicted, out=np.zeros(right.shape), where=there)
    classes = there.sum(axis=-1)
    return {
        "accuracy": right.sum(axis=-1) / support.sum(axis=-1),
        "uar": recall.sum(axis=-1) / classes,
        "macro_f1": f1.sum(axis=-1) / classes,
    }


def _difference(cubes: np.ndarray, name: str) -> np.ndarray:
    """a - b of a figure, from counts (draws, C true, C of a, C of b)."""
    return _figures(cubes.sum(axis=3))[name] - _figures(cubes.sum(axis=2))[name]


def percentile_interval(drawn: np.ndarray) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile of what a bootstrap drew."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _logits(logits: np.ndarray, true: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    values, column = np.asarray(logits, dtype=np.float64), np.asarray(true)
    if values.ndim != 2 or values.size == 0 or column.shape != values.shape[:1]:
        raise DataError(f"{name} needs (N, C) logits and (N,) columns, N > 0; got {values.shape} and {column.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{name} has logits that are not finite")
    if not np.issubdtype(column.dtype, np.integer) or column.min() < 0 or column.max() >= values.shape[1]:
        raise DataError(f"{name} needs the true classes as integers from 0 to {values.shape[1] - 1}")
    return values, column


def _nll(logits: np.ndarray, true: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(true)), true].mean())


def ece(logits: np.ndarray, true: np.ndarray) -> float:
    """Expected calibration error of (N, C) logits, `true` (N,) being the columns of the true classes.

    The mean gap between confidence and accuracy of the bins (0, 1/15], (1/15, 2/15] ..., weighted by their size.
    """
    probability = np.exp(log_softmax(logits, axis=1))
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == true
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gap = np.bincount(place, weights=right - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(true))
