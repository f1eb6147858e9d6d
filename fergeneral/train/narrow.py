"""Embeddings of fewer numbers: a linear layer onto the subspace in which an encoder's features vary most."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def principal_subspace(features: Tensor, size: int) -> tuple[Tensor, Tensor, float]:
    """A linear layer from features (n, D) onto the span of their first `size` principal components.

    Returns weight (size, D), bias (size,), such that the outputs have mean 0, and the share of the variance that is
    kept, 0..1. The components are turned by a random rotation, always the same: as they are, the last ones hardly vary,
    and a classifier that standardises its inputs, or 8-bit numbers of one scale, would make noise of them. Distances
    are those of the projection, turned or not.
    """
    x = features.double()
    mean = x.mean(dim=0)
    centred = x - mean
    variances, components = torch.linalg.eigh(centred.T @ centred)  # ascending
    kept = components[:, -size:].T
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double())
    weight = rotation @ kept
    share = float(variances[-size:].sum() / variances.sum())
    return weight.float(), -(weight @ mean).float(), share


def narrow(network: nn.Module, features: Tensor, size: int) -> None:
    """Give a timm network without classifier such a layer as its classifier, in place."""
    weight, bias, _ = principal_subspace(features, size)
    network.reset_classifier(size)  # type: ignore[operator]
    layer = network.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
