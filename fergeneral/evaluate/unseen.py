"""Unseen expressions: a class is held out, and then learnt from a few examples, on frozen embeddings.

The classifier is the nearest class mean by cosine similarity (Mensink et al., TPAMI 2013; Snell et al., NIPS 2017): the
class means of the other classes' train images, and the mean of the few examples for the new class. Embeddings are
standardised by the other classes' train images and scaled to unit length before. It has nothing to be tuned, works with
one example, and adds a class without touching the others. On validation images its UAR was that of logistic regression
with balanced weights, its recall of the new class higher below 50 examples: see docs/unseen.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from fergeneral.datasets import EXPRESSIONS, class_counts
from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import labelled, unit_rows
from fergeneral.evaluate.metrics import score
from fergeneral.evaluate.protocols import FewShot, checked_parts, t_interval

SHOTS = (1, 5, 10, 50)
DRAWS = 20

_SEVEN = EXPRESSIONS[:-1]
_LABELS_OF = {  # that each known data set has
    "rafdb": _SEVEN,
    "affectnet": _SEVEN,
    "affectnet8": EXPRESSIONS,
    "ferplus": EXPRESSIONS,
    "contempt": ("contempt",),
    "ckplus": EXPRESSIONS[1:],
}
_FIGURES = ("recall", "uar", "auc", "others")


@dataclasses.dataclass(frozen=True, eq=False)
class Unseen:
    """How well a class is learnt from `shots` examples, drawn several times.

    Attributes
    ----------
    shots : int
        Examples asked for.
    given : int
        Examples there were, at most `shots`.
    classes : int
        Of the test images, the new one among them.
    recalls : ndarray, shape (draws,)
        Of the new class, on the test images.
    uars : ndarray, shape (draws,)
        Mean recall over all classes of test, the new one among them.
    aucs : ndarray, shape (draws,)
        Of the new class against the rest, by how much nearer its mean is than that of any other class.
    others : ndarray, shape (draws,)
        Mean recall of the other classes, the new one being there as well.
    before : ndarray, shape (draws,)
        The same without the new class.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import learn_unseen
    >>> result = learn_unseen(x[:80], labels[:80], x[80:], labels[80:], "fear", shots=[5], draws=3)[5]
    >>> result.given, result.recalls.shape
    (5, (3,))
    """

    shots: int
    given: int
    classes: int
    recalls: np.ndarray
    uars: np.ndarray
    aucs: np.ndarray
    others: np.ndarray
    before: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Means over draws, their 95 % t intervals, and the lowest and highest recall, for JSON.

        Returns
        -------
        dict
            `shots`, `given`, `classes`, `draws`; `recall`, `uar`, `auc`, `others` with `recall_interval` and so on;
            `recall_range` [lowest, highest] of one draw; `others_before`. Rounded to four decimals.
        """
        values = dict(zip(_FIGURES, (self.recalls, self.uars, self.aucs, self.others), strict=True))
        means = {name: round(float(array.mean()), 4) for name, array in values.items()}
        intervals = {f"{name}_interval": _rounded(t_interval(array)) for name, array in values.items()}
        span = {"recall_range": _rounded((self.recalls.min(), self.recalls.max()))}
        counts = {"shots": self.shots, "given": self.given, "classes": self.classes, "draws": len(self.recalls)}
        return counts | means | intervals | span | {"others_before": round(float(self.before.mean()), 4)}


