"""Whom the package works for: faces found, landmarks and expressions by group, on photos of any population."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fergeneral import __version__
from fergeneral.classifier import ExpressionClassifier
from fergeneral.datasets import class_counts, expression_of
from fergeneral.detection import find_faces, make_detector
from fergeneral.encoder import EncoderConfig
from fergeneral.errors import DataError, ImageError
from fergeneral.evaluate.gaps import LEAST_PEOPLE
from fergeneral.evaluate.group_measures import Measures, Seen, StabilitySample
from fergeneral.evaluate.people import NOT_STATED, People, read_people
from fergeneral.evaluate.stability import MOVES, landmark_errors
from fergeneral.heads.head import Head
from fergeneral.images import load_image
from fergeneral.outputs import check_folder
from fergeneral.storage import make_folder, write_texts
from fergeneral.threads import map_ahead, worker_count, worker_pool
from fergeneral.types import Detector

GROUPS_JSON_FILE, GROUPS_MARKDOWN_FILE = "groups.json", "groups.md"
STABILITY_PHOTOS = 400  # drawn for the stability of landmarks, which takes four more looks at each
_CHUNK = 256  # photos whose crops are held in memory before they are encoded


def evaluate_groups(
    classifier: ExpressionClassifier | Head,
    table: str | Path,
    out: str | Path | None = None,
    *,
    groups: Sequence[str] = (),
    detectors: Sequence[Detector | str] = (),
    folds: int = 0,
    stability_photos: int | None = STABILITY_PHOTOS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure by group how often a face is found, how steady its landmarks are, and what a head says of it.

    The way to evaluate on photos of one's own population before use. Of a photo, the largest face counts. Detection and
    stability are measured for the classifier's detector and each of `detectors`; expressions are predicted for the
    faces that the classifier's detector finds. With true expressions, accuracy, recall and calibration are measured;
    without, the rates at which each expression is predicted. A difference between groups in these rates is a question,
    not an error: the groups may differ in the expressions that they show.

    Parameters
    ----------
    classifier : ExpressionClassifier or Head
        Its head is measured, with its encoder and detector; its `min_confidence` is not applied. Of a `Head`, the
        encoder must be a packaged one.
    table : path
        A .csv file with a row for each photo. Column ``path``: from the table's folder, where photos lie unpacked or in
        zip archives, or absolute. If wanted, ``label`` or ``expression``: the true expression, as the head names it or
        as `fergeneral.datasets.expression_of` knows it; and ``subject``: the person. Each other column, but ``split``,
        holds groups. More than 10 different integers, as of ages, are put together by decades. Empty cells and
        "NA" are shown as a group "not stated".
    out : path or None, default None
        A folder, made if need be, for groups.json (what is returned), groups.md (the same as tables) and figures. None
        writes nothing.
    groups : sequence of str, default ()
        The columns of groups that are wanted; () takes all that have 2 to 30 different values.
    detectors : sequence of Detector or str, default ()
        Others to measure beside the classifier's own; names are those of `fergeneral.types.DETECTORS`.
    folds : int, default 0
        Also cross-validate logistic regression on the table's own embeddings and expressions, in so many folds of the
        people, so that nobody is in train and test at once: what a head that was fitted on such photos could do. Needs
        labels and subjects. 0 leaves it out.
    stability_photos : int or None, default 400
        Stability is measured on so many photos, drawn by `seed`, and for a group with fewer than 60 among them on
        further ones of the group up to 60. None: on all.
    seed : int, default 0
        Of the drawn photos, the bootstrap, the random tables and the folds.

    Returns
    -------
    dict
        Ready for JSON, shares and errors rounded to four decimals. Each share and mean has its 95 % interval,
        ``..._interval``: of shares Wilson's, of means a bootstrap; where people have several photos, a bootstrap over
        people.

        - ``table``: what was read, and ``unreadable`` photos, which count nowhere else.
        - ``without_face``: per detector, the photos in which it found no face.
        - ``detection``: a list, per detector, of all photos (``column`` and ``group`` None) and of each group. ``n``
          photos, ``people``, the shares ``found`` with a face and ``several`` with more than one. Of ``n_stability``
          photos with a face, ``error_mean``, ``error_median`` and ``error_90`` (90th percentile) of the mean distance
          of the landmarks from where they were, in % of the distance between the eyes, over four moves: the photo is
          moved by 1 and 3 pixels, and scaled by 0.9 and 1.1; and the share ``lost`` of those in which one of these
          loses the face.
        - ``moves``: the same for each of these moves.
        - ``expressions``: a list, of all and each group. Of ``n`` faces, ``accuracy``, ``recall`` of each class and
          ``ece`` (expected calibration error, 15 bins); without labels, the predicted ``rates``. ``left_out``: photos
          whose label is no class of the head.
        - ``folds``: None, or the accuracy of the cross-validation, of all and each group.
        - ``gaps``: for each column and each of these figures the largest difference between two groups, with the p
          value of all groups being alike, and ``p_holm``, corrected by Holm's method for all tests of the report: see
          `fergeneral.evaluate.gaps.largest_gap`. Groups of fewer than 10 people (photos, where people are not known)
          are shown, but not compared.

    Raises
    ------
    DataError
        For a table that cannot be read or has no groups, a photo that is missing, labels of which the head has none,
        photos without a single face, and `folds` without labels or people, or of too few.
    MissingExtraError
        Without matplotlib where `out` is given; for "yunet" without ONNX Runtime.

    Examples
    --------
    >>> from fergeneral import ExpressionClassifier
    >>> from fergeneral.evaluate import evaluate_groups
    >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
    >>> report = evaluate_groups(classifier, "examples/london/manifest.csv", groups=["gender"], stability_photos=2)
    >>> [(row["group"], row["n"], row["found"]) for row in report["detection"]]
    [(None, 24, 1.0), ('female', 12, 1.0), ('male', 12, 1.0)]
    """
    if out is not None:
        from fergeneral.evaluate.group_figures import draw_groups  # so that the lack of matplotlib is told first

        check_folder(Path(out))
    if isinstance(classifier, Head):
        classifier = ExpressionClassifier.from_pretrained(classifier)
    start = time.perf_counter()
    people = read_people(table, groups)
    known = _known_labels(people, classifier.head)
    _check_folds(people, folds)
    named = _named([classifier.extractor.detector, *map(make_detector, detectors)])
    sample = StabilitySample(len(people.dataset.samples), stability_photos, seed)
    seen = _look(classifier, list(named.values()), people, sample)
    if not seen.found[:, 0].any():
        raise DataError(f"{next(iter(named))} found no face in the {len(seen.found)} photos of {table}")
    measures = Measures(people, seen, sample, seed)
    report: dict[str, Any] = {
        "fergeneral": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "head": _judged(classifier),
        "table": _table(people, Path(table), seen),
        "least_people": LEAST_PEOPLE,
        "stability_photos": stability_photos,
        "detectors": {name: getattr(detector, "settings", dict)() for name, detector in named.items()},
        "without_face": {name: _without_face(people, seen, i) for i, name in enumerate(named)},
        "detection": [row for i, name in enumerate(named) for row in measures.detection(i, name)],
        "moves": [row for i, name in enumerate(named) for row in measures.moves(i, name)],
        "expressions": measures.expressions(classifier.head, known),
        "left_out": _left_out(people, known),
        "folds": measures.cross_validated(folds) if folds else None,
    }
    report["gaps"] = measures.gaps()
    report["seconds"] = round(time.perf_counter() - start, 1)
    if out is not None:
        make_folder(out)
        report["figures"] = draw_groups(report, Path(out))
        _write(report, Path(out))
    return report


