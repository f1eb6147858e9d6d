"""The protocols of a report: each goes over systems and data sets, and gives entries that say what was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from fergeneral.datasets import class_counts
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.inputs import LabelledSet, System
from fergeneral.evaluate.metrics import calibrate, paired_bootstrap
from fergeneral.evaluate.probe import Probe, ProbeResult, fit_probe
from fergeneral.evaluate.protocols import Part, cross_dataset, few_shot, knn, sgd_probe, subject_folds
from fergeneral.evaluate.robustness import conditions
from fergeneral.evaluate.structure import effective_dimension, identity, separation
from fergeneral.evaluate.unseen import Unseen, learn_unseen, learn_unseen_people, mean_of, pretraining_saw
from fergeneral.types import Detector

Entries = list[dict[str, Any]]
FOLDS = 10  # of people


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What is judged, the first system before all, and on what; `probes`: those read so far, near-duplicates out."""

    systems: Sequence[System]
    sets: Mapping[str, LabelledSet]
    seed: int
    probes: dict[tuple[str, str], tuple[Probe, ProbeResult]] = dataclasses.field(default_factory=dict)

    def pairs(self, *, splits: bool) -> Iterator[tuple[System, LabelledSet]]:
        """Each data set with, or without, splits, with each system that has embeddings of it."""
        for data in self.sets.values():
            if data.has_splits == splits:
                yield from ((system, data) for system in self.systems if data.name in system.embeddings)


def linear_probe_section(run: Run) -> Entries:
    """The main protocol, near-duplicates out and, where there are any, in; calibrated on the part that chose C."""
    entries = []
    for system, data in run.pairs(splits=True):
        test = system.part(data, "test")
        for duplicates in (False, True) if data.has_duplicates else (False,):
            with _named(data):
                probe = fit_probe(*system.part(data, "train", duplicates=duplicates), seed=run.seed)
            result = probe.read(*test)
            if not duplicates:
                run.probes[system.name, data.name] = probe, result
            calibration = calibrate(probe.validation_logits, probe.validation_true, result.logits, result.true)
            entries.append(
                _cell(system, data)
                | {"train": data.name, "test": data.name, "near_duplicates": "in" if duplicates else "out"}
                | {"missing": system.missing.get(data.name, 0), "calibration": dataclasses.asdict(calibration)}
                | result.to_dict()
            )
    return entries


def paired_section(run: Run) -> Entries:
    """The first system's linear probe against each other's, on the same test images."""
    entries = []
    for system, data in run.pairs(splits=True):
        first = run.systems[0].name
        if system.name != first and (first, data.name) in run.probes:
            ours, others = (run.probes[name, data.name][1] for name in (first, system.name))
            truth = data.labels(data.rows("test"))
            difference = paired_bootstrap(truth, ours.predicted, others.predicted, ours.labels, seed=run.seed)
            entries.append({"a": first, "b": system.name, "data": data.name, **difference})
    return entries


def sgd_probe_section(run: Run) -> Entries:
    """The paper's probe, on our encoders' embeddings as they are, and scaled to unit length."""
    entries = []
    for system, data in run.pairs(splits=True):
        for unit_length in (False, True) if system.training_data is not None else ():
            result = sgd_probe(*_train_and_test(system, data), unit_length=unit_length, seed=run.seed)
            entries.append(
                _cell(system, data)
                | {"unit_length": unit_length, "best_on_test_accuracy": result.best_on_test_accuracy}
                | result.last.to_dict()
            )
    return entries


def knn_section(run: Run) -> Entries:
    """Nearest neighbours."""
    return [
        _cell(system, data) | {"k": k} | metrics.to_dict()
        for system, data in run.pairs(splits=True)
        for k, metrics in knn(*_train_and_test(system, data)).items()
    ]


def few_shot_section(run: Run) -> Entries:
    """Few images a class."""
    return [
        _cell(system, data) | {"shots": shots} | result.to_dict()
        for system, data in run.pairs(splits=True)
        for shots, result in few_shot(*_train_and_test(system, data), seed=run.seed).items()
    ]


def unseen_section(run: Run) -> Entries:
    """Each class held out in turn and learnt from few examples, and the mean over classes ("class" is None).

    Sets with splits, and those without that are known to show ten people or more.
    """
    entries: Entries = []
    for splits in (True, False):
        for system, data in run.pairs(splits=splits):
            if splits or data.people >= FOLDS:
                with _named(data):
                    entries += _unseen(system, data, run.seed)
    return entries


def _unseen(system: System, data: LabelledSet, seed: int) -> Entries:
    train, train_labels = system.part(data, "train")
    test, test_labels = system.part(data, "test")
    labels = class_counts(test_labels)
    found: dict[str, dict[int, Unseen]] = {}
    for label in labels if len(labels) > 1 else ():
        if data.has_splits:
            found[label] = learn_unseen(train, train_labels, test, test_labels, label, seed=seed)
            continue
        with suppress(DataError):  # too few people show this class, or another one
            found[label] = learn_unseen_people(test, test_labels, data.subjects(data.rows("test")), label, seed=seed)
    statuses = {label: pretraining_saw(system.training_data, label) for label in found}
    entries = [
        _cell(system, data) | {"class": label, "class_status": statuses[label]} | result.to_dict()
        for label, results in found.items()
        for result in results.values()
    ]
    status = next(iter(statuses.values())) if len(set(statuses.values())) == 1 else "mixed"
    for results in zip(*(of.values() for of in found.values()), strict=True):
        entries.append(_cell(system, data) | {"class": None, "class_status": status} | mean_of(results).to_dict())
    return entries


