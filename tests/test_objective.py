"""The objective against the outputs of the authors' released code, and against a slow version in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fergeneral.train.objective import CRSContLoss, SimCLR, SupCon, contrastive_loss

REFERENCE = np.load(Path(__file__).parent / "data" / "crs_cont_reference.npz")
CASES = sorted({name.split("/")[0] for name in REFERENCE.files})


def case(name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): torch.from_numpy(REFERENCE[k]) for k in REFERENCE.files if k.startswith(prefix)}


def test_all_six_cases_are_there() -> None:
    assert len(CASES) == 6


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_of_the_reference(name: str) -> None:
    c = case(name)
    features, logits = c["features"].requires_grad_(), c["logits"].requires_grad_()
    terms = CRSContLoss(temperature=float(c["temperature"]))(features, logits, c["labels"])
    for term in ("total", "contrastive", "cross_entropy", "consistency"):
        assert getattr(terms, term).item() == pytest.approx(c[term].item(), rel=1e-5)
    terms.total.backward()
    for tensor, expected in ((features, c["grad_features"]), (logits, c["grad_logits"])):
        assert tensor.grad is not None
        assert (tensor.grad - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_simclr_of_the_reference(name: str) -> None:
    c = case(name)
    assert SimCLR(float(c["temperature"]))(c["features"]).item() == pytest.approx(c["simclr"].item(), rel=1e-5)


def slow_supcon(views: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    z = np.concatenate([views[:, 0], views[:, 1]]).astype(np.float64)
    y = np.concatenate([labels, labels])
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        log_sum = math.log(sum(math.exp(z[i] @ z[j] / temperature) for j in others))
        positives = [j for j in others if y[j] == y[i]]
        losses.append(-sum(z[i] @ z[j] / temperature - log_sum for j in positives) / len(positives))
    return float(np.mean(losses)) * temperature / 0.07


def test_supcon_against_a_slow_float64_version() -> None:
    torch.manual_seed(1)
    views = F.normalize(torch.randn(9, 2, 16), dim=2)
    labels = torch.tensor([0, 1, 2, 0, 1, 6, 6, 6, 3])
    for temperature in (0.07, 0.3):
        expected = slow_supcon(views.numpy(), labels.numpy(), temperature)
        assert SupCon(temperature)(views, labels).item() == pytest.approx(expected, rel=1e-5)


def test_two_equal_pairs_by_hand() -> None:
    # Two images, opposite unit vectors, both views equal: an anchor sees its twin at similarity 1, the others at -1.
    views = torch.tensor([[[1.0, 0.0]] * 2, [[-1.0, 0.0]] * 2])
    expected = math.log(1 + 2 * math.exp(-2 / 0.5)) * 0.5 / 0.07
    assert contrastive_loss(views, torch.tensor([0, 1]), 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_collapse_is_at_chance() -> None:
    views = F.normalize(torch.ones(8, 2, 4), dim=2)
    assert SimCLR()(views).item() == pytest.approx(math.log(2 * 8 - 1), rel=1e-5)


def test_bfloat16_autocast_and_a_class_that_occurs_once_stay_finite() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 2, 2, 2])
    features = F.normalize(torch.randn(6, 2, 128), dim=2).bfloat16().requires_grad_()
    logits = (30 * torch.randn(6, 2, 4)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        terms = CRSContLoss()(features, logits, labels)
        terms.total.backward()
    assert terms.total.dtype == torch.float32
    for value in (terms.total, features.grad, logits.grad):
        assert value is not None
        assert torch.isfinite(value).all()


def test_the_negative_class_counts_half() -> None:
    torch.manual_seed(2)
    views, logits = F.normalize(torch.randn(4, 2, 8), dim=2), torch.zeros(4, 2, 4)
    all_negative = torch.ones(4, dtype=torch.long)
    weighted = CRSContLoss()(views, logits, all_negative).contrastive
    plain = CRSContLoss(class_weights=(1, 1, 1, 1))(views, logits, all_negative).contrastive
    assert weighted.item() == pytest.approx(0.5 * plain.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("projections", "logits", "labels"),
    [
        ((4, 8), (4, 2, 4), (4,)),
        ((4, 3, 8), (4, 3, 4), (4,)),
        ((4, 2, 8), (4, 2, 5), (4,)),
        ((4, 2, 8), (4, 2, 4), (3,)),
    ],
)
def test_wrong_shapes_are_refused(projections: tuple, logits: tuple, labels: tuple) -> None:
    with pytest.raises(ValueError, match="must be"):
        CRSContLoss()(torch.zeros(projections), torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        SimCLR(0.0)
