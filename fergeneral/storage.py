"""Files written whole or not at all, and embeddings to and from them."""

from __future__ import annotations

import csv
import errno
import os
import secrets
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fergeneral.errors import DataError, MissingExtraError, ModelError
from fergeneral.types import ClassifiedFace, Face, TrackedFace


@contextmanager
def whole_file(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a path beside `target` to write to; it takes the target's place only if the block ends without an error.

    `durable`: what is written is on the disk before it takes that place, and the place is, before the block is left; so
    that a power cut, too, leaves the old file or the new one. This costs milliseconds.
    """
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
        if durable:
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Raise DataError unless a file can be at `path`: it is no folder, and the folder it is to be in is there."""
    if path.is_dir():
        raise DataError(f"{path} cannot be written: it is a folder; name a file")
    if not path.parent.is_dir():
        wrong = "is not a folder" if path.parent.exists() else "does not exist"
        raise DataError(f"{path} cannot be written: its folder {path.parent} {wrong}")


def make_folder(folder: str | Path) -> Path:
    """Make a folder and those above it, unless it is there. Raises DataError where that cannot be done."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return Path(folder)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files by their names, in UTF-8, each whole or not at all."""
    for name, text in texts.items():
        with whole_file(folder / name) as path:
            path.write_text(text, encoding="utf-8")


def check_table(path: Path) -> None:
    """Raise DataError unless `path` is the name of a table that can be written, MissingExtraError without pyarrow."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    check_target(path)
    if path.suffix.lower() == ".parquet":
        import_pyarrow()


def read_weights(path: Path, most: int) -> bytes:
    """The bytes of a file of weights or of their configuration, at most `most`.

    Links are followed, for the Hub's cache is made of them: what counts is the SHA-256 of what they lead to. Raises
    ModelError for what is not there, is larger, or is no file (a folder, a device, a pipe).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} cannot be read: it is not a file")
        if status.st_size > most:
            raise ModelError(f"{path} cannot be right: it has {status.st_size} bytes, wanted at most {most}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk. Nothing happens on Windows, or where a file system cannot do it."""
    if sys.platform == "win32":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


_LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
DEFAULT_MODEL = "general-r18-cycle"  # of the packaged weights, each in weights/NAME
CONFIG_FILE = "config.json"
SUFFIXES = (".parquet", ".csv", ".npz")
FaceRow = tuple[str, int, Face]  # path of the photo, place of the face in it, face
VIDEO_COLUMNS = ("time", "track")
HEAD_COLUMNS = ("expression", "confidence")
_PROBABILITY = "probability_"  # then the name of a class
_PART_ROWS = 2048  # of iter_table: 4 MB of embeddings


class FaceTable:
    """A file of faces, one row each, that appears whole when the `with` block ends well, and else not at all.

    Columns: path, face (its place in the photo, 0 = largest), box (4), landmarks (10: x and y of left eye, right
    eye, nose, left and right mouth corner), score, embedding (D), model_id. Parquet holds the vectors as fixed-size
    lists of float32, .csv as a column for each number, .npz as arrays (N, 4), (N, 5, 2) and (N, D). With `video`, for
    faces that are TrackedFace, also time (float64) and track (int32), at the end. With `classes`, the names of a head's
    classes, for faces that are ClassifiedFace, after these: expression, confidence (float32), and a probability_CLASS
    (float32) for each class. The names of the columns, their types and units are in docs/tables.md.

    Parameters
    ----------
    target : path
        Ends in .parquet, .csv or .npz. A file that is there is replaced.
    embedding_size : int
        D.
    video : bool, default False
        Whether the faces are TrackedFace, and have a time and a track.
    classes : sequence of str or None, default None
        The names of a head's classes; the faces then are ClassifiedFace.
    partial : path or None, default None
        If Ctrl-C (KeyboardInterrupt) ends the block, the table of the rows so far goes there, whole, too; the exception
        then has a note that says so.

    Raises
    ------
    DataError
        For another suffix, and a target that cannot be written.
    MissingExtraError
        For Parquet without pyarrow.

    Examples
    --------
    >>> from fergeneral import extract
    >>> from fergeneral.storage import FaceTable, read_table
    >>> with FaceTable("faces.parquet", embedding_size=512) as table:
    ...     table.add("three_faces.jpg", extract("examples/photos/three_faces.jpg"))
    >>> read_table("faces.parquet")["embedding"].shape
    (3, 512)
    """

    def __init__(
        self,
        target: str | Path,
        embedding_size: int,
        video: bool = False,
        *,
        classes: Sequence[str] | None = None,
        partial: Path | None = None,
    ) -> None:
        self.target = Path(target)
        self._partial = partial
        self._last: str | None = None  # path added
        self._embedding_size = embedding_size
        self._video = video
        self._classes = None if classes is None else tuple(classes)
        self._rows: list[FaceRow] = []
        self._writing = threading.Lock()
        self._stack = ExitStack()
        check_table(self.target)
        suffix = self.target.suffix.lower()
        self._open = {".parquet": self._open_parquet, ".csv": self._open_csv, ".npz": self._open_npz}[suffix]

    def __enter__(self) -> FaceTable:
        try:
            temporary = self._stack.enter_context(whole_file(self.target, durable=True))
            self._stack.push(lambda _, error, __: self._keep(temporary, error))  # when the file is closed
            self._flush = self._open(temporary)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, *exc: Any) -> None:
        if exc[0] is None or self._is_kept(exc[1]):
            try:
                self._write_out()
            except BaseException as error:  # an error of the last rows, too, leaves no file behind
                self._stack.__exit__(type(error), error, error.__traceback__)
                raise
        self._stack.__exit__(*exc)
        self._rows = []  # this object and its methods hold each other, which the garbage collector may find late

    def add(self, path: str, faces: Sequence[Face]) -> None:
        """Add the faces of a photo, or of a frame of a video."""
        self.add_rows([(path, number, face) for number, face in enumerate(faces)])
        self._last = path

    def add_rows(self, rows: Iterable[FaceRow]) -> None:
        """Add rows as they are."""
        self._rows.extend(rows)
        if len(self._rows) >= 1024 and self.target.suffix.lower() != ".npz":
            self._write_out()

    def _write_out(self) -> None:
        """In a thread of its own, which Ctrl-C does not reach: no row is lost or written twice."""

        def write() -> None:
            with self._writing:  # one that nobody waits for any more, since Ctrl-C, may still be at it
                if self._rows:
                    self._flush(self._rows)
                    self._rows.clear()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(write).result()

    def _is_kept(self, error: BaseException | None) -> bool:
        return isinstance(error, KeyboardInterrupt) and self._partial is not None and self._last is not None

    def _keep(self, temporary: Path, error: BaseException | None) -> bool:
        if error is not None and self._partial is not None and self._is_kept(error):
            os.replace(temporary, self._partial)
            error.add_note(f"the faces found so far, up to those in {self._last}, are in {self._partial}")
        return False

    def _open_parquet(self, temporary: Path) -> Callable[[list[FaceRow]], None]:
        pa, parquet = import_pyarrow()

        def vector(size: int) -> Any:
            return pa.list_(pa.float32(), size)

        fields = [("path", pa.string()), ("face", pa.int32()), ("box", vector(4)), ("landmarks", vector(10))]
        fields += [("score", pa.float32()), ("embedding", vector(self._embedding_size)), ("model_id", pa.string())]
        fields += [("time", pa.float64()), ("track", pa.int32())] if self._video else []
        fields += [(name, pa.string() if name == "expression" else pa.float32()) for name in self._head_columns()]
        schema = pa.schema(fields)
        writer = self._stack.enter_context(parquet.ParquetWriter(str(temporary), schema))

        def flush(rows: list[FaceRow]) -> None:
            arrays = [
                pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), field.type.list_size)
                if pa.types.is_fixed_size_list(field.type)
                else pa.array(column, field.type)
                for field, column in zip(schema, self._columns(rows).values(), strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

        return flush

    def _open_csv(self, temporary: Path) -> Callable[[list[FaceRow]], None]:
        writer = csv.writer(self._stack.enter_context(temporary.open("w", newline="", encoding="utf-8")))
        writer.writerow(
            ["path", "face", *(f"box_{side}" for side in ("left", "top", "right", "bottom"))]
            + [f"landmarks_{name}_{axis}" for name in _LANDMARK_NAMES for axis in "xy"]
            + ["score", *(f"embedding_{i}" for i in range(self._embedding_size)), "model_id"]
            + list(VIDEO_COLUMNS if self._video else ())
            + self._head_columns()
        )

        def flush(rows: list[FaceRow]) -> None:
            for path, number, face in rows:
                numbers = np.concatenate([face.box, face.landmarks.ravel(), [np.float32(face.score)], face.embedding])
                row = [path, number, *(str(value) for value in numbers.astype(np.float32)), face.model_id]
                row += [getattr(face, name) for name in VIDEO_COLUMNS if self._video]
                if self._classes is not None and isinstance(face, ClassifiedFace):
                    values = [face.confidence, *(face.probabilities[name] for name in self._classes)]
                    row += [face.expression, *(str(np.float32(value)) for value in values)]
                writer.writerow(row)

        return flush

    def _open_npz(self, temporary: Path) -> Callable[[list[FaceRow]], None]:
        def flush(rows: list[FaceRow]) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **self._columns(rows))  # type: ignore[arg-type]

        flush([])  # so that a job without a face leaves a table without rows
        return flush

    def _head_columns(self) -> list[str]:
        return [] if self._classes is None else [*HEAD_COLUMNS, *(_PROBABILITY + name for name in self._classes)]

    def _columns(self, rows: list[FaceRow]) -> dict[str, np.ndarray]:
        columns = face_columns(rows, self._embedding_size, self._video)
        if self._classes is not None:
            faces = [face for _, _, face in rows if isinstance(face, ClassifiedFace)]
            columns["expression"] = np.array([face.expression for face in faces], dtype=str)
            columns["confidence"] = np.array([face.confidence for face in faces], dtype=np.float32)
            for name in self._classes:
                values = [face.probabilities[name] for face in faces]
                columns[_PROBABILITY + name] = np.array(values, dtype=np.float32)
        return columns


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """Read a table of faces from any of the three formats, or from the folder of a job (its finished shards).

    Parameters
    ----------
    path : path
        Of a .parquet, .csv or .npz file, or the folder of a job.

    Returns
    -------
    dict of str to ndarray
        Arrays of N rows: path (N,) str, face (N,) int32, box (N, 4), landmarks (N, 5, 2), score (N,), embedding (N, D),
        all float32, and model_id (N,) str; of videos also time (N,) float64 and track (N,) int32; where a head was used
        also expression (N,) str, confidence (N,) float32, and probability_CLASS (N,) float32 for each class, in the
        head's order.

    Raises
    ------
    DataError
        For a file that is not such a table.
    MissingExtraError
        For Parquet without pyarrow.

    Examples
    --------
    >>> from fergeneral import classify
    >>> from fergeneral.storage import FaceTable, read_table
    >>> faces = classify("examples/photos/three_faces.jpg")
    >>> with FaceTable("expressions.csv", 512, classes=list(faces[0].probabilities)) as table:
    ...     table.add("three_faces.jpg", faces)
    >>> read_table("expressions.csv")["expression"].tolist()
    ['happiness', 'happiness', 'happiness']
    """
    source = Path(path)
    if source.is_dir():
        return _read_folder(source)
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".npz": _read_npz}
    if source.suffix.lower() not in readers:
        raise DataError(f"{source} must end in one of {', '.join(SUFFIXES)}")
    try:
        return readers[source.suffix.lower()](source)
    except MissingExtraError:
        raise
    except Exception as error:  # the three libraries raise errors of many kinds for a broken file
        raise DataError(f"{source} is not a readable table of faces: {error}") from error


