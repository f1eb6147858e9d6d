"""Heads: small classifiers on frozen embeddings, for ready-made expressions and for any set of your own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fergeneral.heads.head import DEFAULT_HEAD, Head, HeadConfig, list_heads

if TYPE_CHECKING:
    from fergeneral.heads.fit import FitReport as FitReport
    from fergeneral.heads.fit import fit_head as fit_head

__all__ = ["DEFAULT_HEAD", "FitReport", "Head", "HeadConfig", "fit_head", "list_heads"]


def __getattr__(name: str) -> Any:
    if name in ("FitReport", "fit_head"):  # these need the extra `eval`, which predicting does not
        return getattr(importlib.import_module("fergeneral.heads.fit"), name)
    raise AttributeError(f"module 'fergeneral.heads' has no attribute {name!r}")
