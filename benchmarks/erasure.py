"""Can a linear map take people out of embeddings and leave the expressions? Measured; the tables are printed.

    python benchmarks/erasure.py --data DATA --out OUT [--cache CACHE] [--model NAME]

DATA holds rafdb/, london/, ckplus48/ and fairface/. Maps are fitted on training data alone: LEACE on one half of
FairFace, directions that tell people apart on CK+, and expression directions on a part of RAF-DB train. Attributes are
evaluated on the other half of FairFace, by a linear probe and, gender, by a support vector machine; identity on London;
the expression probe is fitted on that part of RAF-DB train and evaluated on the rest. With the maps that --test names,
RAF-DB's test split is evaluated, too. Written is erasure.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import train_test_split

from fergeneral.datasets import Dataset, open_dataset
from fergeneral.detection import make_detector
from fergeneral.evaluate import linear_probe, subject_folds
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.leakage import attribute, centred, identification, person_metric
from fergeneral.evaluate.leakage_report import PeopleSet, embed_people, open_ckplus, open_fairface, open_london
from fergeneral.extractor import ExpressionExtractor

Map = Callable[[np.ndarray], np.ndarray]
DIRECTIONS = (16, 64)
ATTRIBUTES = ("gender", "ethnicity", "age")


def leace(x: np.ndarray, concept: np.ndarray) -> Map:
    """Least-squares concept erasure (Belrose et al., NeurIPS 2023, theorem 4.2) of `concept` (N, K), say one-hot.

    No linear classifier tells the concept on the data it was fitted on, and the embeddings move as little as can be.
    """
    x, z = np.asarray(x, dtype=np.float64), np.asarray(concept, dtype=np.float64)
    mean = x.mean(axis=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    cross = (x - mean).T @ (z - z.mean(axis=0)) / len(x)
    values, axes = np.linalg.eigh(covariance)
    there = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root = np.sqrt(np.where(there, values, 0.0))
    whiten, colour = (axes * np.where(there, 1 / np.maximum(root, 1e-300), 0.0)) @ axes.T, (axes * root) @ axes.T
    u, s, _ = np.linalg.svd(whiten @ cross, full_matrices=False)
    u = u[:, s > 1e-9 * s[0]]
    return lambda rows: rows - (rows - mean) @ (colour @ u @ u.T @ whiten).T


def without_people(x: np.ndarray, expressions: np.ndarray, who: np.ndarray, count: int) -> Map:
    """Null-space projection: without the `count` directions in which the means of people differ most."""
    rest = centred(np.asarray(x, dtype=np.float64), expressions)
    means = np.stack([rest[who == person].mean(axis=0) for person in np.unique(who)])
    axes = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][:count]
    return lambda rows: rows - rows @ axes.T @ axes


def expression_directions(x: np.ndarray, labels: list[str]) -> Map:
    """The linear discriminants of the expressions and nothing else: classes less one."""
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(x, labels)
    return lambda rows: model.transform(rows)


def one_hot(*columns: np.ndarray) -> np.ndarray:
    return np.concatenate([(column[:, None] == np.unique(column)).astype(float) for column in columns], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--model", default="general-r18-cycle")
    parser.add_argument("--test", nargs="*", default=[], help="maps with which RAF-DB's test split is read")
    options = parser.parse_args()
    encoder = ExpressionExtractor.from_pretrained(options.model, device="cpu").encoder
    detector = make_detector(None, "cpu")
    sets = {name: embed_people(encoder, read(options.data / name), detector) for name, read in READERS.items()}
    rafdb, whole = open_dataset(options.data / "rafdb"), open_dataset(options.data / "rafdb", drop_duplicates=False)
    kept = {sample.path for sample in rafdb.samples}  # the whole is what `fergeneral evaluate` caches, too
    rows = [sample.path in kept for sample in whole.samples]
    embedded = EmbeddingCache(options.cache).embed(encoder, whole).embeddings[rows]
    start = time.perf_counter()
    entries = measure(sets, embedded, rafdb, set(options.test))
    print(f"{time.perf_counter() - start:.0f} s after embedding")
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"model": options.model, "weights_sha256": encoder.config.weights_sha256, "maps": entries}
    (options.out / "erasure.json").write_text(json.dumps(record, indent=1) + "\n")
    print(table(entries))


def measure(
    sets: Mapping[str, tuple[np.ndarray, PeopleSet]], rafdb: np.ndarray, dataset: Dataset, tested: set[str]
) -> list[dict[str, Any]]:
    """One entry for each map."""
    labels, split = np.array(dataset.labels), np.array([sample.split for sample in dataset.samples])
    x, y = rafdb[split == "train"], labels[split == "train"]
    fit, validation = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=0)
    faces, people = sets["fairface"]
    stated = people.attributes
    strata = [f"{g} {r}" for g, r in zip(stated["gender"], stated["ethnicity"], strict=True)]
    first, second = train_test_split(np.arange(len(faces)), test_size=0.5, stratify=strata, random_state=0)
    halves = {name: values[second] for name, values in stated.items()}
    entries = []
    for name, move in all_maps(sets, faces[first], {n: v[first] for n, v in stated.items()}, x[fit], y[fit]).items():
        start = time.perf_counter()
        entry: dict[str, Any] = {"map": name}
        probe = linear_probe(move(x[fit]), y[fit].tolist(), move(x[validation]), y[validation].tolist())
        entry["rafdb_validation"] = probe.to_dict()
        if name in tested:
            test = split == "test"
            entry["rafdb_test"] = linear_probe(move(x), y.tolist(), move(rafdb[test]), labels[test].tolist()).to_dict()
        for data in ("london", "ckplus48"):
            z, of = sets[data]
            folds = subject_folds(move(z), of.dataset.labels, of.subjects or [], folds=5)
            entry[f"{data}_expressions"] = folds.pooled.to_dict()
        entry |= london_identity(sets, move)
        rest = move(faces[second])
        for attribute_name in ATTRIBUTES:
            values = halves[attribute_name]
            for learner in ("linear", "rbf") if attribute_name == "gender" else ("linear",):
                result = attribute(rest[values != ""], values[values != ""].tolist(), learner=learner)
                entry[f"{attribute_name}_{learner}"] = result.to_dict()
        entry["seconds"] = time.perf_counter() - start
        print(table([entry]).splitlines()[-1], flush=True)
        entries.append(entry)
    return entries


def london_identity(sets: Mapping[str, tuple[np.ndarray, PeopleSet]], move: Map) -> dict[str, Any]:
    """Of London's people, by cosine similarity and by a metric that was learnt on CK+, on mapped embeddings."""
    (x, people), (others, them) = sets["london"], sets["ckplus48"]
    moved = move(x)
    learnt = (moved - moved.mean(axis=0)) @ person_metric(move(others), them.subjects or [])
    views = {"identity": moved, "identity_learnt": learnt}
    what, who = people.dataset.labels, people.subjects or []
    return {key: identification(view, what, who, gallery=people.gallery).to_dict() for key, view in views.items()}


