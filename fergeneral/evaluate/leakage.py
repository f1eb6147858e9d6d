"""What an embedding gives away beside the expression: who it is, and a person's gender, age group and ethnicity group.

`identification` and `attribute` take embeddings of any system; `leakage` measures encoders of this package on London,
CK+ and FairFace, and others beside them. What follows for privacy: docs/privacy.md.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_curve
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fergeneral import __version__
from fergeneral.datasets import Dataset, Sample, class_counts, open_dataset
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import classes_of_train, embeddings, labelled, unit_rows
from fergeneral.evaluate.metrics import DRAWS, Metrics, score
from fergeneral.evaluate.probe import fit_probe, group_folds
from fergeneral.evaluate.robustness import found_crop
from fergeneral.evaluate.structure import Pairs, compared, identity, persons
from fergeneral.heads import Head
from fergeneral.types import Detector

GALLERIES = 20  # how often one image to be known by and one to be found are drawn for each person
FOLDS = 5
_SVM_C = (1.0, 10.0)  # of which one is chosen inside the training part
_FAR = 0.01  # false accept rate, at which the true accept rate is stated
_PIXELS = 32  # side of the grey crop that stands for no encoder at all
_CODES = {"male": "male", "female": "female", "Male": "male", "Female": "female"}

Learner = Literal["linear", "rbf"]


@dataclasses.dataclass(frozen=True)
class Identification:
    """How well embeddings tell who somebody is, across expressions.

    Attributes
    ----------
    people : int
        Who have images with two expressions or more; those that are to be told apart.
    images : int
        All images that were compared.
    auc : float
        Area under the ROC curve, 0.5 by chance: pairs of one person against pairs of two, the expressions of a pair
        different, by cosine similarity. The same as "identity_auc" of `identity`.
    eer : float
        Equal error rate of the same pairs, 0.5 by chance.
    tar : float
        Share of the pairs of one person that are accepted where 1 % of the other pairs are; 0.01 by chance.
    rank1 : float
        How often a person's image is most similar to that person's other image, among one image of each of `people`;
        `chance` is 1 / `people`.
    chance : float
        Of `rank1`.
    intervals : dict
        95 % bootstrap intervals over people, (low, high), of "auc" and "rank1". For rank1 the gallery stays as it is.
    """

    people: int
    images: int
    auc: float
    eer: float
    tar: float
    rank1: float
    chance: float
    intervals: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, lists and dicts, for JSON.

        Returns
        -------
        dict
            The attributes by name.
        """
        return dataclasses.asdict(self) | {"intervals": {name: list(pair) for name, pair in self.intervals.items()}}


