"""A report on an encoder: every protocol on every data set, beside other systems, as JSON, Markdown and figures."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fergeneral import __version__
from fergeneral.datasets import class_counts
from fergeneral.encoder import Encoder
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.inputs import LabelledSet, System, embed_system, open_sets, read_peers
from fergeneral.evaluate.sections import SECTIONS, Run, robustness_section
from fergeneral.evaluate.tables import markdown
from fergeneral.extractor import ExpressionExtractor
from fergeneral.outputs import check_folder
from fergeneral.storage import make_folder, write_texts
from fergeneral.types import Detector

JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"
_PACKAGES = ("torch", "timm", "numpy", "scikit-learn", "scipy", "pillow", "facenet-pytorch", "matplotlib")


def evaluate(
    model: ExpressionExtractor,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    against: Sequence[ExpressionExtractor] = (),
    peers: str | Path | None = None,
    robustness: bool = True,
    detectors: Sequence[Detector] = (),
    cache: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run every protocol and write report.json, report.md and figures into the folder `out`, made if need be.

    `data`: folders of face crops in the layouts of `fergeneral.datasets`. A set with splits is probed from train to
    test; one without is read whole by probes of the others and, where its people are known, by subject-wise folds.
    `against`: other encoders to compare with. `peers`: folder of other systems' stored embeddings, see
    `inputs.read_peers`. `robustness`: also embed the first set's test images under worse conditions, one of them
    being that `model`'s detector finds the faces, and then each of `detectors`. `cache`: folder of embeddings, see
    `cache.EmbeddingCache`.
    Returns what report.json holds. Raises DataError that names the set, split, class or file at fault; faults of the
    lists are found before anything is computed.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.evaluate import evaluate
    >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
    >>> report = evaluate(extractor, ["data/rafdb", "data/ckplus"], "report")  # doctest: +SKIP
    """
    # Not above, so that the rest does without matplotlib; first, so that its lack is told before hours of work.
    from fergeneral.evaluate.figures import draw_all

    check_folder(Path(out))
    stages = _Stages(len(SECTIONS) + 3 + robustness)
    with stages.of("data"):
        sets = open_sets(data)
        others = [] if peers is None else read_peers(peers, sets)
        folder = make_folder(out)
        store = EmbeddingCache(cache)
    with stages.of("embeddings"):
        own = [embed_system(extractor.encoder, sets, store) for extractor in (model, *against)]
    run = Run(_named_apart([*own, *others]), sets, seed)
    report: dict[str, Any] = {"model": _model(model.encoder), "environment": _environment(model.encoder), "seed": seed}
    report["data"] = {name: _described(labelled) for name, labelled in sets.items()}
    for name, section in SECTIONS.items():
        with stages.of(name):
            report[name] = section(run)
    report["robustness"] = None
    if robustness:
        with stages.of("robustness"):
            report["robustness"] = robustness_section(run, model.encoder, _by_name([model.detector, *detectors]), store)
    with stages.of("figures"):
        report["figures"] = draw_all(report, run, folder)
    return _write(report | {"seconds": stages.close()}, folder)


class _Stages:
    """Times what is done, and shows it on a terminal."""

    def __init__(self, count: int) -> None:
        from tqdm import tqdm

        self.seconds: dict[str, float] = {}
        self._bar = tqdm(total=count, desc="evaluate", unit="stage", disable=None)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        self._bar.set_description(f"evaluate: {name.replace('_', ' ')}")
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self._bar.close()
            raise
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self._bar.update()

    def close(self) -> dict[str, float]:
        self._bar.close()
        return self.seconds


def _named_apart(systems: Sequence[System]) -> list[System]:
    """Systems of one name get numbers, since entries are told apart by it."""
    counts: Counter[str] = Counter()
    named = []
    for system in systems:
        counts[system.name] += 1
        number = counts[system.name]
        named.append(system if number == 1 else dataclasses.replace(system, name=f"{system.name} ({number})"))
    return named


def _by_name(detectors: Sequence[Detector]) -> dict[str, Detector]:
    return {type(detector).__name__.removesuffix("Detector"): detector for detector in detectors}


def _model(encoder: Encoder) -> dict[str, Any]:
    config = encoder.config
    names = ("model_id", "weights_sha256", "architecture", "crop_size", "embedding_size", "training_data", "license")
    return {name: getattr(config, name) for name in names}


def _environment(encoder: Encoder) -> dict[str, Any]:
    import torch

    packages = {"fergeneral": __version__}
    for package in _PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:  # installed under another name
            packages[package] = "not known"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(encoder.device),
        "packages": packages,
    }


def _described(data: LabelledSet) -> dict[str, Any]:
    splits = ("train", "test") if data.has_splits else ("all",)
    rows = {split: data.rows(split) if data.has_splits else data.rows("test") for split in splits}
    return {
        "title": data.title,
        "sha256": data.sha256,
        "splits": {
            split: {"n": len(chosen), "classes": class_counts(data.labels(chosen))} for split, chosen in rows.items()
        },
        "subjects": data.people or None,
        "near_duplicates_left_out": int((~data.kept).sum()),
        "left_out": dict(data.dataset.left_out),
        "not_read": data.unread,
    }


def _write(report: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    plain: dict[str, Any] = _plain(report)
    texts = {JSON_FILE: json.dumps(plain, indent=1, allow_nan=False) + "\n", MARKDOWN_FILE: markdown(plain)}
    write_texts(folder, texts)
    return plain


def _plain(value: Any) -> Any:
    """The same in what JSON has: numbers that are not finite become None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
