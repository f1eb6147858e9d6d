"""Cores that may be used, calls that run ahead, and `extract_many` as a pipeline of them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fergeneral import Detection, ExpressionExtractor, ImageError, threads
from fergeneral.alignment import TEMPLATE

SIDE = 16


class CornerDetector:
    """Each pixel of value 255 in the first row is a face; slow photos (green) give way to those after them.

    Counts how many photos it looks at in all and at one time.
    """

    def __init__(self) -> None:
        self.seen = self.now = self.most = 0
        self._lock = threading.Lock()

    def detect(self, image: Image.Image) -> list[Detection]:
        with self._lock:
            self.seen += 1
            self.now += 1
            self.most = max(self.most, self.now)
        pixels = np.asarray(image)
        if pixels[1, 0, 1] == 255:
            threading.Event().wait(0.02)
        with self._lock:
            self.now -= 1
        points = np.array(TEMPLATE, dtype=np.float32) * SIDE
        box = np.array([0, 0, SIDE, SIDE], dtype=np.float32)
        return [Detection(box, points, 0.5) for _ in range(int((pixels[0, :, 0] == 255).sum()))]


def photo(number: int, faces: int = 1, slow: bool = False) -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), number, dtype=np.uint8)
    pixels[0] = 0
    pixels[0, :faces, 0] = 255
    pixels[1, 0, 1] = 255 if slow else 0
    return pixels


@pytest.fixture
def pipeline(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExpressionExtractor]:
    """An extractor of cheap photos with three workers, however many cores this machine has."""
    monkeypatch.setattr("fergeneral.extractor.worker_count", lambda: 3)
    before = threading.active_count()
    yield ExpressionExtractor(
        ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder, CornerDetector()
    )
    assert threading.active_count() == before  # no thread outlives its call


def test_neither_threads_nor_batches_nor_their_order_change_a_result(pipeline: ExpressionExtractor) -> None:
    photos = [photo(10 * i, faces=i % 4, slow=i % 3 == 0) for i in range(20)]
    expected = [pipeline.extract(image) for image in photos]
    for batch_size in (1, 3, 7, 64):
        found = list(pipeline.extract_many(photos, batch_size=batch_size))
        assert [len(faces) for faces in found] == [i % 4 for i in range(20)]
        for faces, alone in zip(found, expected, strict=True):
            for face, other in zip(faces, alone, strict=True):
                assert abs(face.embedding - other.embedding).max() < 1e-5
    differing = {tuple(faces[0].embedding[:4].tolist()) for faces in expected if faces}
    assert len(differing) == 15  # an order that is mixed up would be seen


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_held_back_is_bounded(pipeline: ExpressionExtractor, batch_size: int) -> None:
    asked = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal asked
        for asked in range(1, 61):
            yield photo(asked)

    results = pipeline.extract_many(images(), batch_size=batch_size)
    assert asked == 0
    for given, _ in enumerate(results):
        assert asked - given <= 3 * batch_size + 3 * 3 + 1
    assert (given, asked) == (59, 60)
    detector = pipeline.detector
    assert isinstance(detector, CornerDetector)
    assert 1 <= detector.most <= 3  # photos decoded at one time
    assert detector.seen == 60


def test_leaving_early_drops_what_has_not_begun(pipeline: ExpressionExtractor) -> None:
    detector = pipeline.detector
    assert isinstance(detector, CornerDetector)
    results = pipeline.extract_many((photo(i) for i in range(200)), batch_size=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert detector.seen <= 2 * 2 + 3 * 3 + 1
    assert detector.now == 0
    never_begun = pipeline.extract_many(photo(i) for i in range(200))
    never_begun.close()  # type: ignore[attr-defined]


def test_errors_come_in_the_order_of_the_photos(pipeline: ExpressionExtractor) -> None:
    photos = [photo(1, slow=True), b"broken", photo(2), b"", photo(3, slow=True), b"broken"]
    errors: list[tuple[int, str]] = []
    found = pipeline.extract_many(photos, batch_size=2, on_error=lambda at, error: errors.append((at, str(error))))
    assert [len(faces) for faces in found] == [1, 0, 1, 0, 1, 0]
    assert [at for at, _ in errors] == [1, 3, 5]
    assert "empty" in errors[1][1]

    results = pipeline.extract_many(photos, batch_size=32)
    assert len(next(results)) == 1
    with pytest.raises(ImageError, match=r"^image 1: "):
        next(results)


def test_the_callers_own_errors_pass_through_after_what_came_before(pipeline: ExpressionExtractor) -> None:
    def images() -> Iterator[np.ndarray]:
        yield from (photo(i) for i in range(5))
        raise KeyError("the caller's")

    found = []
    with pytest.raises(KeyError, match="the caller's"):
        found.extend(pipeline.extract_many(images(), batch_size=2))
    assert len(found) == 5  # list.extend keeps what came before the error

    class Failing:
        def detect(self, image: Image.Image) -> list[Detection]:
            raise RuntimeError("the detector's")

    with pytest.raises(RuntimeError, match="the detector's"):
        list(ExpressionExtractor(pipeline.encoder, Failing()).extract_many([photo(1)]))

    def refuse(position: int, error: ImageError) -> None:
        raise error

    with pytest.raises(ImageError, match="empty"):
        list(pipeline.extract_many([photo(1), b""], on_error=refuse))


def test_photos_are_taken_and_errors_told_in_the_callers_thread(pipeline: ExpressionExtractor) -> None:
    where: set[int] = set()

    def images() -> Iterator[bytes]:
        for _ in range(5):
            where.add(threading.get_ident())
            yield b""

    list(pipeline.extract_many(images(), on_error=lambda *_: where.add(threading.get_ident())))
    assert where == {threading.get_ident()}


def in_another_thread(function: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_workers_use_one_torch_thread_each_and_the_caller_keeps_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threads.worker_pool(2) as pool:
            assert [pool.submit(torch.get_num_threads).result() for _ in range(4)] == [1, 1, 1, 1]
            assert torch.get_num_threads() == 3
            assert in_another_thread(torch.get_num_threads) == 3
        assert in_another_thread(torch.get_num_threads) == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_torch_is_held_to_the_cores_there_are_and_let_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for cores, expected in ((2, 2), (4, 4), (64, 4)):
            monkeypatch.setattr(threads, "available_cores", lambda cores=cores: cores)
            assert threads.worker_count() == expected
            with threads.thread_limit():
                assert torch.get_num_threads() == expected
                assert in_another_thread(torch.get_num_threads) == 4
            assert torch.get_num_threads() == 4
            with threads.thread_limit(1):
                assert torch.get_num_threads() == 1
            with threads.thread_limit(9):
                assert torch.get_num_threads() == 4
        torch.set_num_threads(64)
        assert threads.worker_count() == threads.MAX_WORKERS
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": "0::/\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (  # a group and its parent: the parent is tighter
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        (  # version 1, seen from inside a container: the path is the host's, the files are at the mount's top
            {
                "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
    ],
)
def test_the_quota_of_control_groups(files: dict[str, str], quota: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.cpu_quota(tmp_path) == quota


def test_available_cores_follow_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "process_cpu_count" if hasattr(os, "process_cpu_count") else "sched_getaffinity"
    value = (lambda *_: 16) if name == "process_cpu_count" else (lambda *_: set(range(16)))
    monkeypatch.setattr(os, name, value, raising=False)
    for quota, cores in ((math.inf, 16), (0.2, 1), (1.5, 2), (3.0, 3), (64.0, 16)):
        monkeypatch.setattr(threads, "cpu_quota", lambda quota=quota: quota)
        assert threads.available_cores() == cores
