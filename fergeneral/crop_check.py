"""Whether images that are said to be face crops look like face crops."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from PIL import Image

from fergeneral.encoder import EncoderConfig
from fergeneral.errors import ImageError
from fergeneral.images import load_image

if TYPE_CHECKING:
    from fergeneral.mtcnn import MTCNNDetector

# The distance of the eyes, as a share of the image and by that of an aligned crop. In a face crop it is hardly ever
# below (medians: RAF-DB 1.25, AffectNet 0.93, FER+ 0.84, crops with a margin 0.71), in a portrait of head and shoulders
# always (0.33, at most 0.41). Whether a single FER+ image is below: 2 %; AffectNet, RAF-DB, CK+: at most 0.4 %.
_LEAST_FILLED = 0.5
_MOST_LOOKS = 8
_VOTES = 3  # images that agree decide. So crops cost three looks, each about as much as encoding one or two crops
_LARGE = 2  # crop sizes: what a longer side is suspicious from
_MANY = 48  # images: of so many, small ones are looked at, too; three looks are then less than a tenth of the work
_SIDE = 256  # pixels: larger images are searched at this size


def looked_at(count: int) -> list[int]:
    """The positions, in a collection of `count` images, of those that `warn_of_photos` wants: at most eight."""
    looks = min(count, _MOST_LOOKS)
    return [number * count // looks for number in range(looks)]


def warn_of_photos(
    images: Iterable[Any], count: int, config: EncoderConfig, *, what: str, advice: str, stacklevel: int = 1
) -> bool:
    """Give a UserWarning where images that go to the encoder as face crops look like whole photos.

    They do where most of the faces found in a few of them fill less than half of what they fill in the encoder's crops.
    Where no face is found, nothing is said.

    Parameters
    ----------
    images : iterable
        Those at the positions `looked_at(count)`, in any form `load_image` takes. What cannot be read is passed over,
        and so are open files, which would stand at their end afterwards.
    count : int
        How many images there are in all.
    config : EncoderConfig
        Its template and crop size say what a crop looks like.
    what, advice : str
        The beginning of the warning (what takes face crops alone) and its end (what to do with photos).
    stacklevel : int, default 1
        As for `warnings.warn`, counted from the caller of this function: 1 names its line, 2 that of its own caller.

    Returns
    -------
    bool
        Whether it warned.
    """
    found: list[float] = []
    for number, source in enumerate(images):
        image = _read(source)
        if number == 0 and count < _MANY and (image is None or max(image.size) <= _LARGE * config.crop_size):
            return False
        found += [] if image is None else _filled(image, config)
        votes = sum(share < _LEAST_FILLED for share in found)
        if max(votes, len(found) - votes) == _VOTES:
            break
    if 2 * sum(share < _LEAST_FILLED for share in found) <= len(found):
        return False
    warnings.warn(  # without numbers: of equal warnings, Python shows one
        f"{what}, but these images look like whole photos, in which faces fill less than half of what they fill in an "
        f"aligned crop, so that the embeddings say little of their expressions; {advice}",
        UserWarning,
        stacklevel=stacklevel + 1,
    )
    return True


def _read(source: Any) -> Image.Image | None:
    if hasattr(source, "read") and not isinstance(source, Image.Image):
        return None
    try:
        return load_image(source)
    except ImageError:
        return None


def _filled(image: Image.Image, config: EncoderConfig) -> list[float]:
    """Of the largest face, if there is one: how far its eyes are apart, by the distance in the encoder's crops."""
    image.thumbnail((_SIDE, _SIDE))
    faces = _detector().detect(image)
    return [math.dist(*face.landmarks[:2] / image.size) / math.dist(*config.template[:2]) for face in faces[:1]]


@functools.cache
def _detector() -> MTCNNDetector:
    from fergeneral.mtcnn import MTCNNDetector

    return MTCNNDetector(min_face_size=32)
