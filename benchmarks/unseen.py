"""Unseen expressions, measured: tables and figure of docs/unseen.md.

    python benchmarks/unseen.py --data DATA --peers PEERS --cache CACHE --out docs

DATA holds rafdb/, affectnet8/, ckplus48/ and london/ (with people.csv). Written are unseen.json, which holds every
figure, and unseen.png, which shows contempt, and RAF-DB's classes in turn; the tables are printed. Crops are read as
`fergeneral evaluate` reads them, London's photos through the detector.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fergeneral.datasets import open_dataset
from fergeneral.evaluate import few_people
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.figures import draw_unseen
from fergeneral.evaluate.inputs import embed_system, open_sets, read_peers
from fergeneral.evaluate.robustness import found_crop
from fergeneral.evaluate.sections import Run, unseen_section
from fergeneral.extractor import ExpressionExtractor

SETS = ("rafdb", "affectnet8", "ckplus48")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["general-r18-cycle", "crs-cont-cpu"])
    options = parser.parse_args()
    cache = EmbeddingCache(options.cache)
    sets = open_sets([options.data / name for name in SETS])
    extractors = [ExpressionExtractor.from_pretrained(name, device="cpu") for name in options.models]
    systems = [embed_system(extractor.encoder, sets, cache) for extractor in extractors]
    run = Run([*systems, *read_peers(options.peers, sets)], sets, seed=0)
    start = time.perf_counter()
    entries = unseen_section(run)
    print(f"{time.perf_counter() - start:.1f} s for {len(entries)} entries")
    people = {extractor.config.model_id: london(extractor, options.data, cache) for extractor in extractors}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "unseen.json").write_text(json.dumps({"unseen": entries, "london": people}, indent=1) + "\n")
    shown = [entry for entry in entries if entry["class"] == "contempt" or entry["data"] == "rafdb"]
    draw_unseen(shown, {name: data.title for name, data in sets.items()}, options.out / "unseen.png")
    with Image.open(options.out / "unseen.png") as image:
        small = image.convert("RGB").quantize(64)  # a sixth of the bytes
    small.save(options.out / "unseen.png", optimize=True)
    titles = {name: data.title for name, data in sets.items()}
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for entry in [*(e for e in entries if e["class"] == "contempt"), *(e for e in entries if e["class"] is None)]:
        held_out = entry["class"] or "each in turn"
        key = (titles[entry["data"]], held_out, entry["system"], entry["class_status"])
        groups.setdefault(key, []).append(entry)
    for key, rows in groups.items():
        others = f"{rows[-1]['others_before']:.3f} / {rows[-1]['others']:.3f}"
        print("|", " | ".join([*key, *map(cell, rows), others]), "|")
    for name, results in people.items():
        print("|", name, "|", " | ".join(person_cell(result) for result in results.values()), "|")


def cell(entry: dict[str, Any]) -> str:
    """Recall with its interval, UAR, AUC."""
    low, high = entry["recall_interval"]
    return f"{entry['recall']:.3f} ({low:.3f}-{high:.3f}) / {entry['uar']:.3f} / {entry['auc']:.3f}"


def person_cell(result: dict[str, Any]) -> str:
    """Accuracy with its interval, and the range of single draws."""
    low, high = result["accuracy_interval"]
    accuracies = result["accuracies"]
    return f"{result['accuracy']:.3f} ({low:.3f}-{high:.3f}), {min(accuracies):.2f} to {max(accuracies):.2f}"


def london(extractor: ExpressionExtractor, data: Path, cache: EmbeddingCache) -> dict[int, dict[str, Any]]:
    """Smiling against neutral from one person and more, end to end from photos."""
    photos = open_dataset(data / "london" / "people.csv")
    config = extractor.config
    crop = functools.partial(found_crop, extractor.detector, config.crop_size, config.template, margin=0.0)
    embedded = cache.embed(extractor.encoder, photos, crop, variant="photos MTCNN")
    found = np.flatnonzero(~embedded.missed)
    print(f"London: a face in {len(found)} of {len(photos.samples)} photos")
    samples = [photos.samples[row] for row in found]
    labels, subjects = [sample.label for sample in samples], [str(sample.subject) for sample in samples]
    return {k: v.to_dict() for k, v in few_people(embedded.embeddings[found], labels, subjects).items()}


if __name__ == "__main__":
    main()