def all_maps(
    sets: Mapping[str, tuple[np.ndarray, PeopleSet]],
    faces: np.ndarray,
    stated: Mapping[str, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
) -> dict[str, Map]:
    """Name -> map, fitted on one half of FairFace, CK+, or RAF-DB train."""
    found: dict[str, Map] = {"none": lambda rows: rows}
    found["LEACE gender"] = leace(faces, one_hot(stated["gender"]))
    found["LEACE gender, ethnicity, age"] = leace(faces, one_hot(*(stated[name] for name in ATTRIBUTES)))
    z, people = sets["ckplus48"]
    for count in DIRECTIONS:
        map_ = without_people(z, np.array(people.dataset.labels), np.array(people.subjects), count)
        found[f"without {count} directions of people"] = map_
    found["expression directions"] = expression_directions(x, y.tolist())
    return found


READERS = {"london": open_london, "ckplus48": open_ckplus, "fairface": open_fairface}
COLUMNS = {
    "RAF-DB validation": ("rafdb_validation", "accuracy"),
    "RAF-DB test": ("rafdb_test", "accuracy"),
    "London smile": ("london_expressions", "accuracy"),
    "CK+": ("ckplus48_expressions", "accuracy"),
    "London AUC": ("identity", "auc"),
    "learnt AUC": ("identity_learnt", "auc"),
    "rank-1": ("identity", "rank1"),
    "learnt rank-1": ("identity_learnt", "rank1"),
    "gender": ("gender_linear", "uar"),
    "gender, SVM": ("gender_rbf", "uar"),
    "ethnicity": ("ethnicity_linear", "uar"),
    "age": ("age_linear", "uar"),
}


def table(entries: list[dict[str, Any]]) -> str:
    lines = [["map", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    for entry in entries:
        values = [
            None if column == "CK+" and entry["map"].startswith("without") else entry.get(key, {}).get(figure)
            for column, (key, figure) in COLUMNS.items()
        ]  # directions of people were fitted on CK+'s people and labels: in-sample
        lines.append([entry["map"], *("-" if value is None else f"{100 * value:.1f}" for value in values)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
