"""What an embedding gives away beside the expression: who it is, and a person's gender, age group and ethnicity group.

These take embeddings of any system; `leakage_report.leakage` measures encoders of this package on London, CK+ and
FairFace, and others beside them. What follows for privacy: docs/privacy.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_curve
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fergeneral.datasets import class_counts
from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import classes_of_train, embeddings, labelled, unit_rows
from fergeneral.evaluate.metrics import DRAWS, Metrics, percentile_interval, score
from fergeneral.evaluate.probe import fit_probe, group_folds
from fergeneral.evaluate.structure import Pairs, compared, identity, persons

GALLERIES = 20  # how often one image to be known by and one to be found are drawn for each person
FOLDS = 5
_SVM_C = (1.0, 10.0)  # of which one is chosen inside the training part
_FAR = 0.01  # false accept rate, at which the true accept rate is stated

Learner = Literal["linear", "rbf"]


@dataclasses.dataclass(frozen=True)
class Identification:
    """How well embeddings tell who somebody is, across expressions.

    Attributes
    ----------
    people : int
        Who have images with two expressions or more; those that are to be told apart.
    images : int
        All images that were compared.
    auc : float
        Area under the ROC curve, 0.5 by chance: pairs of one person against pairs of two, the expressions of a pair
        different, by cosine similarity. The same as "identity_auc" of `identity`.
    eer : float
        Equal error rate of the same pairs, 0.5 by chance.
    tar : float
        Share of the pairs of one person that are accepted where 1 % of the other pairs are; 0.01 by chance.
    rank1 : float
        How often a person's image is most similar to that person's other image, among one image of each of `people`;
        `chance` is 1 / `people`.
    chance : float
        Of `rank1`.
    intervals : dict
        95 % bootstrap intervals over people, (low, high), of "auc" and "rank1". For rank1 the gallery stays as it is.
    """

    people: int
    images: int
    auc: float
    eer: float
    tar: float
    rank1: float
    chance: float
    intervals: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, lists and dicts, for JSON.

        Returns
        -------
        dict
            The attributes by name.
        """
        return dataclasses.asdict(self) | {"intervals": {name: list(pair) for name, pair in self.intervals.items()}}


