"""Worse conditions of a face in an image: resolution, light, occlusion, glasses, compression and blur.

`robustness.CONDITIONS` takes lengths as shares of the image's side, which is right for face crops alone. Here they are
shares of the distance between the eyes, or pixels of the face, so that one condition means the same for a photo with
a face in it and for an aligned crop. They are a list of their own since reports and model cards are made from
`CONDITIONS`, and one more entry there would change them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fergeneral.evaluate.robustness import blurred, compressed, eyes_covered, mouth_covered, shrunk

_EDGE = 0.4  # of the distance between the eyes: how wide the edge of a shadow is
_FINER = 4  # times: the resolution in which glasses are drawn
_DARK = (25, 25, 25)
# Of glasses, in distances between the eyes. For eyes 63 mm apart these are lenses of 50 x 37 mm and a bridge of 17 mm,
# common sizes of frames; the lens is a superellipse, between an ellipse (exponent 2) and a rectangle.
_LENS, _LENS_CENTRE, _LENS_EXPONENT = (0.40, 0.29), (0.035, 0.03), 3.0
_RIM, _BRIDGE_HEIGHT, _TEMPLE = 0.055, -0.08, 0.2


class FacePlace(NamedTuple):
    """Where a face is in an image.

    Attributes
    ----------
    landmarks : ndarray, shape (5, 2)
        In pixels: left eye, right eye, nose tip, left and right mouth corner, "left" and "right" as in the picture.
    size : float
        Pixels of the face: the shorter side of its box; of an aligned crop, the crop's side.
    """

    landmarks: np.ndarray
    size: float

    @property
    def eyes_apart(self) -> float:
        """The distance between the eyes in pixels."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))


# Upright RGB image, its face, its number -> the RGB image under the condition, of the same size unless it was shrunk.
Change = Callable[[Image.Image, FacePlace, int], Image.Image]


def at_resolution(pixels: int) -> Change:
    """Shrink the whole image until the face has so many pixels; a face that has no more stays as it is.

    Parameters
    ----------
    pixels : int
        Wanted for `FacePlace.size`.

    Returns
    -------
    callable
        A Change.
    """

    def change(image: Image.Image, face: FacePlace, number: int) -> Image.Image:
        if face.size <= pixels:
            return image
        side = max(1, round(max(image.size) * pixels / face.size))
        return shrunk(side)(image, np.random.default_rng(0), face.landmarks)

    return change


def with_gamma(gamma: float) -> Change:
    """Raise each pixel value v to 255 * (v / 255) ** gamma: darker for a gamma above 1, brighter below.

    Parameters
    ----------
    gamma : float
        More than 0.

    Returns
    -------
    callable
        A Change.
    """
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(int).tolist() * 3
    return lambda image, face, number: image.point(table)


def with_shadow(light: float) -> Change:
    """Darken everything on one side of the face's midline, as where the shadow of a wall falls on half of a face.

    The midline goes from the middle of the eyes to the middle of the mouth. The edge is soft: the light falls linearly
    over 0.4 distances between the eyes. Images with an even number are dark to the left, others to the right.

    Parameters
    ----------
    light : float
        What pixel values are multiplied by in the dark half, 0 to 1.

    Returns
    -------
    callable
        A Change.
    """

    def change(image: Image.Image, face: FacePlace, number: int) -> Image.Image:
        middle, mouth = face.landmarks[:2].mean(axis=0), face.landmarks[3:].mean(axis=0)
        down = (mouth - middle) / max(float(np.linalg.norm(mouth - middle)), 1e-6)
        y, x = np.mgrid[: image.height, : image.width] + 0.5
        right = (x - middle[0]) * down[1] - (y - middle[1]) * down[0]  # pixels from the midline
        inside = (-right if number % 2 == 0 else right) / max(_EDGE * face.eyes_apart, 1e-6)
        factor = 1 - (1 - light) * np.clip(inside + 0.5, 0, 1)
        return Image.fromarray(np.rint(np.asarray(image) * factor[..., None]).astype(np.uint8))

    return change


