"""The training images, decoded once and kept as uint8 RGBA on the device; alpha is 0 on a cut-out face's background."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from fergeneral.datasets import (
    COARSE_LABELS,
    COARSE_OF,
    EXPRESSIONS,
    Dataset,
    expression_of,
    list_sha256,
    open_dataset,
)
from fergeneral.errors import DataError
from fergeneral.train.config import Recipe

_BLACK = 24  # brightest value that still counts as the black around a cut-out face (WebP rings to about 20)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """All images of a run, in the order of the recipe's data sets.

    `pixels` (N, 4, P, P) uint8. `fine` and `coarse` (N,) int64 labels. `target` (N, 8) float32: what the fine term
    wants, the annotators' votes where the data set has them, else 1 for the label. `weight` (N,) float32: of an image
    in the fine term. `cut_out` (M,) int64: indices of cut-out faces. `pool` (L,) int64: the indices that one epoch
    goes through, those of a repeated set or expression several times.
    """

    pixels: Tensor
    fine: Tensor
    coarse: Tensor
    target: Tensor
    weight: Tensor
    cut_out: Tensor
    pool: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def fingerprint(self) -> str:
        """What a checkpoint knows its data by: how many images, and a hash of their names, labels and places in `pool`.

        The pixels are not in it, nor is the folder that holds the data sets.
        """
        digest = hashlib.sha256("\n".join(self.names).encode())
        for tensor in (self.fine, self.target, self.weight, self.pool):
            digest.update(tensor.cpu().numpy().tobytes())
        return f"{len(self)} images, {digest.hexdigest()[:16]}"

    def list_sha256(self) -> dict[str, str]:
        """`fergeneral.datasets.list_sha256` of the images of each data set, by its name."""
        rows: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
        for name, label, weight in zip(self.names, self.fine.tolist(), self.weight.tolist(), strict=True):
            dataset, _, path = name.partition("/")
            rows[dataset].append((path, EXPRESSIONS[label], weight))
        return {dataset: list_sha256(of_dataset) for dataset, of_dataset in rows.items()}

    def to(self, device: torch.device) -> TrainingSet:
        """The same data with images and labels on a device; indices stay on the CPU, where parameters are drawn."""
        moved = {name: getattr(self, name).to(device) for name in ("pixels", "fine", "coarse", "target", "weight")}
        return dataclasses.replace(self, **moved)

    def resized(self, size: int) -> TrainingSet:
        """The same images at `size` pixels, shrunk with anti-aliasing; never enlarged."""
        if size >= self.pixels.shape[-1]:
            return self
        chunks = [
            F.interpolate(chunk.float(), size=(size, size), mode="bilinear", antialias=True).round().byte()
            for chunk in self.pixels.split(1024)
        ]
        return dataclasses.replace(self, pixels=torch.cat(chunks))


def load_training_set(folder: str | Path, recipe: Recipe, *, show_progress: bool = True) -> TrainingSet:
    """Read the train splits of the recipe's data sets below `folder`, aligned to the template.

    Raises DataError that names the missing folder, the unknown label or the broken image.
    """
    datasets = [open_dataset(Path(folder) / name).split("train") for name in recipe.datasets]
    fine = [EXPRESSIONS.index(expression_of(label)) for dataset in datasets for label in dataset.labels]
    coarse = [COARSE_LABELS.index(COARSE_OF[EXPRESSIONS[label]]) for label in fine]
    votes = [sample.votes for dataset in datasets for sample in dataset.samples]
    target = [
        share or [float(i == label) for i in range(len(EXPRESSIONS))] for share, label in zip(votes, fine, strict=True)
    ]
    repeats = recipe.repeats or (1,) * len(datasets)
    if len(repeats) != len(datasets):
        raise DataError(f"the recipe {recipe.name} has repeats for {len(repeats)} of its {len(datasets)} data sets")
    of_expression = recipe.expression_repeats or (1,) * len(EXPRESSIONS)
    if len(of_expression) != len(EXPRESSIONS):
        raise DataError(
            f"the recipe {recipe.name} has repeats for {len(of_expression)} of {len(EXPRESSIONS)} expressions"
        )
    of_dataset = [n for n, dataset in zip(repeats, datasets, strict=True) for _ in dataset.samples]
    times = [n * of_expression[label] for n, label in zip(of_dataset, fine, strict=True)]
    size = storage_size(recipe)
    pixels = np.empty((len(fine), 4, size, size), dtype=np.uint8)
    cut_out: list[int] = []
    done = 0
    for dataset in datasets:
        if dataset.black_background:
            cut_out.extend(range(done, done + len(dataset.samples)))
        crops = dataset.crops(lambda image, of=dataset: training_crop(image, of, size))  # type: ignore[misc]
        for crop in tqdm(crops, dataset.name, len(dataset.samples), unit="image", disable=not show_progress):
            pixels[done] = np.moveaxis(crop, 2, 0)
            done += 1
    names = tuple(f"{dataset.name}/{sample.path}" for dataset in datasets for sample in dataset.samples)
    return TrainingSet(
        torch.from_numpy(pixels),
        torch.tensor(fine),
        torch.tensor(coarse),
        torch.tensor(target),
        torch.tensor([sample.weight for dataset in datasets for sample in dataset.samples]),
        torch.tensor(cut_out, dtype=torch.long),
        torch.arange(len(fine)).repeat_interleave(torch.tensor(times)),
        names,
    )


def storage_size(recipe: Recipe) -> int:
    """Side of the stored images: the crop size, at most 128 pixels, which is what the largest source images have."""
    return min(128, max(stage.pixels for stage in recipe.stages))


def training_crop(image: Image.Image, dataset: Dataset, size: int) -> np.ndarray:
    """One image of a data set as a (size, size, 4) crop in the template's geometry."""
    rgba = image.copy()
    rgba.putalpha(Image.fromarray(_face_mask(image)) if dataset.black_background else 255)
    return dataset.align(rgba, size)


def _face_mask(image: Image.Image) -> np.ndarray:
    """(H, W) uint8: 255 where, along its row and its column, bright pixels lie on both sides, else 0.

    Dark parts inside the face (pupils, beards) are thereby kept.
    """
    bright = np.asarray(image).max(axis=2) > _BLACK
    inside = np.ones_like(bright)
    for axis in (0, 1):
        before = np.maximum.accumulate(bright, axis=axis)
        after = np.flip(np.maximum.accumulate(np.flip(bright, axis), axis=axis), axis)
        inside &= before & after
    return inside.astype(np.uint8) * 255
