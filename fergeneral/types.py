"""What the stages hand to each other, and what a user's own detector has to look like."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
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

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain lists, numbers and strings, ready for `json.dumps`.

        Returns
        -------
        dict
            `box`: [left, top, right, bottom] in pixels. `landmarks`: five [x, y] in pixels. `score`: 0..1. A float32
            is given by the shortest decimal that stands for it (0.3, not 0.30000001192092896), so that
            `np.array(d["box"], dtype=np.float32)` is the array again, exactly.
        """
        return {"box": _plain(self.box), "landmarks": _plain(self.landmarks), "score": float(self.score)}

    def __repr__(self) -> str:
        """All fields, with the shape and type of a long array instead of its numbers."""
        fields = (f"{field.name}={_short(getattr(self, field.name))}" for field in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(fields)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Face(Detection):
    """A detection with its expression embedding: `embedding` (D,) float32, from the weights named `model_id`."""

    embedding: np.ndarray
    model_id: str

    def to_dict(self, *, embedding: bool = True) -> dict[str, Any]:
        """The fields as plain lists, numbers and strings, ready for `json.dumps`.

        Parameters
        ----------
        embedding : bool, default True
            Whether the embedding is among them: 512 numbers, some 5 kB of JSON.

        Returns
        -------
        dict
            `box`, `landmarks` and `score` as in `Detection.to_dict`; `embedding`: D numbers, of which
            `np.array(d["embedding"], dtype=np.float32)` makes the array again, exactly; `model_id`: str.
        """
        vector = {"embedding": _plain(self.embedding)} if embedding else {}
        return {**super().to_dict(), **vector, "model_id": self.model_id}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrackedFace(Face):
    """A face in a video, in pixels of the frame as it is shown: upright, pixels square.

    `time`: of its frame, in seconds since the video's start. `track`: 0, 1, 2, ... in order of appearance; the faces
    of one track follow each other in place and are taken for one person. A number never comes back in a video: a person
    who was lost for more than a second, or moved by more than half a face between two frames that were looked at (all,
    or ten a second), comes back with a new one, as after a cut. Two people who pass through one place may swap numbers.
    """

    time: float
    track: int

    def to_dict(self, *, embedding: bool = True) -> dict[str, Any]:
        """As `Face.to_dict`, with `time` (float, in seconds) and `track` (int) as well."""
        return {**super().to_dict(embedding=embedding), "time": float(self.time), "track": int(self.track)}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassifiedFace(Face):
    """A face with its expression, by a head on its embedding.

    `expression`: the most probable class, or "uncertain" where its probability is below the `min_confidence` that was
    asked for. `confidence`: the probability of the most probable class, 0..1, also where that is uncertain.
    `probabilities`: of every class, by its name, in the head's order; their sum is 1.
    """

    expression: str
    confidence: float
    probabilities: dict[str, float]

    def to_dict(self, *, embedding: bool = True) -> dict[str, Any]:
        """As `Face.to_dict`, with `expression` (str), `confidence` (float) and `probabilities` (dict) as well."""
        return {
            **super().to_dict(embedding=embedding),
            "expression": self.expression,
            "confidence": float(self.confidence),
            "probabilities": dict(self.probabilities),
        }


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassifiedTrackedFace(ClassifiedFace, TrackedFace):
    """A face in a video with its expression: the fields of TrackedFace, then those of ClassifiedFace."""


def _plain(values: Any) -> list[Any]:
    """An array as nested lists of Python's numbers, float32 by its shortest decimal."""
    import numpy as np

    array = np.asarray(values)
    if array.dtype != np.float32:
        return array.tolist()
    if array.ndim > 1:
        return [_plain(row) for row in array]
    return [float(np.format_float_scientific(value)) for value in array]  # str() obeys np.set_printoptions


def _short(value: Any) -> str:
    """A field as `repr` shows it: up to four numbers by one place, of more their shape and type."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        if value.size > 4:
            return f"<{value.shape} {value.dtype}>"
        return str([round(number, 1) if isinstance(number, float) else number for number in value.ravel().tolist()])
    return str(round(value, 3)) if isinstance(value, float) else reprlib.repr(value)


class VideoFrame(NamedTuple):
    """A frame that was read: its `time` in seconds since the video's start, and its `faces`, largest first."""

    time: float
    faces: list[TrackedFace]


# The detectors that go by a name, and where their classes are: as text, since the command line needs the names before
# torch is loaded. A class takes `min_face_size` and `device`, has `detect`, and states `name` and `settings()`, which
# jobs store.
DETECTORS = {"mtcnn": "fergeneral.mtcnn:MTCNNDetector", "yunet": "fergeneral.yunet:YuNetDetector"}


@runtime_checkable
class Detector(Protocol):
    """Anything with this method can be given as `detector`; it must be safe to call from several threads.

    Jobs store a detector's `name` (str, of its class) and `settings()` (dict, ready for JSON) where it has them, else
    its class, and are resumed with the same alone.
    """

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces in an upright PIL image of mode RGB, in any order; an empty list where there is none."""
        ...