def learn_unseen(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    label: str,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[int, Unseen]:
    """Hold a class out of train, and learn it from a few of its train images; read on the whole test split.

    Parameters
    ----------
    train : ndarray, shape (N, D)
        Embeddings of any system.
    train_labels : sequence of str
        N labels. All images of the other classes are used.
    test : ndarray, shape (M, D)
        Embeddings of the same system.
    test_labels : sequence of str
        M labels.
    label : str
        The class that is held out.
    shots : sequence of int, default (1, 5, 10, 50)
        How many examples of it are given.
    draws : int, default 20
        How often they are drawn, without replacement. Those of few shots are the first of those of many.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    dict
        Shots -> Unseen.

    Raises
    ------
    DataError
        As `few_shot`; for a class that train or test does not have.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import learn_unseen
    >>> results = learn_unseen(x[:80], labels[:80], x[80:], labels[80:], "fear", shots=[5], draws=3)
    >>> bool(results[5].recalls.mean() > 0.8)
    True
    """
    _check(shots, draws)
    x, y, x_test, y_test, _ = checked_parts(train, train_labels, test, test_labels)
    _check_there(label, y, "train")
    _check_there(label, y_test, "test")
    if set(y_test.tolist()) == {label}:
        raise DataError(f"test has nothing but {label!r}; there is nothing to tell it from")
    generator = np.random.default_rng(seed)
    pool = np.flatnonzero(y == label)
    orders = [generator.permutation(pool) for _ in range(draws)]
    return _learn(x, y, x_test, y_test, label, shots, orders)


def learn_unseen_people(
    x: np.ndarray,
    labels: Sequence[str],
    subjects: Sequence[str],
    label: str,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[int, Unseen]:
    """`learn_unseen` for a set without splits: each draw learns from one half of the people and reads the other half.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings of any system.
    labels, subjects : sequence of str
        N labels, and who is shown.
    label : str
        The class that is held out. Those who show it are halved apart from those who do not.
    shots, draws, seed
        As for `learn_unseen`.

    Returns
    -------
    dict
        Shots -> Unseen.

    Raises
    ------
    DataError
        For shapes that do not fit, or a class that fewer than two people show.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> people = [f"person {i // 4}" for i in range(100)]
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import learn_unseen_people
    >>> bool(learn_unseen_people(x, labels, people, "fear", shots=[5], draws=3)[5].recalls.mean() > 0.8)
    True
    """
    _check(shots, draws)
    features, y = labelled(x, labels, "the data")
    who = np.asarray(subjects, dtype=str)
    if who.shape != y.shape:
        raise DataError(f"the person on each of the {len(y)} images is needed, got {len(who)}")
    show = sorted(set(who[y == label].tolist()))
    rest = sorted(set(who.tolist()) - set(show))
    if len(show) < 2:
        raise DataError(f"{label!r} is shown by {len(show)} of the people; two are needed, to learn from and to read")
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        halves = (generator.permutation(show)[: len(show) // 2], generator.permutation(rest)[: len(rest) // 2])
        learnt = np.isin(who, np.concatenate(halves))
        if set(y[learnt].tolist()) == {label} or set(y[~learnt].tolist()) == {label}:
            raise DataError(f"half of the people show nothing but {label!r}; there is nothing to tell it from")
        order = generator.permutation(np.flatnonzero(learnt & (y == label)))
        place = np.cumsum(learnt) - 1  # of a row among those learnt from
        drawn.append(_learn(features[learnt], y[learnt], features[~learnt], y[~learnt], label, shots, [place[order]]))
    return {count: _joined([results[count] for results in drawn]) for count in shots}


def few_people(
    x: np.ndarray,
    labels: Sequence[str],
    subjects: Sequence[str],
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[int, FewShot]:
    """Learn all classes from the images of a few people, and read those of everybody else.

    Nearest class mean, of unit length, centred by the mean of the drawn people's images: there are no other images to
    standardise by.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings of any system.
    labels, subjects : sequence of str
        N labels, and who is shown.
    shots : sequence of int, default (1, 5, 10, 50)
        How many people, of those who show every class.
    draws, seed
        As for `learn_unseen`.

    Returns
    -------
    dict
        Shots -> FewShot.

    Raises
    ------
    DataError
        For shapes that do not fit, or no more people with every class than the largest of `shots`.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> people = [f"person {i // 4}" for i in range(100)]
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import few_people
    >>> few_people(x, labels, people, shots=[5], draws=3)[5].accuracy > 0.8
    True
    """
    _check(shots, draws)
    features, y = labelled(x, labels, "the data")
    who = np.asarray(subjects, dtype=str)
    names = tuple(class_counts(y.tolist()))
    full = [person for person in sorted(set(who.tolist())) if set(y[who == person].tolist()) == set(names)]
    if len(names) < 2 or len(full) <= max(shots):
        raise DataError(
            f"two classes are needed, and more than {max(shots)} people who show all; got {len(names)} classes and "
            f"{len(full)} people"
        )
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(full) for _ in range(draws)]
    results = {}
    for count in shots:
        scores = []
        for order in orders:
            learnt = np.isin(who, order[:count])
            known = unit_rows(features[learnt])
            centre = np.mean([known[y[learnt] == name].mean(axis=0) for name in names], axis=0)
            means = unit_rows(np.stack([known[y[learnt] == name].mean(axis=0) - centre for name in names]))
            near = unit_rows(unit_rows(features[~learnt]) - centre) @ means.T
            scores.append(score(y[~learnt], np.array(names)[near.argmax(axis=1)], names, draws=1))
        accuracies, uars = np.array([s.accuracy for s in scores]), np.array([s.uar for s in scores])
        means_over = float(accuracies.mean()), float(uars.mean())
        results[count] = FewShot(accuracies, uars, *means_over, t_interval(accuracies), t_interval(uars), {})
    return results


def mean_of(results: Iterable[Unseen]) -> Unseen:
    """The mean over classes that were held out in turn, draw by draw; all of the same shots and draws."""
    found = list(results)
    arrays = {name: np.mean([getattr(one, name) for one in found], axis=0) for name in _ARRAYS}
    return Unseen(found[0].shots, min(one.given for one in found), found[0].classes, **arrays)


def pretraining_saw(training_data: Sequence[str] | None, label: str) -> str:
    """Whether pretraining had labels of a class, by `EncoderConfig.training_data`.

    Parameters
    ----------
    training_data : sequence of str or None
        Entries "NAME (SPLIT)"; None where nothing is known.
    label : str
        One of EXPRESSIONS.

    Returns
    -------
    str
        "seen", "unseen", or "not stated" where a data set is not known, or nothing is stated.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.evaluate import pretraining_saw
    >>> config = ExpressionExtractor.from_pretrained(device="cpu").config
    >>> pretraining_saw(config.training_data, "contempt")
    'seen'
    """
    names = [entry.partition(" (")[0] for entry in training_data or ()]
    if any(label in _LABELS_OF.get(name, ()) for name in names):
        return "seen"
    return "unseen" if names and all(name in _LABELS_OF for name in names) else "not stated"


_ARRAYS = ("recalls", "uars", "aucs", "others", "before")


def _learn(
    x: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    label: str,
    shots: Sequence[int],
    orders: Sequence[np.ndarray],
) -> dict[int, Unseen]:
    """`orders`: for each draw, the rows of the new class in x, the first of which are its examples."""
    base = y != label
    mean, spread = x[base].mean(axis=0, dtype=np.float64), x[base].std(axis=0, dtype=np.float64)
    scale = np.where(spread > 1e-6 * (1e-12 + np.abs(mean)), spread, np.inf)  # constant features count for nothing

    def unit(rows: np.ndarray) -> np.ndarray:
        return unit_rows(((rows - mean) / scale).astype(np.float32))

    known, names = unit(x[base]), np.array(list(class_counts(y[base].tolist())))
    means = unit_rows(np.stack([known[y[base] == name].mean(axis=0) for name in names]))
    rows = unit(test)
    similarity = rows @ means.T
    nearest, right = similarity.max(axis=1), names[similarity.argmax(axis=1)] == truth
    new, classes = truth == label, sorted(set(truth.tolist()) - {label})
    before = np.mean([right[truth == name].mean() for name in classes])
    results = {}
    for count in shots:
        examples = unit_rows(np.stack([unit(x[order[:count]]).mean(axis=0) for order in orders]))
        margin = rows @ examples.T - nearest[:, None]  # (test, draws); above 0 the new class is the nearest
        recalls = (margin[new] > 0).mean(axis=0)
        still = right[:, None] & (margin <= 0)
        others = np.mean([still[truth == name].mean(axis=0) for name in classes], axis=0)
        uars = (recalls + len(classes) * others) / (len(classes) + 1)
        given, same = min(count, len(orders[0])), np.full(len(orders), float(before))
        results[count] = Unseen(count, given, len(classes) + 1, recalls, uars, _aucs(margin, new), others, before=same)
    return results


def _aucs(margin: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Of each column: the share of pairs, of a new and another row, in which the new one has more; ties are half."""
    count = int(new.sum())
    ranks = rankdata(margin, axis=0)[new].sum(axis=0)
    aucs: np.ndarray = (ranks - count * (count + 1) / 2) / (count * (len(new) - count))
    return aucs


def _joined(results: Sequence[Unseen]) -> Unseen:
    """Of single draws."""
    arrays = {name: np.concatenate([getattr(one, name) for one in results]) for name in _ARRAYS}
    return Unseen(results[0].shots, min(one.given for one in results), results[0].classes, **arrays)


def _check(shots: Sequence[int], draws: int) -> None:
    if draws < 2 or not shots or min(shots) < 1:
        raise ValueError(f"draws must be at least 2 and shots positive integers, got {draws} and {shots}")


def _check_there(label: str, labels: np.ndarray, part: str) -> None:
    if label not in labels:
        raise DataError(f"{part} has no images of {label!r}; it has {', '.join(class_counts(labels.tolist()))}")


def _rounded(values: tuple[float, float]) -> list[float]:
    return [round(float(value), 4) for value in values]
