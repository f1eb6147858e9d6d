"""What naming expressions costs beside extracting embeddings: time and peak memory of `predict` against `extract`.

    python benchmarks/predict.py [--pairs 15] [--head NAME|DIR] [PHOTO_OR_FOLDER ...]

CPU time of `predict_many` against `extract_many` on the same photos, in one process, in pairs of which either comes
first in turn. Peak memory (RSS), and CPU time with imports and loading, of the two commands, each in a process of its
own, in pairs too. By default the photos are those in examples/. Linux only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fergeneral import ExpressionClassifier
from fergeneral.heads import DEFAULT_HEAD
from fergeneral.sources import list_photos

EXAMPLES = Path(__file__).parent.parent / "examples"


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def command(name: str, arguments: Sequence[str]) -> tuple[float, float]:
    """CPU seconds and peak megabytes of a command."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.execv(sys.executable, [sys.executable, "-m", "fergeneral", name, *arguments, "--device", "cpu"])
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"fergeneral {name} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def report(what: str, unit: str, extract: Sequence[float], predict: Sequence[float]) -> None:
    """Medians, and the median of the pairs' ratios with a 95 % bootstrap interval."""
    ratios = np.array(predict) / np.array(extract)
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    print(
        f"{what}: extract {statistics.median(extract):.4g} {unit}, predict {statistics.median(predict):.4g} {unit}; "
        f"{100 * (np.median(ratios) - 1):+.2f} % ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f}), "
        f"{len(ratios)} pairs",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", default=[str(EXAMPLES / "london"), str(EXAMPLES / "photos")])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--command-pairs", type=int, default=5)
    parser.add_argument("--head", default=DEFAULT_HEAD)
    options = parser.parse_args()
    classifier = ExpressionClassifier.from_pretrained(options.head, device="cpu")
    images = [photo.path for photo in list_photos(options.paths, recursive=True)]
    faces = sum(map(len, classifier.predict_many(images)))  # what is done once is done
    print(f"{len(images)} photos, {faces} faces, {len(classifier.classes)} classes")

    works = {
        "extract": lambda: list(classifier.extractor.extract_many(images)),
        "predict": lambda: list(classifier.predict_many(images)),
    }
    seconds: dict[str, list[float]] = {"extract": [], "predict": []}
    for pair in range(options.pairs):
        for name in sorted(works, reverse=bool(pair % 2)):
            seconds[name].append(cpu_seconds(works[name]))
    report("CPU time, in one process", "s", **seconds)

    arguments = {"extract": [*options.paths, "--recursive"]}
    arguments["predict"] = [*arguments["extract"], "--head", options.head]
    found: dict[str, list[tuple[float, float]]] = {"extract": [], "predict": []}
    for pair in range(options.command_pairs):
        for name in sorted(arguments, reverse=bool(pair % 2)):
            found[name].append(command(name, arguments[name]))
    for place, (what, unit) in enumerate((("CPU time of the command", "s"), ("peak memory of the command", "MB"))):
        report(what, unit, *([run[place] for run in found[name]] for name in ("extract", "predict")))


if __name__ == "__main__":
    main()
