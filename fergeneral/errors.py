"""Every error this package raises on purpose, in one tree; and the check of a number that many functions take."""

from __future__ import annotations

import operator
from typing import Any


class FergeneralError(Exception):
    """Base of all errors raised by fergeneral.

    Examples
    --------
    >>> from fergeneral import FergeneralError, extract
    >>> try:
    ...     extract("missing.jpg")
    ... except FergeneralError as error:
    ...     print(type(error).__name__)
    ImageError
    """


class ImageError(FergeneralError, ValueError):
    """An image cannot be read, or is not an image this package understands.

    Examples
    --------
    >>> from fergeneral import ImageError, extract
    >>> try:
    ...     extract(b"not a photo")
    ... except ImageError:
    ...     print("choose another file")
    choose another file
    """


class ModelError(FergeneralError):
    """Weights or their configuration are missing, damaged or of another kind than stated.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor, ModelError
    >>> try:
    ...     ExpressionExtractor.from_pretrained("no-such-model")
    ... except ModelError as error:
    ...     print("no-such-model" in str(error))
    True
    """


class DataError(FergeneralError, ValueError):
    """A data set, label file or stored table is missing, damaged or inconsistent.

    Examples
    --------
    >>> from fergeneral import DataError
    >>> from fergeneral.datasets import open_dataset
    >>> try:
    ...     open_dataset("no-such-folder")
    ... except DataError as error:
    ...     print(error)
    no-such-folder: no such folder
    """


class TrainingError(FergeneralError):
    """A training run cannot go on: it collapsed, its checkpoint is corrupt or another's, a process or disk failed.

    Examples
    --------
    >>> from fergeneral import FergeneralError, TrainingError
    >>> issubclass(TrainingError, FergeneralError)
    True
    """


class MissingExtraError(FergeneralError, ImportError):
    """An optional dependency is not installed; the message holds the pip command that installs it.

    Examples
    --------
    >>> from fergeneral import MissingExtraError
    >>> str(MissingExtraError("reading videos", "PyAV", "video")).partition(";")[0]
    'reading videos needs PyAV, which is not installed'
    """

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
