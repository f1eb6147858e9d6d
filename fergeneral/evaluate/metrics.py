"""How good predictions are, with intervals: accuracy, UAR, macro-F1, paired differences, calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

DRAWS = 1000  # of a bootstrap
BINS = 15  # of equal width, of the expected calibration error, as Guo et al. (ICML 2017) use


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """What predictions are worth on a test set.

    `accuracy`; `uar`, the unweighted average of the class recalls; `macro_f1`, that of the class F1 scores, both over
    the classes that the test set has; `recall` of each of them; `confusion` (C, C) int: rows are true, columns
    predicted classes, in the order of `labels`; `n`: test images; `intervals`: the 95 % bootstrap interval (low, high)
    of "accuracy", "uar" and "macro_f1" over test images.
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
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How far a classifier's confidence is from its accuracy, before and after its logits are divided by `temperature`.

    `ece`: expected calibration error, 0..1, in 15 bins of equal width; `nll`: mean negative log-likelihood, in nats.
    """

    temperature: float
    ece: float
    nll: float
    ece_scaled: float
    nll_scaled: float


def score(
    true: Sequence[str], predicted: Sequence[str], labels: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Metrics:
    """Score predictions; `true` and `predicted` are N labels of the vocabulary `labels`.

    Raises DataError for no images, lengths that differ, or a label outside the vocabulary.
    """
    raise NotImplementedError


def paired_bootstrap(
    true: Sequence[str],
    predicted_a: Sequence[str],
    predicted_b: Sequence[str],
    labels: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The difference a - b between two classifiers' predictions of the same images.

    Returns {"accuracy": {"difference", "interval": [low, high], "p"}, "uar": the same}: 95 % bootstrap intervals, and p
    two-sided for no difference. Raises DataError as `score` does.
    """
    raise NotImplementedError


def calibrate(
    val_logits: np.ndarray, val_true: np.ndarray, test_logits: np.ndarray, test_true: np.ndarray
) -> Calibration:
    """Temperature scaling (Guo et al., ICML 2017): the temperature is fitted on validation by NLL, all else is of test.

    Logits are (N, C); `val_true` and `test_true` are the (N,) columns of the true classes.
    Raises DataError for shapes that do not fit, no rows, or a column that is not there.
    """
    raise NotImplementedError