@dataclasses.dataclass(frozen=True)
class Attribute:
    """How well a classifier reads an attribute of people that it was not trained on.

    Attributes
    ----------
    metrics : Metrics
        Over the predictions of all folds; intervals over people.
    people : int
        Different people.
    majority : float
        Accuracy of naming the most frequent class always.
    chance : float
        UAR of any answer that does not look at the image: 1 / classes.
    """

    metrics: Metrics
    people: int
    majority: float
    chance: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, lists and dicts, for JSON.

        Returns
        -------
        dict
            `people`, `majority`, `chance`, and what `Metrics.to_dict` gives.
        """
        counts = {"people": self.people, "majority": self.majority, "chance": self.chance}
        return counts | self.metrics.to_dict()


def identification(
    x: np.ndarray,
    labels: Sequence[str],
    subjects: Sequence[str],
    *,
    gallery: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Identification:
    """Verification and identification of people across expressions, by cosine similarity.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings of any system.
    labels, subjects : sequence of str
        N expressions, and the person on each image.
    gallery : str or None, default None
        The expression that people are known by; those without it do not take part in `rank1`. None draws, 20 times,
        one image of each person for the gallery and one with another expression to be found.
    draws : int, default 1000
        Of the bootstrap.
    seed : int, default 0
        Of all draws.

    Returns
    -------
    Identification
        Rates and their intervals.

    Raises
    ------
    DataError
        For shapes that do not fit, values that are not finite, and fewer than two people with images of two
        expressions.

    Examples
    --------
    >>> x = np.eye(3)[[0, 0, 1, 1, 2, 2]]  # an embedding that is nothing but the person
    >>> result = identification(x, ["neutral", "happiness"] * 3, ["a", "a", "b", "b", "c", "c"])
    >>> result.auc, result.rank1
    (1.0, 1.0)
    """
    features, y = labelled(x, labels, "the data")
    who = persons(subjects, len(y))
    generator = np.random.default_rng(seed)
    hits = _rank1(unit_rows(features), y, who, gallery, generator)
    auc = identity(features, y.tolist(), who.tolist(), seed=seed)["identity_auc"]
    pairs = compared(features, y.tolist(), who.tolist(), seed=seed)
    different = ~pairs.expression
    false_rate, true_rate, _ = roc_curve(pairs.person[different], pairs.similarity[different])
    crossing = int(np.argmin(abs(1 - true_rate - false_rate)))
    resampled = hits[generator.integers(len(hits), size=(draws, len(hits)))].mean(axis=1)
    return Identification(
        people=len(hits),
        images=len(y),
        auc=auc,
        eer=float((1 - true_rate[crossing] + false_rate[crossing]) / 2),
        tar=float(np.interp(_FAR, false_rate, true_rate)),
        rank1=float(hits.mean()),
        chance=1 / len(hits),
        intervals={"auc": _interval(_auc_draws(pairs, draws, generator)), "rank1": _interval(resampled)},
    )


def attribute(
    x: np.ndarray,
    labels: Sequence[str],
    subjects: Sequence[str] | None = None,
    *,
    learner: Learner = "linear",
    folds: int = FOLDS,
    seed: int = 0,
) -> Attribute:
    """Cross-validated classification of what is stated of people, nobody being in train and test at once.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings of any system.
    labels : sequence of str
        N labels: gender, an age group.
    subjects : sequence of str or None, default None
        The person on each image; None: each image shows another one.
    learner : {"linear", "rbf"}, default "linear"
        "linear" is `fit_probe`; "rbf" is a support vector machine with a Gaussian kernel, for what a linear one cannot
        read. Their strengths are chosen inside the training part of each fold.
    folds : int, default 5
        Parts, classes spread evenly.
    seed : int, default 0
        Of the folds and the bootstrap.

    Returns
    -------
    Attribute
        Metrics over all images, each predicted once.

    Raises
    ------
    DataError
        For shapes that do not fit, values that are not finite, one class only, and fewer people than folds.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> labels = ["old", "young"] * 50
    >>> x = generator.normal(size=(100, 4)) + np.array([[5], [0]] * 50)
    >>> attribute(x, labels).metrics.accuracy > 0.95
    True
    """
    features, y = labelled(x, labels, "the data")
    who = None if subjects is None else persons(subjects, len(y))
    vocabulary = classes_of_train(y)
    learn = _LEARNERS.get(learner)
    if learn is None:
        raise ValueError(f"learner must be one of {', '.join(_LEARNERS)}; got {learner!r}")
    predicted = np.empty_like(y)
    for train, test in _folds(y, who, folds, seed):
        others = None if who is None else who[train]
        predicted[test] = learn(features[train], y[train], others, seed)(features[test])
    metrics = score(y, predicted, vocabulary, groups=None if who is None else who.tolist(), seed=seed)
    most = max(class_counts(y.tolist()).values())
    people = len(y) if who is None else len(set(who.tolist()))
    return Attribute(metrics, people, most / len(y), 1 / len(vocabulary))


def person_metric(x: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """What somebody can do who has labelled images of other people: learn which directions tell people apart.

    Within-class covariance normalisation (Hatch, Kajarekar and Stolcke, Interspeech 2006): what differs between images
    of one person, such as the expression, is scaled to the same spread in every direction, with Ledoit and Wolf's
    shrinkage of the covariance. Features are scaled to unit spread before.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Embeddings.
    subjects : sequence of str
        The person on each image.

    Returns
    -------
    ndarray, shape (D, D)
        M; of other people's embeddings z compare (z - mean of z) @ M by cosine similarity.

    Raises
    ------
    DataError
        For shapes that do not fit, values that are not finite, and where nobody has two images.
    """
    features = embeddings(x, "the data")
    who = persons(subjects, len(features))
    spread = features.std(axis=0, dtype=np.float64)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * spread.max())
    rest = centred(features * scale, who)
    if not rest.any():
        raise DataError("nobody has two images that differ; people with several images are needed")
    values, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(rest).covariance_)
    metric: np.ndarray = scale[:, None] * ((axes / np.sqrt(np.maximum(values, 1e-9 * values[-1]))) @ axes.T)
    return metric


def centred(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each row less the mean of its group's rows."""
    group, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, group, x)
    rest: np.ndarray = x - (sums / counts[:, None])[group]
    return rest


