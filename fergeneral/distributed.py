"""One job on many machines: the shards of `fergeneral.jobs`, made by the workers of a Ray cluster.

The driver (the process that calls `extract_dataset`) lists the photos, opens the output folder and hands out shards by
Ray Data. Each worker is an actor that loads the model once, reads the photos of one shard at a time, and writes them to
the output folder itself; only counts come back. So the folder is the same as that of `fergeneral.jobs.run_job`, and
photos and output must lie where every machine sees them under the same path.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fergeneral import __version__
from fergeneral.classifier import ExpressionClassifier, load_model
from fergeneral.encoder import weights_sha256
from fergeneral.errors import DataError, MissingExtraError, ModelError, positive_integer
from fergeneral.extractor import ExpressionExtractor
from fergeneral.jobs import (
    SHARD_ROWS,
    FileResult,
    Job,
    Summary,
    check_output,
    check_run,
    classes_of,
    extract_shard,
    extractor_of,
    write_shard,
)
from fergeneral.sources import Source, list_photos

try:
    import ray
    import ray.data
except ImportError as error:
    raise MissingExtraError("a job on many machines", "Ray", "ray") from error

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

MAX_ATTEMPTS = 4  # at one shard: a photo that kills its worker would else kill one after the other, without end
_ATTEMPTS = ".attempts-{}"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What every worker has to know. `run`: see `Job.run`. `folder`: where relative paths begin."""

    output: str
    run: str
    folder: str
    model: str | Path | None
    revision: str | None
    weights_sha256: str
    detector: str | None
    device: str
    batch_size: int
    shard_rows: int
    min_face_size: int | None = None
    version: str = __version__
    head: str | Path | None = None
    head_sha256: str | None = None
    min_confidence: float = 0.0


def extract_dataset(
    paths_or_dataset: str | Path | Iterable[str | Path] | Sequence[Source] | Dataset,
    output: str | Path,
    *,
    model: str | Path | None = None,
    revision: str | None = None,
    detector: str | None = None,
    min_face_size: int | None = None,
    head: str | Path | None = None,
    min_confidence: float = 0.0,
    shard_rows: int = SHARD_ROWS,
    resume: bool = False,
    extend: bool = False,
    retry_errors: bool = False,
    batch_size: int = 32,
    num_workers: int | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
    address: str | None = None,
    progress: Callable[[Summary, int, int], None] | None = None,
) -> Summary:
    """Embed the faces of any number of photos into a folder of Parquet tables, by the workers of a Ray cluster.

    `paths_or_dataset`: what `fergeneral.sources.list_photos` takes, or what it gives (for its options). `output`: a
    folder that all machines share, as the photos are; `resume`: continue a job in it that was interrupted, whether that
    was made here or by `run_job`; `extend`, `retry_errors`: as there.
    `model`, `revision`: as for `ExpressionExtractor.from_pretrained`; every worker loads the weights for itself, so a
    folder of them must be shared, too. `detector`: "mtcnn" (None) or "yunet";
    `min_face_size`: of the smallest face that it looks for, as for `from_pretrained`.
    `head`: as for `ExpressionClassifier.from_pretrained`, "expressions-8" for instance, and with `min_confidence` as
    there; its columns then follow those of the embeddings. Every worker loads it for itself. By default there is none.
    Without `model` a head brings the encoder that it belongs to.
    `shard_rows`: photos in a shard, the unit of work: a job has work for as many workers as it has shards.
    `num_workers`: by default as many as the cluster has room for now. `num_cpus`, `num_gpus`: for each of them; with
    `num_gpus` they run on CUDA, else on the CPU; several can share a GPU (`num_gpus=0.5`).
    `address`: of the cluster ("auto", "HOST:6379"), one of whose machines this is; by default the one that Ray is
    connected to or that RAY_ADDRESS names, else one on this machine alone, for as long as the job takes.
    `progress(summary, done, total)` is called for each shard, with photos that have their rows, and photos in all.
    Returns the totals of the whole job. The shard of a worker that dies is made again by another, MAX_ATTEMPTS times.
    Raises DataError and ModelError for what `Job.open` refuses, for whatever fails on a worker and is no fault of a
    photo, and for a cluster without room for a worker; finished shards stay.

    Examples
    --------
    >>> from fergeneral.distributed import extract_dataset
    >>> extract_dataset("photos/", "/shared/job", address="auto", resume=True)  # doctest: +SKIP
    """
    batch_size, num_cpus = positive_integer(batch_size, "batch_size"), positive_integer(num_cpus, "num_cpus")
    if num_workers is not None:
        num_workers = positive_integer(num_workers, "num_workers")
    listed = _listed(paths_or_dataset)
    check_output(output, resume=resume)
    loaded = load_model(
        model,
        head,
        revision=revision,
        device="cpu",
        detector=detector,
        min_face_size=min_face_size,
        min_confidence=min_confidence,
    )
    with _cluster(address):
        workers = num_workers or _room(num_cpus, num_gpus)
        with (
            Job.of(
                loaded,
                output,
                listed,
                shard_rows=shard_rows,
                resume=resume,
                extend=extend,
                retry_errors=retry_errors,
            ) as job,
            _no_attempts_noted(output),
        ):
            device = "cuda" if num_gpus else "cpu"
            place, folder, weights = os.path.abspath(output), os.getcwd(), weights_sha256(extractor_of(loaded).encoder)
            settings = (detector, device, batch_size, shard_rows, min_face_size)
            plan = _Plan(place, job.run, folder, model, revision, weights, *settings)
            if isinstance(loaded, ExpressionClassifier):
                sha256 = loaded.head.sha256
                plan = dataclasses.replace(plan, head=head, head_sha256=sha256, min_confidence=min_confidence)
            shards = list(job.shards(listed))
            job.reserve(len(shards))
            pending, total = sum(len(sources) for _, sources in shards), len(listed)
            done, wanted = total - pending, job.done + pending
            for summary in _run(plan, shards, workers, num_cpus, num_gpus):
                done += summary.photos
                if progress is not None:
                    progress(summary, done, total)
            totals = job.finish()
    if totals.photos != wanted:
        raise DataError(f"{output} holds rows of {totals.photos} photos, not of {wanted}: resume with --resume")
    return totals