class _Photo(NamedTuple):
    """Faces for each of D detectors; errors (D, moves), NaN where not measured; the first's largest face."""

    faces: list[int]
    errors: np.ndarray
    crop: np.ndarray | None


def _look(
    classifier: ExpressionClassifier, detectors: Sequence[Detector], people: People, sample: StabilitySample
) -> Seen:
    """Find the faces of all photos, in worker threads, and embed them."""
    from tqdm import tqdm

    encoder, drawn = classifier.extractor.encoder, sample.of_any(people.columns.values())
    photos: list[_Photo | ImageError] = []
    embeddings = np.zeros((len(drawn), encoder.config.embedding_size), dtype=np.float32)

    def look(item: tuple[int, bytes]) -> _Photo | ImageError:
        return _look_at(item[1], encoder.config, detectors, steady=bool(drawn[item[0]]))

    workers = worker_count()
    with (
        worker_pool(workers) as pool,
        tqdm(total=len(drawn), desc="find faces", unit="photo", disable=None, leave=None) as bar,
    ):
        found = map_ahead(pool, look, enumerate(people.dataset.files()), ahead=3 * workers)
        while chunk := list(islice(found, _CHUNK)):
            pairs = [(len(photos) + i, photo.crop) for i, photo in enumerate(chunk) if isinstance(photo, _Photo)]
            crops = {row: crop for row, crop in pairs if crop is not None}
            if crops:
                embeddings[list(crops)] = encoder.encode(np.stack(list(crops.values())), show_progress=False)
            photos += [photo._replace(crop=None) if isinstance(photo, _Photo) else photo for photo in chunk]
            bar.update(len(chunk))
    none = _Photo([0] * len(detectors), np.full((len(detectors), len(MOVES)), np.nan), None)
    read = [photo if isinstance(photo, _Photo) else none for photo in photos]
    faces, errors = np.array([photo.faces for photo in read]), np.stack([photo.errors for photo in read])
    unreadable = {row: str(photo) for row, photo in enumerate(photos) if isinstance(photo, ImageError)}
    return Seen(faces > 0, faces > 1, errors, embeddings, unreadable)