@dataclasses.dataclass(frozen=True)
class Attribute:
    """How well a classifier reads an attribute of people that it was not trained on.

    Attributes
    ----------
    metrics : Metrics
        Over the predictions of all folds; intervals over people.
    people : int
        Different people.
    majority : float
        Accuracy of naming the most frequent class always.
    chance : float
        UAR of any answer that does not look at the image: 1 / classes.
    """

    metrics: Metrics
    people: int
    majority: float
    chance: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, lists and dicts, for JSON.

        Returns
        -------
        dict
            `people`, `majority`, `chance`, and what `Metrics.to_dict` gives.
        """
        counts = {"people": self.people, "majority": self.majority, "chance": self.chance}
        return counts | self.metrics.to_dict()


def identification(
    x: np.ndarray,
    labels: Sequence[str],
    subjects: Sequence[str],
    *,
    gallery: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Identification:
    """Verification and identification of people across expressions, by cosine similarity.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings of any system.
    labels, subjects : sequence of str
        N expressions, and the person on each image.
    gallery : str or None, default None
        The expression that people are known by; those without it do not take part in `rank1`. None draws, 20 times,
        one image of each person for the gallery and one with another expression to be found.
    draws : int, default 1000
        Of the bootstrap.
    seed : int, default 0
        Of all draws.

    Returns
    -------
    Identification
        Rates and their intervals.

    Raises
    ------
    DataError
        For shapes that do not fit, values that are not finite, and fewer than two people with images of two
        expressions.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral.evaluate import identification
    >>> x = np.eye(3)[[0, 0, 1, 1, 2, 2]]  # an embedding that is nothing but the person
    >>> result = identification(x, ["neutral", "happiness"] * 3, ["a", "a", "b", "b", "c", "c"])
    >>> result.auc, result.rank1
    (1.0, 1.0)
    """
    features, y = labelled(x, labels, "the data")
    who = persons(subjects, len(y))
    generator = np.random.default_rng(seed)
    hits = _rank1(unit_rows(features), y, who, gallery, generator)
    auc = identity(features, y.tolist(), who.tolist(), seed=seed)["identity_auc"]
    pairs = compared(features, y.tolist(), who.tolist(), seed=seed)
    different = ~pairs.expression
    false_rate, true_rate, _ = roc_curve(pairs.person[different], pairs.similarity[different])
    crossing = int(np.argmin(abs(1 - true_rate - false_rate)))
    resampled = hits[generator.integers(len(hits), size=(draws, len(hits)))].mean(axis=1)
    return Identification(
        people=len(hits),
        images=len(y),
        auc=auc,
        eer=float((1 - true_rate[crossing] + false_rate[crossing]) / 2),
        tar=float(np.interp(_FAR, false_rate, true_rate)),
        rank1=float(hits.mean()),
        chance=1 / len(hits),
        intervals={
            "auc": percentile_interval(_auc_draws(pairs, draws, generator)),
            "rank1": percentile_interval(resampled),
        },
    )


def attribute(
    x: np.ndarray,
    labels: Sequence[str],
    subjects: Sequence[str] | None = None,
    *,
    learner: Learner = "linear",
    folds: int = FOLDS,
    seed: int = 0,
) -> Attribute:
    """Cross-validated classification of what is stated of people, nobody being in train and test at once.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings of any system.
    labels : sequence of str
        N labels: gender, an age group.
    subjects : sequence of str or None, default None
        The person on each image; None: each image shows another one.
    learner : {"linear", "rbf"}, default "linear"
        "linear" is `fit_probe`; "rbf" is a support vector machine with a Gaussian kernel, for what a linear one cannot
        read. Their strengths are chosen inside the training part of each fold.
    folds : int, default 5
        Parts, classes spread evenly.
    seed : int, default 0
        Of the folds and the bootstrap.

    Returns
    -------
    Attribute
        Metrics over all images, each predicted once.

    Raises
    ------
    DataError
        For shapes that do not fit, values that are not finite, one class only, and fewer people than folds.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral.evaluate import attribute
    >>> generator = np.random.default_rng(0)
    >>> labels = ["old", "young"] * 50
    >>> x = generator.normal(size=(100, 4)) + np.array([[5], [0]] * 50)
    >>> attribute(x, labels).metrics.accuracy > 0.95
    True
    """
    features, y = labelled(x, labels, "the data")
    who = None if subjects is None else persons(subjects, len(y))
    vocabulary = classes_of_train(y)
    learn = _LEARNERS.get(learner)
    if learn is None:
        raise ValueError(f"learner must be one of {', '.join(_LEARNERS)}; got {learner!r}")
    predicted = np.empty_like(y)
    for train, test in _folds(y, who, folds, seed):
        others = None if who is None else who[train]
        predicted[test] = learn(features[train], y[train], others, seed)(features[test])
    metrics = score(y, predicted, vocabulary, groups=None if who is None else who.tolist(), seed=seed)
    most = max(class_counts(y.tolist()).values())
    people = len(y) if who is None else len(set(who.tolist()))
    return Attribute(metrics, people, most / len(y), 1 / len(vocabulary))


def person_metric(x: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """What somebody can do who has labelled images of other people: learn which directions tell people apart.

    Within-class covariance normalisation (Hatch, Kajarekar and Stolcke, Interspeech 2006): what differs between images
    of one person, such as the expression, is scaled to the same spread in every direction, with Ledoit and Wolf's
    shrinkage of the covariance. Features are scaled to unit spread before.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings.
    subjects : sequence of str
        The person on each image.

    Returns
    -------
    ndarray, shape (D, D)
        M; of other people's embeddings z compare (z - mean of z) @ M by cosine similarity.

    Raises
    ------
    DataError
        For shapes that do not fit, values that are not finite, and where nobody has two images.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> people = [f"person {i // 4}" for i in range(100)]
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import person_metric
    >>> person_metric(x, people).shape
    (8, 8)
    """
    features = embeddings(x, "the data")
    who = persons(subjects, len(features))
    spread = features.std(axis=0, dtype=np.float64)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * spread.max())
    rest = centred(features * scale, who)
    if not rest.any():
        raise DataError("nobody has two images that differ; people with several images are needed")
    values, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(rest).covariance_)
    metric: np.ndarray = scale[:, None] * ((axes / np.sqrt(np.maximum(values, 1e-9 * values[-1]))) @ axes.T)
    return metric


def centred(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each row less the mean of its group's rows."""
    group, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, group, x)
    rest: np.ndarray = x - (sums / counts[:, None])[group]
    return rest


