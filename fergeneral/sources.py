"""The photos of a job: where they are, and the names they go by in its tables."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from fergeneral.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A photo that has not been read yet. `path`: its name in the tables, the key that no other photo of a job has."""

    path: str

    def read(self) -> Any:
        """What `load_image` takes. Raises ImageError or OSError for a photo that cannot be had."""
        return self.path

    def check(self) -> None:
        """Raise DataError if it is not this photo that is missing but all around it: its folder is gone or empty.

        Asked when the photo could not be read. A drive that drops out must not make a million unreadable photos.
        """
        folder = Path(self.read()).parent
        try:
            with os.scandir(folder) as files:
                gone = next(files, None) is None
        except OSError:
            gone = True
        if gone:
            raise DataError(
                f"{self.path} cannot be read, for its folder is gone, empty or closed to you: put {folder} back and go "
                f"on with --resume, or leave it out"
            )


@dataclasses.dataclass(frozen=True)
class _OddlyNamed(Source):
    """A file whose name is no valid UTF-8, as tables need it: `path` spells the bytes at fault as \\xNN."""

    file: str

    def read(self) -> Any:
        return self.file


def list_photos(paths: Iterable[str | Path], *, recursive: bool = False) -> list[Source]:
    """Files as given, and the images in folders by suffix, in the order of their names.

    `recursive`: also those in folders inside folders. Raises DataError for a folder that cannot be listed.
    """
    files = (file for path in paths for file in (_images_in(path, recursive) if os.path.isdir(path) else [path]))
    return [_source(str(Path(file))) for file in files]


def _source(file: str) -> Source:
    name = file.encode("utf-8", "backslashreplace").decode()
    return Source(name) if name == file else _OddlyNamed(name, file)


def _images_in(folder: str | Path, recursive: bool) -> list[Path]:
    found: list[Path] = []
    for inside, folders, names in os.walk(folder, onerror=_refuse):
        if not recursive:
            folders.clear()
        found += [Path(inside, name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return sorted(file for file in found if file.is_file())


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"the folder {error.filename} cannot be listed: {error.strerror}") from error