def _look_at(data: bytes, config: EncoderConfig, detectors: Sequence[Detector], *, steady: bool) -> _Photo | ImageError:
    """`steady`: also measure how far the landmarks move."""
    try:
        image = load_image(data)
    except ImageError as error:
        return ImageError(str(error))  # without a traceback, which would hold the photo
    found = [find_faces(detector, image, config.crop_size, config.template) for detector in detectors]
    errors = np.full((len(detectors), len(MOVES)), np.nan)
    for i, one in enumerate(found):
        if steady and one.detections:
            errors[i] = landmark_errors(detectors[i], image, one.detections[0])
    return _Photo([len(one.detections) for one in found], errors, next(iter(found[0].crops), None))


def _known_labels(people: People, head: Head) -> np.ndarray | None:
    """The class (N,) of the head that each label means, "" for those that it does not have; None without labels."""
    if people.labels is None:
        return None
    known = np.array([_class_of(label, head.classes) for label in people.labels.tolist()])
    if not (known != "").any():
        raise DataError(
            f"the labels of the table, {', '.join(class_counts(people.labels.tolist()))}, are none of the classes of "
            f"the head {head.name!r} ({', '.join(head.classes)}): give a head with these classes (see fergeneral fit), "
            f"or leave the column out to measure how often each class is predicted"
        )
    return known


def _class_of(label: str, classes: Sequence[str]) -> str:
    if label in classes:
        return label
    try:
        name = expression_of(label)
    except DataError:
        return ""
    return name if name in classes else ""


def _check_folds(people: People, folds: int) -> None:
    if folds and (people.labels is None or not people.has_subjects):
        raise DataError("folds need the columns label and subject: the expression in each photo, and the person")


def _named(detectors: Sequence[Detector]) -> dict[str, Detector]:
    """By the name of their class; those of one name get numbers."""
    named: dict[str, Detector] = {}
    for detector in detectors:
        name = type(detector).__name__.removesuffix("Detector")
        number = 1 + sum(other.partition(" (")[0] == name for other in named)
        named[name if number == 1 else f"{name} ({number})"] = detector
    return named


def _table(people: People, path: Path, seen: Seen) -> dict[str, Any]:
    samples = people.dataset.samples
    return {
        "file": path.name,
        "sha256": people.sha256,
        "photos": len(samples),
        "people": len(np.unique(people.subjects)) if people.has_subjects else None,
        "labels": None if people.labels is None else class_counts(people.labels.tolist()),
        "binned": {name: column.binned for name, column in people.columns.items() if column.binned},
        "columns_left_out": people.left_out,
        "unreadable": [{"path": samples[row].path, "error": error} for row, error in seen.unreadable.items()],
    }


def _without_face(people: People, seen: Seen, detector: int) -> list[str]:
    """The photos that could be read, but in which this detector found no face."""
    rows = np.flatnonzero(~seen.found[:, detector]).tolist()
    return [people.dataset.samples[row].path for row in rows if row not in seen.unreadable]


def _left_out(people: People, known: np.ndarray | None) -> dict[str, int]:
    """Photos whose label is no class of the head, by label."""
    if known is None or people.labels is None:
        return {}
    return class_counts([label or NOT_STATED for label in people.labels[known == ""].tolist()])


def _judged(classifier: ExpressionClassifier) -> dict[str, Any]:
    head = classifier.head
    return {
        "name": head.name,
        "sha256": head.sha256,
        "classes": list(head.classes),
        "training_data": list(head.config.training_data),
        "encoder": head.config.encoder_id,
        "encoder_sha256": head.config.encoder_sha256,
    }


def _write(report: dict[str, Any], folder: Path) -> None:
    from fergeneral.evaluate.group_tables import groups_markdown

    texts = {GROUPS_JSON_FILE: json.dumps(report, indent=1, allow_nan=False) + "\n"}
    texts[GROUPS_MARKDOWN_FILE] = groups_markdown(report)
    write_texts(folder, texts)
