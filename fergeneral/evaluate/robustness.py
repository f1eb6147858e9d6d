"""The same faces under worse conditions: corrupted images, and crops that are not where they should be.

Images of a data set are face crops, so lengths are stated as shares of their side. What is drawn depends on the seed
and the image's place in the data set alone, so that every condition is the same for every encoder.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from fergeneral.alignment import TEMPLATE, similarity_transform, warp
from fergeneral.datasets import Dataset
from fergeneral.detection import find_faces
from fergeneral.encoder import EncoderConfig
from fergeneral.types import Detector

# RGB image, random numbers, (5, 2) landmarks in its pixels -> the corrupted RGB image, of the same shape or smaller.
Corruption = Callable[[Image.Image, np.random.Generator, np.ndarray], Image.Image]

MARGIN = 0.2  # of black around an image in which a detector looks for the face
_GREY = (128, 128, 128)


class Condition(NamedTuple):
    """`crop(image, index)`: upright RGB image and its place in the data set -> (S, S, 3) uint8, or None for no face.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.datasets import open_dataset
    >>> from fergeneral.evaluate import conditions
    >>> config = ExpressionExtractor.from_pretrained(device="cpu").config
    >>> clean = conditions(open_dataset("examples/london", labels_as_given=True), config)[0]
    >>> clean.group
    'clean'
    """

    group: str
    severity: str
    crop: Callable[[Image.Image, int], np.ndarray | None]


def conditions(
    dataset: Dataset, config: EncoderConfig, *, detectors: Mapping[str, Detector] | None = None, seed: int = 0
) -> list[Condition]:
    """All conditions for one data set and encoder, in the order in which they are to be shown; the first is "clean".

    Then CONDITIONS, on the image as it is in the data set; crops that are too large or small, shifted or turned, and
    all at once by chance, where what lies beyond the image repeats its edge; and, for each of `detectors`, by name,
    the crop at the landmarks that it finds in the image with 20 % of black around it, which is what happens to a photo.
    There the largest face is taken, and no face gives None.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor, load_image
    >>> from fergeneral.datasets import open_dataset
    >>> from fergeneral.evaluate import conditions
    >>> config = ExpressionExtractor.from_pretrained(device="cpu").config
    >>> clean = conditions(open_dataset("examples/london", labels_as_given=True), config)[0]
    >>> clean.crop(load_image("examples/london/neutral/002.jpg"), 0).shape
    (96, 96, 3)
    """
    size, template = config.crop_size, config.template
    corrupted = [
        Condition(group, severity, functools.partial(_corrupted_crop, change, dataset, size, template, seed))
        for group, severities in CONDITIONS.items()
        for severity, change in severities
    ]
    moved = [
        Condition(group, severity, functools.partial(_moved_crop, draw, dataset, size, template, seed))
        for group, severity, draw in _MOVES
    ]
    found = [
        Condition("found again", name, functools.partial(found_crop, detector, size, template))
        for name, detector in (detectors or {}).items()
    ]
    clean = Condition("clean", "", lambda image, index: dataset.align(image, size, template))
    return [clean, *corrupted, *moved, *found]


def blurred(sigma: float) -> Corruption:
    """Gaussian blur; `sigma`: its standard deviation, as a share of the image's longer side."""
    return lambda image, random, points: image.filter(ImageFilter.GaussianBlur(sigma * _side(image)))


def _noisy(sigma: float) -> Corruption:
    def change(image: Image.Image, random: np.random.Generator, points: np.ndarray) -> Image.Image:
        pixels = np.asarray(image) + random.normal(0, sigma, (image.height, image.width, 3))
        return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))

    return change


def compressed(quality: int) -> Corruption:
    """JPEG of this quality, 1 to 100, written and read again."""

    def change(image: Image.Image, random: np.random.Generator, points: np.ndarray) -> Image.Image:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality)
        return Image.open(data).convert("RGB")

    return change


def shrunk(side: int) -> Corruption:
    """The image with `side` pixels on its longer side, by averages; one that has no more stays as it is."""

    def change(image: Image.Image, random: np.random.Generator, points: np.ndarray) -> Image.Image:
        scale = side / max(image.size)
        if scale >= 1:
            return image
        width, height = (max(1, round(length * scale)) for length in image.size)
        return image.resize((width, height), Image.Resampling.BOX)

    return change


def eyes_covered(image: Image.Image, random: np.random.Generator, points: np.ndarray) -> Image.Image:
    """A grey bar over both eyes."""
    return _covered(image, points[0], points[1], points, 0.5, 0.3)


def mouth_covered(image: Image.Image, random: np.random.Generator, points: np.ndarray) -> Image.Image:
    """A grey bar over the mouth."""
    return _covered(image, points[3], points[4], points, 0.3, 0.4)


def _square_covered(image: Image.Image, random: np.random.Generator, points: np.ndarray) -> Image.Image:
    side = 0.4 * _side(image)
    left, top = random.random(2) * (np.array(image.size) - side)
    return _painted(image, (left, top, left + side, top + side))


