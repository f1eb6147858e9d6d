"""Fuzzing `load_image` for as long as one likes: whatever the bytes, it gives an RGB image or raises ImageError.

    python tests/fuzz_images.py [--cases 1000000] [--seconds 900] [--seed 0]
    python tests/fuzz_images.py --only NUMBER [--seed 0]        # one case again
    python tests/fuzz_images.py --atheris FOLDER [--seconds 900] # guided by coverage; needs the package atheris

The first mutates the files of tests/corpus.py at random and says how many cases there were, how long the slowest took,
and the peak of memory. Case NUMBER of a seed is always the same. With atheris (libFuzzer) FOLDER gets the seeds and
what is found to reach new code. Either stops at the first other exception, warning or crash; the plain loop also where
2000 cases take more than ten minutes.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import random
import resource
import sys
import time
import warnings
from pathlib import Path

from corpus import mutated, seeds
from PIL import Image

from fergeneral import ImageError, load_image


def read(data: bytes) -> bool:
    """Whether it is an image."""
    try:
        image = load_image(data)
    except ImageError as error:
        message = str(error)
    else:
        assert isinstance(image, Image.Image)
        assert image.mode == "RGB"
        assert len(image.tobytes()) == 3 * image.width * image.height
        return True
    assert message.isprintable(), message
    return False


def loop(cases: int, seconds: float, seed: int) -> None:
    files, start = seeds(), time.monotonic()
    done = images = 0
    slowest = (0.0, 0)
    while done < cases and time.monotonic() - start < seconds:
        if done % 2000 == 0:
            faulthandler.dump_traceback_later(600, exit=True)
        if done % 50_000 == 0:
            print(f"{done} cases, {images} of them images, {time.monotonic() - start:.0f} s", flush=True)
        before = time.process_time()
        images += read(case(files, seed, done))
        slowest = max(slowest, (time.process_time() - before, done))
        done += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done} cases (seed {seed}), {images} of them images; slowest: {slowest[0]:.2f} s (case {slowest[1]})")
    print(f"peak of memory {peak:.0f} MB, {time.process_time():.0f} s of processor time")


def case(files: list[bytes], seed: int, number: int) -> bytes:
    return mutated(files, random.Random(f"{seed} {number}").randint)


def guided(folder: Path, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["PIL"]):
        Image.init()
    folder.mkdir(parents=True, exist_ok=True)
    for data in seeds():
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)
    options = ["-timeout=600", "-rss_limit_mb=3000", "-max_len=20000", f"-max_total_time={seconds}"]
    atheris.Setup([sys.argv[0], *options, str(folder)], lambda data: read(data) and None)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--atheris", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    warnings.simplefilter("error")
    faulthandler.enable()
    if options.atheris:
        guided(options.atheris, options.seconds)
    elif options.only is not None:
        print("an image" if read(case(seeds(), options.seed, options.only)) else "no image")
    else:
        loop(options.cases, options.seconds, options.seed)


if __name__ == "__main__":
    main()
