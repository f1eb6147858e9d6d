"""How far a detector's landmarks move on a face when the photo is moved or scaled a little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

from fergeneral.detection import detect_faces
from fergeneral.types import Detection, Detector

LEAST_OVERLAP = 0.5  # of two boxes, intersection over union: less is another face (Everingham et al., IJCV 2010)


class Move(NamedTuple):
    """`pixels`: columns and rows that are cut off on the left and at the top; `scale`: of the photo's sides."""

    pixels: int = 0
    scale: float = 1.0


MOVES: Mapping[str, Move] = {
    "moved by 1 px": Move(pixels=1),
    "moved by 3 px": Move(pixels=3),
    "scaled by 0.9": Move(scale=0.9),
    "scaled by 1.1": Move(scale=1.1),
}


def moved(image: Image.Image, move: Move) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """The photo after the move, and (2,) scale and (2,) shift that take its points back: point * scale + shift."""
    shift = np.minimum(move.pixels, np.array(image.size) - 1)
    cut = image.crop((*shift.tolist(), *image.size)) if move.pixels else image
    if move.scale == 1:
        return cut, np.ones(2), shift.astype(np.float64)
    size = (max(1, round(cut.width * move.scale)), max(1, round(cut.height * move.scale)))
    return cut.resize(size, Image.Resampling.BICUBIC), np.array(cut.size) / size, shift.astype(np.float64)


def landmark_errors(detector: Detector, image: Image.Image, face: Detection) -> np.ndarray:
    """Mean distance of the five landmarks from where they were, after each of MOVES: % of the distance of the eyes.

    `face` was found in `image`. After a move the face is the one whose box, taken back, overlaps that of `face` most;
    NaN where the intersection of none is at least half of the union.
    """
    unit = max(float(np.linalg.norm(face.landmarks[1] - face.landmarks[0])), 1e-6)
    errors = []
    for move in MOVES.values():
        changed, scale, shift = moved(image, move)
        found = detect_faces(detector, changed).detections
        again = _same_face(face, found, scale, shift)
        distances = np.nan if again is None else np.linalg.norm(again * scale + shift - face.landmarks, axis=1).mean()
        errors.append(100 * float(distances) / unit)
    return np.array(errors)


def _same_face(face: Detection, found: list[Detection], scale: np.ndarray, shift: np.ndarray) -> np.ndarray | None:
    """The landmarks (5, 2), in the moved photo, of the face that is the same."""
    if not found:
        return None
    boxes = np.stack([other.box for other in found]) * np.tile(scale, 2) + np.tile(shift, 2)
    overlap = overlaps(boxes, face.box)
    return found[int(overlap.argmax())].landmarks if float(overlap.max()) >= LEAST_OVERLAP else None


def overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union (N,) of boxes (N, 4) with a box (4,): left, top, right, bottom."""
    one = torch.from_numpy(np.asarray(box, dtype=np.float64)[None])
    return box_iou(torch.from_numpy(np.asarray(boxes, dtype=np.float64)), one)[:, 0].numpy()
