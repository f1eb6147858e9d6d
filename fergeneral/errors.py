"""Every error this package raises on purpose, in one tree; and the check of a number that many functions take."""

from __future__ import annotations

import operator
from typing import Any


class FergeneralError(Exception):
    """Base of all errors raised by fergeneral."""


class ImageError(FergeneralError, ValueError):
    """An image cannot be read, or is not an image this package understands."""


class ModelError(FergeneralError):
    """Weights or their configuration are missing, damaged or of another kind than stated."""


class DataError(FergeneralError, ValueError):
    """A data set, label file or stored table is missing, damaged or inconsistent."""


class TrainingError(FergeneralError):
    """A training run cannot go on: it collapsed, its checkpoint is corrupt or another's, a process or disk failed."""


class MissingExtraError(FergeneralError, ImportError):
    """An optional dependency is not installed; the message holds the pip command that installs it."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed; run: pip install 'fergeneral[{extra}]' "
            f"(in a clone of its repository: pip install '.[{extra}]')"
        )


def positive_integer(value: Any, name: str) -> int:
    """Check an argument that counts something.

    Parameters
    ----------
    value : int
        Any integer, also NumPy's; 1 or more. Not a bool.
    name : str
        Of the argument, for the message.

    Returns
    -------
    int
        The value as a Python int.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is less than 1.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a positive integer, got {value!r}")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number}")
    return number
