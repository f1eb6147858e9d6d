from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, log_loss, recall_score

from fergeneral import DataError
from fergeneral.evaluate import calibrate, paired_bootstrap, score

LABELS = ("neutral", "happiness", "fear")


def answers(count: int, right: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    true = generator.choice(LABELS, size=count, p=(0.6, 0.3, 0.1))
    return true, np.where(generator.random(count) < right, true, generator.choice(LABELS, size=count))


def figures(true: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Accuracy, UAR and macro-F1, class by class; scikit-learn takes milliseconds for it, too long for bootstraps."""
    right = true == predicted
    recall = [right[true == label].mean() for label in LABELS]
    f1 = [2 * right[true == label].sum() / ((true == label).sum() + (predicted == label).sum()) for label in LABELS]
    return float(right.mean()), float(np.mean(recall)), float(np.mean(f1))


def test_figures_agree_with_scikit_learn() -> None:
    true, predicted = answers(400, 0.6)
    result = score(true, predicted, LABELS)
    assert result.accuracy == pytest.approx((true == predicted).mean())
    assert result.uar == pytest.approx(balanced_accuracy_score(true, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(true, predicted, average="macro"))
    assert figures(true, predicted) == pytest.approx((result.accuracy, result.uar, result.macro_f1))
    assert (result.confusion == confusion_matrix(true, predicted, labels=LABELS)).all()
    recalls = recall_score(true, predicted, labels=LABELS, average=None)
    assert list(result.recall.values()) == pytest.approx(recalls.tolist())
    assert result.n == 400
    assert json.loads(json.dumps(result.to_dict()))["confusion"] == result.confusion.tolist()


def test_a_class_the_test_set_lacks_counts_nowhere() -> None:
    result = score(["neutral", "neutral", "happiness"], ["neutral", "fear", "happiness"], LABELS)
    assert result.recall == {"neutral": 0.5, "happiness": 1.0}
    assert result.uar == 0.75
    assert result.macro_f1 == pytest.approx((2 / 3 + 1) / 2)  # by hand: F1 of neutral 2/3, of happiness 1


def test_intervals_agree_with_drawing_the_images_one_by_one() -> None:
    true, predicted = answers(300, 0.5)
    result = score(true, predicted, LABELS, draws=4000)
    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(1000):
        i = generator.integers(0, 300, 300)
        drawn.append(figures(true[i], predicted[i]))
    for values, name in zip(np.array(drawn).T, ("accuracy", "uar", "macro_f1"), strict=True):
        assert result.intervals[name] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=0.01)


def test_the_interval_of_accuracy_is_the_binomial_one() -> None:
    true = ["neutral"] * 1000
    result = score(true, ["neutral"] * 800 + ["fear"] * 200, LABELS, draws=4000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert result.intervals["accuracy"] == pytest.approx((0.8 - half, 0.8 + half), abs=0.004)


def test_the_seed_fixes_the_intervals() -> None:
    true, predicted = answers(100, 0.5)
    first, again, other = (score(true, predicted, LABELS, seed=seed).intervals for seed in (3, 3, 4))
    assert first == again != other


def test_paired_bootstrap_against_one_by_one() -> None:
    true, a = answers(300, 0.7, 0)
    b = np.where(np.random.default_rng(9).random(300) < 0.85, a, "fear")
    result = paired_bootstrap(true, a, b, LABELS, draws=4000)
    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(1000):
        i = generator.integers(0, 300, 300)
        drawn.append(np.subtract(figures(true[i], a[i]), figures(true[i], b[i])))
    for values, name in zip(np.array(drawn).T[:2], ("accuracy", "uar"), strict=True):
        assert result[name]["interval"] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.01)
        assert result[name]["p"] == pytest.approx(2 * min((values <= 0).mean(), (values >= 0).mean()), abs=0.03)
    assert result["accuracy"]["difference"] == pytest.approx((true == a).mean() - (true == b).mean())


def test_equal_predictions_do_not_differ() -> None:
    true, a = answers(50, 0.7)
    assert paired_bootstrap(true, a, a, LABELS)["uar"] == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}


def test_a_known_temperature_is_found() -> None:
    generator = np.random.default_rng(0)
    honest = generator.normal(0, 1.5, size=(20_000, 4))
    probability = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    true = (probability.cumsum(axis=1) > generator.random((20_000, 1))).argmax(axis=1)
    result = calibrate(3 * honest[:10_000], true[:10_000], 3 * honest[10_000:], true[10_000:])
    assert result.temperature == pytest.approx(3, rel=0.05)
    assert result.ece > 0.1 > 0.02 > result.ece_scaled
    scaled = np.exp(3 * honest[10_000:] / result.temperature)
    assert result.nll_scaled == pytest.approx(log_loss(true[10_000:], scaled / scaled.sum(axis=1, keepdims=True)))
    assert result.nll > result.nll_scaled


def test_calibration_error_by_hand() -> None:
    # Two classes; confidences 0.9, 0.9, 0.6, 0.6, of which the first, the third and the fourth are right:
    # bins (0.867, 0.933] and (0.533, 0.6] are off by |0.5 - 0.9| and |1 - 0.6|.
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    true = np.array([0, 1, 0, 0])
    result = calibrate(np.log(p), true, np.log(p), true)
    assert result.ece == pytest.approx(0.4)
    assert result.nll == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]).mean())


def test_bad_input_is_named() -> None:
    logits, true = np.zeros((2, 3)), np.array([0, 2])
    for call, message in (
        (lambda: score([], [], LABELS), "got 0 and 0"),
        (lambda: score(["fear"], ["fear", "fear"], LABELS), "got 1 and 2"),
        (lambda: score(["joy"], ["fear"], LABELS), "true labels: .*'joy'"),
        (lambda: score(["fear"], ["joy"], LABELS), "predictions: .*'joy'"),
        (lambda: calibrate(logits, true, logits, np.array([0, 3])), "test .* 0 to 2"),
        (lambda: calibrate(logits, true[:1], logits, true), r"validation .*\(2, 3\) and \(1,\)"),
        (lambda: calibrate(logits[:0], true[:0], logits, true), "N > 0"),
        (lambda: calibrate(logits * np.nan, true, logits, true), "not finite"),
    ):
        with pytest.raises(DataError, match=message):
            call()