def iter_table(path: str | Path) -> Iterator[dict[str, np.ndarray]]:
    """`read_table` in parts, so that memory does not grow with a Parquet file or the folder of a job.

    Parameters
    ----------
    path : path
        As for `read_table`. A .csv or .npz file is one part.

    Yields
    ------
    dict
        Arrays as of `read_table`, of at most _PART_ROWS rows where they come from Parquet.

    Raises
    ------
    DataError
        For a file that is not such a table, and a folder without a finished shard.
    MissingExtraError
        For Parquet without pyarrow.

    Examples
    --------
    >>> from fergeneral import extract
    >>> from fergeneral.storage import FaceTable, iter_table
    >>> with FaceTable("parts.parquet", 512) as table:
    ...     table.add("three_faces.jpg", extract("examples/photos/three_faces.jpg"))
    >>> sum(len(part["path"]) for part in iter_table("parts.parquet"))
    3
    """
    source = Path(path)
    if not source.is_dir() and source.suffix.lower() != ".parquet":
        yield read_table(source)
        return
    pa, parquet = import_pyarrow()
    for file in _job_parts(source) if source.is_dir() else [source]:
        try:
            with parquet.ParquetFile(str(file)) as opened:
                for batch in opened.iter_batches(_PART_ROWS, use_threads=False):
                    yield _arrays(pa.Table.from_batches([batch]))
        except Exception as error:  # as in read_table
            raise DataError(f"{file} is not a readable table of faces: {error}") from error


