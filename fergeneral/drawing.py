"""A photo with the faces found in it drawn on, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fergeneral.types import ClassifiedFace, Detection

_LINE = (255, 196, 0)
_POINT = (0, 229, 255)
_DARK = (20, 20, 20)
_SMALL = 480  # pixels: an image whose longer side is shorter is enlarged to about this, so that a label can be read
_SMALLEST_FONT = 11  # pixels
_LONGEST_NAME = 24  # characters of an expression that are drawn
_PLACES = 9  # of a label along each side of its box


def draw_faces(image: Image.Image, faces: Sequence[Detection]) -> Image.Image:
    """Draw each face's box, landmarks and number, and its score, or its expression with the confidence.

    Labels stand beside their boxes, outside all faces and apart from each other where there is room; where there is
    little, they are smaller. Lines and letters follow the size of the image and of the face.

    Parameters
    ----------
    image : PIL.Image.Image
        Upright, of mode RGB; it is left as it is.
    faces : sequence of Detection
        In pixels of `image`; numbered from 0 in their order. A ClassifiedFace has its expression drawn.

    Returns
    -------
    PIL.Image.Image
        Of the size of `image`; of an image of about 300 pixels or fewer, an enlargement by a whole factor.

    Examples
    --------
    >>> from fergeneral import classify, load_image
    >>> from fergeneral.drawing import draw_faces
    >>> photo = load_image("examples/photos/three_faces.jpg")
    >>> draw_faces(photo, classify(photo)).size == photo.size
    True
    """
    factor = max(1, round(_SMALL / max(image.size)))
    drawn = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(drawn)
    edge = np.array([drawn.width - 1, drawn.height - 1] * 2)
    boxes = [np.clip(np.asarray(face.box, dtype=np.float64) * factor, 0, edge) for face in faces]
    for face, box in zip(faces, boxes, strict=True):
        _draw_face(pen, box, np.asarray(face.landmarks, dtype=np.float64) * factor, max(drawn.size))
    labels: list[np.ndarray] = []
    for number, (face, box) in enumerate(zip(faces, boxes, strict=True)):
        labels.append(_draw_label(pen, f"{number}  {_words(face)}", box, boxes, labels, drawn.size))
    return drawn


def _words(face: Detection) -> str:
    if not isinstance(face, ClassifiedFace):
        return f"{face.score:.2f}"
    name = face.expression
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
    return f"{short} {face.confidence:.2f}"


def _draw_face(pen: ImageDraw.ImageDraw, box: np.ndarray, landmarks: np.ndarray, longest: int) -> None:
    left, top, right, bottom = box.tolist()
    size = max(right - left, bottom - top)
    line = max(1, round(min(longest / 300, size / 40)))
    around = (left - line, top - line, right + line, bottom + line)
    # The dark line, just inside the other, keeps it visible on a bright photo.
    pen.rectangle(around, outline=_DARK, width=line + 1 + line // 2)
    pen.rectangle(around, outline=_LINE, width=line)
    radius = max(1.0, size / 60)
    for x, y in landmarks.tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_POINT, outline=_DARK)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: np.ndarray,
    boxes: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    size: tuple[int, int],
) -> np.ndarray:
    """Draw a face's label where it covers least, and return its place: left, top, right, bottom."""
    least = max(_SMALLEST_FONT, max(size) / 160)
    wanted = max(least, max(size) / 110, min(max(size) / 32, (box[3] - box[1]) / 8))
    for share in (1.0, 0.5, 0.0):
        font = ImageFont.load_default(round(least + share * (wanted - least)))
        x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
        margin = max(1, round((y1 - y0) / 4))
        places = _places(box, x1 - x0 + 2 * margin, y1 - y0 + 2 * margin, size)
        covered = _shared_area(places, [*labels, box]) * 4 + _shared_area(places, boxes)
        best = int(np.argmin(covered))
        if not covered[best]:
            break
    place = places[best]
    pen.rectangle(tuple(place.tolist()), fill=_LINE)
    pen.text((place[0] + margin - x0, place[1] + margin - y0), text, fill=_DARK, font=font)
    return place


def _places(box: np.ndarray, width: float, height: float, size: tuple[int, int]) -> np.ndarray:
    """Rectangles (P, 4) of a label that touch the box from outside, the best first; moved into the image."""
    left, top, right, bottom = box
    gap = max(2, height / 6)  # the box's line
    along = np.linspace(0, 1, _PLACES)
    x, y = left + along * (right - width - left), top + along * (bottom - height - top)
    above = np.column_stack([x, np.full(_PLACES, top - gap - height)])
    below = np.column_stack([x, np.full(_PLACES, bottom + gap)])
    before = np.column_stack([np.full(_PLACES, left - gap - width), y])
    after = np.column_stack([np.full(_PLACES, right + gap), y])
    corners = np.concatenate([above, below, after, before])
    extent = np.array([width, height])
    corners = np.clip(corners, 0, np.maximum(0, np.array(size) - 1 - extent)).round()
    return np.hstack([corners, corners + extent])


def _shared_area(places: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Of each place (P, 4) with all of the others (N, 4), in square pixels: (P,)."""
    if not others:
        return np.zeros(len(places))
    there = np.stack(others)
    low = np.maximum(places[:, None, :2], there[None, :, :2])
    high = np.minimum(places[:, None, 2:], there[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
