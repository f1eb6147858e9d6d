"""The card of a head (README.md), in the Hub's form; every number comes from its head.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fergeneral.heads.head import HeadConfig


def head_card(config: HeadConfig) -> str:
    """The text of the card.

    Parameters
    ----------
    config : HeadConfig
        What the head says of itself.

    Returns
    -------
    str
        Markdown with the Hub's metadata at the top.
    """
    return ""