def face_columns(rows: Sequence[FaceRow], embedding_size: int, video: bool = False) -> dict[str, np.ndarray]:
    """Faces as the arrays that `read_table` returns, without those of a head.

    Parameters
    ----------
    rows : sequence of (path, number, Face)
        Path of the photo, place of the face in it, face.
    embedding_size : int
        D, also for no rows.
    video : bool, default False
        With time and track, of faces that are TrackedFace.

    Returns
    -------
    dict
        Of N rows.
    """
    n = len(rows)
    faces = [face for _, _, face in rows]
    columns = {
        "path": np.array([path for path, _, _ in rows], dtype=str),
        "face": np.array([number for _, number, _ in rows], dtype=np.int32),
        "box": np.array([face.box for face in faces], dtype=np.float32).reshape(n, 4),
        "landmarks": np.array([face.landmarks for face in faces], dtype=np.float32).reshape(n, 5, 2),
        "score": np.array([face.score for face in faces], dtype=np.float32),
        "embedding": np.array([face.embedding for face in faces], dtype=np.float32).reshape(n, embedding_size),
        "model_id": np.array([face.model_id for face in faces], dtype=str),
    }
    if video:
        tracked = [face for face in faces if isinstance(face, TrackedFace)]
        columns["time"] = np.array([face.time for face in tracked], dtype=np.float64)
        columns["track"] = np.array([face.track for face in tracked], dtype=np.int32)
    return columns


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    _, parquet = import_pyarrow()
    return _arrays(parquet.read_table(str(path)))


