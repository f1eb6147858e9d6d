"""What else embeddings keep: identity, how far the classes lie apart, how many dimensions are in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def identity(x: np.ndarray, labels: Sequence[str], subjects: Sequence[str], *, seed: int = 0) -> dict[str, float]:
    """How well cosine similarity tells the person, and the expression.

    Returns {"identity_auc", "expression_auc", "same_person_same_expression" ...: mean similarity of pair kinds}.
    """
    raise NotImplementedError


def separation(x: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> dict[str, float]:
    """{"silhouette": by cosine distance, -1..1; "fisher_ratio": between-class over within-class scatter, >= 0}."""
    raise NotImplementedError


def effective_dimension(x: np.ndarray) -> dict[str, float]:
    """{"participation_ratio": 1..D; "components_95": principal components that hold 95 % of the variance}."""
    raise NotImplementedError
