"""Heads: small classifiers on frozen embeddings, for ready-made expressions and for any set of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fergeneral.heads.head import DEFAULT_HEAD, Head, HeadConfig, list_heads

if TYPE_CHECKING:
    from fergeneral.heads.fit import FitReport as FitReport
    from fergeneral.heads.fit import fit_head as fit_head

__all__ = ["DEFAULT_HEAD", "FitReport", "Head", "HeadConfig", "fit_head", "list_heads"]


def __getattr__(name: str) -> Any:
    if name in ("FitReport", "fit_head"):  # these need the extra `eval`, which predicting does not
        from fergeneral.heads.fit import FitReport, fit_head

        return FitReport if name == "FitReport" else fit_head
    raise AttributeError(f"module 'fergeneral.heads' has no attribute {name!r}")
