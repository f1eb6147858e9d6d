"""What else embeddings keep: identity, how far the classes lie apart, how many dimensions are in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score, silhouette_score

from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import embeddings, labelled, unit_rows

MOST = 3000  # images that are compared with each other, each with each; of more, so many are drawn


def identity(x: np.ndarray, labels: Sequence[str], subjects: Sequence[str], *, seed: int = 0) -> dict[str, float]:
    """What the cosine similarity of two images tells: that they show one person, or one expression.

    `x` (N, D), `subjects` the person of each. Pairs of the same person with the same expression are not counted: they
    are frames of one sequence. Returns two areas under the ROC curve, 0.5 for nothing and 1 for everything,
    "identity_auc": pairs of one person against pairs of two, both with different expressions;
    "expression_auc": pairs with one expression against pairs with two, both of different persons;
    and the mean similarity, -1..1, of the three kinds of pairs, "same_person_other_expression",
    "other_person_same_expression" and "other_person_other_expression".
    Raises DataError where the data have no pair of one of the kinds.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> people = [f"person {i // 4}" for i in range(100)]
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import identity
    >>> sorted(identity(x, labels, people))[:2]
    ['expression_auc', 'identity_auc']
    """
    similarity, person, expression, *_ = compared(x, labels, subjects, seed=seed)
    kinds = {
        "same_person_other_expression": similarity[person & ~expression],
        "other_person_same_expression": similarity[~person & expression],
        "other_person_other_expression": similarity[~person & ~expression],
    }
    for kind, values in kinds.items():
        _check_pairs(kind, len(values))
    one_person, one_expression, neither = kinds.values()
    return {
        "identity_auc": _auc(one_person, neither),
        "expression_auc": _auc(one_expression, neither),
        **{kind: float(values.mean(dtype=np.float64)) for kind, values in kinds.items()},
    }


class Pairs(NamedTuple):
    """Every pair of images once: cosine similarity, whether person and expression are the same, and the two persons.

    All (P,); `first` and `second` are places in the sorted list of the people.
    """

    similarity: np.ndarray
    person: np.ndarray
    expression: np.ndarray
    first: np.ndarray
    second: np.ndarray


def compared(x: np.ndarray, labels: Sequence[str], subjects: Sequence[str], *, seed: int = 0) -> Pairs:
    """The pairs that `identity` reads; of more than 3,000 images, so many are drawn by `seed`."""
    features, y = labelled(x, labels, "the data")
    who = persons(subjects, len(y))
    rows = _some(len(y), seed)
    unit, y, who = unit_rows(features[rows]), y[rows], np.unique(who[rows], return_inverse=True)[1]
    first, second = np.triu_indices(len(y), 1)
    similarity = (unit @ unit.T)[first, second]
    return Pairs(similarity, who[first] == who[second], y[first] == y[second], who[first], who[second])


def persons(subjects: Sequence[str], count: int) -> np.ndarray:
    """(count,) str, the person on each image; DataError for another number of them."""
    who = np.asarray(subjects, dtype=str)
    if who.shape != (count,):
        raise DataError(f"the person of each of the {count} images is needed, got {len(who)}")
    return who


def _check_pairs(kind: str, count: int) -> None:
    if not count:
        raise DataError(f"the data have no pair of images of the kind {kind.replace('_', ' ')}")


def separation(x: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> dict[str, float]:
    """How far the classes lie apart.

    Returns "silhouette" (Rousseeuw 1987) by cosine distance, -1..1, over at most 3,000 images drawn by `seed`, and
    "fisher_ratio", the trace of the scatter between classes over that within them, >= 0. Raises DataError for fewer
    than two classes, no class with two images, or embeddings that do not vary within classes.

    Examples
    --------
    >>> import numpy as np
    >>> labels = ["fear", "surprise"] * 50
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 2 * (np.arange(100) % 2)[:, None]
    >>> from fergeneral.evaluate import separation
    >>> separation(x, labels)["silhouette"] > 0
    True
    """
    features, y = labelled(x, labels, "the data")
    rows = _some(len(y), seed)
    if not 2 <= len(set(y[rows].tolist())) < len(rows):
        raise DataError(f"two classes or more and a class with two images are needed, got {sorted(set(y.tolist()))}")
    silhouette = float(silhouette_score(features[rows], y[rows], metric="cosine"))
    values, column = features.astype(np.float64), np.unique(y, return_inverse=True)[1]
    counts = np.bincount(column)
    means = np.stack([values[column == c].mean(axis=0) for c in range(len(counts))])
    between = float((counts * ((means - values.mean(axis=0)) ** 2).sum(axis=1)).sum())
    within = float(((values - means[column]) ** 2).sum())
    if not within > 0:
        raise DataError("the embeddings do not vary within the classes")
    return {"silhouette": silhouette, "fisher_ratio": between / within}


def effective_dimension(x: np.ndarray) -> dict[str, float]:
    """How many directions embeddings (N, D) use.

    With l the eigenvalues of their covariance: "participation_ratio", (sum l)^2 / sum l^2, 1..D, and "components_95",
    the number of principal components that hold 95 % of the variance. Raises DataError where they do not vary.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral.evaluate import effective_dimension
    >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])  # all on one line
    >>> effective_dimension(x)["components_95"]
    1
    """
    values = embeddings(x, "the data").astype(np.float64)
    eigenvalues = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    total = float(eigenvalues.sum())
    if not total > 1e-12 * float((values**2).sum()):  # what is left is rounding
        raise DataError(f"the embeddings of the {len(values)} images are all the same")
    share = np.cumsum(eigenvalues) / total
    return {
        "participation_ratio": total**2 / float((eigenvalues**2).sum()),
        "components_95": int(np.argmax(share >= 0.95)) + 1,
    }


def _some(count: int, seed: int) -> np.ndarray:
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST, replace=False))


def _auc(positive: np.ndarray, negative: np.ndarray) -> float:
    truth = np.repeat([1, 0], [len(positive), len(negative)])
    return float(roc_auc_score(truth, np.concatenate([positive, negative])))
