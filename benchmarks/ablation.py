"""What each part of the objective is worth: pretraining runs at equal budget, then probes on validation splits.

    python benchmarks/ablation.py DATA OUT [--recipe crs-cont-r18] [--epochs 20] [--pixels 112 224] [--seeds 3]

DATA holds rafdb/, affectnet/, ferplus/ and ckplus48/. Every variant is the recipe with the changes named below, no fine
term, and the same number of images drawn; a run that is there already in OUT is not made again. What is read, all by
linear probes with C chosen on a part of train: RAF-DB by five folds over its train split, whose images were in
pretraining; FER+ valid, from a probe fitted on FER+ train and from one fitted on RAF-DB train, and CK+ from RAF-DB
train: these sets were never seen in pretraining. No test split is touched. Prints a Markdown table of means over the
seeds, with the standard deviation where there are several, and writes OUT/ablation.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from fergeneral.datasets import class_counts, open_dataset
from fergeneral.errors import TrainingError
from fergeneral.evaluate import Metrics, cross_dataset, embed_dataset, fit_probe, score
from fergeneral.extractor import ExpressionExtractor
from fergeneral.train.config import Recipe, Stage, find_recipe
from fergeneral.train.loop import train

# No fine term, and the objective from the first step. At this rate it left chance from scratch in a trial (RAF-DB,
# 48 px, 96 images a step: spread down to 0.023 at step 160, 0.062 and rising at step 360).
COMMON: dict[str, Any] = {
    "fine_weight": 0.0,
    "objective_weight": 1.0,
    "objective_ramp": (0.0, 0.0),
    "start_from": "",
    "learning_rate": 3e-4,
    "warmup_epochs": 1.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "SimCLR": {"objective": "simclr"},
    "SupCon, fine labels": {"objective": "supcon"},
    "CRS-CONT without the weight vector": {"class_weights": (1.0, 1.0, 1.0, 1.0)},
    "CRS-CONT without consistency": {"consistency_weight": 0.0},
    "CRS-CONT": {},
}
READ = ("RAF-DB train, 5 folds", "FER+ valid", "RAF-DB -> FER+ valid", "RAF-DB -> CK+")


def variants(base: Recipe, options: argparse.Namespace) -> Iterator[tuple[str, Recipe]]:
    sizes = options.pixels
    for name, changes in VARIANTS.items():
        for size in sizes if name == "CRS-CONT" else sizes[:1]:
            recipe = dataclasses.replace(
                base,
                name=f"{name}, {size} px",
                crop_size=size,
                stages=(Stage(size, 1.0),),
                epochs=options.epochs,
                **{**COMMON, **changes},
            )
            yield recipe.name, recipe


def pretrained(recipe: Recipe, data: Path, out: Path, device: str | None) -> ExpressionExtractor | None:
    """The encoder of one run, made if it is not there; None where the run collapsed."""
    if not (out / "model.safetensors").is_file():
        try:
            if train(recipe, data, out, device=device, resume=True, show_progress=False) is None:
                raise SystemExit("interrupted; the same command goes on")
        except TrainingError as error:
            print(f"{recipe.name}, seed {recipe.seed}: {error}", flush=True)
            return None
    return ExpressionExtractor.from_pretrained(out, device=device)


def read(extractor: ExpressionExtractor, data: Path) -> dict[str, tuple[float, float]]:
    """Accuracy and UAR of each column of READ."""
    ferplus, ckplus = open_dataset(data / "ferplus"), open_dataset(data / "ckplus48")
    sets = (open_dataset(data / "rafdb").split("train"), ferplus.split("train"), ferplus.split("val"), ckplus)
    rafdb, train, val, ck = (
        (embed_dataset(extractor.encoder, part, show_progress=False), part.labels) for part in sets
    )
    crossed = cross_dataset({"rafdb": (*rafdb, *rafdb), "ferplus": (*train, *val), "ckplus": (*ck, *ck)})
    results = (
        in_folds(*rafdb),
        fit_probe(*train).read(*val),
        crossed["rafdb", "ferplus"].result,
        crossed["rafdb", "ckplus"].result,
    )
    return {column: (result.accuracy, result.uar) for column, result in zip(READ, results, strict=True)}


def in_folds(x: np.ndarray, labels: list[str]) -> Metrics:
    y = np.array(labels)
    predicted = np.empty_like(y)
    for fit, rest in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
        predicted[rest] = fit_probe(x[fit], y[fit].tolist()).read(x[rest], y[rest].tolist()).predicted
    return score(labels, predicted, tuple(class_counts(labels)))


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| objective | " + " | ".join(READ) + " |", "|---" * (len(READ) + 1) + "|"]
    for name, runs in results.items():
        cells = []
        for column in READ:
            pairs = np.array([run[column] for run in runs if run is not None]).reshape(-1, 2)
            mean, spread = pairs.mean(axis=0), pairs.std(axis=0, ddof=1) if len(pairs) > 1 else None
            more = "" if spread is None else f" (sd {spread[0]:.3f} / {spread[1]:.3f})"
            cells.append(f"{mean[0]:.3f} / {mean[1]:.3f}{more}" if len(pairs) else "collapsed")
        collapsed = sum(run is None for run in runs)
        note = f", {collapsed} of {len(runs)} collapsed" if collapsed else ""
        lines.append(f"| {name}{note} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="crs-cont-r18")
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--pixels", type=int, nargs="+", default=[112, 224], help="the first for all, all for CRS-CONT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device")
    options = parser.parse_args()
    base, results = find_recipe(options.recipe), {}
    for name, recipe in variants(base, options):
        results[name] = []
        for seed in range(options.seeds):
            out = options.out / f"{name}, seed {seed}".replace(", ", "_").replace(" ", "-")
            extractor = pretrained(dataclasses.replace(recipe, seed=seed), options.data, out, options.device)
            results[name].append(None if extractor is None else read(extractor, options.data))
            print(name, seed, json.dumps(results[name][-1]), flush=True)
            (options.out / "ablation.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\nAccuracy / UAR; {options.epochs:g} epochs, {options.seeds} seeds each.\n\n{table(results)}")


if __name__ == "__main__":
    main()