def _rank1(
    unit: np.ndarray, y: np.ndarray, who: np.ndarray, gallery: str | None, generator: np.random.Generator
) -> np.ndarray:
    """(people,) how often each person is found; a tie of k counts 1 / k."""
    rows = {person: np.flatnonzero(who == person) for person in np.unique(who).tolist()}
    wanted = [gallery] if gallery is not None else sorted(set(y.tolist()))
    people = [
        places for places in rows.values() if len(set(y[places].tolist())) > 1 and np.isin(y[places], wanted).any()
    ]
    if len(people) < 2:
        of = "" if gallery is None else f", one of them {gallery!r}"
        raise DataError(
            f"two people or more with images of two expressions{of}, are needed; got {len(people)} of {len(rows)}"
        )
    hits = np.zeros(len(people))
    for _ in range(GALLERIES):
        known = [int(generator.choice(places[np.isin(y[places], wanted)])) for places in people]
        probes = [int(generator.choice(p[y[p] != y[k]])) for p, k in zip(people, known, strict=True)]
        similarity = unit[probes] @ unit[known].T
        best = similarity >= similarity.max(axis=1, keepdims=True)
        hits += np.diagonal(best) / best.sum(axis=1)
    return hits / GALLERIES


def _auc_draws(pairs: Pairs, draws: int, generator: np.random.Generator) -> np.ndarray:
    """`draws` areas under the ROC curve over people drawn with replacement; a pair counts by both of its people."""
    different = ~pairs.expression
    person, first, second = (pairs.person[different], pairs.first[different], pairs.second[different])
    place = np.unique(pairs.similarity[different], return_inverse=True)[1]
    people, values = int(max(first.max(), second.max())) + 1, int(place.max()) + 1
    areas = []
    for times in generator.multinomial(people, np.full(people, 1 / people), size=draws):
        weight = np.where(person, times[first], times[first] * times[second])
        one = np.bincount(place[person], weight[person], values)
        two = np.bincount(place[~person], weight[~person], values)
        if one.any() and two.any():
            areas.append(float(one @ (np.cumsum(two) - two / 2) / one.sum() / two.sum()))
    return np.array(areas)


def _folds(y: np.ndarray, who: np.ndarray | None, folds: int, seed: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """As `group_folds`; where each image shows another person, no groups are needed."""
    if who is not None:
        return group_folds(y, who, folds, seed)
    fewest = min(class_counts(y.tolist()).values())
    if not 2 <= folds <= fewest:
        raise DataError(f"{folds} folds need two or more, and as many images of each class; a class has {fewest}")
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y))


_Predict = Callable[[np.ndarray], np.ndarray]


def _linear(x: np.ndarray, y: np.ndarray, who: np.ndarray | None, seed: int) -> _Predict:
    probe = fit_probe(x, y.tolist(), groups=None if who is None else who.tolist(), seed=seed)
    return lambda rows: np.array(probe.labels)[probe.logits(rows).argmax(axis=1)]


def _rbf(x: np.ndarray, y: np.ndarray, who: np.ndarray | None, seed: int) -> _Predict:
    model = make_pipeline(StandardScaler(), SVC())
    return GridSearchCV(model, {"svc__C": _SVM_C}, cv=_folds(y, who, 3, seed)).fit(x, y).predict


_LEARNERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None, int], _Predict]] = {
    "linear": _linear,
    "rbf": _rbf,
}


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True, eq=False)
class People:
    """A data set of faces, what is stated of the people, and who they are.

    Attributes
    ----------
    dataset : Dataset
        Images with their expressions; of FairFace, which has none, with the gender.
    attributes : dict
        "gender", "age", "ethnicity" -> (N,) str; "" where it is not stated or too rare. Empty for CK+.
    photos : bool
        Whether faces are to be found in the images; else they are crops.
    gallery : str or None
        The expression to know people by, for `identification`.
    """

    dataset: Dataset
    attributes: dict[str, np.ndarray]
    photos: bool
    gallery: str | None = None

    @property
    def subjects(self) -> list[str] | None:
        """The person on each image; None where that is not known, and each image shows another."""
        names = [sample.subject for sample in self.dataset.samples]
        return [str(name) for name in names] if all(names) else None


def open_london(folder: str | Path) -> People:
    """The Face Research Lab London Set: 102 people, neutral and smiling, who stated age, gender and ethnicity.

    Parameters
    ----------
    folder : path
        With people.csv (path, label, subject, age, gender, ethnicity) and the photos.

    Returns
    -------
    People
        Age in two groups, "under 25" and "25 or more", which split the people nearly in half.

    Raises
    ------
    DataError
        For a folder that lacks something.
    """
    rows = _rows(Path(folder) / "people.csv", ("path", "label", "subject", "age", "gender", "ethnicity"))
    dataset = dataclasses.replace(open_dataset(Path(folder) / "people.csv"), name="london")
    ages = [int(row["age"]) if row["age"].isdigit() else None for row in rows]
    age = ["" if years is None else "under 25" if years < 25 else "25 or more" for years in ages]
    return People(dataset, _attributes(rows, age, "ethnicity"), photos=True, gallery="neutral")


def open_ckplus(folder: str | Path) -> People:
    """CK+ as crops of 48 pixels: the last frame of each sequence, as those before are nearly the same.

    Parameters
    ----------
    folder : path
        LABEL/SUBJECT_SEQUENCE_FRAME.png.

    Returns
    -------
    People
        Without attributes, which the set does not state.

    Raises
    ------
    DataError
        For a folder that is not CK+.
    """
    dataset = open_dataset(folder)
    if dataset.name != "ckplus":
        raise DataError(f"{folder} is not CK+: images are to be named SUBJECT_SEQUENCE_FRAME, as S010_004_00000019.png")
    last = {sample.path.rpartition("_")[0]: sample for sample in sorted(dataset.samples, key=lambda s: s.path)}
    return People(dataclasses.replace(dataset, name="ckplus48", samples=tuple(last.values())), {}, photos=False)


def open_fairface(folder: str | Path) -> People:
    """FairFace: photos of different people with gender, 9 age groups and 7 race groups, as annotators saw them.

    Parameters
    ----------
    folder : path
        With attributes.csv (path, age, gender, race) and the photos.

    Returns
    -------
    People
        `dataset` has the gender as label.

    Raises
    ------
    DataError
        For a folder that lacks something.
    """
    rows = _rows(Path(folder) / "attributes.csv", ("path", "age", "gender", "race"))
    samples = tuple(Sample(row["path"], row["gender"]) for row in rows)
    return People(
        Dataset("fairface", Path(folder), samples), _attributes(rows, [row["age"] for row in rows], "race"), photos=True
    )


def _rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 .csv file: {error}") from error
    lacking = [name for name in needed if not rows or rows[0].get(name) is None]
    if lacking:
        raise DataError(f"{path} needs rows with the columns {', '.join(needed)}; it lacks {', '.join(lacking)}")
    return rows


