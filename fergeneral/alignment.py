"""From five landmarks to a square face crop: pure geometry, no network.

Coordinates are continuous: the top left corner of an image is (0, 0), the centre of its first pixel
(0.5, 0.5). Landmarks come in the order left eye, right eye, nose tip, left and right mouth corner, "left"
and "right" as seen in the picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fergeneral.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

# Where MTCNN (facenet-pytorch 2.5.3) finds the landmarks on RAF-DB's aligned images: the median over 346 of
# 400 images with a margin of 20 % of context, made symmetric, as fractions of the crop's side. The median
# absolute deviation is 0.01 for the eyes and 0.03 for the nose and mouth. RAF-DB's crops are thus nearly a fixed point.
# benchmarks/landmarks.py measures this again.
TEMPLATE = ((0.267, 0.340), (0.733, 0.340), (0.500, 0.558), (0.302, 0.755), (0.698, 0.755))

_MOST_STRETCHED = 16  # the longer side of a face crop, in shorter ones, that still goes through `warp`
_FAR = 1e9  # pixels: no landmark is there
_SMALL = 2**20  # pixels: of a smaller image, a face crop may reach farther beyond it


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares similarity (scale, rotation, shift; never a mirror image) that takes `source` to `target`.

    Both are (P, 2), P >= 2. Returns a (2, 3) float64 matrix. Raises ImageError where the source points
    coincide. In complex numbers the solution is a single quotient (Umeyama, PAMI 1991, without reflection).
    """
    z = source[:, 0].astype(np.float64) + 1j * source[:, 1].astype(np.float64)
    w = target[:, 0].astype(np.float64) + 1j * target[:, 1].astype(np.float64)
    centred = z - z.mean()
    spread = float(np.vdot(centred, centred).real)
    if not spread > 1e-12 * (1.0 + float(np.abs(z).max()) ** 2):
        raise ImageError("the five landmarks fall on one point, so the face cannot be aligned")
    turn = complex(np.vdot(centred, w - w.mean())) / spread
    if abs(turn) < 1e-9:
        raise ImageError("the five landmarks are not arranged like a face, so it cannot be aligned")
    shift = complex(w.mean() - turn * z.mean())
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align_face(image: Any, landmarks: Any, *, size: int, template: Any = TEMPLATE) -> np.ndarray:
    """Cut the face with these landmarks out of an image, at any size and for any template.

    For crops as an encoder wants them, `ExpressionExtractor.align` takes both from its weights: crops of another size
    or template give other embeddings.

    Parameters
    ----------
    image : image
        Anything `load_image` takes.
    landmarks : array_like, shape (5, 2)
        Left eye, right eye, nose tip, left and right mouth corner, in the upright image's pixels.
    size : int
        Side of the crop, in pixels.
    template : array_like, shape (5, 2)
        Where the landmarks come to lie, as fractions of that side.

    Returns
    -------
    ndarray, shape (size, size, 3), uint8
        RGB. Where the crop reaches beyond the image, the image's edge pixels are repeated.

    Raises
    ------
    ImageError
        For an image that cannot be read, and landmarks that are not five finite points near the image.

    Examples
    --------
    >>> from fergeneral import align_face, extract
    >>> face = extract("examples/photos/astronaut.png")[0]
    >>> align_face("examples/photos/astronaut.png", face.landmarks, size=224).shape
    (224, 224, 3)
    """
    from fergeneral.images import load_image

    return cut_face(load_image(image), landmarks, size, template)


def cut_face(image: Image.Image, landmarks: Any, size: int, template: Any = TEMPLATE) -> np.ndarray:
    """`align_face` of an image that has been read already, of any 8-bit mode: (size, size, C) uint8."""
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2) or not (abs(points) < _FAR).all():
        raise ImageError(
            f"landmarks must be five finite (x, y) points near the image, got shape {points.shape}: {points!r}"
        )
    goal = np.asarray(template, dtype=np.float64) * size
    return np.array(warp(image, similarity_transform(points, goal), size))


def resize_crop(image: Image.Image, size: int) -> np.ndarray:
    """Bring an image that already is a face crop to (size, size, C) uint8 by the same filter as `align_face`.

    Its sides need not be alike: it is stretched. What is hardly a face (one side _MOST_STRETCHED times the other) goes
    through Pillow's filter, since the margins of ours would take memory beyond measure.
    """
    from PIL import Image

    if image.size == (size, size):
        return np.asarray(image)
    if max(image.size) > _MOST_STRETCHED * min(image.size):
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    matrix = np.array([[size / image.width, 0.0, 0.0], [0.0, size / image.height, 0.0]])
    return np.asarray(warp(image, matrix, size))


def warp(image: Image.Image, matrix: np.ndarray, size: int) -> Image.Image:
    """Apply a (2, 3) transform from image to crop coordinates, averaging over what each crop pixel covers."""
    from PIL import Image

    linear_inverse = np.linalg.inv(matrix[:, :2])
    inverse = np.column_stack([linear_inverse, -linear_inverse @ matrix[:, 2]])  # crop -> image
    scale = math.sqrt(abs(float(np.linalg.det(linear_inverse))))  # image pixels per crop pixel

    corners = inverse @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]], dtype=np.float64)
    shrink = max(1, int(scale / 2))  # leaves two to three image pixels per crop pixel to average
    region, origin = _region(image, corners, margin=2 * shrink)
    if shrink > 1:
        region = region.reduce(shrink)
    inverse[:, 2] -= origin
    inverse /= shrink

    samples = max(1, math.ceil(scale / shrink - 1e-6))
    inverse[:, :2] /= samples
    fine = region.transform(
        (size * samples, size * samples),
        Image.Transform.AFFINE,
        tuple(inverse.ravel().tolist()),
        resample=Image.Resampling.BILINEAR,
    )
    return fine.reduce(samples) if samples > 1 else fine


def _region(image: Image.Image, corners: np.ndarray, margin: int) -> tuple[Image.Image, np.ndarray]:
    """The part of the image that holds `corners`, padded with edge pixels, and its top left corner (x, y)."""
    from PIL import Image

    low, high = corners.min(axis=1), corners.max(axis=1)
    longest, most = max(image.size), 9 * max(image.width * image.height, _SMALL)  # both bound the memory, too
    if not (low.min() >= -longest and high.max() <= 2 * longest and np.prod(high - low) <= most):
        raise ImageError(
            f"the landmarks put the face crop at x {low[0]:.0f}..{high[0]:.0f}, y {low[1]:.0f}..{high[1]:.0f}, "
            f"far outside the image of {image.width}x{image.height} pixels"
        )
    left, top = (math.floor(v) - margin for v in low)
    right, bottom = (math.ceil(v) + margin for v in high)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ImageError(
            f"the landmarks put the face crop wholly outside the image of {image.width}x{image.height} pixels"
        )
    if (inside[2] - inside[0]) * (inside[3] - inside[1]) <= _SMALL * 64:
        pixels = np.asarray(image.crop(inside))
    else:  # Pillow's `crop` takes a large part for an attack; who gave so large an image has decided on that before
        pixels = np.asarray(image)[inside[1] : inside[3], inside[0] : inside[2]]
    widths = ((inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2]))
    if any(w for pair in widths for w in pair):
        pixels = np.pad(pixels, widths + ((0, 0),) * (pixels.ndim - 2), mode="edge")
    return Image.fromarray(pixels), np.array([left, top], dtype=np.float64)
