"""Protocols beside the linear probe: SGD probe, nearest neighbours, few examples, other data sets, other people.

Embeddings are (N, D) arrays of any system, labels N strings. All raise DataError for shapes that do not fit, an empty
split, values that are not finite, a label in test that train does not have, and a class of train with one example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

from fergeneral.datasets import class_counts
from fergeneral.evaluate.arrays import classes_of_train, columns, labelled, same_width, unit_rows
from fergeneral.evaluate.metrics import Metrics, score
from fergeneral.evaluate.probe import Probe, ProbeResult, fit_probe, group_folds

Part = tuple[np.ndarray, Sequence[str], np.ndarray, Sequence[str]]  # train (N, D) and labels, test (M, D) and labels

# The paper's linear evaluation: learning rate, momentum, batch, and when and by what the rate is cut.
SGD_RATE, SGD_MOMENTUM, SGD_BATCH = 4.0, 0.9, 128
SGD_CUTS, SGD_CUT = (0.60, 0.75, 0.90), 0.2

FEW_SHOT_C = 1.0  # for features whose mean squared length is 1, so that it means the same for every D

_ROWS = 1024  # test rows compared with train at once


@dataclasses.dataclass(frozen=True, eq=False)
class SGDProbeResult:
    """`last`: after the last epoch. `best_on_test_accuracy`: of the epoch that is best on the test set, which leaks.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import sgd_probe
    >>> result = sgd_probe(x[:80], labels[:80], x[80:], labels[80:], epochs=5, unit_length=True)
    >>> result.last.accuracy <= result.best_on_test_accuracy
    True
    """

    last: Metrics
    best_on_test_accuracy: float


@dataclasses.dataclass(frozen=True, eq=False)
class FewShot:
    """A probe fitted on few images a class, drawn several times.

    `accuracies`, `uars` (draws,): on the whole test set; `accuracy`, `uar`: their means; `accuracy_interval`,
    `uar_interval`: 95 % t intervals of the means over draws; `short`: classes with fewer train images than asked for,
    and how many they have, all of which were taken.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import few_shot
    >>> result = few_shot(x[:80], labels[:80], x[80:], labels[80:], shots=[4], draws=3)[4]
    >>> result.accuracies.shape, result.short
    ((3,), {})
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
        return {
            "accuracy": self.accuracy,
            "uar": self.uar,
            "accuracy_interval": list(self.accuracy_interval),
            "uar_interval": list(self.uar_interval),
            "accuracies": self.accuracies.tolist(),
            "uars": self.uars.tolist(),
            "short": dict(self.short),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class CrossResult:
    """A probe fitted on one data set and read on another, with the classes that both have (`result.labels`).

    `left_out_train`, `left_out_test`: the other classes, and how many images of each were left out.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import cross_dataset
    >>> part = (x, labels, x, labels)
    >>> results = cross_dataset({"a": part, "b": part})  # the same data twice, to be short
    >>> results["a", "b"].result.labels
    ('surprise', 'fear')
    """

    result: ProbeResult
    left_out_train: dict[str, int]
    left_out_test: dict[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectFolds:
    """`pooled`: over the predictions of all folds; `accuracies` (folds,): of each fold; `subjects`: people.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> people = [f"person {i // 4}" for i in range(100)]
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import subject_folds
    >>> result = subject_folds(x, labels, people, folds=5)
    >>> result.subjects, result.accuracies.shape
    (25, (5,))
    """

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
    unit_length: bool = False,
    seed: int = 0,
) -> SGDProbeResult:
    """The linear evaluation of the CRS-CONT paper: one linear layer on the embeddings, trained by SGD.

    Learning rate 4, cut to a fifth after 60, 75 and 90 % of the epochs, momentum 0.9, batches of 128, no weight decay.
    One deviation: the embeddings are fixed, where the paper computes them anew from randomly cropped and flipped views.
    So high a rate suits embeddings of a length near 1; `unit_length` scales them to it, which the paper does not do.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import sgd_probe
    >>> sgd_probe(x[:80], labels[:80], x[80:], labels[80:], epochs=5, unit_length=True).last.accuracy > 0.9
    True
    """
    x, y, x_test, y_test, labels = checked_parts(train, train_labels, test, test_labels)
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if unit_length:
        x, x_test = unit_rows(x), unit_rows(x_test)
    rows, truth = torch.tensor(x_test), columns(y_test, labels, "test")
    best, outputs = 0.0, np.empty(0)
    for layer in _sgd(torch.tensor(x), torch.tensor(columns(y, labels, "train")), len(labels), epochs, seed):
        with torch.inference_mode():
            outputs = layer(rows).numpy().argmax(axis=1)
        best = max(best, float((outputs == truth).mean()))
    return SGDProbeResult(score(y_test, np.array(labels)[outputs], labels, seed=seed), best)


def _sgd(x: torch.Tensor, y: torch.Tensor, classes: int, epochs: int, seed: int) -> Iterator[torch.nn.Linear]:
    """The layer after each epoch."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(x.shape[1], classes)
    bound = x.shape[1] ** -0.5  # torch's own start, from a generator of our own
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
    optimizer = torch.optim.SGD(layer.parameters(), lr=SGD_RATE, momentum=SGD_MOMENTUM)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = SGD_RATE * SGD_CUT ** sum(epoch >= cut * epochs for cut in SGD_CUTS)
        for batch in torch.randperm(len(x), generator=generator).split(SGD_BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
            optimizer.step()
        yield layer


def knn(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[int, Metrics]:
    """Weighted k nearest neighbours by cosine similarity, for each k (Wu et al., CVPR 2018: votes exp(cos / T)).

    A k above the number of train images takes all of them. An embedding of zeros has the similarity 0 to all.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import knn
    >>> knn(x[:80], labels[:80], x[80:], labels[80:], ks=[10])[10].accuracy > 0.9
    True
    """
    x, y, x_test, y_test, labels = checked_parts(train, train_labels, test, test_labels)
    if not ks or min(ks) < 1 or not temperature > 0:
        raise ValueError(f"ks must be positive integers and temperature above 0, got {ks} and {temperature}")
    known, column = torch.from_numpy(unit_rows(x)).T, columns(y, labels, "train")
    chosen: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for rows in torch.from_numpy(unit_rows(x_test)).split(_ROWS):
        similarity, neighbours = torch.topk(rows @ known, min(max(ks), len(x)), dim=1)
        weights = np.exp((similarity.double().numpy() - 1) / temperature)  # less 1, so that nothing overflows
        votes = np.zeros((len(rows), len(labels), weights.shape[1]))
        np.put_along_axis(votes, column[neighbours.numpy()][:, None], weights[:, None], axis=1)
        totals = votes.cumsum(axis=2)
        for k in ks:
            chosen[k].append(totals[:, :, min(k, totals.shape[2]) - 1].argmax(axis=1))
    return {k: score(y_test, np.array(labels)[np.concatenate(chosen[k])], labels) for k in ks}


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
    """Logistic regression on `shots` images a class, drawn `draws` times without replacement, read on the whole test.

    With so few images nothing is chosen: embeddings are scaled to unit length, then centred by the mean of the drawn
    ones and divided by their root mean square length; C is 1. A class with fewer images gives all it has, see
    `FewShot.short`. The draws for one number of shots are the first images of those for a larger one.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import few_shot
    >>> results = few_shot(x[:80], labels[:80], x[80:], labels[80:], shots=[1, 8], draws=5)
    >>> results[8].accuracy > 0.8
    True
    """
    x, y, x_test, y_test, labels = checked_parts(train, train_labels, test, test_labels)
    if draws < 2 or not shots or min(shots) < 1:
        raise ValueError(f"draws must be at least 2 and shots positive integers, got {draws} and {shots}")
    x, x_test = unit_rows(x), unit_rows(x_test)
    generator = np.random.default_rng(seed)
    orders = [[generator.permutation(np.flatnonzero(y == label)) for label in labels] for _ in range(draws)]
    results = {}
    for count in shots:
        scores = []
        for order in orders:
            rows = np.concatenate([members[:count] for members in order])
            scores.append(score(y_test, _few_shot_predictions(x[rows], y[rows], x_test), labels, draws=1))
        have = {label: len(members) for label, members in zip(labels, orders[0], strict=True) if len(members) < count}
        accuracies, uars = np.array([s.accuracy for s in scores]), np.array([s.uar for s in scores])
        means = float(accuracies.mean()), float(uars.mean())
        results[count] = FewShot(accuracies, uars, *means, t_interval(accuracies), t_interval(uars), have)
    return results


def cross_dataset(parts: Mapping[str, Part], *, seed: int = 0) -> dict[tuple[str, str], CrossResult]:
    """For every pair (a, b) of data sets: the linear probe fitted on a's train part, read on b's test part.

    Both are cut to the classes that a's train and b's test share; a pair with fewer than two such is left out.
    One probe serves all b that share the same classes with a.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import cross_dataset
    >>> part = (x[:80], labels[:80], x[80:], labels[80:])
    >>> sorted(cross_dataset({"a": part, "b": part}))
    [('a', 'b'), ('b', 'a')]
    """
    probes: dict[tuple[str, frozenset[str]], Probe] = {}
    results = {}
    for a, (train, train_labels, _, _) in parts.items():
        for b, (_, _, test, test_labels) in parts.items():
            shared = frozenset(map(str, train_labels)) & frozenset(map(str, test_labels))
            if a == b or len(shared) < 2:
                continue
            x, y, left_out_train = _only(train, train_labels, shared, f"train of {a}")
            if (a, shared) not in probes:
                probes[a, shared] = fit_probe(x, y, seed=seed)
            x, y, left_out_test = _only(test, test_labels, shared, f"test of {b}")
            results[a, b] = CrossResult(probes[a, shared].read(x, y), left_out_train, left_out_test)
    return results


def subject_folds(
    x: np.ndarray, labels: Sequence[str], subjects: Sequence[str], *, folds: int = 10, seed: int = 0
) -> SubjectFolds:
    """Cross-validation of the linear probe in which nobody is in train and test at once.

    Nor in both parts of the split that C is chosen on. The pooled intervals are over images, those of one person taken
    for independent, which makes them narrower than they should be. Images of a class that only the people of one fold
    show cannot be recognised, and count as wrong. Raises DataError for fewer people than folds.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> people = [f"person {i // 4}" for i in range(100)]
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import subject_folds
    >>> subject_folds(x, labels, people, folds=5).pooled.accuracy > 0.9
    True
    """
    features, y = labelled(x, labels, "the data")
    who = np.asarray(subjects, dtype=str)
    vocabulary = tuple(class_counts(y.tolist()))
    predicted, accuracies = np.empty_like(y), []
    for train, test in group_folds(y, who, folds, seed):
        probe = fit_probe(features[train], y[train].tolist(), groups=who[train].tolist(), seed=seed)
        predicted[test] = np.array(probe.labels)[probe.logits(features[test]).argmax(axis=1)]
        accuracies.append(float((predicted[test] == y[test]).mean()))
    return SubjectFolds(score(y, predicted, vocabulary, seed=seed), np.array(accuracies), len(set(who.tolist())))


def checked_parts(
    train: np.ndarray, train_labels: Sequence[str], test: np.ndarray, test_labels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Both parts as arrays, checked, and the classes of train."""
    x, y = labelled(train, train_labels, "train")
    x_test, y_test = labelled(test, test_labels, "test")
    same_width(x, x_test)
    labels = classes_of_train(y)
    columns(y_test, labels, "the test labels (known are those of train)")
    return x, y, x_test, y_test, labels


def _few_shot_predictions(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    mean = x.mean(axis=0)
    length = max(float(np.sqrt(((x - mean) ** 2).sum(axis=1).mean())), 1e-12)
    model = LogisticRegression(C=FEW_SHOT_C, max_iter=1000).fit((x - mean) / length, y)
    return model.predict((test - mean) / length)


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t interval of the mean of independent draws."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def _only(
    x: np.ndarray, labels: Sequence[str], classes: frozenset[str], name: str
) -> tuple[np.ndarray, list[str], dict[str, int]]:
    """The rows of some classes, their labels, and how many rows of each other class there were."""
    features, y = labelled(x, labels, name)
    keep = np.isin(y, sorted(classes))
    return features[keep], y[keep].tolist(), class_counts(y[~keep].tolist())
