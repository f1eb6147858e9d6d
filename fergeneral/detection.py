"""An upright RGB image -> the faces in it: the detectors this package has, and the names they go by."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from fergeneral.alignment import cut_face
from fergeneral.errors import ImageError
from fergeneral.mtcnn import MTCNNDetector
from fergeneral.types import DETECTORS, Detection, Detector
from fergeneral.yunet import YuNetDetector

if TYPE_CHECKING:
    import torch

__all__ = ["Found", "MTCNNDetector", "YuNetDetector", "detect_faces", "find_faces", "make_detector"]

_FAR = 1e9  # pixels: nothing is there
_OUTSIDE = 0.5  # of the box's sides: farther beyond it the middle of the landmarks is not that of this face


def make_detector(
    detector: Detector | str | None, device: str | torch.device = "cpu", *, min_face_size: int | None = None
) -> Detector:
    """A detector by its name; an object with `detect(image) -> list[Detection]` is given back.

    Parameters
    ----------
    detector : Detector or str, optional
        A name of `fergeneral.types.DETECTORS`: "mtcnn" (the default) or "yunet"; or an object of one's own.
    device : str or torch.device
        Where MTCNN runs; YuNet always runs on the CPU.
    min_face_size : int, optional
        The shorter side, in pixels, of the smallest face that "mtcnn" or "yunet" looks for: see MTCNNDetector.

    Raises
    ------
    ValueError
        For another name, a `min_face_size` below 12 (MTCNN) or 1 (YuNet), or one for a detector of one's own.
    TypeError
        For an object that is no detector, or a `min_face_size` that is not an integer.
    MissingExtraError
        For "yunet" without ONNX Runtime.
    """
    if detector is None or isinstance(detector, str):
        name = next(iter(DETECTORS)) if detector is None else detector
        if name not in DETECTORS:
            names = ", ".join(map(repr, DETECTORS))
            raise ValueError(f"detector must be {names} or an object with a method detect, got {detector!r}")
        made: Detector = pkgutil.resolve_name(DETECTORS[name])(min_face_size=min_face_size, device=device)
        return made
    if not callable(getattr(detector, "detect", None)):
        raise TypeError(f"detector must have a method detect(image) -> list[Detection], got {type(detector).__name__}")
    if min_face_size is not None:
        raise ValueError(
            f"min_face_size goes with a detector's name ({', '.join(DETECTORS)}), not with an object "
            f"({type(detector).__name__}); set it where the object is made, as in "
            f"MTCNNDetector(min_face_size={min_face_size!r})"
        )
    return detector


class Found(NamedTuple):
    """Faces of an image, largest first, their crops (S, S, 3) uint8 if they were cut, and why a face was left out."""

    detections: list[Detection]
    crops: list[np.ndarray]
    left_out: str | None = None


def find_faces(detector: Detector, image: Image.Image, size: int, template: Any) -> Found:
    """`detect_faces`, and the crop of each face; also left out is a face that cannot be cut (see `cut_face`)."""
    detected = detect_faces(detector, image)
    found = Found([], [], detected.left_out)
    for face in detected.detections:
        try:
            crop = cut_face(image, face.landmarks, size, template)
        except ImageError as error:
            found = found._replace(left_out=found.left_out or _left_out(detector, str(error)))
            continue
        found.detections.append(face)
        found.crops.append(crop)
    return found


def detect_faces(detector: Detector, image: Image.Image) -> Found:
    """What a detector finds in an upright PIL image of mode RGB, checked and in float32; without crops.

    Left out is a face whose numbers are impossible: not finite or far from any image, a box without area, landmarks
    that are not five points or lie outside the box. Raises TypeError for what is no list of Detection, and ValueError
    for a box that is not four numbers.
    """
    found = detector.detect(image)
    name = _name(detector)
    if not isinstance(found, (list, tuple)):
        raise TypeError(f"{name} must return a list of fergeneral.Detection, got {type(found).__name__}")
    faces: list[Detection] = []
    left_out: str | None = None
    for face in found:
        box, landmarks, score = (_numbers(face, field, name) for field in ("box", "landmarks", "score"))
        if box.shape != (4,) or score.shape != ():
            raise ValueError(
                f"{name} returned a box of shape {box.shape} and a score of shape {score.shape}; wanted: box (4,), "
                f"left, top, right, bottom in pixels; score, one number"
            )
        fault = _fault(box, landmarks, score)
        if fault is None:
            faces.append(Detection(box.astype(np.float32), landmarks.astype(np.float32), float(score)))
        elif left_out is None:
            left_out = _left_out(detector, fault)
    return Found(sorted(faces, key=lambda face: -face.area), [], left_out)


def _name(detector: Detector) -> str:
    return f"{type(detector).__name__}.detect"


def _left_out(detector: Detector, fault: str) -> str:
    return f"a face that {_name(detector)} found was left out: {fault}"


def _numbers(face: Any, field: str, name: str) -> np.ndarray:
    """A field of a detection as float64. Raises TypeError unless it is there and numeric."""
    try:
        value = np.asarray(getattr(face, field))
        if value.dtype.kind in "iuf":
            return value.astype(np.float64)
        kind = f"{field} of {value.dtype}"
    except AttributeError:
        kind = f"{type(face).__name__} without {field}"
    except ValueError:  # rows of different lengths
        kind = f"{field} of rows of different lengths"
    raise TypeError(
        f"{name} must return a list of fergeneral.Detection (box, landmarks and score, all numbers), got a {kind}"
    )


def _fault(box: np.ndarray, landmarks: np.ndarray, score: np.ndarray) -> str | None:
    """What is impossible about a face, in words."""
    if landmarks.shape != (5, 2):
        return f"its landmarks have the shape {landmarks.shape}, wanted (5, 2)"
    if not ((abs(box) < _FAR).all() and (abs(landmarks) < _FAR).all() and np.isfinite(score)):
        return f"its numbers are impossible: box {box.tolist()}, landmarks {landmarks.tolist()}, score {score}"
    sides = box[2:] - box[:2]
    if not (sides > 0).all():
        return f"its box {box.tolist()} has no area; wanted: left, top, right, bottom"
    middle = landmarks.mean(axis=0)
    if not ((middle >= box[:2] - _OUTSIDE * sides) & (middle <= box[2:] + _OUTSIDE * sides)).all():
        return f"its landmarks {landmarks.tolist()} lie outside its box {box.tolist()}"
    return None
