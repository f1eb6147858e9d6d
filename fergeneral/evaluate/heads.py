"""How good a head is: on test splits of face crops, on whole photos, and end to end from photos."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fergeneral import __version__
from fergeneral.classifier import ExpressionClassifier
from fergeneral.crop_check import looked_at, warn_of_photos
from fergeneral.datasets import Dataset, class_counts, open_dataset
from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import columns
from fergeneral.evaluate.cache import Embedded, EmbeddingCache
from fergeneral.evaluate.inputs import name_of, status_of
from fergeneral.evaluate.metrics import ece, score
from fergeneral.evaluate.robustness import MARGIN, found_crop
from fergeneral.evaluate.tables import head_markdown
from fergeneral.heads.head import Head
from fergeneral.outputs import check_folder
from fergeneral.storage import make_folder, write_texts

HEAD_JSON_FILE, HEAD_MARKDOWN_FILE = "head.json", "head.md"
_STATUSES = ("in-sample", "not stated", "held-out", "never seen")  # the worse of encoder and head comes first


def evaluate_head(
    classifier: ExpressionClassifier | Head,
    data: Sequence[str | Path] = (),
    out: str | Path | None = None,
    *,
    photos: Sequence[str | Path] = (),
    end_to_end: bool = True,
    cache: str | Path | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Judge a head on labelled data sets: accuracy, UAR, calibration, recall, and how often a face is found.

    Of a set with splits the test split is read, another set whole. Images of classes that the head does not have are
    left out and counted, since it cannot name them. Where the head has classes that the set does not, its figures are
    given twice: with all of its classes, so that naming one that the set does not have is wrong; and as ``shared``, its
    probabilities renormalised over the classes that both have.

    Parameters
    ----------
    classifier : ExpressionClassifier or Head
        Its head is judged, with its encoder and detector; its `min_confidence` is not applied. Of a `Head`, the encoder
        must be a packaged one.
    data : sequence of path
        Data sets of face crops, in the layouts of `fergeneral.datasets`.
    out : path or None, default None
        A folder, made if need be, for head.json (what is returned, and what was judged) and head.md (the same as
        tables). None writes nothing.
    photos : sequence of path
        Data sets of whole photos, in the same layouts: the detector finds the face, the largest where there are more.
    end_to_end : bool, default True
        Also let the detector find the faces of `data` again, in each image with 20 % of black around it, as in a photo.
        It takes most of the time.
    cache : path or None, default None
        Folder of embeddings, see `fergeneral.evaluate.cache.EmbeddingCache`.
    seed : int, default 0
        Of the bootstrap.

    Returns
    -------
    dict
        By data set, ready for JSON, rounded to four decimals. ``status``: what the training of encoder or head had:
        "in-sample" (these images), "held-out" (other splits of the set), "never seen" (none of it) or "not stated".
        ``source``: "crops" or "photos". ``n``: images judged; ``accuracy``, ``uar`` (mean recall), their 95 % bootstrap
        intervals ``accuracy_interval`` and ``uar_interval``, ``ece`` (expected calibration error, 15 bins) and
        ``recall`` of each class of the set. ``people``: how many are shown, where that is known; then the intervals
        are over people instead of images. ``left_out``: images of classes that the head does not have, by class.
        ``shared``: None where the head has no other classes than the set, else n, accuracy, uar, intervals, ece and
        recall among ``classes``. ``with_face``: share of the images in which a face was found, None for crops without
        `end_to_end`. ``end_to_end``: of crops, n, accuracy, uar, intervals, ece and recall on the faces that were found
        again; None where that was not asked for, or none was found. Of photos, the figures are of those with a face.

    Raises
    ------
    DataError
        For a set that cannot be read or has no class of the head, two sets of one name, or no set at all.

    Warns
    -----
    UserWarning
        Where images given as face crops seem to be whole photos.

    Examples
    --------
    >>> from fergeneral import ExpressionClassifier
    >>> from fergeneral.evaluate import evaluate_head
    >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
    >>> figures = evaluate_head(classifier, photos=["examples/london"])
    >>> figures["london"]["n"], figures["london"]["with_face"], figures["london"]["left_out"]
    (12, 1.0, {'smiling': 12})
    """
    if isinstance(classifier, Head):
        classifier = ExpressionClassifier.from_pretrained(classifier)
    if out is not None:
        check_folder(Path(out))
    sets = _open(classifier.head, data, photos)
    store = EmbeddingCache(cache)
    figures = {name: _judged(classifier, one, store, end_to_end, seed) for name, one in sets.items()}
    if out is not None:
        _write(classifier, figures, seed, Path(out))
    return figures


@dataclasses.dataclass(frozen=True, eq=False)
class _Test:
    """A data set's test split, or the whole of one without splits; `known`: images whose class the head has."""

    dataset: Dataset
    split: str | None
    known: np.ndarray
    is_photos: bool


def _open(head: Head, data: Sequence[str | Path], photos: Sequence[str | Path]) -> dict[str, _Test]:
    sets: dict[str, _Test] = {}
    for folder, is_photos in (*((folder, False) for folder in data), *((folder, True) for folder in photos)):
        dataset = open_dataset(folder).split("test")
        name = name_of(dataset)
        if name in sets:
            raise DataError(f"{folder} and {sets[name].dataset.root} are both named {name!r}; give one of them")
        known = np.isin(np.array(dataset.labels, dtype=str), head.classes)
        if not known.any():
            raise DataError(
                f"{folder} has none of the classes of the head {head.name!r} ({', '.join(head.classes)}); its labels "
                f"are {', '.join(class_counts(dataset.labels))}"
            )
        sets[name] = _Test(dataset, dataset.samples[0].split, known, is_photos)
    if not sets:
        raise DataError("a head is judged on at least one data set; give its folder")
    return sets