def _rank1(
    unit: np.ndarray, y: np.ndarray, who: np.ndarray, gallery: str | None, generator: np.random.Generator
) -> np.ndarray:
    """(people,) how often each person is found; a tie of k counts 1 / k."""
    rows = {person: np.flatnonzero(who == person) for person in np.unique(who).tolist()}
    wanted = [gallery] if gallery is not None else sorted(set(y.tolist()))
    people = [
        places for places in rows.values() if len(set(y[places].tolist())) > 1 and np.isin(y[places], wanted).any()
    ]
    if len(people) < 2:
        of = "" if gallery is None else f", one of them {gallery!r}"
        raise DataError(
            f"two people or more with images of two expressions{of}, are needed; got {len(people)} of {len(rows)}"
        )
    hits = np.zeros(len(people))
    for _ in range(GALLERIES):
        known = [int(generator.choice(places[np.isin(y[places], wanted)])) for places in people]
        probes = [int(generator.choice(p[y[p] != y[k]])) for p, k in zip(people, known, strict=True)]
        similarity = unit[probes] @ unit[known].T
        best = similarity >= similarity.max(axis=1, keepdims=True)
        hits += np.diagonal(best) / best.sum(axis=1)
    return hits / GALLERIES


def _auc_draws(pairs: Pairs, draws: int, generator: np.random.Generator) -> np.ndarray:
    """`draws` areas under the ROC curve over people drawn with replacement; a pair counts by both of its people."""
    different = ~pairs.expression
    person, first, second = (pairs.person[different], pairs.first[different], pairs.second[different])
    place = np.unique(pairs.similarity[different], return_inverse=True)[1]
    people, values = int(max(first.max(), second.max())) + 1, int(place.max()) + 1
    areas = []
    for times in generator.multinomial(people, np.full(people, 1 / people), size=draws):
        weight = np.where(person, times[first], times[first] * times[second])
        one = np.bincount(place[person], weight[person], values)
        two = np.bincount(place[~person], weight[~person], values)
        if one.any() and two.any():
            areas.append(float(one @ (np.cumsum(two) - two / 2) / one.sum() / two.sum()))
    return np.array(areas)


def _folds(y: np.ndarray, who: np.ndarray | None, folds: int, seed: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """As `group_folds`; where each image shows another person, no groups are needed."""
    if who is not None:
        return group_folds(y, who, folds, seed)
    fewest = min(class_counts(y.tolist()).values())
    if not 2 <= folds <= fewest:
        raise DataError(f"{folds} folds need two or more, and as many images of each class; a class has {fewest}")
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y))


_Predict = Callable[[np.ndarray], np.ndarray]


def _linear(x: np.ndarray, y: np.ndarray, who: np.ndarray | None, seed: int) -> _Predict:
    probe = fit_probe(x, y.tolist(), groups=None if who is None else who.tolist(), seed=seed)
    return lambda rows: np.array(probe.labels)[probe.logits(rows).argmax(axis=1)]


def _rbf(x: np.ndarray, y: np.ndarray, who: np.ndarray | None, seed: int) -> _Predict:
    model = make_pipeline(StandardScaler(), SVC())
    return GridSearchCV(model, {"svc__C": _SVM_C}, cv=_folds(y, who, 3, seed)).fit(x, y).predict


_LEARNERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None, int], _Predict]] = {
    "linear": _linear,
    "rbf": _rbf,
}
