"""Small jobs that are made to be cut off; as a script, a process that forks a child for every run.

kills MODEL PHOTOS ROOT    50 jobs, each killed with SIGKILL at random moments until a run comes to its end
crashes PHOTOS ROOT        a job for every place before and after a step in the file system, ended there and resumed
retries PHOTOS ROOT        the same for a finished job that reads its unreadable photos again, which are mended now
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from fergeneral.errors import ImageError
from fergeneral.images import load_image
from fergeneral.jobs import Summary, _shards, run_job
from fergeneral.sources import list_photos
from fergeneral.types import Detection, Face

KILLED_JOBS = 50
SHARD_ROWS = 4
_EYES_TO_MOUTH = np.array([[10, 12], [22, 12], [16, 18], [11, 24], [21, 24]], dtype=np.float32)


class CountedFaces:
    """A detector that finds as many faces as the red of the first pixel says."""

    def detect(self, image: Image.Image) -> list[Detection]:
        count = image.getpixel((0, 0))[0]
        boxes = [np.array([0, 0, 30 - i, 30 - i], dtype=np.float32) for i in range(count)]
        return [Detection(box, _EYES_TO_MOUTH + i, 0.5) for i, box in enumerate(boxes)]


class PlainExtractor:
    """An extractor without torch: an embedding is the photo's first four pixels in the row of the face's number."""

    def __init__(self, model_id: str = "plain", sha256: str = "ab" * 32, size: int = 12) -> None:
        self.config = SimpleNamespace(model_id=model_id, weights_sha256=sha256, embedding_size=size)
        self.encoder = SimpleNamespace(config=self.config)
        self.detector = CountedFaces()
        self.seen = 0

    def extract_many(
        self, images: Iterable[Any], *, batch_size: int, on_error: Callable[[int, ImageError], None]
    ) -> Iterator[list[Face]]:
        for position, source in enumerate(images):
            self.seen += 1
            try:
                image = load_image(source)
            except ImageError as error:
                on_error(position, error)
                yield []
                continue
            rows = np.resize(np.asarray(image), (32, self.config.embedding_size)).astype(np.float32)
            yield [
                Face(found.box, found.landmarks, found.score, row, self.config.model_id)
                for found, row in zip(self.detector.detect(image), rows, strict=False)
            ]


def draw_photos(folder: Path, counts: Iterable[int | None], seed: int = 0) -> list[Path]:
    """Small photos by the numbers of their faces; None makes a broken file."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, count in enumerate(counts):
        made.append(folder / f"{number:04d}.png")
        if count is None:
            made[-1].write_bytes(b"no photo")
            continue
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pixels[0, 0, 0] = count
        Image.fromarray(pixels).save(made[-1])
    return made


def job(extractor: Any, photos: Path, output: Path, **options: Any) -> Summary:
    """A run over a folder."""
    return run_job(extractor, list_photos([photos]), output, **{"shard_rows": SHARD_ROWS, "batch_size": 4, **options})


def content(output: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    files = (path for path in sorted(output.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def _child(work: Callable[[], Any]) -> int:
    gc.freeze()  # else each child's garbage collection copies the memory it looks at
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _ended_well(pid: int, moment: float = 600) -> bool:
    """Wait for a child and kill it at a moment, in seconds from now. False if it was killed or ended itself (9)."""
    start = time.perf_counter()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(0.001)
        if time.perf_counter() - start > moment:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
    code = os.waitstatus_to_exitcode(ended[1])
    assert code in (0, 9, -signal.SIGKILL), "a run failed"
    return code == 0


def kills(model: Path, photos: Path, root: Path) -> dict[str, Any]:
    from fergeneral import ExpressionExtractor
    from fergeneral.hub import load_folder

    extractor = ExpressionExtractor(load_folder(model, "cpu"), CountedFaces())
    job(extractor, photos, root / "unkilled-first")  # what is done only once in a process takes longer than a job
    moments = random.Random(0)
    seconds = 60.0  # that a whole run takes: the least seen
    shards_there: list[int] = []  # at each kill
    jobs = killed = 0
    while jobs < KILLED_JOBS:
        output = root / f"killed-{jobs}"
        start = time.perf_counter()
        pid = _child(lambda output=output: job(extractor, photos, output, resume=True))
        # Later runs get longer, so that also on a machine that has become slow one of them comes to its end.
        ended_well = _ended_well(pid, moments.uniform(0, seconds) * (1 + killed / 5))
        if not ended_well:
            killed += 1
            shards_there.append(len(list(output.glob("files/part-*.parquet"))))
        elif killed:
            jobs, killed = jobs + 1, 0
        else:  # it was done before the moment came: not a trial, but a measure
            seconds = min(seconds, time.perf_counter() - start)
            output.rename(root / f"unkilled-{len(os.listdir(root))}")
    return {"seconds": seconds, "shards_there": shards_there}


def _end_at(place: int) -> None:
    """Have this process end at the given place: 2n is before, 2n + 1 after the n-th step in the file system."""
    places = iter(range(place + 1))

    def ending(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            _count_down(places)
            try:
                return step(*arguments, **options)
            finally:
                _count_down(places)

        return call

    for name in ("mkdir", "replace", "unlink", "fsync"):
        setattr(os, name, ending(getattr(os, name)))


def _count_down(places: Iterator[int]) -> None:
    if next(places, None) is None:
        os._exit(9)


def crashes(photos: Path, root: Path) -> dict[str, Any]:
    def run(output: Path, place: int) -> bool:
        def work() -> None:
            _end_at(place)
            job(PlainExtractor(), photos, output, resume=True)

        return _ended_well(_child(work))

    job(PlainExtractor(), photos, root / "unkilled-first")
    never = 10**6
    assert run(root / "unkilled", never)
    for place in range(never):
        output = root / f"ended-{place}"
        if run(output, place):
            break
        run(output, 7 * place % 40)  # the next one, too, somewhere; it may have come to its end before
        assert run(output, never)
    return {"places": place}


def retries(photos: Path, root: Path) -> dict[str, Any]:
    def run(output: Path, place: int) -> bool:
        def work() -> None:
            _end_at(place)
            job(PlainExtractor(), photos, output, resume=True, retry_errors=True)

        return _ended_well(_child(work))

    job(PlainExtractor(), photos, root / "before")
    good = next(path for path in sorted(photos.iterdir()) if path.stat().st_size > 8)
    for path in photos.iterdir():
        if path.stat().st_size == 8:  # as draw_photos breaks them
            shutil.copy(good, path)
    never = 10**6
    for place in range(never):
        output = root / f"ended-{place}"
        shutil.copytree(root / "before", output)
        ended_well = run(output, place)
        paths = [path for _, paths, _ in _shards(output) for path in paths]  # raises if faces and files do not agree
        assert len(set(paths)) == len(paths)
        assert run(output, never)
        if ended_well:
            return {"places": place}
    raise AssertionError


if __name__ == "__main__":
    os.fsync = lambda _: None  # what a killed process wrote is not lost, synced or not: this saves half the time
    mode, *folders = sys.argv[1:]
    print(json.dumps({"kills": kills, "crashes": crashes, "retries": retries}[mode](*map(Path, folders))))
