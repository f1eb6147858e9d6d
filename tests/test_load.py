"""Many threads, other processes, Ctrl-C and long runs."""

from __future__ import annotations

import asyncio
import copy
import ctypes
import gc
import http.client
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_threads import CornerDetector, photo

from fergeneral import Detection, ExpressionExtractor, Face, ImageError, extract, threads
from fergeneral.detection import MTCNNDetector
from fergeneral.encoder import Encoder
from fergeneral.storage import read_table
from fergeneral.yunet import YuNetDetector

PROGRAMS = Path(__file__).parent / "load_runs.py"
PATIENCE = 240  # seconds until a program counts as hung; it takes some
CLI = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from fergeneral.cli import main"


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit status, stdout and stderr. One that hangs is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"hung: {process.communicate()}")
    return process.returncode, out, err


@pytest.fixture(scope="module")
def encoder(random_folder: Path) -> Encoder:
    return ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder


@pytest.fixture
def pipeline(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExpressionExtractor]:
    """An extractor of cheap photos with three workers; none of them outlives the test."""
    monkeypatch.setattr("fergeneral.extractor.worker_count", lambda: 3)
    before = set(threading.enumerate())
    yield ExpressionExtractor(encoder, CornerDetector())
    deadline = time.monotonic() + 30
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def same(found: list[Face], expected: list[Face]) -> bool:
    return len(found) == len(expected) and all(
        (a.box == b.box).all() and (a.landmarks == b.landmarks).all() and abs(a.embedding - b.embedding).max() < 1e-5
        for a, b in zip(found, expected, strict=True)
    )


