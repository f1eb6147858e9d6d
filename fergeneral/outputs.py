"""Where a command may write: never on what it reads, and on nothing else that is there unless it is told to.

Files and folders are told apart as the file system does, so that links, `..` and capital letters hide none. Everything
here only looks, and raises DataError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from fergeneral.errors import DataError
from fergeneral.storage import check_target


def check_file(target: Path, inputs: Iterable[str], *, overwrite: bool) -> None:
    """Refuse a file that is one of the `inputs`, or that is there and may not be overwritten."""
    check_target(target)
    if not os.path.lexists(target):
        return
    if _identities([target]) & _identities(inputs):
        raise DataError(f"{target} is read by this command and would be replaced: name another output")
    if not overwrite:
        raise DataError(f"{target} is there already: add --overwrite to replace it, or name another output")


def check_folder(folder: Path) -> None:
    """Refuse a folder that neither is there nor can be made, since there is a file in its place or above it."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    if not there.is_dir():
        raise DataError(f"the folder {folder} cannot be made: {there} is not a folder")


def check_apart(folder: Path, inputs: Iterable[str], *, recursive: bool) -> None:
    """Refuse a folder for pictures where the same command would read them next time: one of the folders that it reads,
    or, if it reads those recursively, one inside them."""
    place = Path(os.path.realpath(folder))
    if _identities([place, *(place.parents if recursive else ())]) & _identities(filter(os.path.isdir, inputs)):
        raise DataError(f"{folder} is a folder that this command reads, or inside one: name another folder to write to")


def check_no_input_in(folder: Path, inputs: Iterable[str]) -> None:
    """Refuse a folder that holds some of the files `inputs`, also by a link to them or from them."""
    if folder.is_dir() and _identities(folder.iterdir()) & _identities(inputs):
        raise DataError(f"{folder} holds files that this command reads: name another folder to write to")


def check_names_free(folder: Path, pattern: re.Pattern[str], names: Collection[str], *, overwrite: bool) -> None:
    """Refuse a folder with files whose name matches `pattern`, its first group being one of `names` (in lower case),
    unless they may be overwritten."""
    matches = map(pattern.fullmatch, sorted(os.listdir(folder)) if folder.is_dir() else ())
    there = [match[0] for match in matches if match and match[1].lower() in names]
    if there and not overwrite:
        files = there[0] if len(there) == 1 else f"{there[0]} and {len(there) - 1} other files"
        raise DataError(f"{folder} holds {files} already: add --overwrite to replace them, or name another folder")


def check_empty(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder with something in it, unless that may be overwritten."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise DataError(f"{folder} is not empty: add --overwrite to replace files in it, or name another folder")


def free_name(path: Path) -> Path:
    """`path`, or where something is there, the same with the first number that makes it free: NAME-2.SUFFIX."""
    number = 1
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _identities(paths: Iterable[str | Path]) -> set[tuple[int, int]]:
    """Device and number of each file and folder that is there."""
    found = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found