def _attributes(rows: Sequence[Mapping[str, str]], age: Sequence[str], ethnicity: str) -> dict[str, np.ndarray]:
    """As arrays; classes of fewer people than folds, which cannot be in each part, become ""."""
    columns = {"gender": [_CODES.get(row["gender"], "") for row in rows], "age": age}
    columns["ethnicity"] = [row[ethnicity] for row in rows]
    kept = {}
    for name, values in columns.items():
        counts = Counter(values)
        kept[name] = np.array([value if counts[value] >= 2 * FOLDS else "" for value in values])
    return kept


_OPEN: dict[str, Callable[[Path], People]] = {
    "london": open_london,
    "ckplus48": open_ckplus,
    "fairface": open_fairface,
}


def leakage(
    encoders: Sequence[Encoder],
    data: str | Path,
    detector: Detector,
    *,
    heads: Sequence[Head] = (),
    peers: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what encoders give away, beside other systems and grey pixels.

    Identity on London and CK+, by cosine similarity and after `person_metric` was learnt on CK+'s people: on all of
    them for London, on one half for the other half. Attributes on London and FairFace by the linear probe. Every system
    is given the same faces; photos in which the detector finds none are counted and left out.

    Parameters
    ----------
    encoders : sequence of Encoder
        One or more.
    data : path
        A folder with london/, ckplus48/ and fairface/, or some of them.
    detector : Detector
        Finds the faces in the photos of London and FairFace.
    heads : sequence of Head, default ()
        Of the first encoder: measured is also what their probabilities give away, for who stores nothing else.
    peers : path or None, default None
        A folder of other systems' embeddings: .npz with `path` (P,) str, "SET/PATH", and `embedding` (P, D); rows of
        NaN are images without one.
    seed : int, default 0
        Of all draws.

    Returns
    -------
    dict
        For JSON: "data", how many images and people were read; "identity" and "attributes", one entry for each system
        and data set, with intervals; "seconds". `leakage_markdown` and `draw_leakage` show it.

    Raises
    ------
    DataError
        Where `data` has none of the sets, or one of them or a peer's file lacks something.
    ModelError
        For a head of another encoder.
    """
    start = time.perf_counter()
    found = {name: open_set(Path(data) / name) for name, open_set in _OPEN.items() if (Path(data) / name).is_dir()}
    if not found:
        raise DataError(f"{data} has none of the folders {', '.join(_OPEN)}")
    if not encoders:
        raise DataError("an encoder is needed")
    for head in heads:
        head.check_encoder(encoders[0])
    crops = _Crops(found, detector, encoders)
    others = {path.stem: _peer(path, crops.sets) for path in sorted(Path(peers).glob("*.npz"))} if peers else {}
    systems = crops.embed(encoders, heads) | others
    embedded = time.perf_counter()
    sets = crops.sets
    identities = [entry for name, vectors in systems.items() for entry in _identities(name, vectors, sets, seed)]
    attributes = [entry for name, vectors in systems.items() for entry in _read_attributes(name, vectors, sets, seed)]
    return {
        "fergeneral": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "weights": {encoder.config.model_id: encoder.config.weights_sha256 for encoder in encoders},
        "detector": type(detector).__name__,
        "data": {
            name: {"images": len(found[name].dataset.samples), "with_face": len(of.dataset.samples)}
            for name, of in sets.items()
        },
        "identity": identities,
        "attributes": attributes,
        "seconds": {"faces and embeddings": embedded - start, "measuring": time.perf_counter() - embedded},
    }


def embed_people(encoder: Encoder, people: People, detector: Detector) -> tuple[np.ndarray, People]:
    """Embeddings (N, D) of the faces of a set, and the set without images in which there is none."""
    there, crops = _crops(people, detector, *_form(encoder))
    return encoder.encode(crops, show_progress=False), _with_face(people, there)


class _Crops:
    """Each set's faces, cut once for each form of crop that an encoder wants; `sets`: without images of no face."""

    def __init__(self, found: Mapping[str, People], detector: Detector, encoders: Sequence[Encoder]) -> None:
        self.sets: dict[str, People] = {}
        self._crops: dict[tuple[str, Any], np.ndarray] = {}
        for name, people in found.items():
            for form in dict.fromkeys(map(_form, encoders)):
                there, self._crops[name, form] = _crops(people, detector, *form)
                self.sets[name] = _with_face(people, there)

    def embed(self, encoders: Sequence[Encoder], heads: Sequence[Head]) -> dict[str, dict[str, np.ndarray]]:
        """System -> set -> (N, D): encoders, heads on the first of them, grey pixels."""
        systems = {
            encoder.config.model_id: {
                name: encoder.encode(self._crops[name, _form(encoder)], show_progress=False) for name in self.sets
            }
            for encoder in encoders
        }
        first = systems[encoders[0].config.model_id]
        for head in heads:
            systems[f"{head.name} probabilities"] = {name: head.predict_proba(x) for name, x in first.items()}
        return systems | {PIXELS: {name: _grey(self._crops[name, _form(encoders[0])]) for name in self.sets}}


def _form(encoder: Encoder) -> tuple[int, Any]:
    return encoder.config.crop_size, encoder.config.template


PIXELS = f"grey pixels, {_PIXELS}x{_PIXELS}"


def _crops(people: People, detector: Detector, size: int, template: Any) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image has a face (N,), and the crops of those that have."""
    dataset = people.dataset
    crops = [
        found_crop(detector, size, template, Image.fromarray(pixels), 0, margin=0.0)
        if people.photos
        else dataset.align(Image.fromarray(pixels), size, template)
        for pixels in dataset.crops(np.asarray)
    ]
    there = [crop for crop in crops if crop is not None]
    if not there:
        raise DataError(f"no face was found in the {len(crops)} photos of {dataset.root}")
    return np.array([crop is not None for crop in crops]), np.stack(there)


def _with_face(people: People, there: np.ndarray) -> People:
    samples = tuple(sample for sample, found in zip(people.dataset.samples, there, strict=True) if found)
    attributes = {name: values[there] for name, values in people.attributes.items()}
    return dataclasses.replace(
        people, dataset=dataclasses.replace(people.dataset, samples=samples), attributes=attributes
    )


def _grey(crops: np.ndarray) -> np.ndarray:
    """(N, 1024), brightness and contrast of each image taken out."""
    small = [
        np.asarray(Image.fromarray(crop).convert("L").resize((_PIXELS, _PIXELS), Image.Resampling.BOX)).ravel()
        for crop in crops
    ]
    x = np.stack(small).astype(np.float32)
    return unit_rows(x - x.mean(axis=1, keepdims=True))


def _peer(path: Path, sets: Mapping[str, People]) -> dict[str, np.ndarray]:
    """Rows of NaN where the system has none, for the sets that it has."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            row = {name: place for place, name in enumerate(stored["path"].astype(str).tolist())}
            vectors = stored["embedding"].astype(np.float32)
    except Exception as error:  # numpy and zipfile raise errors of many kinds for a file that is no such table
        raise DataError(f"{path} is not a .npz with the arrays path and embedding: {error}") from error
    if vectors.ndim != 2 or len(vectors) != len(row):
        raise DataError(f"{path} needs N different paths and (N, D) embeddings, got {len(row)} and {vectors.shape}")
    result = {}
    for name, people in sets.items():
        wanted = [f"{name}/{sample.path}" for sample in people.dataset.samples]
        there = [row[path] for path in wanted if path in row]
        if there and len(there) < len(wanted):
            raise DataError(f"{path} lacks {len(wanted) - len(there)} of the {len(wanted)} images of {name}")
        if there:
            result[name] = vectors[there]
    if not result:
        raise DataError(f"{path} has no image of {', '.join(sets)}; wanted are paths like {name}/{wanted[0]!r}")
    return result


def _usable(vectors: np.ndarray, people: People) -> tuple[np.ndarray, People]:
    there = np.isfinite(vectors).all(axis=1)
    return vectors[there], _with_face(people, there)


def _identities(
    system: str, vectors: Mapping[str, np.ndarray], sets: Mapping[str, People], seed: int
) -> list[dict[str, Any]]:
    """Of each set with known people: by cosine similarity, and after a metric that was learnt on other people."""
    known = {n: _usable(vectors[n], of) for n, of in sets.items() if n in vectors and of.subjects is not None}
    if not known:
        return []
    teacher = max(known, key=lambda name: len(known[name][0]))
    entries = []
    for name, (x, people) in known.items():
        entries.append(_identity(system, name, None, x, people, seed))
        others = known[teacher]
        if name == teacher:  # half of its people learn, the other half is read
            who = np.array(people.subjects)
            learn = np.isin(who, np.random.default_rng(seed).permutation(np.unique(who))[::2])
            others, (x, people) = (x[learn], _with_face(people, learn)), (x[~learn], _with_face(people, ~learn))
        learnt = (x - x.mean(axis=0)) @ person_metric(others[0], others[1].subjects or [])
        entries.append(_identity(system, name, teacher, learnt, people, seed))
    return entries


def _identity(
    system: str, name: str, trained_on: str | None, x: np.ndarray, people: People, seed: int
) -> dict[str, Any]:
    labels, subjects = people.dataset.labels, people.subjects or []
    result = identification(x, labels, subjects, gallery=people.gallery, seed=seed)
    return {"system": system, "data": name, "trained_on": trained_on} | result.to_dict()


def _read_attributes(
    system: str, vectors: Mapping[str, np.ndarray], sets: Mapping[str, People], seed: int
) -> list[dict[str, Any]]:
    """Each attribute of which a set has two classes or more; images without it are left out."""
    entries = []
    for name in (name for name in sets if name in vectors):
        x, people = _usable(vectors[name], sets[name])
        for attribute_name, values in people.attributes.items():
            stated = values != ""
            if len(set(values[stated].tolist())) < 2:
                continue
            who = None if people.subjects is None else np.array(people.subjects)[stated].tolist()
            result = attribute(x[stated], values[stated].tolist(), who, seed=seed)
            entries.append({"system": system, "data": name, "attribute": attribute_name} | result.to_dict())
    return entries


_TITLES = {"london": "London", "ckplus48": "CK+", "fairface": "FairFace"}


def leakage_markdown(record: Mapping[str, Any]) -> str:
    """The tables of a record of `leakage`.

    Parameters
    ----------
    record : dict
        What `leakage` returned, or its JSON.

    Returns
    -------
    str
        Two tables as Markdown: identity, attributes.
    """
    identity_rows = [
        [
            _TITLES[row["data"]],
            row["system"],
            "-" if row["trained_on"] is None else _TITLES[row["trained_on"]],
            _with_interval(row["auc"], row["intervals"]["auc"]),
            f"{100 * row['eer']:.1f}",
            f"{100 * row['tar']:.1f}",
            _with_interval(row["rank1"], row["intervals"]["rank1"]),
            f"{100 * row['chance']:.1f}",
        ]
        for row in sorted(record["identity"], key=lambda row: (row["data"] != "london", row["trained_on"] or ""))
    ]
    names = list(dict.fromkeys(row["system"] for row in record["attributes"]))
    of = {(row["data"], row["attribute"], row["system"]): row for row in record["attributes"]}
    attribute_rows = [
        [
            f"{_TITLES[data]}, {name} ({len(row['recall'])})",
            *(_read(of.get((data, name, system))) for system in names),
            f"{100 * row['majority']:.1f} / {100 * row['chance']:.1f}",
        ]
        for (data, name), row in {(row["data"], row["attribute"]): row for row in record["attributes"]}.items()
    ]
    header = ["people of", "embeddings of", "learnt on", "AUC", "EER, %", "TAR at FAR 1 %, %", "rank-1", "chance, %"]
    parts = [_table(header, identity_rows)]
    parts.append(_table(["attribute (classes)", *names, "majority / chance"], attribute_rows))
    return "\n\n".join(parts) + "\n"


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def _read(row: Mapping[str, Any] | None) -> str:
    """Accuracy and its interval / UAR, in per cent."""
    if row is None:
        return "-"
    low, high = (100 * value for value in row["intervals"]["accuracy"])
    return f"{100 * row['accuracy']:.1f} ({low:.1f}-{high:.1f}) / {100 * row['uar']:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
