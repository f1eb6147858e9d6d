"""Where the CPU time of one photo goes: the usual pipeline and `extract`, on the 1920x1080 scene with three faces.

    python benchmarks/profile_extract.py [--top 12]

Writes profile.txt beside this file: torch's operators by their own time, and Python's functions by theirs, one thread.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import photos_of_scenes
from usual import Usual

from fergeneral import ExpressionExtractor

SCENE = "three, 1920x1080"


def operators(job: Callable[[], Any], top: int) -> list[str]:
    """torch's operators by their own CPU time, which leaves out what they call."""
    with torch.autograd.profiler.profile() as profiler:
        job()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)[:top]
    return [f"{event.self_cpu_time_total / 1000:9.1f} ms {event.count:6} x  {event.key}" for event in events]


def functions(job: Callable[[], Any], top: int) -> list[str]:
    """Python's functions, and what C code they call, by their own time; slower than without a profiler."""
    profiler = cProfile.Profile()
    profiler.runcall(job)
    rows = sorted(pstats.Stats(profiler, stream=io.StringIO()).stats.items(), key=lambda row: -row[1][2])[:top]
    return [
        f"{1000 * own:9.1f} ms {calls:6} x  {name}{'' if file == '~' else '  in ' + '/'.join(Path(file).parts[-2:])}"
        for (file, _, name), (_, calls, own, _, _) in rows
    ]


def report(name: str, job: Callable[[], Any], top: int) -> str:
    job()
    start = time.process_time()
    job()
    lines = [f"{name}: {1000 * (time.process_time() - start):.0f} CPU-ms", "", "torch's operators:"]
    return "\n".join([*lines, *operators(job, top), "", "Python's functions:", *functions(job, top)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--top", type=int, default=12)
    top = parser.parse_args().top
    torch.set_num_threads(1)
    photo = photos_of_scenes()[SCENE]
    usual, extractor = Usual(), ExpressionExtractor.from_pretrained(device="cpu")
    parts = [report("before: the usual pipeline", lambda: usual(photo), top)]
    parts.append(report("after: extract", lambda: extractor.extract(photo), top))
    text = f"The scene '{SCENE}', one thread.\n\n" + "\n\n\n".join(parts) + "\n"
    (Path(__file__).parent / "profile.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
