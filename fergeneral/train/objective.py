"""The CRS-CONT objective and the contrastive losses it is compared with.

CRS-CONT: Li, Wang, Yang, Gao, "A Well-Trained General Encoder for Facial Expression Analysis", IEEE TIP 2022,
doi 10.1109/TIP.2022.3186536. SupCon: Khosla et al., NeurIPS 2020, arXiv 2004.11362. SimCLR: Chen et al., ICML
2020, arXiv 2002.05709.

Shapes: B images, two views of each, D dimensions, C coarse classes. All losses are computed in float32 whatever
the autocast around them, since exp(1 / 0.07) is beyond what half precision holds well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BASE_TEMPERATURE = 0.07  # SupCon's: losses are scaled by temperature / BASE_TEMPERATURE


@dataclasses.dataclass(frozen=True)
class CRSContTerms:
    """The objective and its three terms, scalars; `total` is what is minimised."""

    total: Tensor
    contrastive: Tensor
    cross_entropy: Tensor
    consistency: Tensor


class CRSContLoss(nn.Module):
    """Coarse-constrained contrastive learning that keeps fine differences.

    total = contrastive + cross_entropy + consistency_weight * consistency, where
    - contrastive: SupCon on the coarse labels, each anchor weighted by the weight of its class, so that the
      negative class, which holds several expressions, is drawn together less;
    - cross_entropy: of the first view's coarse logits;
    - consistency: SimCLR on the L2-normalised coarse probabilities, so that the two views of an image agree.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        class_weights: Sequence[float] = (1.0, 0.5, 1.0, 1.0),
        consistency_weight: float = 0.4,
    ) -> None:
        super().__init__()
        _check_temperature(temperature)
        self.temperature = temperature
        self.class_weights = tuple(class_weights)
        self.consistency_weight = consistency_weight

    def forward(self, projections: Tensor, coarse_logits: Tensor, coarse_labels: Tensor) -> CRSContTerms:
        """`projections` (B, 2, D), L2-normalised; `coarse_logits` (B, 2, C); `coarse_labels` (B,) in 0..C-1."""
        _check_views(projections, coarse_labels)
        if coarse_logits.shape[:2] != projections.shape[:2] or coarse_logits.shape[2] != len(self.class_weights):
            raise ValueError(
                f"coarse_logits must be (B, 2, {len(self.class_weights)}), got {tuple(coarse_logits.shape)} "
                f"beside projections {tuple(projections.shape)}"
            )
        with torch.autocast(projections.device.type, enabled=False):
            logits = coarse_logits.float()
            weights = torch.tensor(self.class_weights, device=logits.device)[coarse_labels]
            contrastive = contrastive_loss(projections.float(), coarse_labels, self.temperature, weights)
            cross_entropy = F.cross_entropy(logits[:, 0], coarse_labels)
            probabilities = F.normalize(logits.softmax(dim=2), dim=2)
            consistency = contrastive_loss(probabilities, _own_label(logits), self.temperature)
            total = contrastive + cross_entropy + self.consistency_weight * consistency
        return CRSContTerms(total, contrastive, cross_entropy, consistency)


class SimCLR(nn.Module):
    """The other view of an image is its only positive; `forward` takes projections (B, 2, D), L2-normalised."""

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        _check_temperature(temperature)
        self.temperature = temperature

    def forward(self, projections: Tensor) -> Tensor:
        """The loss, a scalar."""
        _check_views(projections, projections[:, 0, 0])
        with torch.autocast(projections.device.type, enabled=False):
            return contrastive_loss(projections.float(), _own_label(projections), self.temperature)


class SupCon(nn.Module):
    """All views of images with the same label are positives; `forward` takes (B, 2, D) and labels (B,)."""

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        _check_temperature(temperature)
        self.temperature = temperature

    def forward(self, projections: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        _check_views(projections, labels)
        with torch.autocast(projections.device.type, enabled=False):
            return contrastive_loss(projections.float(), labels, self.temperature)


def contrastive_loss(views: Tensor, labels: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """The SupCon loss ("L_out"): for each of the 2B anchors the mean of -log p over its positives.

    `views` (B, 2, D), L2-normalised; `labels` (B,); `weights` (B,) of the anchors, 1 if None. The mean over
    anchors is plain, not divided by the weights. An anchor always has a positive: its other view.
    """
    anchors = torch.cat([views[:, 0], views[:, 1]])
    similarity = anchors @ anchors.T / temperature
    itself = torch.eye(len(anchors), dtype=torch.bool, device=views.device)
    log_p = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    both = labels.repeat(2)
    positive = (both[:, None] == both[None, :]) & ~itself
    per_anchor = -(log_p * positive).sum(dim=1) / positive.sum(dim=1)
    if weights is not None:
        per_anchor = per_anchor * weights.repeat(2)
    return per_anchor.mean() * (temperature / BASE_TEMPERATURE)


def _own_label(views: Tensor) -> Tensor:
    return torch.arange(len(views), device=views.device)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _check_views(projections: Tensor, labels: Tensor) -> None:
    if projections.ndim != 3 or projections.shape[1] != 2:
        raise ValueError(f"projections must be (B, 2, D), two views of each image, got {tuple(projections.shape)}")
    if labels.shape != projections.shape[:1]:
        raise ValueError(f"labels must be ({len(projections)},), got {tuple(labels.shape)}")