def with_glasses(*, dark: bool) -> Change:
    """Draw glasses on the face: they are drawn, not photographed, without reflections, and do not follow a turned head.

    Parameters
    ----------
    dark : bool
        Lenses that nothing is seen through (sunglasses); else the frame alone.

    Returns
    -------
    callable
        A Change.
    """

    def change(image: Image.Image, face: FacePlace, number: int) -> Image.Image:
        changed = image.copy()
        changed.paste(_DARK, (0, 0), _glasses_mask(image.size, face, dark))
        return changed

    return change


def _glasses_mask(size: tuple[int, int], face: FacePlace, dark: bool) -> Image.Image:
    """What glasses cover, 0..255, antialiased."""
    first, second = face.landmarks[0], face.landmarks[1]
    middle, right = (first + second) / 2, second - first
    axes = np.array([right, [-right[1], right[0]]])  # one distance between the eyes to the right, and down the face
    unit = _FINER * face.eyes_apart

    def to_image(points: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(point) for point in (_FINER * (middle + points @ axes)).tolist()]

    mask = Image.new("L", (size[0] * _FINER, size[1] * _FINER))
    draw, width = ImageDraw.Draw(mask), max(1, round(_RIM * unit))
    edge = _LENS[0] + 0.5 + _LENS_CENTRE[0]
    for side in (-1, 1):
        centre = np.array([side * (0.5 + _LENS_CENTRE[0]), _LENS_CENTRE[1]])
        lens = _superellipse() * _LENS + centre
        if dark:
            draw.polygon(to_image(lens), fill=255)
        draw.line(to_image(np.vstack([lens, lens[:2]])), fill=255, width=width, joint="curve")
        temple = np.array([[side * edge, _BRIDGE_HEIGHT], [side * (edge + _TEMPLE), _BRIDGE_HEIGHT]])
        draw.line(to_image(temple), fill=255, width=width)
    inner = 0.5 + _LENS_CENTRE[0] - _LENS[0]
    draw.line(to_image(np.array([[-inner, _BRIDGE_HEIGHT], [inner, _BRIDGE_HEIGHT]])), fill=255, width=width)
    return mask.reduce(_FINER)


def _superellipse() -> np.ndarray:
    """(80, 2) points of |x|^n + |y|^n = 1."""
    angles = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    point = np.column_stack([np.cos(angles), np.sin(angles)])
    return np.sign(point) * abs(point) ** (2 / _LENS_EXPONENT)


def _with_blur(share: float) -> Change:
    def change(image: Image.Image, face: FacePlace, number: int) -> Image.Image:
        sigma = share * face.eyes_apart / max(image.size)
        return blurred(sigma)(image, np.random.default_rng(0), face.landmarks)

    return change


def _with_jpeg(quality: int) -> Change:
    return lambda image, face, number: compressed(quality)(image, np.random.default_rng(0), face.landmarks)


def _without_eyes(image: Image.Image, face: FacePlace, number: int) -> Image.Image:
    return eyes_covered(image, np.random.default_rng(0), face.landmarks)


def _without_mouth(image: Image.Image, face: FacePlace, number: int) -> Image.Image:
    return mouth_covered(image, np.random.default_rng(0), face.landmarks)


# Group -> (severity, change): mild to severe; gamma from bright to dark. Of blur the standard deviation is stated, in
# distances between the eyes. JPEG is of the image in its own resolution.
FACE_CONDITIONS: dict[str, list[tuple[str, Change]]] = {
    "resolution": [(f"{pixels} px", at_resolution(pixels)) for pixels in (112, 64, 48, 32, 24, 16)],
    "gamma": [(f"{gamma:g}", with_gamma(gamma)) for gamma in (0.25, 0.5, 2.0, 4.0)],
    "shadow on half": [(f"{light:.0%} of light", with_shadow(light)) for light in (0.5, 0.25, 0.1)],
    "occlusion": [("eyes", _without_eyes), ("mouth", _without_mouth)],
    "glasses (drawn)": [("frame", with_glasses(dark=False)), ("sunglasses", with_glasses(dark=True))],
    "JPEG": [(f"quality {quality}", _with_jpeg(quality)) for quality in (20, 10, 5)],
    "blur": [(f"{share:.0%} of eyes", _with_blur(share)) for share in (0.05, 0.1, 0.2, 0.4)],
}
