"""A photo with the faces found in it drawn on, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from fergeneral.types import Detection

_LINE = (255, 196, 0)
_POINT = (0, 229, 255)
_DARK = (20, 20, 20)


def draw_faces(image: Image.Image, faces: Sequence[Detection]) -> Image.Image:
    """A copy of an upright RGB image with each face's box, landmarks, number and score. Sizes follow the image."""
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    unit = max(2, round(max(image.size) / 300))
    for number, face in enumerate(faces):
        left, top, right, bottom = face.box.tolist()
        size = min(max(right - left, bottom - top), max(image.size) / 2)
        font = ImageFont.load_default(max(10, round(size / 9)))
        pen.rectangle((left, top, right, bottom), outline=_DARK, width=unit * 2)
        pen.rectangle((left, top, right, bottom), outline=_LINE, width=unit)
        radius = max(1.5, size / 60)
        for x, y in face.landmarks.tolist():
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_POINT, outline=_DARK)
        text = f" {number}  {face.score:.3f} "
        x0, _, x1, y1 = pen.textbbox((0, 0), text, font=font)
        x = min(max(0.0, left), max(0.0, image.width - x1))
        y = top - y1 - 2 * unit if top - y1 - 2 * unit >= 0 else min(bottom + unit, image.height - y1 - unit)
        pen.rectangle((x, y, x + x1, y + y1 + unit), fill=_LINE)
        pen.text((x - x0, y), text, fill=_DARK, font=font)
    return drawn
