"""Where a command may write: never on what it reads, and on nothing else that is there unless it is told to.

Files and folders are told apart as the file system does, so that links, `..` and capital letters hide none. Everything
here only looks, and raises DataError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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
    if folder.is_dir() and _identities(map(str, folder.iterdir())) & _identities(inputs):
        raise DataError(f"{folder} holds photos that this command reads: name another folder to write to")


def check_names_free(folder: Path, is_taken: Callable[[str], bool], *, overwrite: bool) -> None:
    """Refuse a folder that holds files whose names `is_taken`, unless they may be overwritten."""
    there = sorted(name for name in (os.listdir(folder) if folder.is_dir() else ()) if is_taken(name))
    if there and not overwrite:
        files = f"{there[0]!r}" if len(there) == 1 else f"{there[0]!r} and {len(there) - 1} other files"
        raise DataError(f"{folder} holds {files} already: add --overwrite to replace them, or name another folder")


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
