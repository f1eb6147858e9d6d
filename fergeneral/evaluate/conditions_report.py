"""Detectors and encoder under worse conditions: photos end to end, face crops by a linear probe, and pose.

Every condition of `face_conditions.FACE_CONDITIONS` is compared with the same images as they are, so that a difference
is due to the condition. Photos are judged by a packaged head, crops by a linear probe of clean train crops.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from fergeneral import __version__
from fergeneral.classifier import ExpressionClassifier
from fergeneral.datasets import Dataset, Sample, class_counts, open_dataset, read_csv
from fergeneral.detection import make_detector
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError, positive_integer
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.condition_measures import Prepare, crop_conditions, photo_conditions
from fergeneral.evaluate.pose import crop_pose, photo_pose
from fergeneral.evaluate.probe import Probe, fit_probe
from fergeneral.outputs import check_folder
from fergeneral.storage import make_folder, write_texts
from fergeneral.types import DETECTORS, Detector

CONDITIONS_JSON_FILE, CONDITIONS_MARKDOWN_FILE = "conditions.json", "conditions.md"
# Read by default, so that all takes about four minutes on two cores.
PHOTOS, PROBE_CROPS, CROPS, POSE_IMAGES = 60, 4000, 300, 1000


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
    probe_count: int = PROBE_CROPS,
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
    photo_count, probe_count, crop_count, pose_count : int
        At most so many photos, train crops for the probe, test crops under each condition (random parts, with the
        classes' shares kept), and images for pose.
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
    >>> from fergeneral.evaluate import evaluate_conditions
    >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
    >>> record = evaluate_conditions(classifier, "people.csv", "rafdb", "conditions")  # doctest: +SKIP
    >>> record["photos"]["conditions"][0]["group"]  # doctest: +SKIP
    'clean'
    """
    counts = {"photo_count": photo_count, "probe_count": probe_count, "crop_count": crop_count}
    counts["pose_count"] = pose_count
    photo_count, probe_count, crop_count, pose_count = (positive_integer(n, name) for name, n in counts.items())
    if out is not None:
        from fergeneral.evaluate import conditions_figures  # noqa: F401  # first: matplotlib may not be there

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
        probe = clock.of("probe", lambda: _fitted(encoder, _part(train, probe_count, seed), store, seed))
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
    single = min(class_counts(labels).values()) < 2 or min(count, len(rows) - count) < len(set(labels))
    rows, _ = train_test_split(rows, train_size=count, stratify=None if single else labels, random_state=seed)
    return dataclasses.replace(dataset, samples=tuple(dataset.samples[row] for row in sorted(rows)))


def _images(path: str | Path) -> Dataset:
    """A data set, or the images listed in a .csv with a column path, without labels."""
    file = Path(path)
    if file.suffix.lower() != ".csv":
        return open_dataset(file)
    _, rows = read_csv(file)
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

    make_folder(out)
    draw_conditions(record, out)
    texts = {CONDITIONS_JSON_FILE: json.dumps(record, indent=1, allow_nan=False) + "\n"}
    texts[CONDITIONS_MARKDOWN_FILE] = conditions_markdown(record)
    write_texts(out, texts)
