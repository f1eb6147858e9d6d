"""Programs that test_load.py runs as processes of their own: python load_runs.py PROGRAM FOLDER PHOTO.

FOLDER holds an encoder, PHOTO has a face. A program that ends with 0 has found what it should.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import repeat
from typing import Any

import pytest
import torch
from PIL import Image

from fergeneral import ExpressionExtractor, Face
from fergeneral.extractor import shared_extractor

TIMEOUT = 60  # seconds; a child that hangs is an error, not a wait


def check(found: list[Face], expected: list[Face]) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert abs(a.box - b.box).max() < 1e-3
        assert abs(a.embedding - b.embedding).max() < 1e-4


def load_and_extract(folder: str, photo: str) -> list[Face]:
    return shared_extractor(folder, "cpu").extract(photo)


def extract_twice(extractor: ExpressionExtractor, photo: str) -> list[Face]:
    (many,) = extractor.extract_many([photo])
    check(many, extractor.extract(photo))
    return many


def in_child(method: str, job: Callable[..., list[Face]], *arguments: Any) -> list[Face]:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        return pool.submit(job, *arguments).result(TIMEOUT)


def forked(job: Callable[[], object]) -> None:
    """Run `job` in a child made by os.fork, which leaves as any process does."""
    child = os.fork()
    if child == 0:
        threading.Timer(TIMEOUT, os._exit, (9,)).start()
        job()
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def fork(folder: str, photo: str) -> None:
    """After the import, and after the extractor was used, on one and on two threads of torch's; by a DataLoader; and
    with results half gone through, which the child cannot go on with."""
    torch.set_num_threads(2)
    early = in_child("fork", load_and_extract, folder, photo)
    extractor = shared_extractor(folder, "cpu")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        expected = extract_twice(extractor, photo)
        check(early, expected)
        forked(lambda expected=expected: check(extract_twice(extractor, photo), expected))
        check(in_child("fork", load_and_extract, folder, photo), expected)
    data_loader(extractor, photo, expected[0].score)
    results = extractor.extract_many(repeat(photo), batch_size=1)
    check(next(results), expected)
    forked(lambda: refused(results))
    check(next(results), expected)  # the parent's go on
    results.close()  # type: ignore[attr-defined]


def refused(results: Iterator[list[Face]]) -> None:
    with pytest.raises(RuntimeError, match="begin anew"):
        next(results)


class Photos(torch.utils.data.Dataset[float]):
    """Gives the score of the photo's face."""

    def __init__(self, extractor: ExpressionExtractor, photo: str) -> None:
        self.extractor, self.photo = extractor, photo

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        return self.extractor.extract(self.photo)[0].score


def data_loader(extractor: ExpressionExtractor, photo: str, expected: float) -> None:
    context = multiprocessing.get_context("fork")
    loader = torch.utils.data.DataLoader(Photos(extractor, photo), 2, num_workers=2, multiprocessing_context=context)
    for _ in range(2):  # a loop starts its workers anew
        assert abs(torch.cat(list(loader)) - expected).max() < 1e-5


def spawn(folder: str, photo: str, method: str = "spawn") -> None:
    """With an extractor made in the child, and with one that is handed over."""
    extractor = shared_extractor(folder, "cpu")
    expected = extractor.extract(photo)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        check(pool.submit(load_and_extract, folder, photo).result(TIMEOUT), expected)
        check(pool.submit(extract_twice, extractor, photo).result(TIMEOUT), expected)
        check(pool.submit(extractor.extract, photo).result(TIMEOUT), expected)


def forkserver(folder: str, photo: str) -> None:
    spawn(folder, photo, "forkserver")


def loky(folder: str, photo: str) -> None:
    """scikit-learn's features in the workers of joblib."""
    from joblib import Parallel, delayed

    from fergeneral import ExpressionFeatures
    from fergeneral.detection import MTCNNDetector

    features = ExpressionFeatures(model=folder, device="cpu", detector=MTCNNDetector(min_face_size=60))
    expected = features.transform([photo])
    for rows in Parallel(n_jobs=2, timeout=TIMEOUT)(delayed(features.transform)([photo]) for _ in range(4)):
        assert abs(rows - expected).max() < 1e-4


def leave(folder: str, photo: str) -> None:
    """With threads at work, and with results half gone through."""
    extractor = ExpressionExtractor.from_pretrained(folder, device="cpu")
    working = threading.Semaphore(0)

    def work() -> None:
        with suppress(RuntimeError):  # "cannot schedule new futures after interpreter shutdown"
            for _ in extractor.extract_many(repeat(photo), batch_size=2):
                working.release()

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    results = extractor.extract_many(repeat(photo), batch_size=2)
    next(results)
    for _ in range(3):
        working.acquire()
    globals()["kept"] = results


def interrupted(folder: str, photo: str) -> None:
    """Says "ready" when it may be sent SIGINT, and how many results came before it."""
    import signal

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored in the background
    extractor = ExpressionExtractor.from_pretrained(folder, device="cpu")
    before, kept = threading.active_count(), []

    def photos() -> Iterator[Image.Image]:
        image = Image.open(photo).convert("RGB")
        yield from repeat(image.resize((1920, 1920)))

    try:
        for faces in extractor.extract_many(photos(), batch_size=2):
            kept.append(faces)
            if len(kept) == 3:
                print("ready", flush=True)
    except KeyboardInterrupt:
        results = [faces for faces in kept if len(faces) == 1]
        assert len(results) == len(kept) >= 3
    assert threading.active_count() == before
    print("kept", len(kept))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
