"""The same faces under worse conditions: corrupted images, and crops that are not where they should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from fergeneral.datasets import Dataset
from fergeneral.encoder import EncoderConfig
from fergeneral.types import Detector


class Condition(NamedTuple):
    """`crop(image, index)`: upright RGB image and its place in the data set -> (S, S, 3) uint8, or None for no face."""

    group: str
    severity: str
    crop: Callable[[Image.Image, int], np.ndarray | None]


def conditions(
    dataset: Dataset, config: EncoderConfig, *, detectors: Mapping[str, Detector] | None = None, seed: int = 0
) -> list[Condition]:
    """All conditions for one data set and encoder, in the order in which they are to be shown."""
    raise NotImplementedError


def condition_crops(dataset: Dataset, config: EncoderConfig, condition: Condition) -> tuple[np.ndarray, int]:
    """(N, S, S, 3) uint8 crops of a data set under a condition, and of how many no face was found (clean crop taken)."""
    raise NotImplementedError
