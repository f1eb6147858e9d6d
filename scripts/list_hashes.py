"""Recompute the counts and hashes of the lists of images that the packaged weights were trained on.

    python scripts/list_hashes.py DATA            # compare with weights/provenance.json
    python scripts/list_hashes.py DATA --write    # write it anew

DATA holds the data sets that weights/*/training.json and weights/heads/*/*/head.json name. A hash is that of
`fergeneral.datasets.list_sha256`. Runs of this version record it themselves, as `list_sha256` in training.json; the
records of older runs have counts alone, with which the lists are compared here.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fergeneral.card import INT8_SUFFIX
from fergeneral.datasets import Sample, expression_of, list_sha256, open_dataset

WEIGHTS = Path(__file__).parent.parent / "weights"
RECORD = WEIGHTS / "provenance.json"
EVERY = 7  # of AffectNet8's train images, for the temperature of the heads: HELD_OUT of scripts/make_heads.py
FORMAT = "SHA-256 of the sorted lines path<TAB>label<TAB>weight of a list: fergeneral.datasets.list_sha256"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--write", action="store_true", help=f"write {RECORD.name} in place of comparing with it")
    options = parser.parse_args()
    found = provenance(options.data)
    for name, row in found["lists"].items():
        print(f"{row['images']:>7,}  {row['sha256']}  {name}")
    for row in found["weights"]:
        if not row["counts_match"]:
            sys.exit(
                f"{row['folder']}: its record is of other lists: {row['recorded']:,} images, found {row['images']:,}"
            )
    if options.write:
        RECORD.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return
    stored = json.loads(RECORD.read_text(encoding="utf-8"))
    if {**stored, "recomputed": None} != {**found, "recomputed": None}:
        sys.exit(f"{RECORD} says otherwise")
    print(f"as {RECORD.name} says, recomputed on {stored['recomputed']}")


def provenance(data: Path) -> dict[str, Any]:
    """What provenance.json holds, from the data sets below `data`."""
    lists: dict[str, Any] = {}
    weights = [encoder_row(path, data, lists) for path in sorted(WEIGHTS.glob("*/config.json"))]
    weights += [head_row(path, data, lists) for path in sorted(WEIGHTS.glob("heads/*/*/head.json"))]
    return {
        "about": "Recomputed after training from the data sets, by the reader that training uses.",
        "recomputed": datetime.date.today().isoformat(),
        "command": "python scripts/list_hashes.py DATA --write",
        "format": FORMAT,
        "lists": dict(sorted(lists.items())),
        "weights": weights,
    }


def encoder_row(path: Path, data: Path, lists: dict[str, Any]) -> dict[str, Any]:
    """Of an encoder; the record of int8-quantized weights is that of the weights they were made of."""
    config = json.loads(path.read_text(encoding="utf-8"))
    origin = config["model_id"].removesuffix(INT8_SUFFIX)
    record = json.loads((WEIGHTS / origin / "training.json").read_text(encoding="utf-8"))
    recorded = record["images"]
    for entry in config["training_data"]:
        if entry not in lists:
            lists[entry] = train_list(data, entry)
    images = {name: lists[f"{name} (train)"]["images"] for name in recorded}
    hashes = {name: lists[f"{name} (train)"]["sha256"] for name in recorded}
    row = {"folder": path.parent.relative_to(WEIGHTS).as_posix(), "weights_sha256": config["weights_sha256"]}
    if origin != config["model_id"]:
        row["quantized_from"] = origin
    of_same_sets = [f"{name} (train)" for name in recorded] == config["training_data"]
    return {
        **row,
        "lists": config["training_data"],
        "images": sum(images.values()),
        "recorded": sum(recorded.values()),
        "counts_match": images == recorded and of_same_sets and record.get("list_sha256", hashes) == hashes,
    }


def head_row(path: Path, data: Path, lists: dict[str, Any]) -> dict[str, Any]:
    """Of a head; those without contempt were fitted on the images of the other classes."""
    config = json.loads(path.read_text(encoding="utf-8"))
    without = "" if "contempt" in config["classes"] else ", without contempt"
    entries = [
        f"{entry}{without}" for entry in config["training_data"] if not (without and entry.startswith("contempt"))
    ]
    classes = config["classes"] if without else None
    for entry in entries:
        if entry not in lists:
            lists[entry] = train_list(data, entry.removesuffix(without), classes)
    temperature = [f"ferplus (val){without}", f"affectnet8 (train), every {EVERY}th{without}"]
    if temperature[0] not in lists:
        lists[temperature[0]] = row_of(data, "ferplus", lambda sample: sample.split == "val", classes)
        lists[temperature[1]] = every_seventh(data, classes)
    recorded = int(re.search(r"on (\d+) faces", config["method"])[1])  # type: ignore[index]
    images = sum(lists[entry]["images"] for entry in entries)
    return {
        "folder": path.parent.relative_to(WEIGHTS).as_posix(),
        "weights_sha256": config["weights_sha256"],
        "lists": entries,
        "temperature_lists": temperature,
        "images": images,
        "recorded": recorded,
        "counts_match": images == recorded,
    }


@lru_cache
def dataset_of(folder: Path, drop_duplicates: bool = True) -> Any:
    return open_dataset(folder, drop_duplicates=drop_duplicates)


def train_list(data: Path, entry: str, classes: list[str] | None = None) -> dict[str, Any]:
    """The row of "NAME (train)"; a set without splits is taken whole."""
    name = entry.removesuffix(" (train)")
    row = row_of(data, name, lambda sample: sample.split in ("train", None), classes)
    left_out = {reason: count for reason, count in dataset_of(data / name).left_out if reason.startswith("near cop")}
    return {**row, "near_duplicates_left_out": left_out} if classes is None else row


def every_seventh(data: Path, classes: list[str] | None) -> dict[str, Any]:
    """What scripts/make_heads.py holds out of AffectNet8's train split; it counts the images before any are dropped."""
    folder = data / "affectnet8"
    chosen = {sample.path for sample in dataset_of(folder, False).samples[::EVERY]}
    return row_of(data, "affectnet8", lambda sample: sample.split == "train" and sample.path in chosen, classes)


def row_of(data: Path, name: str, wanted: Callable[[Sample], bool], classes: list[str] | None) -> Mapping[str, Any]:
    rows = [
        (sample.path, expression_of(sample.label), sample.weight)
        for sample in dataset_of(data / name).samples
        if wanted(sample) and (classes is None or expression_of(sample.label) in classes)
    ]
    return {"images": len(rows), "sha256": list_sha256(rows)}


if __name__ == "__main__":
    main()
