from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import silhouette_score

from fergeneral import DataError
from fergeneral.evaluate import effective_dimension, identity, separation, structure


def people(person: float, expression: float, seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    """12 people, 3 expressions, 3 frames each: a direction for the person, one for the expression, and noise."""
    generator = np.random.default_rng(seed)
    persons, expressions = generator.normal(size=(12, 40)), generator.normal(size=(3, 40))
    who, what = np.repeat(np.arange(12), 9), np.tile(np.repeat(np.arange(3), 3), 12)
    x = person * persons[who] + expression * expressions[what] + generator.normal(size=(108, 40))
    return x, [f"e{i}" for i in what], [f"p{i}" for i in who]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_identity_pair_by_pair() -> None:
    x, labels, subjects = people(0.5, 0.5)
    result = identity(x, labels, subjects)
    pairs: dict[tuple[bool, bool], list[float]] = {}
    for i, j in combinations(range(108), 2):
        pairs.setdefault((subjects[i] == subjects[j], labels[i] == labels[j]), []).append(cosine(x[i], x[j]))
    one_person, one_expression, neither = pairs[True, False], pairs[False, True], pairs[False, False]
    for name, values in (("identity_auc", one_person), ("expression_auc", one_expression)):
        # An area under the ROC curve is the Mann-Whitney statistic over the number of pairs.
        wanted = mannwhitneyu(values, neither).statistic / len(values) / len(neither)
        assert result[name] == pytest.approx(wanted, abs=1e-5)
    assert result["same_person_other_expression"] == pytest.approx(np.mean(one_person), abs=1e-6)
    assert result["other_person_same_expression"] == pytest.approx(np.mean(one_expression), abs=1e-6)
    assert result["other_person_other_expression"] == pytest.approx(np.mean(neither), abs=1e-6)


def test_identity_tells_what_embeddings_hold() -> None:
    only_person, only_expression = identity(*people(5, 0)), identity(*people(0, 5))
    assert only_person["identity_auc"] > 0.95
    assert only_person["expression_auc"] == pytest.approx(0.5, abs=0.06)
    assert only_expression["identity_auc"] == pytest.approx(0.5, abs=0.06)
    assert only_expression["expression_auc"] > 0.95


def test_separation_against_scikit_learn_and_by_hand() -> None:
    x, labels, _ = people(0, 1)
    assert separation(x, labels)["silhouette"] == pytest.approx(silhouette_score(x, labels, metric="cosine"), abs=1e-5)
    # Means 1 and 5, of all 3; between: 2 * 4 + 2 * 4, within: 4 * 1.
    line = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0]])
    assert separation(line, ["a", "a", "b", "b"])["fisher_ratio"] == pytest.approx(16 / 4)


def test_of_many_images_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels, subjects = people(0.5, 0.5)
    whole = separation(x, labels), identity(x, labels, subjects)
    monkeypatch.setattr(structure, "MOST", 60)
    some = separation(x, labels), identity(x, labels, subjects)
    assert some[0]["fisher_ratio"] == whole[0]["fisher_ratio"]
    assert some[0]["silhouette"] != whole[0]["silhouette"]
    assert some[0]["silhouette"] == pytest.approx(whole[0]["silhouette"], abs=0.05)
    assert some[1]["identity_auc"] == pytest.approx(whole[1]["identity_auc"], abs=0.1)
    assert some[1] == identity(x, labels, subjects, seed=0) != identity(x, labels, subjects, seed=1)


def test_dimensions_of_known_covariances() -> None:
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(400, 6)) - 0.0)[0]
    axes -= axes.mean(axis=0)
    axes = np.linalg.qr(axes)[0]  # orthonormal columns of mean 0, so that the eigenvalues below are exact
    even = effective_dimension(axes + 3)
    assert even["participation_ratio"] == pytest.approx(6, rel=1e-4)
    assert even["components_95"] == 6
    sizes = np.sqrt([90.0, 4.0, 2.0, 2.0, 1.0, 1.0])
    uneven = effective_dimension(axes * sizes)
    assert uneven["participation_ratio"] == pytest.approx(100**2 / (90**2 + 16 + 4 + 4 + 1 + 1), rel=1e-4)
    assert uneven["components_95"] == 3  # 90, 94, 96 %


def test_fewer_images_than_features() -> None:
    x = np.random.default_rng(0).normal(size=(5, 100))
    assert 1 <= effective_dimension(x)["participation_ratio"] <= 4.001


def test_bad_input_is_named() -> None:
    x, labels, subjects = people(1, 1)
    for call, message in (
        (lambda: identity(x, labels, subjects[1:]), "108 images is needed, got 107"),
        (lambda: identity(x, labels, [str(i) for i in range(108)]), "same person other expression"),
        (lambda: identity(x, ["e0"] * 108, subjects), "same person other expression"),
        (lambda: identity(x[1:], labels, subjects), r"\(107, 40\) and 108 labels"),
        (lambda: separation(x, ["e0"] * 108), "two classes"),
        (lambda: separation(np.ones((4, 2)), ["a", "a", "b", "b"]), "do not vary"),
        (lambda: effective_dimension(np.full((9, 4), 0.1)), "all the same"),
        (lambda: effective_dimension(np.zeros((0, 4))), "N > 0"),
        (lambda: effective_dimension(x * np.inf), "not finite"),
    ):
        with pytest.raises(DataError, match=message):
            call()
