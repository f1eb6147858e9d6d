"""Detectors and encoder on photos, and a linear probe on face crops, under every condition of FACE_CONDITIONS."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fergeneral.alignment import TEMPLATE, cut_face
from fergeneral.classifier import ExpressionClassifier
from fergeneral.datasets import Dataset, class_counts
from fergeneral.detection import find_faces
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.face_conditions import FACE_CONDITIONS, Change, FacePlace
from fergeneral.evaluate.gaps import wilson
from fergeneral.evaluate.inputs import name_of, status_of
from fergeneral.evaluate.metrics import paired_bootstrap
from fergeneral.evaluate.probe import Probe
from fergeneral.evaluate.stability import overlaps
from fergeneral.threads import map_ahead, worker_count, worker_pool
from fergeneral.types import Detection, Detector

SAME_FACE = 0.4  # intersection over union of two boxes, above which they are of one face

Prepare = Callable[[Image.Image], Image.Image]
_CLEAN = "clean"


def photo_conditions(
    classifier: ExpressionClassifier,
    photos: Dataset,
    detectors: Mapping[str, Detector],
    *,
    prepare: Prepare | None = None,
) -> dict[str, Any]:
    """Each detector, and the head behind it, on photos under every condition.

    Parameters
    ----------
    classifier : ExpressionClassifier
        Its encoder and head are used.
    photos : Dataset
        Whole photos; labels are classes of the head.
    detectors : mapping of str to Detector
        One or more.
    prepare : callable or None, default None
        As for `evaluate_conditions`.

    Returns
    -------
    dict
        ``n`` photos read, ``labels`` of them, ``left_out``: of those given, in how many each detector found no face
        when clean (a photo where any did is left out), ``face_size`` and ``eyes_apart``: medians in pixels.
        ``conditions``: the first is "clean". Each has ``group``, ``severity``, ``n`` and, per detector in
        ``detectors``: ``found``, the share with a box that overlaps the detector's clean box by more than 0.4
        (intersection over union, of the box that overlaps it most); ``landmark_error``, the mean distance of the found
        landmarks from the detector's clean ones, in distances between the eyes; ``accuracy``, where a face that is not
        found is wrong, with the ``recall`` of each label, and ``accuracy_found``, among ``n_found``. ``aligned``:
        accuracy and recall of the crop that is cut at the clean landmarks, which says what the encoder loses when
        detection is no part of it. Intervals are Wilson's.

    Raises
    ------
    DataError
        For no detectors, labels that the head does not have, and photos in which no face is found.
    """
    if not detectors:
        raise DataError("conditions are measured with one detector or more; got none")
    unknown = sorted(set(photos.labels) - set(classifier.classes))
    if unknown:
        raise DataError(
            f"{photos.root} has the labels {unknown}, which the head {classifier.head.name!r} does not have; its "
            f"classes are {', '.join(classifier.classes)}"
        )
    looks, missing = [], dict.fromkeys(detectors, 0)
    encode = functools.partial(classifier.extractor.encoder.encode, show_progress=False)
    for sample, seen in zip(photos.samples, each_image(photos, _Looker(classifier, detectors, prepare)), strict=True):
        if seen.missing:
            missing |= {name: missing[name] + 1 for name in seen.missing}
        else:
            looks.append((sample.label, seen, classifier.head.predict(encode(np.stack(seen.crops)))))
    if not looks:
        raise DataError(f"in none of the {len(photos.samples)} photos of {photos.root} every detector found a face")
    places = [seen.place for _, seen, _ in looks]
    return {
        "data": name_of(photos),
        "n": len(looks),
        "labels": class_counts([label for label, _, _ in looks]),
        "left_out": missing,
        "face_size": round(float(np.median([place.size for place in places])), 1),
        "eyes_apart": round(float(np.median([place.eyes_apart for place in places])), 1),
        "conditions": _photo_rows(looks, list(detectors)),
    }


def crop_conditions(
    encoder: Encoder,
    probe: Probe,
    crops: Dataset,
    cache: EmbeddingCache,
    *,
    prepare: Prepare | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """A linear probe of clean crops on crops under every condition.

    Parameters
    ----------
    encoder : Encoder
        That gave the probe's embeddings.
    probe : Probe
        Fitted on clean crops.
    crops : Dataset
        Test crops. Their face is where `Dataset.landmarks` has it on average (where that is not known, at TEMPLATE),
        and its size is the side of the image: an image is not enlarged, so that a resolution above it changes nothing.
    cache : EmbeddingCache
        Of embeddings.
    prepare : callable or None, default None
        As for `evaluate_conditions`.
    seed : int, default 0
        Of the bootstrap.

    Returns
    -------
    dict
        ``n``, ``labels``, ``side`` (median, pixels), ``status`` of the images in the encoder's training, ``n_train`` of
        the probe, and ``conditions``, the first of them "clean": ``group``, ``severity``, ``accuracy``, ``uar``, and
        ``drop_accuracy``, ``drop_uar`` from clean with their paired 95 % bootstrap intervals.

    Raises
    ------
    DataError
        For an image that cannot be read, and a label that the probe does not have.
    """
    truth, rows = crops.labels, []
    clean = probe.read(cache.embed(encoder, crops).embeddings, truth)
    for group, severity, change in all_conditions():
        is_clean = group == _CLEAN and prepare is None
        crop = None if is_clean else functools.partial(_changed_crop, change, prepare, crops, encoder)
        embedded = cache.embed(
            encoder, crops, crop, variant=_CLEAN if is_clean else f"face condition {group} {severity}"
        )
        worse = probe.read(embedded.embeddings, truth)
        drop = paired_bootstrap(truth, clean.predicted, worse.predicted, clean.labels, seed=seed)
        rows.append(
            {"group": group, "severity": severity, "accuracy": rounded(worse.accuracy), "uar": rounded(worse.uar)}
            | {f"drop_{name}": rounded(drop[name]["difference"]) for name in ("accuracy", "uar")}
            | {f"drop_{name}_interval": [rounded(v) for v in drop[name]["interval"]] for name in ("accuracy", "uar")}
        )
    return {
        "data": name_of(crops),
        "n": clean.n,
        "labels": class_counts(truth),
        "side": float(np.median([min(pixels.shape[:2]) for pixels in crops.crops(np.asarray)])),
        "status": status_of(encoder.config.training_data, name_of(crops), crops.samples[0].split),
        "n_train": probe.n_train,
        "conditions": rows,
    }


def all_conditions() -> list[tuple[str, str, Change]]:
    """Clean, then all of FACE_CONDITIONS.

    Returns
    -------
    list of tuple
        Group, severity, Change.
    """
    clean: tuple[str, str, Change] = (_CLEAN, "", lambda image, face, number: image)
    return [clean, *((group, *one) for group, severities in FACE_CONDITIONS.items() for one in severities)]


def each_image(dataset: Dataset, work: Callable[[Image.Image, int], Any]) -> Iterator[Any]:
    """Call a function with each image of a data set, in as many threads as there are cores.

    Parameters
    ----------
    dataset : Dataset
        Its images are read in their order.
    work : callable
        Takes the upright RGB image and its place in the data set; safe between threads.

    Yields
    ------
    object
        What `work` returns, in the order of the images.

    Raises
    ------
    DataError
        For an image that cannot be read.
    """
    workers = worker_count()
    images = ((Image.fromarray(pixels), number) for number, pixels in enumerate(dataset.crops(np.asarray)))
    with worker_pool(workers) as pool:
        yield from map_ahead(pool, lambda item: work(*item), images, ahead=2 * workers)


def closest_face(faces: Sequence[Detection], box: np.ndarray, scale: np.ndarray | float = 1.0) -> Detection | None:
    """The face whose box overlaps another box most.

    Parameters
    ----------
    faces : sequence of Detection
        In any order.
    box : ndarray, shape (4,)
        Left, top, right, bottom.
    scale : ndarray, shape (2,), or float
        What x and y of the faces are multiplied by, to be in the pixels of `box`.

    Returns
    -------
    Detection or None
        None where none overlaps it by more than SAME_FACE (intersection over union).
    """
    if not faces:
        return None
    overlap = overlaps(np.stack([face.box for face in faces]) * np.tile(scale, 4 // np.size(scale)), box)
    return faces[int(overlap.argmax())] if float(overlap.max()) > SAME_FACE else None


def wilson_share(true: np.ndarray, name: str) -> dict[str, Any]:
    """The share of True with its 95 % interval (Wilson, JASA 1927).

    Parameters
    ----------
    true : ndarray, shape (N,), bool
    name : str
        Of the share in what is returned.

    Returns
    -------
    dict
        `name`, and `name`_interval [low, high]; both None for no values.
    """
    if not len(true):
        return {name: None, f"{name}_interval": None}
    return {name: rounded(true.mean()), f"{name}_interval": [*map(rounded, wilson(int(true.sum()), len(true)))]}


def rounded(value: float) -> float:
    """To four decimals, as a Python float."""
    return round(float(value), 4)


class _Seen(NamedTuple):
    """A photo under all conditions: see _Looker. `crops`: of each condition the aligned one, then one a detector."""

    missing: list[str]
    place: FacePlace
    found: np.ndarray  # (C, D) bool
    errors: np.ndarray  # (C, D) distances between the eyes, NaN where not found
    crops: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Looker:
    """What is done with a photo in a thread of its own."""

    classifier: ExpressionClassifier
    detectors: Mapping[str, Detector]
    prepare: Prepare | None

    def __call__(self, photo: Image.Image, number: int) -> _Seen:
        cut = (self.classifier.config.crop_size, self.classifier.config.template)
        clean = {name: find_faces(one, photo, *cut).detections[:1] for name, one in self.detectors.items()}
        missing = [name for name, faces in clean.items() if not faces]
        if missing:
            return _Seen(missing, FacePlace(np.zeros((5, 2)), 0.0), np.zeros((0, 0)), np.zeros((0, 0)), [])
        faces = [faces[0] for faces in clean.values()]
        boxes = np.mean([face.box for face in faces], axis=0)
        place = FacePlace(np.mean([face.landmarks for face in faces], axis=0), float(min(boxes[2:] - boxes[:2])))
        looks = [self._look(photo, place, faces, change, number) for _, _, change in all_conditions()]
        found, errors = np.array([look[0] for look in looks]), np.array([look[1] for look in looks])
        return _Seen([], place, found, errors, [crop for look in looks for crop in look[2]])

    def _look(
        self, photo: Image.Image, place: FacePlace, clean: Sequence[Detection], change: Change, number: int
    ) -> tuple[list[bool], list[float], list[np.ndarray]]:
        worse = _prepared(change(photo, place, number), self.prepare)
        scale = np.array(photo.size) / worse.size  # to the pixels of the photo
        size, template = self.classifier.config.crop_size, self.classifier.config.template
        crops = [cut_face(worse, place.landmarks / scale, size, template)]
        found, errors = [], []
        for reference, detector in zip(clean, self.detectors.values(), strict=True):
            seen = find_faces(detector, worse, size, template)
            face = closest_face(seen.detections, reference.box, scale)
            found.append(face is not None)
            errors.append(np.nan if face is None else _error(face, reference, scale))
            cut = [crop for one, crop in zip(seen.detections, seen.crops, strict=True) if one is face]
            crops.append(cut[0] if cut else crops[0])
        return found, errors, crops


def _error(face: Detection, reference: Detection, scale: np.ndarray) -> float:
    """Mean distance of landmarks in distances between the eyes."""
    distances = np.linalg.norm(face.landmarks * scale - reference.landmarks, axis=1)
    return float(distances.mean()) / max(FacePlace(reference.landmarks, 0.0).eyes_apart, 1e-6)


def _photo_rows(looks: Sequence[tuple[str, _Seen, np.ndarray]], names: Sequence[str]) -> list[dict[str, Any]]:
    truth = np.array([label for label, _, _ in looks])
    conditions = all_conditions()
    predicted = np.array([row for _, _, row in looks]).reshape(len(looks), len(conditions), 1 + len(names))
    right = predicted.swapaxes(0, 1) == truth[:, None]  # (C, N, 1 + D)
    found = np.stack([seen.found for _, seen, _ in looks], axis=1)  # (C, N, D)
    errors = np.stack([seen.errors for _, seen, _ in looks], axis=1)
    rows = []
    for i, (group, severity, _) in enumerate(conditions):
        of = {
            name: _detector_row(found[i, :, j], errors[i, :, j], right[i, :, j + 1], truth)
            for j, name in enumerate(names)
        }
        aligned = wilson_share(right[i, :, 0], "accuracy") | _recall(right[i, :, 0], truth)
        rows.append({"group": group, "severity": severity, "n": len(looks), "detectors": of, "aligned": aligned})
    return rows


def _detector_row(found: np.ndarray, errors: np.ndarray, right: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    return {
        **wilson_share(found, "found"),
        "landmark_error": rounded(errors[found].mean()) if found.any() else None,
        **wilson_share(found & right, "accuracy"),
        **_recall(found & right, truth),
        "n_found": int(found.sum()),
        "accuracy_found": rounded(right[found].mean()) if found.any() else None,
    }


def _recall(right: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    return {"recall": {label: rounded(right[truth == label].mean()) for label in class_counts(truth.tolist())}}


def _changed_crop(
    change: Change, prepare: Prepare | None, crops: Dataset, encoder: Encoder, image: Image.Image, number: int
) -> np.ndarray:
    landmarks = np.asarray(TEMPLATE if crops.landmarks is None else crops.landmarks) * image.size
    worse = _prepared(change(image, FacePlace(landmarks, float(max(image.size))), number), prepare)
    return crops.align(worse, encoder.config.crop_size, encoder.config.template)


def _prepared(image: Image.Image, prepare: Prepare | None) -> Image.Image:
    return image if prepare is None else prepare(image)
