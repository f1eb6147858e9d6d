from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from fergeneral import DataError
from fergeneral.evaluate import cross_dataset, few_shot, fit_probe, knn, sgd_probe, subject_folds

NAMES = np.array(["neutral", "happiness", "surprise", "fear"])


def faces(count: int, seed: int, spread: float = 1.0, classes: int = 4) -> tuple[np.ndarray, list[str]]:
    """Classes whose centres are unit vectors, the first the most frequent."""
    generator = np.random.default_rng(seed)
    column = np.minimum(generator.geometric(0.4, count) - 1, classes - 1)
    x = np.eye(8)[column] + generator.normal(0, spread, (count, 8)) / np.sqrt(8)
    return x.astype(np.float32), NAMES[column].tolist()


def test_nearest_neighbours_agree_with_scikit_learn() -> None:
    (x, y), (x_test, y_test) = faces(300, 0), faces(100, 1)
    results = knn(x, y, x_test, y_test, ks=(1, 7, 50), temperature=0.3)
    for k, result in results.items():
        # scikit-learn's cosine distance is 1 - cos.
        model = KNeighborsClassifier(k, weights=lambda distance: np.exp((1 - distance) / 0.3), metric="cosine")
        assert result.accuracy == pytest.approx(model.fit(x, y).score(x_test, y_test))


def test_votes_by_hand() -> None:
    # Cosines with the test image: fear 0.9; happiness 0.8, 0.8. Two votes exp(0.8 / T) beat one exp(0.9 / T) if and
    # only if T is above 0.1 / ln 2 = 0.144.
    at = [np.arccos(c) for c in (0.9, 0.8, -0.8)] + [np.pi]
    x = np.array([[np.cos(a), np.sin(a)] for a in (at[0], at[1], -at[1], at[3])])
    y = ["fear", "happiness", "happiness", "fear"]
    test = np.array([[5.0, 0.0]])
    for temperature, right in ((0.1, 1.0), (0.2, 0.0)):
        assert knn(x, y, test, ["fear"], ks=(3,), temperature=temperature)[3].accuracy == right
    assert knn(x, y, test, ["fear"], ks=(1,), temperature=0.2)[1].accuracy == 1.0


def test_many_neighbours_of_few_images_are_all_images() -> None:
    (x, y), (x_test, y_test) = faces(60, 0), faces(30, 1)
    results = knn(x, y, x_test, y_test, ks=(60, 200))
    assert (results[60].confusion == results[200].confusion).all()


def test_the_sgd_probe_is_the_schedule_written_out() -> None:
    (x, y), (x_test, y_test) = faces(300, 0, 2.0), faces(200, 1, 2.0)
    result = sgd_probe(x, y, x_test, y_test, epochs=20, seed=5)
    # The same start and order, and SGD with momentum by hand, in float64.
    generator = torch.Generator().manual_seed(5)
    column = torch.tensor([NAMES.tolist().index(label) for label in y])
    weights = [torch.empty(shape).uniform_(-(8**-0.5), 8**-0.5, generator=generator).double() for shape in ((4, 8), 4)]
    speed = [torch.zeros_like(w) for w in weights]
    rows, accuracies = torch.tensor(x).double(), []
    for epoch in range(20):
        rate = 4.0 * 0.2 ** ((epoch >= 12) + (epoch >= 15) + (epoch >= 18))
        for batch in torch.randperm(300, generator=generator).split(128):
            p = torch.softmax(rows[batch] @ weights[0].T + weights[1], dim=1) - torch.eye(4)[column[batch]]
            for i, slope in enumerate((p.T @ rows[batch] / len(batch), p.mean(dim=0))):
                speed[i] = 0.9 * speed[i] + slope
                weights[i] = weights[i] - rate * speed[i]
        chosen = NAMES[(x_test @ weights[0].numpy().T + weights[1].numpy()).argmax(axis=1)]
        accuracies.append(accuracy_score(y_test, chosen))
    assert result.last.accuracy == pytest.approx(accuracies[-1])
    assert result.best_on_test_accuracy == pytest.approx(max(accuracies))
    assert max(accuracies) > accuracies[-1]  # else this says nothing of which of the two is which


def test_unit_length_takes_the_scale_away() -> None:
    (x, y), (x_test, y_test) = faces(200, 0), faces(100, 1)
    small, large = (
        sgd_probe(scale * x, y, scale * x_test, y_test, epochs=3, unit_length=True).last.confusion for scale in (1, 512)
    )
    assert (small == large).all()


def test_few_shot_agrees_with_scikit_learn_on_the_images_drawn() -> None:
    # As many as there are: every draw takes all, so that what is fitted is known.
    x, y = faces(200, 0, 2.0)
    x_test, y_test = faces(100, 1, 2.0)
    result = few_shot(x, y, x_test, y_test, shots=(500,), draws=3)[500]
    unit, unit_test = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, x_test))
    mean = unit.mean(axis=0)
    length = np.sqrt((np.linalg.norm(unit - mean, axis=1) ** 2).mean())
    model = LogisticRegression(max_iter=1000, C=1.0).fit((unit - mean) / length, y)
    assert result.accuracies == pytest.approx([model.score((unit_test - mean) / length, y_test)] * 3, abs=0.011)
    assert result.short == {name: y.count(name) for name in NAMES}
    assert json.loads(json.dumps(result.to_dict()))["short"] == result.short


