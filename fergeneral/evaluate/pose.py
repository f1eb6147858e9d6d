"""Pose by the landmarks: accuracy by how far the nose is from the middle of the eyes, and faces that are found."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fergeneral.datasets import Dataset
from fergeneral.detection import detect_faces
from fergeneral.encoder import Encoder
from fergeneral.errors import ImageError
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.condition_measures import closest_face, each_image, wilson_share
from fergeneral.evaluate.inputs import name_of
from fergeneral.evaluate.probe import Probe
from fergeneral.evaluate.robustness import MARGIN
from fergeneral.types import Detection, Detector

POSE_EDGES = (0.1, 0.2, 0.3)  # of the bins of abs(nose_offset)


def nose_offset(landmarks: Any) -> float:
    """How far the nose tip lies from the middle of the eyes, along the line of the eyes: a simple proxy of yaw.

    ((nose - (left eye + right eye) / 2) . u) / d, where d is the distance between the eyes and u the unit vector from
    the left eye to the right. It does not change when the image is shifted, scaled or turned. Of a rigid head seen from
    far it is a constant, the nose's depth before the eyes by their distance, times the tangent of the yaw. That
    constant is a person's own, so that bins of it are no angles.

    Parameters
    ----------
    landmarks : array_like, shape (5, 2)
        Left eye, right eye, nose tip, left and right mouth corner, "left" and "right" as in the picture.

    Returns
    -------
    float
        0: as far from both eyes; above 0: the nose is to the right in the picture.

    Raises
    ------
    ImageError
        For other shapes, numbers that are not finite, and eyes on one point.

    Examples
    --------
    >>> from fergeneral.evaluate.pose import nose_offset
    >>> nose_offset([[10, 10], [20, 10], [18, 16], [11, 22], [19, 22]])
    0.3
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ImageError(f"landmarks must be five finite (x, y) points, got shape {points.shape}: {points!r}")
    across = points[1] - points[0]
    squared = float(across @ across)
    if not squared > 0:
        raise ImageError("the landmarks of both eyes are one point, so the pose cannot be estimated")
    return float((points[2] - points[:2].mean(axis=0)) @ across) / squared


def crop_pose(
    encoder: Encoder, probe: Probe, crops: Dataset, detectors: Mapping[str, Detector], cache: EmbeddingCache
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy of a probe on clean crops by pose, which the landmarks of each detector in turn say.

    Parameters
    ----------
    encoder : Encoder
        That gave the probe's embeddings.
    probe : Probe
        Fitted on clean crops.
    crops : Dataset
        Test crops. Landmarks are looked for in the image with 20 % of black around it, the embedding is of the crop as
        it is: where no face is found, there still is an accuracy.
    detectors : mapping of str to Detector
        By name.
    cache : EmbeddingCache
        Of embeddings.

    Returns
    -------
    dict
        Per detector, a list of bins of abs(nose_offset) and "no landmarks": ``bin``, ``n``, ``accuracy`` and its Wilson
        ``interval`` (None for no images).
    """
    result = probe.read(cache.embed(encoder, crops).embeddings, crops.labels)
    right = result.predicted == np.array(crops.labels)
    found = list(each_image(crops, functools.partial(_poses, detectors)))
    return {name: _by_bin([faces[name] for faces in found], right, "accuracy") for name in detectors}


def photo_pose(photos: Dataset, detectors: Mapping[str, Detector]) -> list[dict[str, Any]]:
    """How often one detector finds the face that another has found, by the pose that the other's landmarks say.

    There is no truth here: a face that neither finds is in no row, and one that only the second finds is not in the
    rows of the first. So the shares are too high, most of all for faces that are hard for both.

    Parameters
    ----------
    photos : Dataset
        Photos; labels are not read.
    detectors : mapping of str to Detector
        Each of them is compared with each other one.

    Returns
    -------
    list of dict
        ``data``, ``by`` (the detector whose landmarks give the bins), ``found_by`` (whose share it is), ``n`` photos,
        ``neither``: photos in which none of both found a face, and ``bins``: ``bin``, ``n``, ``found``, ``interval``.
    """
    looks = list(each_image(photos, functools.partial(_faces_of, detectors)))
    rows = []
    for by in detectors:
        for other in detectors:
            if by != other:
                largest = [faces[by][0] if faces[by] else None for faces in looks]
                again = [
                    face is not None and closest_face(faces[other], face.box) is not None
                    for face, faces in zip(largest, looks, strict=True)
                ]
                bins = _by_bin([_offset(face) for face in largest], np.array(again), "found")[:-1]
                neither = sum(not faces[by] and not faces[other] for faces in looks)
                rows.append(
                    {
                        "data": name_of(photos),
                        "by": by,
                        "found_by": other,
                        "n": len(looks),
                        "neither": neither,
                        "bins": bins,
                    }
                )
    return rows


def _by_bin(offsets: Sequence[float | None], true: np.ndarray, name: str) -> list[dict[str, Any]]:
    """Bins of the nose's offset, the last for those without; of each the share of True."""
    places = np.array([len(POSE_EDGES) + 1 if v is None else np.digitize(abs(v), POSE_EDGES) for v in offsets])
    edges = [f"{edge:g}" for edge in POSE_EDGES]
    words = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges))]
    words += [f"{edges[-1]} and more", "no landmarks"]
    return [
        {"bin": word, "n": int((places == i).sum()), **wilson_share(true[places == i], name)}
        for i, word in enumerate(words)
    ]


def _poses(detectors: Mapping[str, Detector], image: Image.Image, number: int) -> dict[str, float | None]:
    wide = ImageOps.expand(image, round(MARGIN * max(image.size)))
    return {name: _offset(next(iter(faces), None)) for name, faces in _faces_of(detectors, wide, number).items()}


def _offset(face: Detection | None) -> float | None:
    try:
        return None if face is None else nose_offset(face.landmarks)
    except ImageError:
        return None


def _faces_of(detectors: Mapping[str, Detector], image: Image.Image, number: int) -> dict[str, list[Detection]]:
    return {name: detect_faces(detector, image).detections for name, detector in detectors.items()}
