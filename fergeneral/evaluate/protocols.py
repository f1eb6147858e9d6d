"""Protocols beside the linear probe: SGD probe, nearest neighbours, few examples, other data sets, other people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fergeneral.evaluate.metrics import Metrics
from fergeneral.evaluate.probe import ProbeResult

Part = tuple[np.ndarray, Sequence[str], np.ndarray, Sequence[str]]  # train (N, D) and labels, test (M, D) and labels


@dataclasses.dataclass(frozen=True)
class SGDProbeResult:
    """`last`: after the last epoch. `best_on_test_accuracy`: of the epoch that is best on the test set, which leaks."""

    last: Metrics
    best_on_test_accuracy: float


@dataclasses.dataclass(frozen=True, eq=False)
class FewShot:
    """A probe fitted on few images a class, drawn several times.

    `accuracies`, `uars` (draws,): on the whole test set; `accuracy`, `uar`: their means; `accuracy_interval`,
    `uar_interval`: 95 % t intervals of the means over draws; `short`: classes with fewer train images than asked for,
    and how many they have, all of which were taken.
    """

    accuracies: np.ndarray
    uars: np.ndarray
    accuracy: float
    uar: float
    accuracy_interval: tuple[float, float]
    uar_interval: tuple[float, float]
    short: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, lists and dicts, for JSON."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class CrossResult:
    """A probe fitted on one data set and read on another, with the classes that both have (`result.labels`).

    `left_out_train`, `left_out_test`: the other classes, and how many images of each were left out.
    """

    result: ProbeResult
    left_out_train: dict[str, int]
    left_out_test: dict[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectFolds:
    """`pooled`: over the predictions of all folds; `accuracies` (folds,): of each fold; `subjects`: people."""

    pooled: Metrics
    accuracies: np.ndarray
    subjects: int


def sgd_probe(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    *,
    epochs: int = 100,
    seed: int = 0,
) -> SGDProbeResult:
    """The linear evaluation of the CRS-CONT paper."""
    raise NotImplementedError


def knn(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[int, Metrics]:
    """Weighted k nearest neighbours by cosine similarity, for each k (Wu et al., CVPR 2018: votes exp(cos / T))."""
    raise NotImplementedError


def few_shot(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16, 32),
    draws: int = 10,
    seed: int = 0,
) -> dict[int, FewShot]:
    """Logistic regression on `shots` images a class, drawn `draws` times, read on the whole test set."""
    raise NotImplementedError


def cross_dataset(parts: Mapping[str, Part], *, seed: int = 0) -> dict[tuple[str, str], CrossResult]:
    """For every pair (a, b) of data sets: the linear probe fitted on a's train part, read on b's test part."""
    raise NotImplementedError


def subject_folds(
    x: np.ndarray, labels: Sequence[str], subjects: Sequence[str], *, folds: int = 10, seed: int = 0
) -> SubjectFolds:
    """Cross-validation of the linear probe in which nobody is in train and test at once."""
    raise NotImplementedError