def test_few_shot_improves_with_images_and_gives_the_t_interval() -> None:
    (x, y), (x_test, y_test) = faces(600, 0), faces(300, 1)
    results = few_shot(x, y, x_test, y_test, shots=(1, 16), draws=10)
    assert results[16].accuracy > results[1].accuracy + 0.1
    for result in results.values():
        values = result.accuracies
        wanted = stats.t.interval(0.95, 9, loc=values.mean(), scale=stats.sem(values))
        assert result.accuracy_interval == pytest.approx(wanted)
        assert len(set(values.tolist())) > 1
        assert result.short == {}


def test_few_shot_fits_only_on_what_was_drawn() -> None:
    x, y = faces(300, 0, 0.1)
    x_test, y_test = faces(100, 1, 0.1)
    assert few_shot(x, y, x_test, y_test, shots=(1,), draws=5)[1].accuracy > 0.95
    assert few_shot(x, np.roll(y, 1).tolist(), x_test, y_test, shots=(1,), draws=5)[1].accuracy < 0.6


def test_data_sets_are_read_with_the_classes_they_share() -> None:
    (x, y), (x_test, y_test) = faces(400, 0), faces(200, 1)
    (x3, y3), (x3_test, y3_test) = faces(300, 2, classes=3), faces(150, 3, classes=3)
    results = cross_dataset({"four": (x, y, x_test, y_test), "three": (x3, y3, x3_test, y3_test)})
    assert list(results) == [("four", "three"), ("three", "four")]
    cross = results["four", "three"]
    assert cross.result.labels == ("neutral", "happiness", "surprise")
    assert cross.left_out_train == {"fear": y.count("fear")}
    assert cross.left_out_test == {}
    assert results["three", "four"].left_out_test == {"fear": y_test.count("fear")}
    keep = [i for i, label in enumerate(y) if label != "fear"]
    wanted = fit_probe(x[keep], [y[i] for i in keep]).read(x3_test, y3_test)
    assert cross.result.logits == pytest.approx(wanted.logits)


def test_data_sets_that_share_one_class_make_no_pair() -> None:
    x, y = faces(100, 0, classes=2)
    other = ["fear" if label == "happiness" else label for label in y]
    assert cross_dataset({"a": (x, y, x, y), "b": (x, other, x, other)}) == {}


def test_nobody_is_recognised_across_folds() -> None:
    # Labels by chance, and each person's images alike: a probe that saw the person in train would know the label.
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(60), 6)
    x = generator.normal(size=(60, 80))[people] + generator.normal(0, 0.01, (360, 80))
    y = NAMES[generator.integers(0, 2, 60)[people]].tolist()
    result = subject_folds(x, y, people.astype(str).tolist(), folds=5)
    assert result.pooled.accuracy < 0.7
    assert result.subjects == 60
    assert len(result.accuracies) == 5


def test_folds_are_pooled() -> None:
    x, y = faces(300, 0)
    people = [str(i % 30) for i in range(300)]
    result = subject_folds(x, y, people, folds=10)
    assert result.pooled.n == 300
    assert result.pooled.accuracy == pytest.approx(result.accuracies.mean(), abs=0.05)
    assert result.pooled.accuracy == pytest.approx(fit_probe(x, y).read(*faces(300, 1)).accuracy, abs=0.08)


@pytest.mark.parametrize("protocol", [sgd_probe, knn, few_shot])
def test_bad_input_is_named(protocol) -> None:  # type: ignore[no-untyped-def]
    x, y = faces(40, 0)
    for arguments, message in (
        ((x, y[:-1], x, y), r"train .*\(40, 8\) and 39 labels"),
        ((x, y, x[:, :1], y), "train has 8 features, test has 1"),
        ((x, [*y[:-1], "contempt"], x, y), "two examples"),
        ((x, y, x, [*y[:-1], "joy"]), "'joy'"),
        ((np.where(x > 1, np.nan, x), y, x, y), r"train has \d+ rows .*not finite"),
        ((x, y, x[:0], []), "test needs .*N > 0"),
        ((x[:0], [], x, y), "train needs .*N > 0"),
    ):
        with pytest.raises(DataError, match=message):
            protocol(*arguments)


def test_too_few_people_are_named() -> None:
    x, y = faces(40, 0)
    with pytest.raises(DataError, match=r"10 folds .* 4 different"):
        subject_folds(x, y, [str(i % 4) for i in range(40)])
    with pytest.raises(DataError, match="got 39"):
        subject_folds(x, y, [str(i) for i in range(39)])


def test_the_data_set_at_fault_is_named() -> None:
    x, y = faces(40, 0)
    with pytest.raises(DataError, match="test of b has 40 rows"):
        cross_dataset({"a": (x, y, x, y), "b": (x, y, x * np.nan, y)})
