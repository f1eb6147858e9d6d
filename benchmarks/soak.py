"""Whether threads that share an extractor get what one thread gets, for as long as you like, in the same memory.

    python benchmarks/soak.py [--threads 8] [--minutes 10] [--yunet face_detection_yunet_2023mar.onnx]

Each thread goes on choosing a detector, `extract` or `extract_many`, and photos: good ones of several sizes and forms,
and broken ones. Each result is compared with what one thread gave before: errors, boxes and landmarks must be the same,
embeddings within 1e-5, for another number of crops at once may be summed in another order. So may the layers of MTCNN
on another number of torch's threads (`extract` uses torch.get_num_threads(), `extract_many` one in each worker), which
moves a corner by 1e-5 pixels: there is one such result for either.

Prints JSON: what was done and what differed, and memory after each tenth of the time, when the threads have ended: what
is in use of the C heap, which may not go on growing, and what the process holds (RSS), which does for a while: photos
of all sizes leave holes in the heaps of the threads, and the C library keeps them. The exit status is 1 if a result
differed or a thread did not end. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import sys
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from memory import resident_megabytes
from PIL import Image
from scenes import PHOTOS

from fergeneral import ExpressionExtractor, Face, ImageError
from fergeneral.yunet import YuNetDetector

SIDES = (64, 150, 301, 512, 777, 1200)  # pixels, the longer side of the good photos
TOLERANCE = 1e-5
Result = list[Face] | str  # an error's message


def encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def good_photos() -> list[Any]:
    photos: list[Any] = sorted(PHOTOS.iterdir())
    for number, path in enumerate(photos[:]):
        image = Image.open(path).convert("RGB")
        for side in SIDES:
            size = tuple(max(1, round(length * side / max(image.size))) for length in image.size)
            small = image.resize(size, Image.Resampling.LANCZOS)
            photos.append((encoded(small, "JPEG"), np.asarray(small), small)[(number + side) % 3])
    return photos


def bad_photos() -> list[Any]:
    whole = encoded(Image.open(PHOTOS / "astronaut.png").convert("RGB"), "JPEG")
    cut = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    floats = np.zeros((9, 9, 3), dtype=np.float32)
    return [*cut, whole[::-1], b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(99), "/no/such/photo.jpg", PHOTOS, floats, None]


class Soak:
    """The photos, what one thread makes of them, and what the threads have done so far."""

    def __init__(self, extractors: dict[str, ExpressionExtractor], photos: list[Any]) -> None:
        self.extractors, self.photos = extractors, photos
        self.done: Counter[str] = Counter()
        self.differences: list[str] = []
        self.largest = 0.0
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, bool], list[Result]] = {}
        count = torch.get_num_threads()
        for name, extractor in extractors.items():
            for many, threads in ((False, count), (True, 1)):
                torch.set_num_threads(threads)
                self._expected[name, many] = [one(extractor, photo) for photo in photos]
        torch.set_num_threads(count)

    def work(self, seed: int, end: float) -> None:
        """What one thread does until `end`, a time.monotonic()."""
        generator = np.random.default_rng(seed)
        names = list(self.extractors)
        while time.monotonic() < end:
            name = names[generator.integers(len(names))]
            many = bool(generator.integers(2))
            places = generator.integers(0, len(self.photos), generator.integers(1, 20)).tolist()
            try:
                found = self._extract(name, places, many, int(generator.integers(1, 40)))
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"] * len(places)
            for place, result in zip(places, found, strict=True):
                self._compare(name, many, place, result)

    def _extract(self, name: str, places: list[int], many: bool, batch_size: int) -> list[Result]:
        extractor, photos = self.extractors[name], [self.photos[place] for place in places]
        if not many:
            return [one(extractor, photo) for photo in photos]
        errors: dict[int, ImageError] = {}
        found = list(extractor.extract_many(photos, batch_size=batch_size, on_error=errors.__setitem__))
        return [str(errors[number]) if number in errors else faces for number, faces in enumerate(found)]

    def _compare(self, name: str, many: bool, place: int, result: Result) -> None:
        call = f"{name} {'extract_many' if many else 'extract'}"
        difference = differing(result, self._expected[name, many][place])
        with self._lock:
            self.done[call] += 1
            self.done["bad photos" if isinstance(result, str) else "good photos"] += 1
            self.done["faces"] += 0 if isinstance(result, str) else len(result)
            self.largest = max(self.largest, difference)
            if difference > TOLERANCE:
                self.differences.append(f"{call}, photo {place}: {difference}")


def one(extractor: ExpressionExtractor, photo: Any) -> Result:
    try:
        return extractor.extract(photo)
    except ImageError as error:
        return str(error)


def differing(result: Result, expected: Result) -> float:
    """The largest difference of the embeddings; infinite if anything else is not the same."""
    if isinstance(result, str) or isinstance(expected, str):
        return 0.0 if result == expected else np.inf
    if len(result) != len(expected):
        return np.inf
    pairs = list(zip(result, expected, strict=True))
    for a, b in pairs:
        if not (np.array_equal(a.box, b.box) and np.array_equal(a.landmarks, b.landmarks) and a.score == b.score):
            return np.inf
    return max((float(abs(a.embedding - b.embedding).max()) for a, b in pairs), default=0.0)


class HeapInfo(ctypes.Structure):
    """glibc's struct mallinfo2, of all arenas: ten sizes, of which the fifth is what mmap gave, the eighth in use."""

    _fields_ = (("sizes", ctypes.c_size_t * 10),)


libc = ctypes.CDLL(None)
libc.mallinfo2.restype = HeapInfo


def megabytes() -> tuple[float, float]:
    """In use, and resident."""
    gc.collect()
    sizes = libc.mallinfo2().sizes
    return (sizes[4] + sizes[7]) / 2**20, resident_megabytes()


def run(soak: Soak, count: int, seconds: float, seed: int) -> bool:
    """Have threads at work for a while; whether all ended within a minute after it."""
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=soak.work, args=(seed + i, end), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end + 60 - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def new_threads_count() -> int:
    """How many threads torch uses for a thread that begins now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--yunet", metavar="FILE", help="YuNet's file, to have that detector used, too")
    parser.add_argument("--model", metavar="NAME", help="packaged name or folder (default: packaged)")
    options = parser.parse_args()
    default = ExpressionExtractor.from_pretrained(options.model, device="cpu")
    extractors = {"mtcnn": default}
    if options.yunet:
        extractors["yunet"] = ExpressionExtractor(default.encoder, YuNetDetector(options.yunet))
    soak = Soak(extractors, good_photos() + bad_photos())
    count, memory, ended = torch.get_num_threads(), [megabytes()], True
    for tenth in range(10):
        ended = ended and run(soak, options.threads, 6 * options.minutes, tenth * options.threads)
        memory.append(megabytes())
    report = {
        "threads": options.threads,
        "minutes": options.minutes,
        "photos": dict(soak.done),
        "largest difference of embeddings": soak.largest,
        "differing results": len(soak.differences),
        "the first of them": soak.differences[:5],
        "all threads ended": ended,
        "torch threads": [count, new_threads_count()],
        "MB in use, before and after each tenth": [round(used) for used, _ in memory],
        "MB resident": [round(resident) for _, resident in memory],
    }
    print(json.dumps(report, indent=2))
    return 0 if ended and not soak.differences else 1


if __name__ == "__main__":
    sys.exit(main())
