"""Jobs of any size: photos in, a folder of Parquet tables out, in shards that are there whole or not at all.

    OUT/manifest.json              weights, options; once all is done, totals
    OUT/plan.parquet               one row a photo of the job, done or not: path
    OUT/files/part-000003.parquet  one row a photo: path, status (faces, none, error), faces (how many), error (why)
    OUT/faces/part-000003.parquet  one row a face, as in storage.FaceTable
    OUT/.lock                      held by the process that writes

A shard is the work of one chunk of photos. Its faces are written first, at most as many to a file as a shard has
photos (part-000003-1.parquet and so on hold the rest), its table of files last: a shard exists only if its table of
files does. What is on the disk is therefore right at any moment, and a job that was interrupted is resumed with the
photos that stand in no table of files. To try photos again that could not be read, their rows are taken out of the
tables of files, each of which is replaced as a whole; they have no rows of faces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import reprlib
import secrets
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fergeneral import __version__
from fergeneral.errors import DataError, ImageError, positive_integer
from fergeneral.sources import Source
from fergeneral.storage import FaceRow, FaceTable, import_pyarrow, sync_folder, whole_file
from fergeneral.types import Face

if TYPE_CHECKING:
    from fergeneral.classifier import ExpressionClassifier
    from fergeneral.extractor import ExpressionExtractor

FORMAT_VERSION = 1
SHARD_ROWS = 10_000  # photos: some minutes of work, 20 MB for one face in each
MANIFEST_FILE = "manifest.json"
PLAN_FILE = "plan.parquet"  # jobs begun by version 0.1.0 have none
_LOCK_FILE = ".lock"
_RESERVED_FILE = ".reserved"  # the first number of a shard that no run has reserved
_FOLDERS = ("faces", "files")
_PART = re.compile(r"part-(\d{6,})(-[1-9]\d*)?\.parquet")
_LEFTOVER = re.compile(
    r"\.[0-9a-f]{8}\.(part-.*\.parquet|plan\.parquet|manifest\.json|\.reserved)"
)  # of storage.whole_file
_FIELD_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model_id", "weights_sha256", "fergeneral_version"), str),
    "embedding_size": int,
    "options": dict,
    "totals": (dict, type(None)),
}
_PLAN_BATCH = 100_000  # paths written at once
_short = reprlib.Repr()  # a damaged manifest may hold anything, of any length and depth
_short.maxstring = 100
_OLD_DETECTORS = {  # what manifests had until 0.3.0 in place of a detector's name
    "fergeneral.mtcnn.MTCNNDetector": "mtcnn",
    "fergeneral.yunet.YuNetDetector": "yunet",
}


@dataclasses.dataclass(frozen=True)
class FileResult:
    """What became of one photo: `faces`, largest first, () where there is none; or None and the `error`, in words."""

    path: str
    faces: tuple[Face, ...] | None
    error: str | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a job did; two can be added.

    Attributes
    ----------
    photos, faces : int
        How many photos there were, and faces in them.
    without_face, unreadable : int
        Photos in which no face was found, and photos that could not be read.

    Examples
    --------
    >>> from fergeneral.jobs import Summary
    >>> Summary(photos=3, faces=2, without_face=1) + Summary(photos=1, unreadable=1)
    Summary(photos=4, faces=2, without_face=1, unreadable=1)
    """

    photos: int = 0
    faces: int = 0
    without_face: int = 0
    unreadable: int = 0

    def __add__(self, other: Summary) -> Summary:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Summary(*(a + b for a, b in pairs))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What all shards of a job have in common; manifest.json holds exactly these fields.

    `weights_sha256`: see `weights_sha256`. `options`: what else decides the rows. `fergeneral_version`: of the package
    that began the job. `totals`: only once every photo has its rows.
    """

    model_id: str
    weights_sha256: str
    embedding_size: int
    options: dict[str, Any]
    fergeneral_version: str = __version__
    totals: Summary | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read and check a manifest.json. Raises DataError that says what is wrong with it."""
        try:
            values = json.loads(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is corrupt, it is not valid JSON: {error}") from error
        version = values.get("format_version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise DataError(
                f"{path} is of a newer format ({version}; this package knows {FORMAT_VERSION}): "
                f"run: pip install --upgrade fergeneral"
            )
        if version != FORMAT_VERSION or values.keys() != {field.name for field in dataclasses.fields(cls)}:
            raise DataError(f"{path} is not the manifest of a job, or is corrupt: unexpected fields")
        for name, kind in _FIELD_KINDS.items():
            if not isinstance(values[name], kind):
                raise DataError(f"{path} is corrupt: {name} is {_short.repr(values[name])}")
        options = values["options"]
        if isinstance(name := options.get("detector"), str):
            options = {**options, "detector": _OLD_DETECTORS.get(name, name)}
        return cls(**{**values, "options": options, "totals": _totals(values["totals"], path)})

    def check(self, now: Manifest, output: Path) -> None:
        """Raise DataError that names what differs, if a job with the manifest `now` must not go on with this one."""
        there, wanted = (
            {
                **manifest.options,
                **{name: getattr(manifest, name) for name in ("model_id", "weights_sha256", "embedding_size")},
            }
            for manifest in (self, now)
        )
        names = [name for name in {**wanted, **there} if there.get(name) != wanted.get(name)]
        if names:
            differences = "; ".join(
                f"{name} is {_short.repr(there.get(name))} there, {_short.repr(wanted.get(name))} now" for name in names
            )
            raise DataError(
                f"{output} holds a job with other settings: {differences}. Resume with the same, or name another folder"
            )


def _totals(values: dict[str, Any] | None, path: Path) -> Summary | None:
    try:
        return None if values is None else Summary(**values)
    except TypeError as error:
        raise DataError(f"{path} is corrupt: totals is {_short.repr(values)}") from error


def job_options(model: ExpressionExtractor | ExpressionClassifier) -> dict[str, Any]:
    """What decides the rows beside the weights, for `Job.open`: the detector and its settings, and the head."""
    detector = extractor_of(model).detector
    kind = type(detector)
    name = vars(kind).get("name")  # not one that is inherited: a subclass may find other faces
    if not isinstance(name, str):
        name = f"{kind.__module__}.{kind.__qualname__}"
    stated = getattr(detector, "settings", None)
    settings = dict(stated()) if callable(stated) else {}
    if (used := _classifier(model)) is not None:
        settings |= {"head": used.head.name, "head_sha256": used.head.sha256, "min_confidence": used.min_confidence}
    return {**settings, "detector": name}


def classes_of(model: ExpressionExtractor | ExpressionClassifier) -> tuple[str, ...] | None:
    """The classes of a classifier's head; None for an extractor."""
    classifier = _classifier(model)
    return None if classifier is None else classifier.classes


def extractor_of(model: ExpressionExtractor | ExpressionClassifier) -> ExpressionExtractor:
    """A classifier's extractor; an extractor itself."""
    classifier = _classifier(model)
    return model if classifier is None else classifier.extractor  # type: ignore[return-value]


def _classifier(model: ExpressionExtractor | ExpressionClassifier) -> ExpressionClassifier | None:
    from fergeneral.classifier import ExpressionClassifier  # with torch

    return model if isinstance(model, ExpressionClassifier) else None


class Job:
    """An output folder, held open for writing: until `close`, `finish` or the end of the `with` block no other
    process can open it. `next_shard`: the number of the first shard to be written now. `done`: photos that have rows.
    """

    def __init__(self, output: Path, manifest: Manifest, lock: IO[str]) -> None:
        """Use `Job.open`."""
        self.output = output
        self.next_shard = 0
        self._manifest = manifest
        self._lock = lock
        self._done: set[str] = set()

    @classmethod
    def open(
        cls,
        output: str | Path,
        *,
        model_id: str,
        weights_sha256: str,
        embedding_size: int,
        options: Mapping[str, Any],
        shard_rows: int = SHARD_ROWS,
        resume: bool = False,
        paths: Iterable[str] | None = None,
        extend: bool = False,
        retry_errors: bool = False,
    ) -> Job:
        """Begin a job in a new or empty folder, or, with `resume`, continue the one that is there.

        What an interrupted job has left half done is removed.

        Parameters
        ----------
        output : path
            The folder, made if need be.
        model_id, weights_sha256, embedding_size, options
            What decides the rows, and must not change within a job; `options` must be fit for JSON: see `job_options`.
        shard_rows : int
            Photos in a shard; 1 or more.
        resume : bool
            Continue the job that is in the folder, if there is one.
        paths : iterable of str, optional
            Of all photos of the job. By default it may be given any photos, and no plan is kept.
        extend : bool
            The `paths` of a job that is resumed may be others than before. Photos that are new are added. Of those no
            longer given, the rows that are there stay, and the others are not read.
        retry_errors : bool
            Remove the rows of photos that could not be read, so that these are read again.

        Returns
        -------
        Job

        Raises
        ------
        DataError
            For a folder that holds something else, or a job but `resume` is not set, or one with other weights,
            options or (without `extend`) paths, or whose manifest or shards are damaged; that another process writes
            to; or that cannot be written.
        MissingExtraError
            Without pyarrow.
        """
        shard_rows = positive_integer(shard_rows, "shard_rows")
        if (extend or retry_errors) and not resume:
            raise ValueError("extend and retry_errors are for a job that is resumed: set resume=True")
        settings = json.loads(json.dumps({**options, "shard_rows": shard_rows}))
        wanted = Manifest(model_id, weights_sha256, embedding_size, settings)
        folder = Path(output)
        check_output(folder, resume=resume)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
        job = cls(folder, wanted, lock)
        try:
            job._prepare(resume, None if paths is None else dict.fromkeys(paths), extend, retry_errors)
        except BaseException:
            job.close()
            raise
        return job

    @classmethod
    def of(
        cls,
        model: ExpressionExtractor | ExpressionClassifier,
        output: str | Path,
        sources: Iterable[Source],
        *,
        shard_rows: int,
        resume: bool,
        extend: bool = False,
        retry_errors: bool = False,
    ) -> Job:
        """`open` for what this extractor or classifier makes of these photos."""
        from fergeneral.encoder import weights_sha256  # with torch, which what is refused before need not load

        return cls.open(
            output,
            model_id=model.config.model_id,
            weights_sha256=weights_sha256(extractor_of(model).encoder),
            embedding_size=model.config.embedding_size,
            options=job_options(model),
            shard_rows=shard_rows,
            resume=resume,
            paths=(source.path for source in sources),
            extend=extend,
            retry_errors=retry_errors,
        )

    def _prepare(self, resume: bool, paths: dict[str, None] | None, extend: bool, retry_errors: bool) -> None:
        # Once more, now that nobody else writes here.
        check_output(self.output, resume=resume, paths=None if extend else paths)
        path = self.output / MANIFEST_FILE
        if path.exists():
            there = Manifest.read(path)
            there.check(self._manifest, self.output)
            self._manifest = there
        with _writing(self.output):
            if not path.exists() or self._manifest.totals is not None:
                self._write_manifest(None)
            for name in _FOLDERS:
                (self.output / name).mkdir(exist_ok=True)
            sync_folder(self.output)
            _clean(self.output)
        for number, done, summary in _shards(self.output):
            if retry_errors and summary.unreadable:
                done = _drop_errors(self.output, number)
            self._done.update(done)
            self.next_shard = number + 1
        if paths is not None:
            _write_plan(self.output, [*paths, *sorted(self._done.difference(paths))])
        with contextlib.suppress(OSError, ValueError):  # it is not there, as a rule
            self.next_shard = max(self.next_shard, int((self.output / _RESERVED_FILE).read_text()))

    @property
    def run(self) -> str:
        """What tells this run from all others, for `check_run`."""
        return (self.output / _LOCK_FILE).read_text(encoding="utf-8")

    @property
    def done(self) -> int:
        """How many photos had their rows when the job was opened."""
        return len(self._done)

    def pending(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Those that have no rows yet, in their order; of several with the same path, the first."""
        seen: set[str] = set()
        for source in sources:
            if source.path not in self._done and source.path not in seen:
                seen.add(source.path)
                yield source

    def shards(self, sources: Iterable[Source]) -> Iterator[tuple[int, list[Source]]]:
        """The pending photos in chunks of `shard_rows`, each with its number for `write_shard`, from next_shard on."""
        pending = self.pending(sources)
        for number in itertools.count(self.next_shard):
            chunk = list(itertools.islice(pending, self._manifest.options["shard_rows"]))
            if not chunk:
                return
            yield number, chunk

    def reserve(self, count: int) -> None:
        """Keep the numbers of the next `count` shards from later runs: for shards that other processes write.

        They may outlive this one; what they then write or remove under a number of theirs must be nobody else's.
        """
        with _writing(self.output), whole_file(self.output / _RESERVED_FILE, durable=True) as path:
            path.write_text(f"{self.next_shard + count}\n", encoding="utf-8")

    def finish(self) -> Summary:
        """Check that all shards are whole, write the totals into the manifest, and close."""
        totals = sum((summary for _, _, summary in _shards(self.output)), Summary())
        with _writing(self.output):
            self._write_manifest(totals)
        self.close()
        return totals

    def _write_manifest(self, totals: Summary | None) -> None:
        self._manifest = dataclasses.replace(self._manifest, totals=totals)
        with whole_file(self.output / MANIFEST_FILE, durable=True) as path:
            path.write_text(self._manifest.to_json(), encoding="utf-8")

    def close(self) -> None:
        """Let other processes open the folder."""
        self._lock.close()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_output(output: str | Path, *, resume: bool, paths: Collection[str] | None = None) -> None:
    """Raise DataError for what `Job.open` refuses whatever the weights are; nothing is written.

    `paths`: those of the job's photos, unless a job that is there may have had others.
    """
    import_pyarrow()
    folder = Path(output)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; a job writes a folder of tables")
    if os.path.exists(folder / MANIFEST_FILE):
        if not resume:
            raise DataError(f"{folder} holds a job already: resume it with --resume, or name another folder")
        Manifest.read(folder / MANIFEST_FILE)
        if paths is not None:
            _check_plan(folder, paths)
        return
    try:
        others = [name for name in os.listdir(folder) if name != _LOCK_FILE and not _LEFTOVER.fullmatch(name)]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    if others:
        raise DataError(
            f"{folder} is not empty and holds no job (no {MANIFEST_FILE}, but {min(others)!r}): name another folder"
        )


def _lock(folder: Path) -> IO[str]:
    """Take the lock of an output folder; it goes with the process, however that ends.

    On Windows, and on file systems without locks, there is none.
    """
    file = (folder / _LOCK_FILE).open("a+", encoding="utf-8")
    try:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise DataError(
                    f"another process is writing to {folder} ({file.read(200).strip()}): wait until it ends, or end it"
                ) from None
            except OSError:  # no locks here
                pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, run {secrets.token_hex(8)}\n")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def check_run(output: str | Path, run: str) -> None:
    """Raise DataError if the job in `output` is not, or no longer, in the hands of `run`, a `Job.run`.

    For processes that write shards for another one: they may outlive it, and a new run may not see what they add.
    """
    try:
        now = (Path(output) / _LOCK_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{output} is not seen from {socket.gethostname()} ({error.strerror}): all machines must share that folder"
        ) from error
    if now != run:
        raise DataError(f"another run has taken over {output}: {now.strip()}")


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turn an OSError of writing into a DataError that says what is there and how to resume."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{output} cannot be written to: {error}. Finished shards are kept; put that right and resume with --resume"
        ) from error


def _clean(output: Path) -> None:
    """Remove what an interrupted job has left: temporary files, and faces without their table of files."""
    whole = set(_shard_numbers(output))
    for folder in (output, *(output / name for name in _FOLDERS)):
        for name in os.listdir(folder):
            part = _PART.fullmatch(name) if folder.name == "faces" else None
            if _LEFTOVER.fullmatch(name) or (part and int(part[1]) not in whole):
                (folder / name).unlink()


def _check_plan(output: Path, paths: Collection[str]) -> None:
    """Raise DataError unless the job's photos are these. Of a job without a plan, those with rows are known."""
    plan = _read_plan(output)
    known = {path for _, done, _ in _shards(output) for path in done} if plan is None else plan
    missing = sorted(known.difference(paths))
    new = [] if plan is None else [path for path in paths if path not in plan]
    said = (
        [f"not among the paths given: {len(missing)} of its {len(known)} photos, first {missing[0]}"] if missing else []
    )
    said += [f"new among them: {len(new)} photos, first {new[0]}"] if new else []
    if said:
        raise DataError(
            f"{output} holds a job of other photos; {'; '.join(said)}; give the same paths, or add --extend: new "
            f"photos are then added, and the rows of those no longer given stay"
        )


def _read_plan(output: Path) -> set[str] | None:
    """The paths of the job's photos; None where they were not written down."""
    path = output / PLAN_FILE
    if not path.exists():
        return None
    _, parquet = import_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            batches = file.iter_batches(columns=["path"], use_threads=False)
            return {name for batch in batches for name in batch.column(0).to_pylist()}
    except Exception as error:  # pyarrow raises errors of many kinds for a broken file
        raise DataError(f"{path} is corrupt: {error}. Delete it: it is written again, from the paths given") from error


def _write_plan(output: Path, paths: list[str]) -> None:
    """If it is not there already: so a job that is resumed with the same photos keeps its file."""
    if _read_plan(output) == set(paths):
        return
    pa, parquet = import_pyarrow()
    schema = pa.schema({"path": pa.string()})
    with (
        _writing(output),
        whole_file(output / PLAN_FILE, durable=True) as temporary,
        parquet.ParquetWriter(str(temporary), schema) as writer,
    ):
        for start in range(0, len(paths), _PLAN_BATCH):
            writer.write_batch(pa.record_batch([pa.array(paths[start : start + _PLAN_BATCH], pa.string())], schema))


def _shard_numbers(output: Path) -> list[int]:
    """Of the shards there are, in rising order. [] where there is no job."""
    folder = output / "files"
    names = os.listdir(folder) if folder.is_dir() else []
    parts = (_PART.fullmatch(name) for name in names)
    return sorted(int(part[1]) for part in parts if part and not part[2])


def _files_part(output: Path, number: int) -> Path:
    return output / "files" / f"part-{number:06d}.parquet"


def _faces_part(output: Path, number: int, place: int) -> Path:
    return output / "faces" / f"part-{number:06d}{f'-{place}' if place else ''}.parquet"


def _faces_parts(output: Path, number: int) -> list[Path]:
    """Those of one shard that are there. They are written in rising and removed in falling order: no gaps."""
    parts = (_faces_part(output, number, place) for place in itertools.count())
    return list(itertools.takewhile(Path.exists, parts))


def face_parts(output: str | Path) -> list[Path]:
    """The tables of faces of all finished shards, in the order of the photos."""
    folder = Path(output)
    return [part for number in _shard_numbers(folder) for part in _faces_parts(folder, number)]


def _shards(output: Path) -> Iterator[tuple[int, list[str], Summary]]:
    """Number, paths and counts of every finished shard. Raises DataError for one that is corrupt."""
    _, parquet = import_pyarrow()
    for number in _shard_numbers(output):
        path = _files_part(output, number)
        try:
            with parquet.ParquetFile(path) as file:
                rows = file.read(columns=["path", "status", "faces"], use_threads=False).to_pydict()
            status, wanted = rows["status"], sum(rows["faces"])
            faces = sum(parquet.read_metadata(part).num_rows for part in _faces_parts(output, number))
        except Exception as error:  # pyarrow raises errors of many kinds for a broken file
            raise DataError(f"shard {number} of {output} is corrupt: {error}. {_again(path)}") from error
        if faces != wanted:
            raise DataError(
                f"shard {number} of {output} is corrupt: it has {faces} of {wanted} rows of faces. {_again(path)}"
            )
        yield number, rows["path"], Summary(len(status), faces, status.count("none"), status.count("error"))


def _drop_errors(output: Path, number: int) -> list[str]:
    """Take the photos that could not be read out of a finished shard. Returns the paths of those that stay in it."""
    _, parquet = import_pyarrow()
    path = _files_part(output, number)
    with parquet.ParquetFile(path) as file:
        rows = [tuple(row.values()) for row in file.read(use_threads=False).to_pylist()]
    kept = [row for row in rows if row[1] != "error"]
    if kept:
        _write_files(output, number, kept)
    else:
        with _writing(output):
            _remove_shard(output, number)
    return [row[0] for row in kept]


def _again(path: Path) -> str:
    return f"Delete {path} and add --resume: its photos are then read again"


def extract_shard(
    model: ExpressionExtractor | ExpressionClassifier, sources: Iterable[Source], *, batch_size: int = 32
) -> Iterator[FileResult]:
    """One result for each source, in their order, computed as they are asked for.

    A photo that cannot be read gives a result with an error. Raises DataError where the fault is not the photo's (see
    `Source.check`). `batch_size`: as for `ExpressionExtractor.extract_many`.
    """
    photos = list(sources)
    failures: dict[int, Exception] = {}

    def images() -> Iterator[Any]:
        for position, source in enumerate(photos):
            image: Any = b""  # no image, either
            try:
                image = source.read()
            except (ImageError, OSError) as error:
                failures[position] = error
            yield image

    def note(position: int, error: ImageError) -> None:
        failures.setdefault(position, error)

    found = _finder(model)(images(), batch_size=batch_size, on_error=note)
    with contextlib.closing(found):  # type: ignore[type-var]  # a generator: its threads end here
        for position, (source, faces) in enumerate(zip(photos, found, strict=True)):
            error = failures.pop(position, None)
            if error is None:
                yield FileResult(source.path, tuple(faces), None)
            else:
                source.check()
                yield FileResult(source.path, None, str(error))


def _finder(model: ExpressionExtractor | ExpressionClassifier) -> Callable[..., Iterator[Sequence[Face]]]:
    classifier = _classifier(model)
    return extractor_of(model).extract_many if classifier is None else classifier.predict_many


def write_shard(
    output: str | Path,
    number: int,
    results: Iterable[FileResult],
    embedding_size: int,
    shard_rows: int,
    classes: Sequence[str] | None = None,
) -> Summary:
    """Write and commit one shard, in place of an earlier one of this number; without results there will be none.

    `results` may be a generator: at most `shard_rows` faces, and those of one photo, are held. `classes`: of the head,
    if there is one. Returns what the shard holds. Raises DataError if it cannot be written, and what `results` raises;
    nothing of the shard is left then.
    """
    folder = Path(output)
    files: list[tuple[str, str, int, str | None]] = []
    rows: list[FaceRow] = []
    place = 0
    with _writing(folder):
        _remove_shard(folder, number)
    try:
        for result in results:
            files.append(_file_row(result))
            rows.extend((result.path, i, face) for i, face in enumerate(result.faces or ()))
            while len(rows) > shard_rows:
                _write_faces(folder, number, place, rows[:shard_rows], embedding_size, classes)
                del rows[:shard_rows]
                place += 1
        if files:
            _write_faces(folder, number, place, rows, embedding_size, classes)
            _write_files(folder, number, files)
    except BaseException:
        if not _files_part(folder, number).exists():  # else it had just been committed
            with contextlib.suppress(OSError):
                _remove_shard(folder, number)
        raise
    status = [row[1] for row in files]
    return Summary(len(files), sum(row[2] for row in files), status.count("none"), status.count("error"))


def _file_row(result: FileResult) -> tuple[str, str, int, str | None]:
    if result.faces is None:
        error = (result.error or "").encode("utf-8", "backslashreplace").decode()  # it may name an odd file
        return result.path, "error", 0, error
    return result.path, "faces" if result.faces else "none", len(result.faces), None


def _write_faces(
    output: Path, number: int, place: int, rows: list[FaceRow], embedding_size: int, classes: Sequence[str] | None
) -> None:
    part = _faces_part(output, number, place)
    with _writing(output), FaceTable(part, embedding_size, classes=classes) as table:
        table.add_rows(rows)


def _write_files(output: Path, number: int, rows: list[tuple[str, str, int, str | None]]) -> None:
    pa, parquet = import_pyarrow()
    names = {"path": pa.string(), "status": pa.string(), "faces": pa.int32(), "error": pa.string()}
    columns = [list(column) for column in zip(*rows, strict=True)]
    table = pa.table(columns, schema=pa.schema(list(names.items())))
    with _writing(output), whole_file(_files_part(output, number), durable=True) as path:
        parquet.write_table(table, str(path))


def _remove_shard(output: Path, number: int) -> None:
    files, faces = _files_part(output, number), _faces_parts(output, number)
    if files.exists():
        files.unlink()
        sync_folder(files.parent)
    for part in reversed(faces):
        part.unlink()


def run_job(
    extractor: ExpressionExtractor | ExpressionClassifier,
    sources: Iterable[Source],
    output: str | Path,
    *,
    shard_rows: int = SHARD_ROWS,
    resume: bool = False,
    extend: bool = False,
    retry_errors: bool = False,
    batch_size: int = 32,
    progress: Callable[[FileResult, int, int], None] | None = None,
) -> Summary:
    """Embed the faces of any number of photos into a folder of Parquet tables, one shard after the other.

    Parameters
    ----------
    extractor : ExpressionExtractor or ExpressionClassifier
        Its weights and detector, and its head and `min_confidence`, are those of the whole job. With a classifier the
        tables of faces also have the columns of a head: see docs/tables.md.
    sources : iterable of Source
        The photos: see `fergeneral.sources.list_photos`.
    output : path
        The folder, made if need be.
    shard_rows : int, default 10000
        Photos in a shard.
    resume : bool, default False
        Continue the job in the folder, if there is one. Photos that have their row there, also as unreadable, are not
        read again.
    extend : bool, default False
        With `resume`: accept other photos than those that the job began with. New ones are added; of those no longer
        given, the rows that are there stay.
    retry_errors : bool, default False
        With `resume`: read the photos again that could not be read. Their new rows take the place of the old.
    batch_size : int, default 32
        As for `ExpressionExtractor.extract_many`.
    progress : callable, optional
        `progress(result, done, total)` is called for each photo that is read.

    Returns
    -------
    Summary
        The totals of the whole job.

    Raises
    ------
    DataError, MissingExtraError
        As `Job.open`, `write_shard` and `extract_shard` do; finished shards stay.
    KeyboardInterrupt
        After Ctrl-C, when the photos done so far are written.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.jobs import run_job
    >>> from fergeneral.sources import list_photos
    >>> from fergeneral.storage import read_table
    >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
    >>> run_job(extractor, list_photos("examples/photos"), "job")
    Summary(photos=5, faces=4, without_face=3, unreadable=0)
    >>> read_table("job")["embedding"].shape
    (4, 512)
    """
    listed = list(sources)
    size = extractor.config.embedding_size
    with Job.of(
        extractor,
        output,
        listed,
        shard_rows=shard_rows,
        resume=resume,
        extend=extend,
        retry_errors=retry_errors,
    ) as job:
        shards = list(job.shards(listed))
        pending = sum(len(chunk) for _, chunk in shards)
        counted = _Counted(len(listed) - pending, len(listed), progress)
        for number, chunk in shards:
            with contextlib.closing(extract_shard(extractor, chunk, batch_size=batch_size)) as results:  # type: ignore[type-var]
                write_shard(output, number, counted.until_interrupted(results), size, shard_rows, classes_of(extractor))
            if counted.interrupted:
                raise KeyboardInterrupt
        return job.finish()


class _Counted:
    """Results on their way to a shard, counted; Ctrl-C ends them early, so that what there is can be written."""

    def __init__(self, done: int, total: int, progress: Callable[[FileResult, int, int], None] | None) -> None:
        self.interrupted = False
        self._done, self._total, self._progress = done, total, progress

    def until_interrupted(self, results: Iterable[FileResult]) -> Iterator[FileResult]:
        try:
            for result in results:
                self._done += 1
                if self._progress is not None:
                    self._progress(result, self._done, self._total)
                yield result
        except KeyboardInterrupt:
            self.interrupted = True
