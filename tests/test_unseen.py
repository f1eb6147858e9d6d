"""Unseen expressions: known answers, the same computed apart with scikit-learn, nobody on both sides, the report."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from fergeneral import DataError
from fergeneral.evaluate import few_people, learn_unseen, learn_unseen_people, pretraining_saw
from fergeneral.evaluate.unseen import mean_of

CLASSES = ("happiness", "sadness", "fear", "contempt")


def clusters(each: int, spread: float, seed: int, size: int = 32) -> tuple[np.ndarray, list[str]]:
    """Classes around the same four centres, whatever the seed; by an infinite `spread`, noise alone."""
    centres = np.random.default_rng(0).normal(size=(len(CLASSES), size))
    y = np.arange(each * len(CLASSES)) % len(CLASSES)
    noise = np.random.default_rng(seed).normal(size=(len(y), size))
    x = noise if np.isinf(spread) else centres[y] + spread * noise
    return x.astype(np.float32), [CLASSES[i] for i in y]


def test_a_separable_class_is_learnt_at_once() -> None:
    found = learn_unseen(*clusters(60, 0.05, 1), *clusters(30, 0.05, 2), "contempt")
    assert list(found) == [1, 5, 10, 50]
    for shots, result in found.items():
        figures = result.to_dict()
        assert (figures["shots"], figures["given"], figures["draws"], figures["classes"]) == (shots, shots, 20, 4)
        assert figures["recall"] == figures["uar"] == figures["auc"] == figures["others"] == 1
        assert figures["recall_interval"] == figures["recall_range"] == [1, 1]
        assert figures["others_before"] == 1
        assert json.loads(json.dumps(figures)) == figures


def test_noise_is_learnt_by_chance() -> None:
    """Its recall is a little less than a quarter: the other means, centred, lie away from each other on all sides."""
    train, test = clusters(100, np.inf, 1), clusters(200, np.inf, 2)
    for result in learn_unseen(*train, *test, "fear", draws=60).values():
        assert 0.12 < result.recalls.mean() < 0.27
        assert result.uars.mean() == pytest.approx(1 / 4, abs=0.03)
        assert result.aucs.mean() == pytest.approx(1 / 2, abs=0.02)
        assert result.before.mean() == pytest.approx(1 / 3, abs=0.06)
        assert result.others.mean() == pytest.approx(1 / 4, abs=0.06)


def by_hand(
    train: tuple[np.ndarray, Sequence[str]], test: tuple[np.ndarray, Sequence[str]], label: str
) -> tuple[float, float, float, float]:
    """Recall, UAR, AUC, and UAR of the others without the class, all train images being given."""
    (x, labels), (x_test, truth) = train, test
    y, true = np.array(labels), np.array(truth)
    scaler = StandardScaler().fit(x[y != label])
    unit, unit_test = normalize(scaler.transform(x)), normalize(scaler.transform(x_test))
    names = sorted(set(labels))
    means = normalize(np.stack([unit[y == name].mean(axis=0) for name in names]))
    near = unit_test @ means.T
    predicted = np.array(names)[near.argmax(axis=1)]
    mine = names.index(label)
    margin = near[:, mine] - np.delete(near, mine, axis=1).max(axis=1)
    recall = recall_score(true, predicted, labels=[label], average=None)[0]
    # Of vectors of one length, the most similar is the nearest.
    left = [name for name in names if name != label]
    known = KNeighborsClassifier(1).fit(np.delete(means, mine, axis=0), left)
    others = true != label
    before = balanced_accuracy_score(true[others], known.predict(unit_test[others]))
    return recall, balanced_accuracy_score(true, predicted), roc_auc_score(true == label, margin), before


@pytest.mark.parametrize("label", CLASSES)
def test_figures_are_those_computed_with_scikit_learn(label: str) -> None:
    train, test = clusters(40, 3.0, 1), clusters(50, 3.0, 2)
    (result,) = learn_unseen(*train, *test, label, shots=[1000], draws=3).values()
    assert result.given == 40, "all there are, however they are drawn"
    recall, uar, auc, before = by_hand(train, test, label)
    assert result.recalls == pytest.approx([recall] * 3)
    assert result.uars == pytest.approx([uar] * 3)
    assert result.aucs == pytest.approx([auc] * 3)
    assert result.before == pytest.approx([before] * 3)
    assert result.others == pytest.approx([(4 * uar - recall) / 3] * 3)
    assert 0.3 < recall < 1
    assert auc < 1


def test_draws_are_those_of_the_seed_and_more_examples_help() -> None:
    train, test = clusters(80, 2.0, 1), clusters(50, 2.0, 2)
    first, again, other = (learn_unseen(*train, *test, "fear", seed=seed) for seed in (3, 3, 4))
    assert (first[1].recalls == again[1].recalls).all()
    assert (first[1].recalls != other[1].recalls).any()
    assert first[50].aucs.mean() > first[5].aucs.mean() > first[1].aucs.mean()
    low, high = first[1].to_dict()["recall_interval"]
    assert first[1].recalls.min() < low < first[1].recalls.mean() < high < first[1].recalls.max()


def test_the_mean_over_classes() -> None:
    train, test = clusters(30, 2.0, 1), clusters(30, 2.0, 2)
    found = [learn_unseen(*train, *test, label, shots=[5])[5] for label in CLASSES]
    mean = mean_of(found)
    assert mean.recalls == pytest.approx(sum(result.recalls for result in found) / 4)
    assert (mean.shots, mean.given, mean.classes) == (5, 5, 4)


def people(of_person: float, of_class: float, count: int = 24) -> tuple[np.ndarray, list[str], list[str]]:
    """Each person shows two of four classes, on three images each; the embedding is a person's place, and a class's."""
    generator = np.random.default_rng(0)
    centres, places = generator.normal(size=(4, 32)), generator.normal(size=(count, 32))
    shown = [(person, CLASSES[(person + k) % 4]) for person in range(count) for k in range(2) for _ in range(3)]
    x = [of_person * places[person] + of_class * centres[CLASSES.index(label)] for person, label in shown]
    x = np.array(x) + 0.01 * generator.normal(size=(len(shown), 32))
    return x.astype(np.float32), [label for _, label in shown], [f"p{person}" for person, _ in shown]


def test_nobody_is_learnt_from_and_read() -> None:
    """Embeddings of identity alone say nothing of other people, though they would tell these very people's classes."""
    for result in learn_unseen_people(*people(1.0, 0.0), "contempt", draws=60).values():
        assert result.aucs.mean() == pytest.approx(0.5, abs=0.08)
        assert result.uars.mean() == pytest.approx(0.25, abs=0.06)
    found = learn_unseen_people(*people(0.0, 1.0), "contempt")
    assert found[1].to_dict()["uar"] == found[1].to_dict()["recall"] == 1
    assert found[50].given == 18, "of the 12 people who show it, half, on three images each"


