"""What the stages hand to each other, and what a user's own detector has to look like."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclasses.dataclass(frozen=True, eq=False)
class Detection:
    """A face found in an image, in pixels of that image, upright; (0, 0) is its top left corner.

    `box` (4,) float32: left, top, right, bottom. `landmarks` (5, 2) float32: left eye, right eye, nose tip, left
    and right mouth corner, "left" and "right" as seen in the picture. `score`: the detector's confidence, 0..1.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        left, top, right, bottom = self.box.tolist()
        return float(max(0.0, right - left) * max(0.0, bottom - top))


@dataclasses.dataclass(frozen=True, eq=False)
class Face(Detection):
    """A detection with its expression embedding: `embedding` (D,) float32, from the weights named `model_id`."""

    embedding: np.ndarray
    model_id: str


@dataclasses.dataclass(frozen=True, eq=False)
class TrackedFace(Face):
    """A face in a video, in pixels of the frame as it is shown: upright, pixels square.

    `time`: of its frame, in seconds since the video's start. `track`: 0, 1, 2, ... in order of appearance; the faces
    of one track follow each other in place and are taken for one person. A number never comes back in a video: a person
    who was lost for more than a second, or moved by more than half a face between two frames that were looked at (all,
    or ten a second), comes back with a new one, as after a cut. Two people who pass through one place may swap numbers.
    """

    time: float
    track: int


class VideoFrame(NamedTuple):
    """A frame that was read: its `time` in seconds since the video's start, and its `faces`, largest first."""

    time: float
    faces: list[TrackedFace]


@runtime_checkable
class Detector(Protocol):
    """Anything with this method can be given as `detector`; it must be safe to call from several threads."""

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces in an upright PIL image of mode RGB, in any order; an empty list where there is none."""
        ...
