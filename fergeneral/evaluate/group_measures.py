"""What was seen in photos, as figures of all of them and of each group, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fergeneral.datasets import class_counts
from fergeneral.errors import DataError
from fergeneral.evaluate.arrays import columns as places
from fergeneral.evaluate.gaps import holm, largest_gap, mean_interval, share
from fergeneral.evaluate.metrics import ece
from fergeneral.evaluate.people import Column, People
from fergeneral.evaluate.probe import fit_probe, group_folds
from fergeneral.evaluate.stability import MOVES
from fergeneral.heads.head import Head

LEAST_STABILITY_PHOTOS = 60  # of a group, where it has so many


class Seen(NamedTuple):
    """What was found in N photos by D detectors.

    `found`, `several` (N, D) bool: one face or more, and more than one; `errors` (N, D, moves), NaN where lost or not
    measured; `embeddings` (N, E) of the first detector's largest face, zeros where there is none; `unreadable`: the
    places of photos that could not be read, and why.
    """

    found: np.ndarray
    several: np.ndarray
    errors: np.ndarray
    embeddings: np.ndarray
    unreadable: dict[int, str]


class StabilitySample:
    """Which of `n` photos stability is measured on; `count`: in a random order the first so many, None for all."""

    def __init__(self, n: int, count: int | None, seed: int) -> None:
        if count is not None and count < 1:
            raise ValueError(f"stability_photos must be a positive integer or None, got {count}")
        self._count = n if count is None else count
        self._order = np.random.default_rng(seed).permutation(n)

    def of(self, members: np.ndarray) -> np.ndarray:
        """Of a group (N,) bool: its photos among the first of the order, and the next ones up to 60, as (N,) bool."""
        mine = self._order[members[self._order]]
        among = int(members[self._order[: self._count]].sum())
        chosen = np.zeros(len(members), dtype=bool)
        chosen[mine[: max(among, min(self._count, LEAST_STABILITY_PHOTOS))]] = True
        return chosen

    def of_column(self, column: Column) -> np.ndarray:
        """Those of all its groups."""
        return np.logical_or.reduce([self.of(column.of == name) for name in column.names])

    def of_any(self, columns: Iterable[Column]) -> np.ndarray:
        """Those of all groups of all columns."""
        everyone = self.of(np.ones(len(self._order), dtype=bool))
        return np.logical_or.reduce([everyone, *map(self.of_column, columns)])


class _Compared(NamedTuple):
    """A figure to be compared between groups: `values` (N,) of the photos `rows` (N,) bool."""

    measure: str
    detector: str | None
    values: np.ndarray
    rows: np.ndarray
    by_sample: bool = False  # measured on the stability sample


class Measures:
    """Rows of figures; the first row of each list is of all photos. What they compare is kept for `gaps`."""

    def __init__(self, people: People, seen: Seen, sample: StabilitySample, seed: int) -> None:
        self._people, self._seen, self._sample, self._seed = people, seen, sample, seed
        self._readable = np.ones(len(seen.found), dtype=bool)
        self._readable[list(seen.unreadable)] = False
        self._faces = seen.found[:, 0]
        self._compared: list[_Compared] = []

    def detection(self, detector: int, name: str) -> list[dict[str, Any]]:
        """Faces found, and how steady their landmarks are."""
        found, several = self._seen.found[:, detector], self._seen.several[:, detector]
        kept = np.isfinite(self._seen.errors[:, detector])
        with_error, lost = kept.any(axis=1), ~kept.all(axis=1)
        error = np.full(len(found), np.nan)
        error[with_error] = np.nanmean(self._seen.errors[with_error, detector], axis=1)
        self._compared += [
            _Compared("share found", name, found, self._readable),
            _Compared("landmark error", name, error, with_error, by_sample=True),
            _Compared("share lost", name, lost, found, by_sample=True),
        ]
        rows = []
        for place, group in self._groups():
            photos, steady = group & self._readable, self._sample.of(group) & found
            measured = steady & with_error
            row: dict[str, Any] = {"detector": name, **self._counted(place, photos)}
            row |= self._share("found", found, photos)
            row["several"] = round(float(several[photos].mean()), 4) if photos.any() else None
            row |= {"n_stability": int(steady.sum()), **_spread(error[measured])}
            row["error_mean_interval"] = self._mean_interval(error, measured)
            rows.append(row | self._share("lost", lost, steady))
        return rows

    def moves(self, detector: int, name: str) -> list[dict[str, Any]]:
        """The same stability for each move of the photo, over the sample of all."""
        measured = self._sample.of(np.ones(len(self._readable), dtype=bool)) & self._seen.found[:, detector]
        rows = []
        for i, move in enumerate(MOVES):
            errors = self._seen.errors[measured, detector, i]
            lost = self._share("lost", ~np.isfinite(self._seen.errors[:, detector, i]), measured)
            rows.append(
                {"detector": name, "move": move, "n": len(errors), **_spread(errors[np.isfinite(errors)]), **lost}
            )
        return rows

    def expressions(self, head: Head, known: np.ndarray | None) -> list[dict[str, Any]]:
        """What a head says of the faces; `known` (N,) str: true classes, "" for none of the head's; None: not known."""
        logits = head.logits(self._seen.embeddings)
        predicted = np.array(head.classes)[logits.argmax(axis=1)]
        if known is None:
            return self._rates(head.classes, predicted)
        judged, right = self._faces & (known != ""), predicted == known
        if not judged.any():
            raise DataError(f"no face was found in the photos whose label is a class of the head {head.name!r}")
        classes = [name for name in head.classes if (known[judged] == name).any()]
        self._compared.append(_Compared("accuracy", None, right, judged))
        self._compared += [_Compared(f"recall of {name}", None, right, judged & (known == name)) for name in classes]
        rows = []
        for place, group in self._groups():
            chosen = group & judged
            recall = {name: self._share("recall", right, chosen & (known == name)) for name in classes}
            row = self._counted(place, chosen) | self._share("accuracy", right, chosen) | _turned(recall)
            truth = places(known[chosen], head.classes, "the labels")
            rows.append(row | {"ece": round(ece(logits[chosen], truth), 4) if chosen.any() else None})
        return rows

    def cross_validated(self, folds: int) -> dict[str, Any]:
        """The accuracy of logistic regression on people that it was not fitted on; needs labels."""
        labels = np.asarray(self._people.labels, dtype=str)
        used = np.flatnonzero(self._faces & (labels != ""))
        x, y, who = self._seen.embeddings[used], labels[used], self._people.subjects[used]
        right, judged = np.zeros(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool)
        for train, test in group_folds(y, who, folds, self._seed):
            probe = fit_probe(x[train], y[train].tolist(), groups=who[train].tolist(), seed=self._seed)
            right[used[test]] = np.array(probe.labels)[probe.logits(x[test]).argmax(axis=1)] == y[test]
        judged[used] = True
        self._compared.append(_Compared("accuracy, cross-validated", None, right, judged))
        rows = [
            self._counted(place, group & judged) | self._share("accuracy", right, group & judged)
            for place, group in self._groups()
        ]
        return {"folds": folds, "classes": class_counts(y.tolist()), "rows": rows}

    def gaps(self) -> list[dict[str, Any]]:
        """The largest gap of each figure so far in each column; p values corrected for all of them."""
        gaps = []
        for one in self._compared:
            for name, column in self._people.columns.items():
                rows = one.rows & self._sample.of_column(column) if one.by_sample else one.rows
                part, who = Column(column.of[rows], column.names, column.binned), self._people.subjects[rows]
                gap = largest_gap(one.values[rows], part, who, seed=self._seed)
                if gap is not None:
                    gaps.append({"measure": one.measure, "detector": one.detector, "column": name, **gap})
        for gap, corrected in zip(gaps, holm([gap["p"] for gap in gaps]), strict=True):
            gap |= {key: round(gap[key], 4) for key in ("low", "high", "difference")}
            gap |= {"p": float(f"{gap['p']:.3g}"), "p_holm": float(f"{corrected:.3g}")}
        return gaps

    def _rates(self, classes: Sequence[str], predicted: np.ndarray) -> list[dict[str, Any]]:
        """How often each class is predicted."""
        self._compared += [_Compared(f"rate of {name}", None, predicted == name, self._faces) for name in classes]
        rows = []
        for place, group in self._groups():
            chosen = group & self._faces
            rates = {name: self._share("rates", predicted == name, chosen) for name in classes}
            rows.append(self._counted(place, chosen) | _turned(rates))
        return rows

    def _groups(self) -> Iterator[tuple[dict[str, str | None], np.ndarray]]:
        """Column and name of each group, and its photos (N,) bool; first all."""
        yield {"column": None, "group": None}, np.ones(len(self._readable), dtype=bool)
        for name, column in self._people.columns.items():
            for group in column.names:
                yield {"column": name, "group": group}, column.of == group

    def _counted(self, place: dict[str, str | None], rows: np.ndarray) -> dict[str, Any]:
        return {**place, "n": int(rows.sum()), "people": self._count_people(rows)}

    def _count_people(self, rows: np.ndarray) -> int | None:
        return len(np.unique(self._people.subjects[rows])) if self._people.has_subjects else None

    def _share(self, name: str, values: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        """The share of true values in some rows, and its interval, under this name; None for no rows."""
        found = share(values[rows], self._people.subjects[rows], seed=self._seed)
        if found is None:
            return {name: None, f"{name}_interval": None}
        value, (low, high) = found
        return {name: round(value, 4), f"{name}_interval": [round(low, 4), round(high, 4)]}

    def _mean_interval(self, values: np.ndarray, rows: np.ndarray) -> list[float] | None:
        if len(np.unique(self._people.subjects[rows])) < 2:
            return None
        low, high = mean_interval(values[rows], self._people.subjects[rows], seed=self._seed)
        return [round(low, 4), round(high, 4)]


def _spread(errors: np.ndarray) -> dict[str, float | None]:
    if not len(errors):
        return {"error_mean": None, "error_median": None, "error_90": None}
    values = (errors.mean(), *np.percentile(errors, [50, 90]))
    return dict(zip(("error_mean", "error_median", "error_90"), (round(float(v), 4) for v in values), strict=True))


def _turned(shares: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{class: {figure: value}} as {figure: {class: value}}."""
    figures = next(iter(shares.values()))
    return {figure: {name: values[figure] for name, values in shares.items()} for figure in figures}
