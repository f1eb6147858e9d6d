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

    Attributes
    ----------
    box : ndarray, shape (4,), float32
        Left, top, right, bottom.
    landmarks : ndarray, shape (5, 2), float32
        Left eye, right eye, nose tip, left and right mouth corner, "left" and "right" as seen in the picture.
    score : float
        The detector's confidence, 0..1.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral import Detection
    >>> landmarks = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], dtype=np.float32)
    >>> found = Detection(np.array([10, 10, 90, 110], dtype=np.float32), landmarks, 0.9)
    >>> found.area
    8000.0
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
    """A detection with its expression embedding.

    Attributes
    ----------
    embedding : ndarray, shape (D,), float32
        D is 512 for the packaged weights. Compare two by their cosine similarity.
    model_id : str
        The name of the weights that made it. Embeddings of different weights cannot be compared.

    Examples
    --------
    >>> from fergeneral import extract
    >>> face = extract("examples/photos/astronaut.png")[0]
    >>> face.embedding.shape, face.model_id
    ((512,), 'general-r18-cycle')
    >>> list(face.to_dict(embedding=False))
    ['box', 'landmarks', 'score', 'model_id']
    """

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

    Attributes
    ----------
    time : float
        Of its frame, in seconds since the video's start.
    track : int
        0, 1, 2, ... in order of appearance; the faces of one track follow each other in place and are taken for one
        person. A number never comes back in a video: a person who was lost for more than a second, or moved by more
        than half a face between two frames that were looked at (all, or ten a second), comes back with a new one, as
        after a cut. Two people who pass through one place may swap numbers.

    Examples
    --------
    >>> from fergeneral import extract_video
    >>> frame = next(extract_video("clip.mp4"))
    >>> frame.faces[0].time, frame.faces[0].track
    (0.0, 0)
    """

    time: float
    track: int

    def to_dict(self, *, embedding: bool = True) -> dict[str, Any]:
        """As `Face.to_dict`, with `time` (float, in seconds) and `track` (int) as well."""
        return {**super().to_dict(embedding=embedding), "time": float(self.time), "track": int(self.track)}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassifiedFace(Face):
    """A face with its expression, by a head on its embedding.

    Attributes
    ----------
    expression : str
        The most probable class, or "uncertain" where its probability is below the `min_confidence` that was asked for.
    confidence : float
        The probability of the most probable class, 0..1, also where that is uncertain.
    probabilities : dict of str to float
        Of every class, by its name, in the head's order; their sum is 1.

    Examples
    --------
    >>> from fergeneral import classify
    >>> face = classify("examples/photos/astronaut.png")[0]
    >>> face.expression, round(face.confidence, 1)
    ('happiness', 1.0)
    >>> max(face.probabilities, key=face.probabilities.get)
    'happiness'
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
    """A face in a video with its expression: the fields of TrackedFace, then those of ClassifiedFace.

    Examples
    --------
    >>> from fergeneral import ExpressionClassifier
    >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
    >>> frame = next(classifier.predict_video("clip.mp4"))
    >>> face = frame.faces[0]
    >>> type(face).__name__, face.track, face.expression
    ('ClassifiedTrackedFace', 0, 'happiness')
    """


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
    """A frame of a video that was read.

    Attributes
    ----------
    time : float
        In seconds since the video's start.
    faces : list of TrackedFace
        Largest first; ClassifiedTrackedFace where a classifier read it.

    Examples
    --------
    >>> from fergeneral import extract_video
    >>> time, faces = next(extract_video("clip.mp4"))
    >>> time, len(faces)
    (0.0, 1)
    """

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

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral import Detection, Detector, ExpressionExtractor
    >>> class WholeImage:
    ...     def detect(self, image):
    ...         landmarks = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    ...         box = np.array([0, 0, image.width, image.height], dtype=np.float32)
    ...         return [Detection(box, landmarks * image.size, 1.0)]
    >>> isinstance(WholeImage(), Detector)
    True
    >>> extractor = ExpressionExtractor.from_pretrained(device="cpu", detector=WholeImage())
    >>> len(extractor.extract("examples/photos/coffee.png"))
    1
    """

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces in a photo.

        Parameters
        ----------
        image : PIL.Image.Image
            Upright, of mode RGB.

        Returns
        -------
        list of Detection
            In any order; [] where there is none.
        """
        ...
