"""Whether memory stays flat over any number of photos.

    python benchmarks/memory.py [--photos 100000] [--side 128]

Runs `extract_many` over that many small made-up JPEG files, each with one face and none like another, with sides of 3/4
to 3/2 of that many pixels, and reports the memory of the process (RSS) over the first and the last tenth of them, and
its peak. Linux only.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scenes import astronaut

from fergeneral import ExpressionExtractor


def photos(count: int, side: int) -> Iterator[bytes]:
    generator = np.random.default_rng(0)
    head = astronaut()
    for _ in range(count):
        size = tuple(generator.integers(side * 3 // 4, side * 3 // 2, 2).tolist())
        pixels = Image.new("RGB", size, tuple(generator.integers(0, 256, 3).tolist()))
        height = int(min(size) * generator.uniform(0.6, 0.9))
        portrait = head.resize((height * head.width // head.height, height), Image.Resampling.BILINEAR)
        left, top = (int(generator.integers(0, a - b + 1)) for a, b in zip(size, portrait.size, strict=True))
        pixels.paste(portrait, (left, top))
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG")
        yield buffer.getvalue()


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args()
    extractor = ExpressionExtractor.from_pretrained(device="cpu")
    tenth = max(1, options.photos // 10)
    first = last = 0.0
    faces = 0
    start = time.perf_counter()
    for number, found in enumerate(extractor.extract_many(photos(options.photos, options.side)), start=1):
        faces += len(found)
        if number <= tenth:
            first = max(first, resident_megabytes())
        elif number > options.photos - tenth:
            last = max(last, resident_megabytes())
        if number % tenth == 0:
            print(f"{number:>8} photos, {faces} faces: {resident_megabytes():.0f} MB", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - start
    print(
        f"first tenth: at most {first:.0f} MB; last tenth: at most {last:.0f} MB ({last - first:+.0f}); peak {peak:.0f}"
    )
    print(f"{options.photos / seconds:.0f} photos/s of wall-clock time")


if __name__ == "__main__":
    main()