def _arrays(table: Any) -> dict[str, np.ndarray]:
    """Of a pyarrow.Table of faces."""
    arrays: dict[str, np.ndarray] = {}
    names = ("path", "face", "box", "landmarks", "score", "embedding", "model_id")
    for name in (*names, *filter(_is_further, table.column_names)):
        column = table[name].combine_chunks()
        if name in ("box", "landmarks", "embedding"):
            arrays[name] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        else:
            arrays[name] = column.to_numpy(zero_copy_only=False)
    for name in {"path", "model_id", "expression"} & arrays.keys():
        arrays[name] = arrays[name].astype(str)
    arrays["landmarks"] = arrays["landmarks"].reshape(-1, 5, 2)
    return arrays


def _is_further(name: str) -> bool:
    """Whether a column is one that only tables of videos, or of a head, have."""
    return name in VIDEO_COLUMNS or name in HEAD_COLUMNS or name.startswith(_PROBABILITY)


def _job_parts(folder: Path) -> list[Path]:
    """Of a job's finished shards: one or more."""
    from fergeneral.jobs import face_parts

    parts = face_parts(folder)
    if not parts:
        raise DataError(f"{folder} holds no finished shard of a job")
    return parts


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    parts = [read_table(part) for part in _job_parts(folder)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    end = header.index("model_id")  # of the numbers; then come what videos have, and what heads give
    extra = {name: at for at, name in enumerate(header) if at > end and _is_further(name)}
    numbers = np.array([row[2:end] for row in rows], dtype=np.float32).reshape(len(rows), end - 2)
    types: dict[str, Any] = {"time": np.float64, "track": np.int32, "expression": str}
    return {
        "path": np.array([row[0] for row in rows], dtype=str),
        "face": np.array([row[1] for row in rows], dtype=np.int32),
        "box": numbers[:, :4],
        "landmarks": numbers[:, 4:14].reshape(-1, 5, 2),
        "score": numbers[:, 14],
        "embedding": numbers[:, 15:],
        "model_id": np.array([row[end] for row in rows], dtype=str),
        **{name: np.array([row[at] for row in rows], types.get(name, np.float32)) for name, at in extra.items()},
    }


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def weights_folder() -> Path | None:
    """Where the packaged weights are: weights/ lies inside an installed package, and beside it in a checkout."""
    here = Path(__file__).parent
    places = (here / "_weights", here.parent / "weights")
    return next((folder for folder in places if (folder / DEFAULT_MODEL / CONFIG_FILE).is_file()), None)


def import_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet. Raises MissingExtraError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("a .parquet file", "pyarrow", "parquet") from error
    return pyarrow, pyarrow.parquet
