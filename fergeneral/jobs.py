"""Jobs of any size: photos in, a folder of tables out, in shards that are there whole or not at all.

Public signatures first; the bodies follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fergeneral.sources import Source
from fergeneral.types import Face

if TYPE_CHECKING:
    from fergeneral.encoder import Encoder
    from fergeneral.extractor import ExpressionExtractor

SHARD_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class FileResult:
    """What became of one photo: `faces`, largest first, () where there is none; or None and the `error`, in words."""

    path: str
    faces: tuple[Face, ...] | None
    error: str | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """How many photos there were, faces in them, photos without a face, and photos that could not be read."""

    photos: int
    faces: int
    without_face: int
    unreadable: int


def weights_sha256(encoder: Encoder) -> str:
    """Of model.safetensors, where the weights came from one; else of the weights by name."""
    raise NotImplementedError


def job_options(extractor: ExpressionExtractor) -> dict[str, Any]:
    """What decides the rows beside the weights, for `Job.open(options=...)`: the detector and its settings."""
    raise NotImplementedError


class Job:
    """An open output folder. Use as a context manager, or call close(): until then no other process may open it."""

    next_shard: int  # the number of the first shard of this run; fixed at opening
    done: int  # photos that stood in the folder when it was opened

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
    ) -> Job:
        """Start a job or go on with one."""
        raise NotImplementedError

    def pending(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Those without rows yet, each path once."""
        raise NotImplementedError

    def shards(self, sources: Iterable[Source]) -> Iterator[tuple[int, list[Source]]]:
        """The pending ones in chunks of shard_rows, each with the number for `write_shard`, from next_shard on."""
        raise NotImplementedError

    def finish(self) -> Summary:
        """Check all shards, write the totals into the manifest, and close."""
        raise NotImplementedError

    def close(self) -> None:
        """Let other processes open the folder."""
        raise NotImplementedError

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_output(output: str | Path, *, resume: bool) -> None:
    """What Job.open refuses at first sight, without weights."""
    raise NotImplementedError


def extract_shard(
    extractor: ExpressionExtractor, sources: Iterable[Source], *, batch_size: int = 32
) -> Iterator[FileResult]:
    """One result for each source, in their order, computed as they are asked for.

    A photo that cannot be read is a result with an error. Raises DataError where Source.check does.
    """
    raise NotImplementedError


def write_shard(
    output: str | Path, number: int, results: Iterable[FileResult], embedding_size: int, shard_rows: int
) -> Summary:
    """Write and commit one shard; in place of an earlier one of this number. Returns what is in it."""
    raise NotImplementedError


def run_job(
    extractor: ExpressionExtractor,
    sources: Iterable[Source],
    output: str | Path,
    *,
    shard_rows: int = SHARD_ROWS,
    resume: bool = False,
    batch_size: int = 32,
    progress: Callable[[FileResult, int, int], None] | None = None,
) -> Summary:
    """Embed the faces of any number of photos into a folder of Parquet shards; `progress(result, done, total)`."""
    raise NotImplementedError