def test_few_people_against_the_nearer_of_two_images() -> None:
    """One person with an image a class: a plane half-way between the two, of embeddings of unit length."""
    x, _, subjects = people(0.6, 0.2)
    x, subjects = x[[*range(0, 144, 6), *range(3, 144, 6)]], subjects[::6] * 2
    labels = ["neutral"] * 24 + ["happiness"] * 24
    x[24:] += np.random.default_rng(1).normal(size=32).astype(np.float32) / 4
    (result,) = few_people(x, labels, subjects, shots=[1], draws=40).values()
    unit = normalize(x)
    possible = []
    for person in range(24):
        rest = np.arange(48) % 24 != person
        ours, theirs = unit[person], unit[24 + person]
        smiling = (unit - (ours + theirs) / 2) @ (theirs - ours) > 0
        possible.append((smiling == (np.arange(48) >= 24))[rest].mean())
    assert {round(value, 6) for value in result.accuracies} <= {round(value, 6) for value in possible}
    assert len(set(result.accuracies)) > 3, "persons differ"
    assert result.accuracy == pytest.approx(np.mean(possible), abs=0.05)
    x[24:] += 10
    x[:24] -= 10
    assert few_people(x, labels, subjects, shots=[5])[5].accuracy == 1


@pytest.mark.parametrize(
    ("training_data", "label", "said"),
    [
        (("rafdb (train)", "affectnet (train)"), "contempt", "unseen"),
        (("rafdb (train)", "affectnet (train)"), "fear", "seen"),
        (("rafdb (train)", "contempt (train)"), "contempt", "seen"),
        (("ferplus (train)",), "contempt", "seen"),
        (("rafdb (train)", "my faces"), "contempt", "not stated"),
        (("rafdb (train)", "my faces"), "fear", "seen"),
        ((), "fear", "not stated"),
        (None, "fear", "not stated"),
    ],
)
def test_what_pretraining_saw(training_data: tuple[str, ...] | None, label: str, said: str) -> None:
    assert pretraining_saw(training_data, label) == said


def test_what_cannot_be_learnt_is_refused() -> None:
    train, test = clusters(10, 1.0, 1), clusters(10, 1.0, 2)
    with pytest.raises(DataError, match="train has no images of 'awe'; it has happiness"):
        learn_unseen(*train, *test, "awe")
    alone = np.array(test[1]) == "fear"
    with pytest.raises(DataError, match="test has no images of 'contempt'"):
        learn_unseen(*train, test[0][alone], ["fear"] * 10, "contempt")
    with pytest.raises(DataError, match="nothing but 'fear'"):
        learn_unseen(*train, test[0][alone], ["fear"] * 10, "fear")
    with pytest.raises(ValueError, match="draws must be at least 2"):
        learn_unseen(*train, *test, "fear", draws=1)
    x, labels, subjects = people(1.0, 1.0)
    with pytest.raises(DataError, match="'contempt' is shown by 1 of the people"):
        learn_unseen_people(x[:12], labels[:6] + labels[12:15] + labels[18:21], subjects[:12], "contempt")
    with pytest.raises(DataError, match="the person on each of the 144 images"):
        learn_unseen_people(x, labels, subjects[1:], "contempt")
    with pytest.raises(DataError, match="more than 50 people who show all; got 4 classes and 0 people"):
        few_people(x, labels, subjects)
