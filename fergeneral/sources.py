"""The photos of a job: where they are, and the names they go by in its tables.

Files, folders, members of tar archives (webdataset), rows of Parquet files, and Hugging Face datasets. A source is a
name and a place: nothing is read before its turn, archives are not unpacked, and no file is written.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import io
import itertools
import os
import re
import sys
import tarfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fergeneral.errors import DataError, ImageError
from fergeneral.images import IMAGE_SUFFIXES, MAX_BYTES, is_leftover
from fergeneral.storage import import_pyarrow

if TYPE_CHECKING:
    from datasets import Dataset

_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/")  # one slash: pathlib makes one of two
_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes")


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A photo that has not been read yet. `path`: its name in the tables, the key that no other photo of a job has.

    Examples
    --------
    >>> from fergeneral import load_image
    >>> from fergeneral.sources import list_photos
    >>> source = list_photos("examples/photos/rocket.jpg")[0]
    >>> load_image(source.read()).size
    (640, 427)
    """

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


@dataclasses.dataclass(frozen=True, slots=True)
class _OddlyNamed(Source):
    """A file whose name is no valid UTF-8, as tables need it: `path` spells the bytes at fault as \\xNN."""

    file: str

    def read(self) -> Any:
        return self.file


@dataclasses.dataclass(frozen=True, slots=True)
class _Stored(Source):
    """A photo inside a file of many. `file`: that file."""

    file: str

    def read(self) -> Any:
        """A file object whose bytes are fetched by whoever reads it: the thread that then decodes them."""
        return _Later(self.path, self.fetch)

    def fetch(self) -> bytes:
        """The photo's file, as bytes. Raises ImageError, OSError, or what the reader of the container raises."""
        raise NotImplementedError

    def check(self) -> None:
        if not os.access(self.file, os.R_OK):
            raise DataError(
                f"{self.path} cannot be read, for {_valid(self.file)} is gone or closed to you: put it back and go on "
                f"with --resume, or leave it out"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class _Unreadable(_Stored):
    """A photo that cannot be had, or a container (then `path` is its own) from some place on; `reason`: why."""

    reason: str

    def fetch(self) -> bytes:
        raise ImageError(self.reason)

    def check(self) -> None:
        """Nothing around it can help."""


@dataclasses.dataclass(frozen=True, slots=True)
class _TarMember(_Stored):
    """A regular file in a tar archive: `size` bytes from `offset` on."""

    offset: int
    size: int

    def fetch(self) -> bytes:
        _refuse_giant(self.size)
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise ImageError(f"the archive is cut off: {len(data)} of this photo's {self.size} bytes are there")
        return data


@dataclasses.dataclass(frozen=True, slots=True)
class _ParquetRow(_Stored):
    """A row of a Parquet file, whose `column` holds images."""

    column: str
    row: int

    def fetch(self) -> bytes:
        return _image_bytes(_open_column(self.file, self.column).value(self.row))


@dataclasses.dataclass(frozen=True, slots=True)
class _DatasetRow(_Stored):
    """A row of a Hugging Face dataset of one column. `file`: the first of the files it is mapped from, or ""."""

    dataset: Dataset
    row: int

    def fetch(self) -> bytes:
        (value,) = self.dataset[self.row].values()
        if isinstance(value, dict) and value["bytes"] is None and value["path"]:
            # Where images came as files, datasets keeps their paths. URLs, devices and pipes are no such files.
            if not os.path.isfile(value["path"]):
                raise ImageError(f"the row holds no bytes of an image, and {value['path']} is no file here")
            _refuse_giant(os.path.getsize(value["path"]))
            return Path(value["path"]).read_bytes()
        return _image_bytes(value)

    def check(self) -> None:
        if self.file:
            _Stored.check(self)


class _Later:
    """A file object as far as `load_image` asks for one: read from its beginning to its end, and then again."""

    def __init__(self, name: str, fetch: Callable[[], bytes]) -> None:
        self.name = name
        self._fetch = fetch
        self._file: io.BytesIO | None = None

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises ImageError."""
        try:
            self._file = self._file or io.BytesIO(self._fetch())
        except Exception as error:  # of the container's reader
            raise ImageError(f"{self.name} cannot be read: {error}") from error
        data = self._file.read(size)
        if not data or size < 0:
            self._file = None
        return data


def _refuse_giant(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"{size} bytes are more than the {MAX_BYTES} that an encoded photo may have")


def _image_bytes(value: Any) -> bytes:
    """Of a cell: bytes, or the {"bytes", "path"} of Hugging Face `datasets`."""
    data = value["bytes"] if isinstance(value, dict) else value
    if data is None:  # a path that may stand beside it in a table from elsewhere could name any file of this machine
        raise ImageError("the row holds no bytes of an image")
    _refuse_giant(len(data))
    return bytes(data)


def list_photos(
    paths: str | Path | Iterable[str | Path] | Dataset,
    *,
    recursive: bool = False,
    column: str | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> list[Source]:
    """Every photo in files, folders, archives and tables, in the order given and inside each in its own order.

    A container that cannot be read, or only in part, is one photo more, which then turns out unreadable.

    Parameters
    ----------
    paths
        One or several of
        a photo; a folder, whose images are taken by suffix (`images.IMAGE_SUFFIXES`), in the order of their names; a
        .tar archive, whose images go by "FILE.tar/MEMBER"; a .parquet file with a column of encoded images (bytes, or
        {"bytes", "path"} as Hugging Face `datasets` writes it), whose rows go by "FILE.parquet#ROW".
        Or a `datasets.Dataset` with such a column: "NAME/SPLIT#ROW". Archives and tables in a folder are not looked
        into. Hidden files and folders inside a folder or archive, and those that systems leave there (__MACOSX,
        Thumbs.db), are ignored.
    recursive : bool
        Also take the images of folders inside a folder.
    column : str or None
        The name of the column of images; by default image, jpg, jpeg, png, webp or bytes, whichever is there first.
    on_skip : callable or None
        `on_skip(path)` is called for each file of a folder or archive that is left out since its suffix is not that of
        an image, or it is no file: a broken link.

    Returns
    -------
    list of Source
        Nothing of them is read yet.

    Raises
    ------
    DataError
        For paths that are not there (naming them all) and URLs, a folder that cannot be listed, a compressed archive, a
        table without such a column and a dataset that has no rows by number.
    MissingExtraError
        For a .parquet file without pyarrow.

    Examples
    --------
    >>> from fergeneral.sources import list_photos
    >>> len(list_photos("examples/london", recursive=True))
    24
    >>> [source.path for source in list_photos(["examples/photos/rocket.jpg"])]
    ['examples/photos/rocket.jpg']
    """
    if _is_of_datasets(paths):
        return list(_dataset_rows(paths, column))
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    check_paths(given)
    return [source for path in given for source in _inside(str(Path(path)), recursive, column, on_skip or _ignore)]


def check_paths(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise DataError that names the paths where no file or folder is; the first 20, where there are more."""
    missing = [_valid(os.fspath(path)) for path in paths if not _is_there(os.fspath(path))]
    urls = [path for path in missing if _URL.match(path)]
    if urls:
        raise DataError(f"{urls[0]} is a URL; nothing is downloaded: save the file, then pass its path")
    if "" in missing:
        raise DataError("one of the paths is empty, as that of an unset variable is; '.' is the present folder")
    if missing:
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise DataError(f"no such file or folder: {', '.join(missing[:20])}{more}")


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL byte in it
        return False
    except OSError:  # it may be; whoever reads it will tell what is wrong
        return True
    return True


def _ignore(path: str) -> None:
    """What is skipped is not asked for."""


def _inside(path: str, recursive: bool, column: str | None, on_skip: Callable[[str], None]) -> Iterator[Source]:
    lower = path.lower()
    if os.path.isdir(path):
        yield from map(_source, files_in(path, IMAGE_SUFFIXES, recursive=recursive, on_skip=on_skip))
    elif lower.endswith(_COMPRESSED_TARS):
        raise DataError(f"{path}: photos cannot be read from the middle of a compressed archive; decompress it first")
    elif lower.endswith(".tar"):
        yield from _tar_members(path, on_skip)
    elif lower.endswith(".parquet"):
        yield from _parquet_rows(path, column)
    else:
        yield _source(path)


def _source(file: str) -> Source:
    name = _valid(file)
    return Source(name) if name == file else _OddlyNamed(name, file)


def _valid(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def files_in(
    folder: str, suffixes: Collection[str], *, recursive: bool, on_skip: Callable[[str], None] = _ignore
) -> Iterator[str]:
    """The files with one of these suffixes, in the order of their names; no hidden ones. `on_skip(path)` is called for
    each other file. Raises DataError for a folder that cannot be listed."""
    try:
        with os.scandir(folder) as inside:
            entries = sorted(inside, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {_valid(folder)} cannot be listed: {error.strerror}") from error
    for entry in entries:
        if is_leftover(entry.name):
            continue
        if entry.is_dir():
            if recursive and not entry.is_symlink():
                yield from files_in(entry.path, suffixes, recursive=recursive, on_skip=on_skip)
        elif _has_suffix(entry.name, suffixes) and entry.is_file():
            yield entry.path
        else:
            on_skip(_valid(entry.path))


def _has_suffix(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes


def _tar_members(file: str, on_skip: Callable[[str], None]) -> Iterator[Source]:
    """The images in a tar archive. Names are only names: nothing is unpacked, so none can do harm."""
    archive = _valid(file)
    seen: collections.Counter[str] = collections.Counter()
    try:
        with tarfile.open(file, "r:") as tar:
            for member in _headers(tar):
                if member.isdir() or is_leftover(member.name):
                    continue
                if not _has_suffix(member.name, IMAGE_SUFFIXES):
                    on_skip(f"{archive}/{_valid(member.name)}")
                else:
                    seen[member.name] += 1
                    again = "" if seen[member.name] == 1 else f"#{seen[member.name]}"  # a name may come again
                    yield _tar_member(f"{archive}/{_valid(member.name)}{again}", file, member)
    except Exception as error:  # what tarfile raises for hostile headers is not only its own errors
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        yield _Unreadable(archive, file, f"the archive cannot be read beyond its first {seen.total()} images: {reason}")


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other, none of them kept. Raises TarError also where tarfile takes damage for the end.

    Headers that send the reader back, round and round (CVE-2025-8194), are refused.
    """
    before = -1
    while (member := tar.next()) is not None:
        if tar.offset <= before:
            raise tarfile.ReadError("its headers go round in a circle")
        before = tar.offset
        tar.members.clear()  # type: ignore[attr-defined]
        yield member
    with open(str(tar.name), "rb") as file:
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"at byte {tar.offset} there is neither a member nor the mark of the end")


def _tar_member(path: str, file: str, member: tarfile.TarInfo) -> Source:
    if member.isreg() and not member.issparse():
        return _TarMember(path, file, member.offset_data, member.size)
    kind = f"a link to {_valid(member.linkname)}" if member.issym() or member.islnk() else "no ordinary file"
    return _Unreadable(path, file, f"it is {kind} in the archive")


def _parquet_rows(file: str, column: str | None) -> Iterator[Source]:
    table = _valid(file)
    _, parquet = import_pyarrow()
    try:
        opened = parquet.ParquetFile(file)
    except Exception as error:  # pyarrow's errors for a broken file are of many kinds
        yield _Unreadable(table, file, f"the Parquet file cannot be opened: {error}")
        return
    with opened:
        schema = opened.schema_arrow
        images = [field.name for field in schema if _holds_bytes(field.type)]
        chosen = _choose_column(table, images, schema.names, column)
        if schema.field(chosen).type.num_fields > 0:
            chosen += ".bytes"
        rows = opened.metadata.num_rows
    for row in range(rows):
        yield _ParquetRow(f"{table}#{row}", file, chosen, row)


def _holds_bytes(kind: Any) -> bool:
    """Whether this is the Arrow type of bytes, or of a struct whose field "bytes" is."""
    arrow, _ = import_pyarrow()
    if arrow.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _choose_column(name: str, images: Sequence[str], columns: Sequence[str], wanted: str | None) -> str:
    """`images`: those of the `columns` that can hold encoded images."""
    found = [column for column in ((wanted,) if wanted else _COLUMNS) if column in images]
    if not found:
        asked = f"called {wanted!r}" if wanted else f"called one of {', '.join(_COLUMNS)}"
        raise DataError(
            f"{name} has no column of encoded images {asked}; columns of bytes: {', '.join(images) or 'none'}; "
            f"others: {', '.join(column for column in columns if column not in images) or 'none'}"
        )
    return found[0]


_opening = threading.Lock()


def _open_column(file: str, column: str) -> _Column:
    """Opened once; a file that was put in its place meanwhile is opened anew."""
    status = os.stat(file)
    with _opening:
        return _open_once(file, column, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)  # a shard goes through its files one after the other
def _open_once(file: str, column: str, modified: int, size: int) -> _Column:
    return _Column(file, column)


class _Column:
    """A column of a Parquet file, read forwards, a few rows in memory at a time; safe between threads.

    Rows inside a row group cannot be found but by reading it from its beginning, so rows are best asked for in turn.
    The last ones are kept for threads that ask a little out of turn.
    """

    _BATCH = 8
    _NEAR = 32  # rows: more than `ExpressionExtractor.extract_many` has under way

    def __init__(self, file: str, column: str) -> None:
        self._column = column
        # With a buffer, pages are read one by one; else the whole column of a row group is.
        _, parquet = import_pyarrow()
        self._file = parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
        metadata = self._file.metadata
        rows = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        self._starts = list(itertools.accumulate(rows, initial=0))
        self._kept: collections.deque[tuple[int, Any]] = collections.deque()
        self._broken: dict[int, tuple[int, str]] = {}  # row group: from which row on, and why
        self._lock = threading.Lock()
        self._go_to(0)

    def value(self, row: int) -> Any:
        """Bytes, a dict with "bytes", or None. Raises ImageError for a row that is not there or cannot be read."""
        with self._lock:
            if row >= self._starts[-1]:
                raise ImageError(f"the table has {self._starts[-1]} rows now")
            group = self._group(row)
            skips = row > self._next + self._NEAR and self._starts[group] > self._next
            if skips or row < (self._kept[0][0] if self._kept else self._next):
                self._go_to(group)
            while True:
                start, reason = self._broken.get(group, (row + 1, ""))
                if row >= start:
                    raise ImageError(f"the table is corrupt from row {start} on: {reason}")
                if row < self._next:
                    break
                self._advance()
            start, values = next((start, values) for start, values in reversed(self._kept) if start <= row)
            return values[row - start].as_py()

    def _group(self, row: int) -> int:
        return bisect.bisect_right(self._starts, row) - 1

    def _go_to(self, group: int) -> None:
        self._kept.clear()
        self._next = self._starts[group]
        self._batches = itertools.chain.from_iterable(map(self._in_group, range(group, len(self._starts) - 1)))

    def _in_group(self, group: int) -> Iterator[Any]:  # one by one, else a batch may reach into a damaged one
        return self._file.iter_batches(
            batch_size=self._BATCH, row_groups=[group], columns=[self._column], use_threads=False
        )

    def _advance(self) -> None:
        try:
            values = next(self._batches).column(0)
        except Exception as error:  # pyarrow's errors are of many kinds
            group = self._group(self._next)
            self._broken[group] = self._next, f"{type(error).__name__}: {error}"
            self._go_to(group + 1)
            return
        self._kept.append((self._next, values))
        self._next += len(values)
        while self._next - self._kept[0][0] > self._NEAR + self._BATCH:
            self._kept.popleft()


def _is_of_datasets(value: Any) -> bool:
    datasets = sys.modules.get("datasets")  # an object can only be of Hugging Face's if somebody has imported it
    return datasets is not None and type(value).__module__.startswith("datasets.")


def _dataset_rows(dataset: Any, column: str | None) -> Iterator[Source]:
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"a {type(dataset).__name__} has no rows by number; take one split, a datasets.Dataset: "
            f"load_dataset(..., split='train', streaming=False)"
        )
    features = dataset.features
    images = [name for name, kind in features.items() if _is_image_feature(kind)]
    name = "/".join(str(part) for part in (dataset.info.dataset_name, dataset.split) if part) or "dataset"
    chosen = _choose_column(name, images, list(features), column)
    undecoded = dataset.select_columns([chosen]).with_format(None)
    if isinstance(features[chosen], datasets.Image):
        undecoded = undecoded.cast_column(chosen, datasets.Image(decode=False))
    file = next((entry["filename"] for entry in dataset.cache_files), "")
    return (_DatasetRow(f"{name}#{row}", file, undecoded, row) for row in range(len(undecoded)))


def _is_image_feature(kind: Any) -> bool:
    import datasets

    return isinstance(kind, datasets.Image) or getattr(kind, "dtype", None) in ("binary", "large_binary")