def mixed_photos(photos: Path) -> list[Any]:
    """Good and broken ones."""
    image = Image.open(photos / "three_faces.jpg").convert("RGB")
    data = (photos / "three_faces.jpg").read_bytes()
    good = [image.resize((side, side // 2)) for side in (60, 97, 301, 400)] + [photo(i, faces=i % 4) for i in range(8)]
    return [*good, data[: len(data) // 3], b"", b"GIF89a", photos / "no.jpg", np.zeros((4, 4)), None]


@pytest.mark.parametrize("detector", ["corners", "mtcnn", "yunet"])
def test_eight_threads_get_what_one_gets(
    detector: str, encoder: Encoder, photos: Path, request: pytest.FixtureRequest
) -> None:
    made: dict[str, Callable[[], Any]] = {"corners": CornerDetector, "mtcnn": MTCNNDetector}
    made["yunet"] = lambda: YuNetDetector(request.getfixturevalue("yunet_model"))
    extractor = ExpressionExtractor(encoder, made[detector]())
    images = mixed_photos(photos)

    def one(image: Any) -> list[Face] | str:
        try:
            return extractor.extract(image)
        except ImageError as error:
            return str(error)

    def job(seed: int) -> list[tuple[int, list[Face] | str]]:
        order = np.random.default_rng(seed).permutation(len(images)).tolist()
        if seed % 2:
            return [(place, one(images[place])) for place in order]
        errors: dict[int, ImageError] = {}
        found = extractor.extract_many(
            (images[place] for place in order), batch_size=1 + seed, on_error=errors.__setitem__
        )
        results = [str(errors[at]) if at in errors else faces for at, faces in enumerate(found)]
        return list(zip(order, results, strict=True))

    expected = [one(image) for image in images]
    assert sum(isinstance(result, str) for result in expected) == 6
    assert sum(len(result) for result in expected if not isinstance(result, str)) > 2
    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(job, range(16)):
            for place, result in results:
                right = expected[place]
                assert result == right if isinstance(right, str) else same(result, right)  # type: ignore[arg-type]


def test_torch_keeps_its_count_of_threads_however_many_pools_begin(pipeline: ExpressionExtractor) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        counts: list[int] = []

        def job() -> None:  # in threads that are new to torch
            list(pipeline.extract_many([photo(1)] * 3))
            counts.append(torch.get_num_threads())

        for _ in range(5):
            started = [threading.Thread(target=job) for _ in range(8)]
            for thread in started:
                thread.start()
            for thread in started:
                thread.join()
        assert set(counts) == {3}
    finally:
        torch.set_num_threads(before)


def test_a_pool_that_cannot_begin_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before, count = threading.active_count(), torch.get_num_threads()
    submit, calls = ThreadPoolExecutor.submit, iter(range(9))

    def failing(pool: ThreadPoolExecutor, *arguments: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("can't start new thread")
        return submit(pool, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", failing)
    with pytest.raises(RuntimeError, match="can't start"), threads.worker_pool(4) as pool:
        list(pool.map(int, range(4)))
    assert (threading.active_count(), torch.get_num_threads()) == (before, count)


def test_results_that_are_left(pipeline: ExpressionExtractor) -> None:
    """Given up, closed by another thread, or left by an error where they are used: the fixture counts threads."""
    results = pipeline.extract_many(map(photo, range(200)), batch_size=2)
    next(results)
    del results
    gc.collect()

    results = pipeline.extract_many(map(photo, range(200)), batch_size=2)
    next(results)
    thread = threading.Thread(target=results.close)  # type: ignore[attr-defined]
    thread.start()
    thread.join()
    assert list(results) == []

    def use() -> None:
        for _ in pipeline.extract_many(map(photo, range(200)), batch_size=2):
            raise KeyError("the user's")

    with pytest.raises(KeyError, match="the user's"):
        use()
    assert pipeline.detector.seen < 60  # type: ignore[union-attr]


def test_a_worker_may_collect_the_results_it_works_for(encoder: Encoder, pipeline: ExpressionExtractor) -> None:
    left, collected = threading.Event(), threading.Event()

    class Collecting(CornerDetector):
        def detect(self, image: Image.Image) -> list[Detection]:
            if np.asarray(image)[2, 0, 0] == 5:
                assert left.wait(30)
                gc.collect()
                collected.set()
            return super().detect(image)

    class Holder:
        pass

    holder: Any = Holder()
    holder.itself = holder  # only the garbage collector ends this
    gc.disable()
    try:
        detector = Collecting()
        holder.results = ExpressionExtractor(encoder, detector).extract_many(map(photo, range(99)), batch_size=1)
        next(holder.results)
        del holder
        left.set()
        assert collected.wait(30)
    finally:
        gc.enable()
    assert detector.seen < 40


def test_calls_inside_calls(pipeline: ExpressionExtractor) -> None:
    images = [photo(20 * i, faces=1 + i % 2) for i in range(9)]
    expected = [pipeline.extract(image) for image in images]

    def taken() -> Iterator[np.ndarray]:
        for image, right in zip(images, expected, strict=True):
            assert same(pipeline.extract(image), right)
            yield image

    for number, faces in enumerate(pipeline.extract_many(taken(), batch_size=2)):
        assert same(faces, expected[number])
        assert same(pipeline.extract(images[number]), expected[number])
        assert same(next(pipeline.extract_many(images[number:], batch_size=2)), expected[number])
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: list(pipeline.extract_many(images, batch_size=4)), range(6)):
            assert all(same(faces, right) for faces, right in zip(found, expected, strict=True))


def test_asyncio(photos: Path) -> None:
    async def several() -> list[list[Face]]:
        return await asyncio.gather(*(asyncio.to_thread(extract, photos / "astronaut.png") for _ in range(3)))

    expected = extract(photos / "astronaut.png")
    for faces in asyncio.run(several()):
        assert same(faces, expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_gives_the_same(copied: Callable[[Any], Any], encoder: Encoder, photos: Path, yunet_model: Path) -> None:
    for detector in (MTCNNDetector(min_face_size=60), YuNetDetector(yunet_model)):
        extractor = ExpressionExtractor(encoder, detector)
        again = copied(copied(extractor))
        assert again.detector.min_face_size == detector.min_face_size
        assert again.config == extractor.config
        assert same(again.extract(photos / "three_faces.jpg"), extractor.extract(photos / "three_faces.jpg"))
        for name, tensor in encoder.state_dict().items():
            assert tensor.equal(again.encoder.state_dict()[name])


def test_a_copy_of_int8_weights_gives_the_same(photos: Path) -> None:
    extractor = ExpressionExtractor.from_pretrained("general-r18-cycle-int8")
    again = pickle.loads(pickle.dumps(extractor))
    assert same(again.extract(photos / "astronaut.png"), extractor.extract(photos / "astronaut.png"))


@pytest.mark.parametrize("program", ["fork", "spawn", "forkserver", "loky", "leave"])
def test_other_processes(program: str, random_folder: Path, photos: Path) -> None:
    process = start([str(PROGRAMS), program, str(random_folder), str(photos / "astronaut.png")])
    status, out, err = finish(process)
    assert (status, out) == (0, ""), err
    assert "Exception ignored" not in err


SERVER = """
import pathlib
from fergeneral.extractor import shared_extractor

extractor = shared_extractor({folder!r}, "cpu")
extractor.extract({photo!r})  # before the workers are forked

def app(environ, start_response):
    (face,) = extractor.extract({photo!r})
    (many,) = extractor.extract_many([{photo!r}])
    assert abs(many[0].embedding - face.embedding).max() < 1e-5
    start_response("200 OK", [])
    return [face.embedding.tobytes()]
"""


def test_gunicorn_with_preload(random_folder: Path, photos: Path, tmp_path: Path) -> None:
    photo = str(photos / "astronaut.png")
    (tmp_path / "server.py").write_text(SERVER.format(folder=str(random_folder), photo=photo))
    path = tmp_path / "socket"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"unix:{path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    server = subprocess.Popen(
        [*command, "--chdir", str(tmp_path), "--pythonpath", str(ROOT), "server:app"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not path.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        expected = ExpressionExtractor.from_pretrained(random_folder, device="cpu").extract(photo)[0].embedding
        for _ in range(4):
            connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
            connection.sock = unix_socket(path)
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.status == 200
            assert abs(np.frombuffer(answer.read(), np.float32) - expected).max() < 1e-4
            connection.close()
    finally:
        server.terminate()
        assert server.wait(PATIENCE) == 0


def unix_socket(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(str(path))
    return connection


def test_ctrl_c_ends_extract_many_and_what_was_given_is_kept(random_folder: Path, photos: Path) -> None:
    process = start([str(PROGRAMS), "interrupted", str(random_folder), str(photos / "astronaut.png")])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (0, "")
    assert int(out.removeprefix("kept ")) >= 3


def test_ctrl_c_keeps_the_rows_of_a_table(random_folder: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3000):
        (tmp_path / "in" / f"{number:04}.jpg").symlink_to(photos / "three_faces.jpg")
    table, crops = tmp_path / "faces.parquet", tmp_path / "crops"
    table.write_text("of an earlier run")
    command = ["extract", str(tmp_path / "in"), "--device", "cpu", "--model", str(random_folder), "-o", str(table)]
    process = start(
        ["-c", f"{CLI}; sys.exit(main())", *command, "--save-crops", str(crops), "--batch-size", "2", "--overwrite"]
    )
    while not (crops / "0003_0.png").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130, err
    partial = tmp_path / "faces.partial.parquet"
    rows = read_table(partial)
    done = len(rows["path"]) // 3
    assert 3 <= done < 3000
    names = [str(tmp_path / "in" / f"{number:04}.jpg") for number in range(done)]
    assert rows["path"].tolist() == [name for name in names for _ in range(3)]
    assert rows["face"].tolist() == [0, 1, 2] * done
    last = f"interrupted; the faces found so far, up to those in {names[-1]}, are in {partial}"
    assert err.splitlines()[-1] == last
    assert table.read_text() == "of an earlier run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops", "faces.parquet", "faces.partial.parquet", "in"]


class HeapInfo(ctypes.Structure):
    """glibc's struct mallinfo2: ten sizes, of which the fifth is what mmap gave, the eighth what is in use."""

    _fields_ = (("sizes", ctypes.c_size_t * 10),)


def native_megabytes() -> float:
    """What is in use of the C heap, in all arenas: unlike the memory of the process, it tells a leak from holes."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = HeapInfo
    sizes = mallinfo2().sizes
    return (sizes[4] + sizes[7]) / 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc")
def test_memory_is_flat_over_photos_of_all_sizes_and_batches(encoder: Encoder, photos: Path) -> None:
    """A photo has 80 kB, an embedding 2: one photo kept in six would be seen, or all crops."""
    extractor = ExpressionExtractor(encoder, MTCNNDetector())
    image = Image.open(photos / "three_faces.jpg").convert("RGB")

    def sizes() -> Iterator[Image.Image]:
        for number in range(30):
            yield image.resize((100 + 4 * number, 120 + number))

    def once() -> None:
        for picture in sizes():
            extractor.extract(picture)
        for _ in extractor.extract_many([*sizes(), *repeat(b"broken", 20)], on_error=lambda *_: None):
            pass
        for size in range(1, 65, 9):
            extractor.encode(np.zeros((size, 64, 64, 3), dtype=np.uint8))

    once()
    tracemalloc.start()
    try:
        once()
        before, (python, _) = native_megabytes(), tracemalloc.get_traced_memory()
        for _ in range(3):
            once()
        assert native_megabytes() - before < 4
        assert tracemalloc.get_traced_memory()[0] - python < 2**18
    finally:
        tracemalloc.stop()