def cross_dataset_section(run: Run) -> Entries:
    """Fitted on one set, read on another; a set without splits is taken whole on either side."""
    entries = []
    for system in run.systems:
        there = {name: data for name, data in run.sets.items() if name in system.embeddings}
        parts = {name: _train_and_test(system, data) for name, data in there.items()}
        for (train, test), cross in cross_dataset(parts, seed=run.seed).items():
            entries.append(
                _cell(system, there[test])
                | {"train": train, "train_status": system.status(train, _split(there[train], "train"))}
                | {"test": test, "shared": cross.result.labels}
                | {"left_out_train": cross.left_out_train, "left_out_test": cross.left_out_test}
                | cross.result.to_dict()
            )
    return entries


def subject_folds_section(run: Run) -> Entries:
    """Sets without splits that are known to show ten people or more."""
    entries = []
    for system, data in run.pairs(splits=False):
        if data.people >= FOLDS:
            with _named(data):
                subjects = data.subjects(data.rows("test"))
                folds = subject_folds(*system.part(data, "test"), subjects, folds=FOLDS, seed=run.seed)
            entries.append(
                _cell(system, data)
                | {"subjects": folds.subjects, "fold_accuracies": folds.accuracies}
                | folds.pooled.to_dict()
            )
    return entries


def structure_section(run: Run) -> Entries:
    """How far classes lie apart, how many dimensions are used and, where people are known, how much of them is kept."""
    entries = []
    for splits in (True, False):
        for system, data in run.pairs(splits=splits):
            x, labels = system.part(data, "test")
            entry = _cell(system, data) | separation(x, labels, seed=run.seed) | effective_dimension(x)
            entries.append(entry | {"identity": None if splits else _identity(data, x, labels, run.seed)})
    return entries


def _identity(data: LabelledSet, x: np.ndarray, labels: Sequence[str], seed: int) -> dict[str, float] | None:
    """None where nobody shows two expressions, or no expression is shown by two, so that nothing can be compared."""
    if not data.people:
        return None
    subjects = data.subjects(data.rows("test"))
    shown = set(zip(subjects, labels, strict=True))
    if len(shown) in (len(set(subjects)), len(set(labels))):
        return None
    return identity(x, labels, subjects, seed=seed)


SECTIONS: dict[str, Callable[[Run], Entries]] = {
    "linear_probe": linear_probe_section,
    "paired": paired_section,
    "sgd_probe": sgd_probe_section,
    "knn": knn_section,
    "few_shot": few_shot_section,
    "unseen": unseen_section,
    "cross_dataset": cross_dataset_section,
    "subject_folds": subject_folds_section,
    "structure": structure_section,
}


def robustness_section(
    run: Run, encoder: Encoder, detectors: Mapping[str, Detector], cache: EmbeddingCache
) -> dict[str, Any] | None:
    """The first system's probe of clean crops, read on the test images of the first set with splits under conditions.

    None where no set has splits. Drops are clean less worse, with the 95 % interval of paired draws.
    """
    data = next((data for data in run.sets.values() if data.has_splits), None)
    if data is None:
        return None
    probe, clean = run.probes[run.systems[0].name, data.name]
    test = dataclasses.replace(data.dataset, samples=tuple(data.dataset.samples[row] for row in data.rows("test")))
    entries = []
    for condition in conditions(test, encoder.config, detectors=detectors, seed=run.seed):
        if condition.group == "clean":
            continue
        name = f"{condition.group} {condition.severity}"
        embedded = cache.embed(encoder, test, condition.crop, variant=name)
        worse = probe.read(embedded.embeddings, test.labels)
        drop = paired_bootstrap(test.labels, clean.predicted, worse.predicted, clean.labels, seed=run.seed)
        entries.append(
            {"group": condition.group, "severity": condition.severity, "missed": int(embedded.missed.sum())}
            | {"accuracy": worse.accuracy, "uar": worse.uar, "recall": worse.recall}
            | {f"drop_{name}": drop[name]["difference"] for name in ("accuracy", "uar")}
            | {f"drop_{name}_interval": drop[name]["interval"] for name in ("accuracy", "uar")}
        )
    clean_values = {"accuracy": clean.accuracy, "uar": clean.uar, "n": clean.n}
    return {"data": data.name, "clean": clean_values, "conditions": entries}


@contextmanager
def _named(data: LabelledSet) -> Iterator[None]:
    """Put the set's name before errors, which are about "train" alone."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{data.dataset.root}: {error}") from error


def _cell(system: System, data: LabelledSet) -> dict[str, Any]:
    """What every entry says of the images that were read."""
    return {"system": system.name, "data": data.name, "status": system.status(data.name, _split(data, "test"))}


def _split(data: LabelledSet, split: str) -> str | None:
    return split if data.has_splits else None


def _train_and_test(system: System, data: LabelledSet) -> Part:
    return (*system.part(data, "train"), *system.part(data, "test"))