def _judged(
    classifier: ExpressionClassifier, test: _Test, cache: EmbeddingCache, end_to_end: bool, seed: int
) -> dict[str, Any]:
    head, encoder, dataset = classifier.head, classifier.extractor.encoder, test.dataset
    trained = (encoder.config.training_data, head.config.training_data)
    statuses = {status_of(sets, name_of(dataset), test.split) for sets in trained}
    subjects = [dataset.samples[row].subject for row in np.flatnonzero(test.known)]
    people = len(set(subjects)) if all(subjects) else None
    entry: dict[str, Any] = {
        "status": next(status for status in _STATUSES if status in statuses),
        "source": "photos" if test.is_photos else "crops",
    }
    found = _found(classifier, test, cache) if test.is_photos or end_to_end else None
    with_face = test.known if found is None else test.known & ~found.missed
    if test.is_photos and found is not None:
        if not with_face.any():
            raise DataError(f"no face was found in the photos of {dataset.root}")
        embeddings, rows = found.embeddings, with_face
    else:
        _warn_of_photos(classifier, dataset)
        embeddings, rows = cache.embed(encoder, dataset).embeddings, test.known
    entry |= _figures(head, embeddings, dataset, rows, seed) | {"people": people}
    entry["left_out"] = class_counts(
        [sample.label for sample, known in zip(dataset.samples, test.known, strict=True) if not known]
    )
    entry["shared"] = _shared(head, embeddings, dataset, rows, seed)
    entry["with_face"] = None if found is None else round(float(with_face.sum() / test.known.sum()), 4)
    entry["end_to_end"] = None
    if found is not None and not test.is_photos and with_face.any():
        entry["end_to_end"] = _figures(head, found.embeddings, dataset, with_face, seed)
    return entry


def _found(classifier: ExpressionClassifier, test: _Test, cache: EmbeddingCache) -> Embedded:
    """What the encoder says of the faces that the detector finds."""
    encoder, detector = classifier.extractor.encoder, classifier.extractor.detector
    margin, variant = (0.0, "photos") if test.is_photos else (MARGIN, "found again")
    config, name = encoder.config, type(detector).__name__.removesuffix("Detector")
    crop = functools.partial(found_crop, detector, config.crop_size, config.template, margin=margin)
    return cache.embed(encoder, test.dataset, crop, variant=f"{variant} {name}")


def _figures(
    head: Head, embeddings: np.ndarray, dataset: Dataset, chosen: np.ndarray, seed: int, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Of the chosen images, among some of the head's classes, by default all."""
    names = tuple(classes) or head.classes
    logits = head.logits(embeddings[chosen])[:, [head.classes.index(name) for name in names]]
    samples = [dataset.samples[row] for row in np.flatnonzero(chosen)]
    labels, subjects = [sample.label for sample in samples], [str(sample.subject) for sample in samples]
    predicted = np.array(names)[logits.argmax(axis=1)]
    groups = subjects if all(sample.subject for sample in samples) else None
    metrics = score(labels, predicted, names, groups=groups, seed=seed)
    return {
        "n": metrics.n,
        "accuracy": round(metrics.accuracy, 4),
        "accuracy_interval": _rounded(metrics.intervals["accuracy"]),
        "uar": round(metrics.uar, 4),
        "uar_interval": _rounded(metrics.intervals["uar"]),
        "ece": round(ece(logits, columns(labels, names, "the labels")), 4),
        "recall": {label: round(value, 4) for label, value in metrics.recall.items()},
    }


def _shared(
    head: Head, embeddings: np.ndarray, dataset: Dataset, chosen: np.ndarray, seed: int
) -> dict[str, Any] | None:
    """The figures among the classes that set and head share; None where that is all of the head's, or one alone."""
    there = set(np.array(dataset.labels, dtype=str)[chosen].tolist())
    classes = [name for name in head.classes if name in there]
    if len(classes) in (1, len(head.classes)):
        return None
    return {"classes": classes} | _figures(head, embeddings, dataset, chosen, seed, classes)


def _warn_of_photos(classifier: ExpressionClassifier, dataset: Dataset) -> None:
    if dataset.landmarks is None:  # else it is one of the known sets of crops
        count = len(dataset.samples)
        sample = dataclasses.replace(dataset, samples=tuple(dataset.samples[place] for place in looked_at(count)))
        what = f"the data sets of evaluate_head hold face crops, as {dataset.root} should"
        advice = "give it among photos"
        warn_of_photos(sample.files(), count, classifier.config, what=what, advice=advice, stacklevel=4)


def _write(classifier: ExpressionClassifier, figures: dict[str, dict[str, Any]], seed: int, out: Path) -> None:
    head = classifier.head
    judged = {
        "name": head.name,
        "sha256": head.sha256,
        "classes": list(head.classes),
        "encoder": head.config.encoder_id,
        "encoder_sha256": head.config.encoder_sha256,
        "training_data": list(head.config.training_data),
        "detector": type(classifier.extractor.detector).__name__,
    }
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    report = {"head": judged, "fergeneral": __version__, "date": date, "seed": seed, "data": figures}
    texts = {HEAD_JSON_FILE: json.dumps(report, indent=1, allow_nan=False) + "\n"}
    texts[HEAD_MARKDOWN_FILE] = head_markdown(report)
    write_texts(make_folder(out), texts)


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in interval]
