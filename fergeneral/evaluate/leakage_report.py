"""Measure what encoders of this package, and other systems beside them, give away of people; and the tables of that.

The people are those of London, CK+ and FairFace. What follows for privacy: docs/privacy.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fergeneral import __version__
from fergeneral.datasets import Dataset, Sample, open_dataset, read_csv
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import unit_rows
from fergeneral.evaluate.leakage import FOLDS, attribute, identification, person_metric
from fergeneral.evaluate.robustness import found_crop
from fergeneral.evaluate.tables import markdown_table
from fergeneral.heads import Head
from fergeneral.types import Detector

_PIXELS = 32  # side of the grey crop that stands for no encoder at all
_CODES = {"male": "male", "female": "female", "Male": "male", "Female": "female"}


@dataclasses.dataclass(frozen=True, eq=False)
class PeopleSet:
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


def open_london(folder: str | Path) -> PeopleSet:
    """The Face Research Lab London Set: 102 people, neutral and smiling, who stated age, gender and ethnicity.

    Parameters
    ----------
    folder : path
        With people.csv (path, label, subject, age, gender, ethnicity) and the photos.

    Returns
    -------
    PeopleSet
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
    return PeopleSet(dataset, _attributes(rows, age, "ethnicity"), photos=True, gallery="neutral")


def open_ckplus(folder: str | Path) -> PeopleSet:
    """CK+ as crops of 48 pixels: the last frame of each sequence, as those before are nearly the same.

    Parameters
    ----------
    folder : path
        LABEL/SUBJECT_SEQUENCE_FRAME.png.

    Returns
    -------
    PeopleSet
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
    return PeopleSet(dataclasses.replace(dataset, name="ckplus48", samples=tuple(last.values())), {}, photos=False)


def open_fairface(folder: str | Path) -> PeopleSet:
    """FairFace: photos of different people with gender, 9 age groups and 7 race groups, as annotators saw them.

    Parameters
    ----------
    folder : path
        With attributes.csv (path, age, gender, race) and the photos.

    Returns
    -------
    PeopleSet
        `dataset` has the gender as label.

    Raises
    ------
    DataError
        For a folder that lacks something.
    """
    rows = _rows(Path(folder) / "attributes.csv", ("path", "age", "gender", "race"))
    samples = tuple(Sample(row["path"], row["gender"]) for row in rows)
    return PeopleSet(
        Dataset("fairface", Path(folder), samples), _attributes(rows, [row["age"] for row in rows], "race"), photos=True
    )


def _rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    _, rows = read_csv(path)
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


_OPEN: dict[str, Callable[[Path], PeopleSet]] = {
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


def embed_people(encoder: Encoder, people: PeopleSet, detector: Detector) -> tuple[np.ndarray, PeopleSet]:
    """Embeddings (N, D) of the faces of a set, and the set without images in which there is none."""
    there, crops = _crops(people, detector, *_form(encoder))
    return encoder.encode(crops, show_progress=False), _with_face(people, there)


class _Crops:
    """Each set's faces, cut once for each form of crop that an encoder wants; `sets`: without images of no face."""

    def __init__(self, found: Mapping[str, PeopleSet], detector: Detector, encoders: Sequence[Encoder]) -> None:
        self.sets: dict[str, PeopleSet] = {}
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


def _crops(people: PeopleSet, detector: Detector, size: int, template: Any) -> tuple[np.ndarray, np.ndarray]:
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


def _with_face(people: PeopleSet, there: np.ndarray) -> PeopleSet:
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


def _peer(path: Path, sets: Mapping[str, PeopleSet]) -> dict[str, np.ndarray]:
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


def _usable(vectors: np.ndarray, people: PeopleSet) -> tuple[np.ndarray, PeopleSet]:
    there = np.isfinite(vectors).all(axis=1)
    return vectors[there], _with_face(people, there)


def _identities(
    system: str, vectors: Mapping[str, np.ndarray], sets: Mapping[str, PeopleSet], seed: int
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
    system: str, name: str, trained_on: str | None, x: np.ndarray, people: PeopleSet, seed: int
) -> dict[str, Any]:
    labels, subjects = people.dataset.labels, people.subjects or []
    result = identification(x, labels, subjects, gallery=people.gallery, seed=seed)
    return {"system": system, "data": name, "trained_on": trained_on} | result.to_dict()


def _read_attributes(
    system: str, vectors: Mapping[str, np.ndarray], sets: Mapping[str, PeopleSet], seed: int
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


TITLES = {"london": "London", "ckplus48": "CK+", "fairface": "FairFace"}


def leakage_markdown(record: Mapping[str, Any]) -> str:
    """The tables of a record of `leakage`: `identity_table`, then `attribute_table`."""
    return f"{identity_table(record)}\n\n{attribute_table(record)}\n"


def identity_table(record: Mapping[str, Any]) -> str:
    """How well people are told apart, as a table in Markdown; `record` as `leakage` returns it, or its JSON."""
    rows = [
        [
            TITLES[row["data"]],
            row["system"],
            "-" if row["trained_on"] is None else TITLES[row["trained_on"]],
            _with_interval(row["auc"], row["intervals"]["auc"]),
            f"{100 * row['eer']:.1f}",
            f"{100 * row['tar']:.1f}",
            _with_interval(row["rank1"], row["intervals"]["rank1"]),
            f"{100 * row['chance']:.1f}",
        ]
        for row in sorted(record["identity"], key=lambda row: (row["data"] != "london", row["trained_on"] or ""))
    ]
    header = ["people of", "embeddings of", "learnt on", "AUC", "EER, %", "TAR at FAR 1 %, %", "rank-1", "chance, %"]
    return markdown_table(header, rows)


def attribute_table(record: Mapping[str, Any]) -> str:
    """How well attributes of people are read, a column for each system, as a table in Markdown."""
    names = list(dict.fromkeys(row["system"] for row in record["attributes"]))
    of = {(row["data"], row["attribute"], row["system"]): row for row in record["attributes"]}
    rows = [
        [
            f"{TITLES[data]}, {name} ({len(row['recall'])})",
            *(_read(of.get((data, name, system))) for system in names),
            f"{100 * row['majority']:.1f} / {100 * row['chance']:.1f}",
        ]
        for (data, name), row in {(row["data"], row["attribute"]): row for row in record["attributes"]}.items()
    ]
    return markdown_table(["attribute (classes)", *names, "majority / chance"], rows)


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def _read(row: Mapping[str, Any] | None) -> str:
    """Accuracy and its interval / UAR, in per cent."""
    if row is None:
        return "-"
    low, high = (100 * value for value in row["intervals"]["accuracy"])
    return f"{100 * row['accuracy']:.1f} ({low:.1f}-{high:.1f}) / {100 * row['uar']:.1f}"