def _covered(
    image: Image.Image, first: np.ndarray, second: np.ndarray, points: np.ndarray, wide: float, high: float
) -> Image.Image:
    """A bar over two landmarks, reaching `wide` and `high` beyond them, as shares of the distance between the eyes."""
    unit = float(np.linalg.norm(points[1] - points[0]))
    reach = unit * np.array([wide, high])
    left, top = np.minimum(first, second) - reach
    right, bottom = np.maximum(first, second) + reach
    return _painted(image, (left, top, right, bottom))


def _painted(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    changed = image.copy()
    left, top, right, bottom = (round(float(value)) for value in box)
    ImageDraw.Draw(changed).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=_GREY)
    return changed


def _side(image: Image.Image) -> float:
    return float(max(image.size))


# Group -> (severity, change), mild to severe. Of blur and noise the standard deviation is stated. An image whose longer
# side is no longer than that of "low resolution" stays as it is.
CONDITIONS: dict[str, list[tuple[str, Corruption]]] = {
    "blur": [(f"{share:.0%} of side", blurred(share)) for share in (0.01, 0.02, 0.04)],
    "noise": [(f"{sigma}/255", _noisy(sigma)) for sigma in (10, 20, 40)],
    "JPEG": [(f"quality {quality}", compressed(quality)) for quality in (50, 20, 10)],
    "low resolution": [(f"{side} px", shrunk(side)) for side in (64, 48, 32, 24, 16)],
    "occlusion": [("eyes", eyes_covered), ("mouth", mouth_covered), ("square, 40%", _square_covered)],
}


class _Move(NamedTuple):
    """Of the face in the crop, about its centre: times larger, degrees clockwise, shares of the side right and down."""

    scale: float = 1.0
    degrees: float = 0.0
    right: float = 0.0
    down: float = 0.0

    def matrix(self, size: int) -> np.ndarray:
        """(3, 3), from coordinates in the clean crop to those in the moved one."""
        angle, centre = np.deg2rad(self.degrees), np.full(2, size / 2)
        turn = self.scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = centre - turn @ centre + size * np.array([self.right, self.down])
        return np.vstack([np.column_stack([turn, shift]), [0.0, 0.0, 1.0]])


def _fixed(move: _Move) -> Callable[[np.random.Generator], _Move]:
    return lambda random: move


def _any_move(random: np.random.Generator) -> _Move:
    scale, degrees, right, down = random.uniform((0.8, -15, -0.1, -0.1), (1.2, 15, 0.1, 0.1))
    return _Move(scale, degrees, right, down)


# Scale, shift and rotation of the face in the crop; "random jitter" draws all evenly, up to what it states.
_MOVES: list[tuple[str, str, Callable[[np.random.Generator], _Move]]] = [
    *(("scale", f"{scale - 1:+.0%}", _fixed(_Move(scale=scale))) for scale in (0.8, 0.9, 1.1, 1.2)),
    *(("shift right", f"{share:+.0%}", _fixed(_Move(right=share))) for share in (-0.1, -0.05, 0.05, 0.1)),
    *(("shift down", f"{share:+.0%}", _fixed(_Move(down=share))) for share in (-0.1, -0.05, 0.05, 0.1)),
    *(("rotation", f"{angle:+d} deg", _fixed(_Move(degrees=angle))) for angle in (-15, -7, 7, 15)),
    ("random jitter", "20%, 10%, 15 deg", _any_move),
]


def _corrupted_crop(
    change: Corruption, dataset: Dataset, size: int, template: Any, seed: int, image: Image.Image, index: int
) -> np.ndarray:
    points = np.asarray(dataset.landmarks or TEMPLATE) * image.size
    return dataset.align(change(image, np.random.default_rng((seed, index)), points), size, template)


def _moved_crop(
    draw: Callable[[np.random.Generator], _Move],
    dataset: Dataset,
    size: int,
    template: Any,
    seed: int,
    image: Image.Image,
    index: int,
) -> np.ndarray:
    move = draw(np.random.default_rng((seed, index)))
    matrix = move.matrix(size) @ np.vstack([_clean_matrix(dataset, image, size, template), [0.0, 0.0, 1.0]])
    return np.array(warp(image, matrix[:2], size))


def _clean_matrix(dataset: Dataset, image: Image.Image, size: int, template: Any) -> np.ndarray:
    """(2, 3), from image to crop coordinates, of what `Dataset.align` does."""
    if dataset.landmarks is None or dataset.landmarks == template:
        return np.array([[size / image.width, 0.0, 0.0], [0.0, size / image.height, 0.0]])
    return similarity_transform(np.asarray(dataset.landmarks) * image.size, np.asarray(template) * size)


def found_crop(
    detector: Detector, size: int, template: Any, image: Image.Image, index: int, *, margin: float = MARGIN
) -> np.ndarray | None:
    """The aligned crop of the largest face found in an image with so much black around it; None where there is none."""
    wide = ImageOps.expand(image, round(margin * _side(image)))
    crops = find_faces(detector, wide, size, template).crops
    return crops[0] if crops else None