def _listed(given: Any) -> list[Source]:
    as_it_is = isinstance(given, Sequence) and len(given) > 0 and isinstance(given[0], Source)
    listed = list(given) if as_it_is else list_photos(given)
    if any(getattr(source, "file", None) == "" for source in listed):
        raise DataError(
            "a dataset in the memory of this process cannot go to others: write it to a folder that they share "
            "(save_to_disk, and load_from_disk again; or to_parquet, and pass the file)"
        )
    return listed


@contextmanager
def _no_attempts_noted(output: str | Path) -> Iterator[None]:
    """Before and after a job the notes of attempts are removed."""
    _forget_attempts(output)
    try:
        yield
    finally:
        _forget_attempts(output)


def _forget_attempts(output: str | Path) -> None:
    for notes in Path(output).glob(_ATTEMPTS.format("*")):
        notes.unlink(missing_ok=True)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connected to Ray, and no longer than before. Raises DataError if there is no cluster at the address."""
    if ray.is_initialized():
        yield
        return
    try:
        host, _, port = (address or "").rpartition(":")
        if host and port.isdigit():  # Ray itself goes on trying for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise DataError(f"no Ray cluster could be reached at {address or 'this machine'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _run(
    plan: _Plan, shards: list[tuple[int, list[Source]]], workers: int, num_cpus: int, num_gpus: float
) -> Iterator[Summary]:
    """The counts of each shard as it is done."""
    if not shards:
        return
    sources = {number: ray.put(chunk) for number, chunk in shards}  # Ray Data's own tables hold plain values only
    numbers = [{"number": number} for number in sources]
    dataset = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        _Worker,
        fn_constructor_args=(plan, sources),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards)), max_tasks_in_flight_per_actor=1),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_no_progress_timeout_s = -1  # a shard takes as long as it takes
    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise (ModelError if row["kind"] == ModelError.__name__ else DataError)(row["error"])
            yield Summary(*(int(row[field.name]) for field in dataclasses.fields(Summary)))
    except ray.exceptions.RayError as error:
        raise DataError(f"the Ray cluster gave up: {error}. Finished shards are kept: resume with --resume") from error


def _room(num_cpus: int, num_gpus: float) -> int:
    """How many workers the cluster can hold."""
    wanted = {"CPU": num_cpus, "GPU": num_gpus}
    there = ray.cluster_resources()
    room = min(int(there.get(name, 0) / number) for name, number in wanted.items() if number)
    if room < 1:
        raise DataError(
            f"the Ray cluster has no room for a worker of {num_cpus} CPUs and {num_gpus:g} GPUs: it has "
            f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; for one that grows on demand, say how many workers"
        )
    return room


class _Worker:
    """Makes one shard a call. What fails is returned, as a row with "error": Ray would repeat it, or log it twice."""

    def __init__(self, plan: _Plan, sources: dict[int, ray.ObjectRef]) -> None:
        self._plan = plan
        self._sources = sources
        self._model: ExpressionExtractor | ExpressionClassifier | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """`batch`: the "number" of one shard. Returns one row: the fields of Summary, "kind" and "error"."""
        (number,) = batch["number"].tolist()
        summary, kind, text = Summary(), "", ""
        try:
            summary = self._make(number, ray.get(self._sources[number]))
        except Exception as error:
            kind = type(error).__name__
            text = f"shard {number} failed on {socket.gethostname()}: {error or kind}"
        return {name: [value] for name, value in {**dataclasses.asdict(summary), "kind": kind, "error": text}.items()}

    def _make(self, number: int, sources: list[Source]) -> Summary:
        plan = self._plan
        check_run(plan.output, plan.run)
        with _attempt(Path(plan.output, _ATTEMPTS.format(number)), sources):
            if self._model is None:
                self._model = _load(plan)
            results = extract_shard(self._model, sources, batch_size=plan.batch_size)
            size, classes = self._model.config.embedding_size, classes_of(self._model)
            return write_shard(plan.output, number, _fenced(results, plan), size, plan.shard_rows, classes)


def _load(plan: _Plan) -> ExpressionExtractor | ExpressionClassifier:
    if plan.version != __version__:
        raise DataError(f"fergeneral is {__version__} there, {plan.version} where the job was begun: install the same")
    with suppress(OSError):  # a machine that has no such folder may do without, if no path is relative
        os.chdir(plan.folder)
    model = load_model(
        plan.model,
        plan.head,
        revision=plan.revision,
        device=plan.device,
        detector=plan.detector,
        min_face_size=plan.min_face_size,
        min_confidence=plan.min_confidence,
    )
    weights = weights_sha256(extractor_of(model).encoder)
    if weights != plan.weights_sha256:
        raise ModelError(
            f"the weights of {plan.model or 'the package'} have the SHA-256 {weights} there, {plan.weights_sha256} "
            f"where the job was begun"
        )
    if isinstance(model, ExpressionClassifier) and model.head.sha256 != plan.head_sha256:
        raise ModelError(
            f"the head {plan.head} has the SHA-256 {model.head.sha256} there, {plan.head_sha256} where the job was "
            f"begun"
        )
    return model


@contextmanager
def _attempt(notes: Path, sources: list[Source]) -> Iterator[None]:
    """A line in `notes` for each time the block is begun and not left: only by the death of this process."""
    with notes.open("a+", encoding="utf-8") as file:
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.seek(0)
        workers = file.read().splitlines()[:-1]
    try:
        if len(workers) >= MAX_ATTEMPTS:
            raise DataError(
                f"{len(workers)} workers died of it ({', '.join(workers)}), by too little memory or by one of its "
                f"photos, which are {sources[0].path} to {sources[-1].path}"
            )
        yield
    finally:
        notes.unlink(missing_ok=True)


def _fenced(results: Iterator[FileResult], plan: _Plan) -> Iterator[FileResult]:
    """Ask once more before the shard is committed: this worker may have lost its driver, and another gone on."""
    with closing(results):  # type: ignore[type-var]
        yield from results
    check_run(plan.output, plan.run)
