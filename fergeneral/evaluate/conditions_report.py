"""Detectors and encoder under worse conditions: photos end to end, face crops by a linear probe, and pose.

Every condition of `face_conditions.FACE_CONDITIONS` is compared with the same images as they are, so that a difference
is due to the condition. Photos are judged by a packaged head, crops by a linear probe of clean train crops.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy.stats import binomtest
from sklearn.model_selection import train_test_split

from fergeneral import __version__
from fergeneral.alignment import TEMPLATE, cut_face
from fergeneral.classifier import ExpressionClassifier
from fergeneral.datasets import Dataset, Sample, class_counts, open_dataset
from fergeneral.detection import detect_faces, make_detector
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError, ImageError, positive_integer
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.face_conditions import FACE_CONDITIONS, Change, FacePlace
from fergeneral.evaluate.inputs import name_of, status_of
from fergeneral.evaluate.metrics import paired_bootstrap
from fergeneral.evaluate.probe import Probe, fit_probe
from fergeneral.evaluate.robustness import MARGIN
from fergeneral.outputs import check_folder
from fergeneral.storage import whole_file
from fergeneral.threads import map_ahead, worker_count, worker_pool
from fergeneral.types import DETECTORS, Detection, Detector

CONDITIONS_JSON_FILE, CONDITIONS_MARKDOWN_FILE = "conditions.json", "conditions.md"
PHOTOS, CROPS, POSE_IMAGES = 68, 400, 1000  # read by default, so that all takes about 200 seconds on two cores
SAME_FACE = 0.4  # intersection over union of two boxes, above which they are of one face
POSE_EDGES = (0.1, 0.2, 0.3)  # of the bins of abs(nose_offset)

Prepare = Callable[[Image.Image], Image.Image]
_CLEAN = "clean"


def evaluate_conditions(
    classifier: ExpressionClassifier,
    photos: str | Path,
    crops: str | Path | None = None,
    out: str | Path | None = None,
    *,
    pose_photos: str | Path | None = None,
    detectors: Mapping[str, Detector] | None = None,
    prepare: Prepare | None = None,
    photo_count: int = PHOTOS,
    crop_count: int = CROPS,
    pose_count: int = POSE_IMAGES,
    cache: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure detectors and encoder under worse resolution, light, occlusion, glasses, compression, blur and pose.

    Of the photos, one of each person is read, with the labels in turn; of sets without people, a random part. The
    largest face of the clean photo counts: glasses, bars and shadows are put at the mean of the landmarks of all
    detectors, and each detector is compared with its own clean box and landmarks. Photos in which a detector finds no
    face when they are clean are left out and counted.

    Parameters
    ----------
    classifier : ExpressionClassifier
        Its encoder and head are judged. Its detector is not used.
    photos : path
        Data set of whole photos whose labels are classes of the head, in the layouts of `fergeneral.datasets`. Of one
        with splits, the test split.
    crops : path or None, default None
        Data set of face crops with a train and a test split: a linear probe of clean train crops, on the test crops.
    out : path or None, default None
        A folder, made if need be, for conditions.json, conditions.md and the figures. None writes nothing.
    pose_photos : path or None, default None
        Photos for the share of faces found by pose; a data set, or a .csv with a column path. Labels are not read.
    detectors : mapping of str to Detector or None, default None
        By the name that they have in the record; None: all that the package has, with their default settings.
    prepare : callable or None, default None
        Applied to every image after the condition and before detection and encoding, RGB image to RGB image: a remedy
        to be measured. A photo may change its size.
    photo_count, crop_count, pose_count : int
        At most so many photos, test crops under each condition (a random part, with the classes' shares kept), and
        images for pose.
    cache : path or None, default None
        Folder of embeddings of crops, see `fergeneral.evaluate.cache.EmbeddingCache`.
    seed : int, default 0
        Of the random parts and the bootstrap.

    Returns
    -------
    dict
        Ready for JSON. ``photos``: see `photo_conditions`; ``crops``: `crop_conditions`; ``pose``: `crop_pose` and
        `photo_pose`; each None where no data is given. Then what was judged, when, and the ``seconds`` of each part.

    Raises
    ------
    DataError
        For a set that cannot be read, labels that the head does not have, crops without splits, no detectors, and
        photos in which no face is found.
    TypeError, ValueError
        For a count that is not a positive integer.

    Examples
    --------
    >>> from fergeneral import ExpressionClassifier
    >>> from fergeneral.evaluate.conditions_report import evaluate_conditions
    >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
    >>> record = evaluate_conditions(classifier, "data/london/people.csv", "data/rafdb", "conditions")
    >>> record["photos"]["conditions"][0]["group"]
    'clean'
    """
    counts = {"photo_count": photo_count, "crop_count": crop_count, "pose_count": pose_count}
    photo_count, crop_count, pose_count = (positive_integer(count, name) for name, count in counts.items())
    if out is not None:
        check_folder(Path(out))
    judged = {name: make_detector(name) for name in DETECTORS} if detectors is None else dict(detectors)
    photo_set = one_a_person(_tested(photos), photo_count, seed)
    crop_sets = None if crops is None else _splits(crops)
    posed = None if pose_photos is None else _part(_images(pose_photos), pose_count, seed)
    encoder, store, clock = classifier.extractor.encoder, EmbeddingCache(cache), _Clock()
    record = _judged(classifier, judged, prepare, seed)
    record["photos"] = clock.of("photos", lambda: photo_conditions(classifier, photo_set, judged, prepare=prepare))
    record["crops"], record["pose"] = None, {"crops": None, "photos": None}
    if crop_sets is not None:
        train, test = crop_sets
        probe = clock.of("probe", lambda: _fitted(encoder, train, store, seed))
        part, posed_part = _part(test, crop_count, seed), _part(test, pose_count, seed)
        record["crops"] = clock.of(
            "crops", lambda: crop_conditions(encoder, probe, part, store, prepare=prepare, seed=seed)
        )
        record["pose"]["crops"] = clock.of(
            "pose of crops", lambda: crop_pose(encoder, probe, posed_part, judged, store)
        )
    if posed is not None:
        record["pose"]["photos"] = clock.of("pose of photos", lambda: photo_pose(posed, judged))
    record["seconds"] = clock.seconds
    if out is not None:
        _write(record, Path(out))
    return record


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
        ``conditions``: the first is "clean". Each has ``group``, ``severity``, ``n`` and, by detector in
        ``detectors``: ``found``, the share with a box that overlaps the detector's clean box by more than 0.4
        (intersection over union, of the box that overlaps it most); ``landmark_error``, the mean distance of the found
        landmarks from the detector's clean ones, in distances between the eyes; ``accuracy``, where a face that is not
        found is wrong, and ``accuracy_found``, among ``n_found``. ``aligned``: accuracy of the crop that is cut at the
        clean landmarks, which says what the encoder loses when detection is no part of it. Intervals are Wilson's.

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
    for sample, seen in zip(photos.samples, _each(photos, _Looker(classifier, detectors, prepare)), strict=True):
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
    for group, severity, change in _conditions():
        is_clean = group == _CLEAN and prepare is None
        crop = None if is_clean else functools.partial(_changed_crop, change, prepare, crops, encoder)
        embedded = cache.embed(
            encoder, crops, crop, variant=_CLEAN if is_clean else f"face condition {group} {severity}"
        )
        worse = probe.read(embedded.embeddings, truth)
        drop = paired_bootstrap(truth, clean.predicted, worse.predicted, clean.labels, seed=seed)
        rows.append(
            {"group": group, "severity": severity, "accuracy": _round(worse.accuracy), "uar": _round(worse.uar)}
            | {f"drop_{name}": _round(drop[name]["difference"]) for name in ("accuracy", "uar")}
            | {f"drop_{name}_interval": [_round(v) for v in drop[name]["interval"]] for name in ("accuracy", "uar")}
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
    >>> from fergeneral.evaluate.conditions_report import nose_offset
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
        By detector, a list of bins of abs(nose_offset) and "no landmarks": ``bin``, ``n``, ``accuracy`` and its Wilson
        ``interval`` (None for no images).
    """
    result = probe.read(cache.embed(encoder, crops).embeddings, crops.labels)
    right = result.predicted == np.array(crops.labels)
    found = list(_each(crops, functools.partial(_poses, detectors)))
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
        ``by`` (the detector whose landmarks give the bins), ``found_by`` (whose share it is), ``n`` photos,
        ``neither``: photos in which none of both found a face, and ``bins``: ``bin``, ``n``, ``found``, ``interval``.
    """
    looks = list(_each(photos, functools.partial(_faces_of, detectors)))
    rows = []
    for by in detectors:
        for other in detectors:
            if by != other:
                largest = [faces[by][0] if faces[by] else None for faces in looks]
                again = [
                    face is not None and _closest(faces[other], face.box) is not None
                    for face, faces in zip(largest, looks, strict=True)
                ]
                bins = _by_bin([_offset(face) for face in largest], np.array(again), "found")[:-1]
                neither = sum(not faces[by] and not faces[other] for faces in looks)
                rows.append({"by": by, "found_by": other, "n": len(looks), "neither": neither, "bins": bins})
    return rows


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
        clean = {name: detect_faces(detector, photo).detections[:1] for name, detector in self.detectors.items()}
        missing = [name for name, faces in clean.items() if not faces]
        if missing:
            return _Seen(missing, FacePlace(np.zeros((5, 2)), 0.0), np.zeros((0, 0)), np.zeros((0, 0)), [])
        faces = [faces[0] for faces in clean.values()]
        boxes = np.mean([face.box for face in faces], axis=0)
        place = FacePlace(np.mean([face.landmarks for face in faces], axis=0), float(min(boxes[2:] - boxes[:2])))
        looks = [self._look(photo, place, faces, change, number) for _, _, change in _conditions()]
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
            face = _closest(detect_faces(detector, worse).detections, reference.box, scale)
            found.append(face is not None)
            errors.append(np.nan if face is None else _error(face, reference, scale))
            crops.append(crops[0] if face is None else cut_face(worse, face.landmarks, size, template))
        return found, errors, crops


def _error(face: Detection, reference: Detection, scale: np.ndarray) -> float:
    """Mean distance of landmarks in distances between the eyes."""
    distances = np.linalg.norm(face.landmarks * scale - reference.landmarks, axis=1)
    return float(distances.mean() / np.linalg.norm(reference.landmarks[1] - reference.landmarks[0]))


def _closest(faces: Sequence[Detection], box: np.ndarray, scale: np.ndarray | float = 1.0) -> Detection | None:
    """The face whose box, scaled, overlaps `box` most; None where that is not by more than SAME_FACE."""
    overlaps = [_overlap(face.box * np.tile(scale, 4 // np.size(scale)), box) for face in faces]
    return faces[int(np.argmax(overlaps))] if overlaps and max(overlaps) > SAME_FACE else None


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared)


def _photo_rows(looks: Sequence[tuple[str, _Seen, np.ndarray]], names: Sequence[str]) -> list[dict[str, Any]]:
    truth = np.array([label for label, _, _ in looks])[:, None]
    conditions = _conditions()
    predicted = np.array([row for _, _, row in looks]).reshape(len(looks), len(conditions), 1 + len(names))
    right = predicted.swapaxes(0, 1) == truth  # (C, N, 1 + D)
    found = np.stack([seen.found for _, seen, _ in looks], axis=1)  # (C, N, D)
    errors = np.stack([seen.errors for _, seen, _ in looks], axis=1)
    rows = []
    for i, (group, severity, _) in enumerate(conditions):
        of = {name: _detector_row(found[i, :, j], errors[i, :, j], right[i, :, j + 1]) for j, name in enumerate(names)}
        aligned = _share(right[i, :, 0], "accuracy")
        rows.append({"group": group, "severity": severity, "n": len(looks), "detectors": of, "aligned": aligned})
    return rows


def _detector_row(found: np.ndarray, errors: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    return {
        **_share(found, "found"),
        "landmark_error": _round(errors[found].mean()) if found.any() else None,
        **_share(found & right, "accuracy"),
        "n_found": int(found.sum()),
        "accuracy_found": _round(right[found].mean()) if found.any() else None,
    }


def _share(true: np.ndarray, name: str) -> dict[str, Any]:
    """The share of True, and its 95 % interval (Wilson, JASA 1927); None for no values."""
    if not len(true):
        return {name: None, f"{name}_interval": None}
    interval = binomtest(int(true.sum()), len(true)).proportion_ci(0.95, method="wilson")
    return {name: _round(true.mean()), f"{name}_interval": [_round(interval.low), _round(interval.high)]}


def _by_bin(offsets: Sequence[float | None], true: np.ndarray, name: str) -> list[dict[str, Any]]:
    """Bins of the nose's offset, the last for those without; of each the share of True."""
    places = np.array([len(POSE_EDGES) + 1 if v is None else np.digitize(abs(v), POSE_EDGES) for v in offsets])
    edges = [f"{edge:g}" for edge in POSE_EDGES]
    words = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges))]
    words += [f"{edges[-1]} and more", "no landmarks"]
    return [
        {"bin": word, "n": int((places == i).sum()), **_share(true[places == i], name)} for i, word in enumerate(words)
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


def _conditions() -> list[tuple[str, str, Change]]:
    """Clean, then FACE_CONDITIONS."""
    clean: tuple[str, str, Change] = (_CLEAN, "", lambda image, face, number: image)
    return [clean, *((group, *one) for group, severities in FACE_CONDITIONS.items() for one in severities)]


def _changed_crop(
    change: Change, prepare: Prepare | None, crops: Dataset, encoder: Encoder, image: Image.Image, number: int
) -> np.ndarray:
    landmarks = np.asarray(TEMPLATE if crops.landmarks is None else crops.landmarks) * image.size
    worse = _prepared(change(image, FacePlace(landmarks, float(max(image.size))), number), prepare)
    return crops.align(worse, encoder.config.crop_size, encoder.config.template)


def _prepared(image: Image.Image, prepare: Prepare | None) -> Image.Image:
    return image if prepare is None else prepare(image)


def _each(dataset: Dataset, work: Callable[[Image.Image, int], Any]) -> Iterator[Any]:
    """`work(image, number)` of each image, in order, in as many threads as there are cores."""
    workers = worker_count()
    images = ((Image.fromarray(pixels), number) for number, pixels in enumerate(dataset.crops(np.asarray)))
    with worker_pool(workers) as pool:
        yield from map_ahead(pool, lambda item: work(*item), images, ahead=2 * workers)


def _tested(folder: str | Path) -> Dataset:
    dataset = open_dataset(folder).split("test")
    is_manifest = Path(folder).suffix.lower() == ".csv"
    return dataclasses.replace(dataset, name=dataset.root.resolve().name) if is_manifest else dataset


def _splits(folder: str | Path) -> tuple[Dataset, Dataset]:
    dataset = open_dataset(folder)
    splits = {sample.split for sample in dataset.samples}
    if not {"train", "test"} <= splits:
        raise DataError(f"{folder} needs a train and a test split, for a probe of clean crops; it has {splits}")
    return dataset.split("train"), dataset.split("test")


def one_a_person(photos: Dataset, count: int, seed: int = 0) -> Dataset:
    """One photo of each person, so that photos are independent; labels in turn, from person to person.

    Parameters
    ----------
    photos : Dataset
        Where not all of its people are known, a random part with the labels' shares kept.
    count : int
        At most so many: then the first people by name.
    seed : int, default 0
        Of the random part.

    Returns
    -------
    Dataset
    """
    of: dict[str, dict[str, Sample]] = {}
    for sample in photos.samples:
        if not sample.subject:
            return _part(photos, count, seed)
        of.setdefault(sample.subject, {})[sample.label] = sample
    labels = list(class_counts(photos.labels))
    chosen = []
    for number, subject in enumerate(sorted(of)[:count]):
        turn = labels[number % len(labels) :] + labels[: number % len(labels)]
        chosen.append(next(of[subject][label] for label in turn if label in of[subject]))
    return dataclasses.replace(photos, samples=tuple(chosen))


def _part(dataset: Dataset, count: int, seed: int) -> Dataset:
    """A random part with the labels' shares kept, in the order of the set."""
    if count >= len(dataset.samples):
        return dataset
    rows, labels = np.arange(len(dataset.samples)), dataset.labels
    single = min(class_counts(labels).values()) < 2 or count < len(set(labels))
    rows, _ = train_test_split(rows, train_size=count, stratify=None if single else labels, random_state=seed)
    return dataclasses.replace(dataset, samples=tuple(dataset.samples[row] for row in sorted(rows)))


def _images(path: str | Path) -> Dataset:
    """A data set, or the images listed in a .csv with a column path, without labels."""
    file = Path(path)
    if file.suffix.lower() != ".csv":
        return open_dataset(file)
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a UTF-8 .csv file: {error}") from error
    if not rows or not all(row.get("path") for row in rows):
        raise DataError(f"{file} must have a column path with the image of each row")
    return Dataset(file.parent.resolve().name, file.parent, tuple(Sample(row["path"], "") for row in rows))


def _fitted(encoder: Encoder, train: Dataset, cache: EmbeddingCache, seed: int) -> Probe:
    return fit_probe(cache.embed(encoder, train).embeddings, train.labels, seed=seed)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def of(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        done = work()
        self.seconds[name] = round(time.perf_counter() - start, 1)
        return done


def _judged(
    classifier: ExpressionClassifier, detectors: Mapping[str, Detector], prepare: Prepare | None, seed: int
) -> dict[str, Any]:
    config, head = classifier.config, classifier.head
    settings: dict[str, Any] = {name: getattr(one, "settings", dict)() for name, one in detectors.items()}
    return {
        "encoder": {"name": config.model_id, "sha256": config.weights_sha256},
        "head": {"name": head.name, "sha256": head.sha256, "classes": list(head.classes)},
        "detectors": settings,
        "prepare": None if prepare is None else getattr(prepare, "__name__", type(prepare).__name__),
        "fergeneral": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }


def _write(record: Mapping[str, Any], out: Path) -> None:
    from fergeneral.evaluate.conditions_figures import conditions_markdown, draw_conditions

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder {out} cannot be made: {error.strerror}") from error
    draw_conditions(record, out)
    texts = {CONDITIONS_JSON_FILE: json.dumps(record, indent=1, allow_nan=False) + "\n"}
    texts[CONDITIONS_MARKDOWN_FILE] = conditions_markdown(record)
    for name, text in texts.items():
        with whole_file(out / name) as path:
            path.write_text(text, encoding="utf-8")


def _round(value: float) -> float:
    return round(float(value), 4)
