"""A table of photos and the groups that the people in them belong to, as `evaluate_groups` reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fergeneral.datasets import Dataset, Sample, read_csv
from fergeneral.errors import DataError
from fergeneral.evaluate.cache import data_hash

NOT_STATED = "not stated"  # the group of empty cells
MOST_VALUES = 10  # different integers of a column; with more they are put together by decades
MOST_GROUPS = 30  # of a column; with more it is no column of groups, but of names or remarks
_MISSING = {"", "na", "n/a", "nan"}
_LABELS = ("label", "expression")
_NOT_GROUPS = {"path", "split", "subject", *_LABELS}


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """A column of groups: `of` (N,) str, the group of each photo; `names` in order; `binned`: how, None if not."""

    of: np.ndarray
    names: tuple[str, ...]
    binned: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class People:
    """N photos and what is known of them.

    `labels` (N,) str, "" where there is none; None without that column. `subjects` (N,) str: the person, or the photo
    itself where `has_subjects` is false. `left_out`: columns that are no groups, and why. `sha256`: of the table and of
    `cache.data_hash`, that of the photos.
    """

    dataset: Dataset
    labels: np.ndarray | None
    subjects: np.ndarray
    has_subjects: bool
    columns: dict[str, Column]
    left_out: dict[str, str]
    sha256: str


def read_people(table: str | Path, groups: Sequence[str] = ()) -> People:
    """Read and check the table; `groups`: the columns wanted, by default all that can be groups.

    Raises DataError for a table that cannot be read, a column that is not there or holds no groups, a path that occurs
    twice, and a photo that is missing.
    """
    path = Path(table)
    header, rows = _read(path)
    label_columns = [name for name in _LABELS if name in header]
    if len(label_columns) > 1:
        raise DataError(f"{path} has the columns label and expression: leave one of them out, or rename it")
    labels = np.array([row[label_columns[0]] for row in rows]) if label_columns else None
    people = [row.get("subject", "") for row in rows]
    if "subject" in header and not all(people):
        raise DataError(
            f"{path} has {people.count('')} rows without a subject: state the person of every photo, or of none"
        )
    columns, left_out = _columns(path, header, rows, groups)
    samples = tuple(
        Sample(row["path"], "" if labels is None else str(labels[i]), None, people[i] or None)
        for i, row in enumerate(rows)
    )
    dataset = Dataset(path.stem, path.parent, samples)
    has_subjects = "subject" in header
    subjects = np.array(people if has_subjects else [str(i) for i in range(len(rows))])
    return People(dataset, labels, subjects, has_subjects, columns, left_out, _hash(path, dataset))


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns, and the cells of each row without spaces around them."""
    if path.is_dir() or path.suffix.lower() != ".csv":
        raise DataError(f"{path} is not a .csv file; wanted: a table with the column path and columns of groups")
    names, rows = read_csv(path)
    header = [name.strip() for name in names]
    if "path" not in header or len(set(header)) < len(header):
        raise DataError(f"{path} needs a column path, and no two columns of one name; its columns are {header}")
    if not rows:
        raise DataError(f"{path} lists no photos")
    cells = []
    for number, row in enumerate(rows, start=2):
        values = list(row.values())
        if len(values) != len(header) or not all(isinstance(value, str) for value in values):
            raise DataError(
                f"row {number} of {path} has another number of cells than the first, which has {len(header)}"
            )
        cells.append(dict(zip(header, (value.strip() for value in values), strict=True)))
        if not cells[-1]["path"]:
            raise DataError(f"row {number} of {path} has no path")
    twice = [name for name, count in Counter(row["path"] for row in cells).items() if count > 1]
    if twice:
        raise DataError(f"{path} lists {len(twice)} photos more than once, the first: {twice[0]}")
    return header, cells


def _hash(path: Path, dataset: Dataset) -> str:
    try:
        return hashlib.sha256(path.read_bytes() + data_hash(dataset).encode()).hexdigest()
    except DataError as error:
        raise DataError(
            f"{path} lists a photo that is not there: {error}. Paths are taken from the table's folder; photos lie "
            f"there unpacked, or in zip archives beside the table"
        ) from error


def _columns(
    path: Path, header: Sequence[str], rows: Sequence[dict[str, str]], wanted: Sequence[str]
) -> tuple[dict[str, Column], dict[str, str]]:
    """The columns of groups, and the others with the reason."""
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; its columns are {', '.join(header)}")
    columns, left_out = {}, {}
    for name in wanted or [name for name in header if name not in _NOT_GROUPS]:
        column = column_of([row[name] for row in rows])
        stated = [group for group in column.names if group != NOT_STATED]
        if 1 < len(stated) <= MOST_GROUPS:
            columns[name] = column
        else:
            most = f"{len(stated)} different values, more than {MOST_GROUPS}"
            left_out[name] = most if len(stated) > 1 else "fewer than two different values"
    refused = [name for name in wanted if name in left_out]
    if refused:
        raise DataError(f"the column {refused[0]!r} of {path} holds no groups: {left_out[refused[0]]}")
    if not columns:
        reasons = "".join(f"; {name}: {reason}" for name, reason in left_out.items())
        raise DataError(f"{path} has no column of groups, with 2 to {MOST_GROUPS} different values{reasons}")
    return columns, left_out


def column_of(cells: Sequence[str]) -> Column:
    """The groups of a column. More than 10 different integers become decades: 27 is in "20-29"."""
    stated = [None if cell.lower() in _MISSING else cell for cell in cells]
    values = {cell for cell in stated if cell is not None}
    by_decade = len(values) > MOST_VALUES and all(re.fullmatch(r"\d{1,9}", value) for value in values)
    of = [NOT_STATED if cell is None else _decade(int(cell)) if by_decade else cell for cell in stated]
    return Column(np.array(of, dtype=str), _ordered(set(of)), "decades" if by_decade else None)


def _decade(number: int) -> str:
    return f"{number // 10 * 10}-{number // 10 * 10 + 9}"


def _ordered(groups: set[str]) -> tuple[str, ...]:
    """By the first number where all have one, else by name; what is not stated comes last."""
    stated = sorted(groups - {NOT_STATED})
    numbers = [re.search(r"\d+", group) for group in stated]
    if all(numbers):
        stated = [group for _, group in sorted(zip([int(found[0]) for found in numbers if found], stated, strict=True))]
    return (*stated, *(groups & {NOT_STATED}))
