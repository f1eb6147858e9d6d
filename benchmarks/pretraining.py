"""How fast pretraining runs, against the ordinary pipeline, and what each option is worth.

    python benchmarks/pretraining.py DATA [--recipe crs-cont-paper] [--seconds 20] [--workers N] [--device cuda]
                                     [--out pretraining.json]

DATA is the folder of the recipe's data sets. "Ordinary" is what most training code does: a DataLoader whose worker
processes decode the files with PIL and make both views with torchvision's transforms, then the same network, objective
and optimiser step. "Resident" is `fergeneral.train`: uint8 images on the device, both views made there. All rows run in
this process, one after the other, each after a warm-up. Columns:

- images/s: images (each in two views) that went through whole training steps;
- data: the share of a step spent on getting the two views, measured with the device idle before and after;
- MFU: model FLOP utilisation, the network's forward and backward FLOPs a second over what a large matrix product
  reaches on this device in this run, in the precision of the training;
- schedule: minutes that the recipe's whole schedule would take at this rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from fergeneral.datasets import open_dataset
from fergeneral.train import loop
from fergeneral.train.config import Recipe, find_recipe
from fergeneral.train.data import TrainingSet, load_training_set
from fergeneral.train.distributed import Processes


class Files(Dataset[tuple[Tensor, Tensor]]):
    """Encoded images in memory -> two views, as (2, 3, S, S) float32, and the index."""

    def __init__(self, data: Path, recipe: Recipe, pixels: int) -> None:
        self.encoded: list[bytes] = []
        for name in recipe.datasets:
            dataset = open_dataset(data / name).split("train")
            self.encoded.extend(dataset.files())
        b, c, s, h = recipe.jitter
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(pixels, recipe.crop_scale, recipe.crop_ratio),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(b, c, s, h)], recipe.jitter_probability),
                v2.RandomGrayscale(recipe.grey_probability),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.open(io.BytesIO(self.encoded[index])).convert("RGB")
        return torch.stack([self.transform(image), self.transform(image)]), torch.tensor(index)


class OrdinaryTrainer(loop.Trainer):
    """The trainer, its views taken from a DataLoader."""

    def feed(self, files: Files, workers: int) -> OrdinaryTrainer:
        pinned = self.processes.device.type == "cuda"
        loader = DataLoader(
            files,
            self.recipe.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=pinned,
            persistent_workers=workers > 0,
        )
        self.stream: Iterator[tuple[Tensor, Tensor]] = (batch for _ in iter(int, 1) for batch in loader)
        return self

    def batch_index(self) -> Tensor:
        self.pairs, index = next(self.stream)
        return index

    def views(self, index: Tensor) -> Tensor:
        pairs = self.pairs.to(self.processes.device, non_blocking=True)
        return pairs.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)


class PlainTrainer(loop.Trainer):
    """The trainer without channels_last."""

    def views(self, index: Tensor) -> Tensor:
        self._network.to(memory_format=torch.contiguous_format)
        return super().views(index).contiguous()


def unfused(trainer: loop.Trainer) -> loop.Trainer:
    trainer.run.optimizer = loop._optimizer(trainer.recipe, trainer._network, fused=False)
    return trainer


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(function: Callable[[], Any], device: torch.device, seconds: float, warm_up: int = 3) -> float:
    for _ in range(warm_up):
        function()
    wait(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        function()
        count += 1
        wait(device)
    return (time.perf_counter() - started) / count


def peak_flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds_each(lambda: a @ b, device, seconds)


def step_flops(trainer: loop.Trainer, pixels: int) -> float:
    """Forward and backward of the network for one batch: what is counted are two images, the two views of one."""
    network = loop.PretrainingNetwork(dataclasses.replace(trainer.recipe, start_from=""))
    two = torch.zeros(2, 3, pixels, pixels)
    with FlopCounterMode(display=False) as counter:
        projections, *_ = network(two)
        projections.sum().backward()
    return counter.get_total_flops() * trainer.recipe.batch_size


def measure(trainer: loop.Trainer, seconds: float) -> dict[str, float]:
    device = trainer.processes.device
    whole = seconds_each(trainer.step, device, seconds)
    data = seconds_each(lambda: trainer.views(trainer.batch_index()), device, seconds / 2)
    return {"images_per_s": trainer.recipe.batch_size / whole, "data_share": min(1.0, data / whole)}


def rows(data: Path, recipe: Recipe, images: TrainingSet, processes: Processes, workers: int) -> Iterator[Any]:
    """(name, function that makes the trainer), the cheapest change first."""

    def make(kind: type[Any] = loop.Trainer, **changes: Any) -> Any:
        return kind(dataclasses.replace(recipe, **changes), images, Path("unused"), processes)

    pixels = recipe.stages[-1].pixels
    yield f"ordinary, {workers} workers", lambda: make(OrdinaryTrainer).feed(Files(data, recipe, pixels), workers)
    yield "resident", make
    yield "resident, float32", lambda: make(bf16=False)
    yield "resident, without channels_last", lambda: make(PlainTrainer)
    yield "resident, optimiser not fused", lambda: unfused(make())
    yield "resident, torch.compile", lambda: make(compile=True)


def table(report: dict[str, Any]) -> str:
    lines = ["| pipeline | images/s | against ordinary | data | MFU | schedule |", "|---|---|---|---|---|---|"]
    first = report["rows"][0]["images_per_s"]
    for row in report["rows"]:
        rate = row["images_per_s"]
        cells = (row["name"], f"{rate:.0f}", f"{rate / first:.1f}x", f"{row['data_share']:.0%}", f"{row['mfu']:.0%}")
        lines.append("| " + " | ".join((*cells, f"{row['schedule_minutes']:.0f} min")) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="crs-cont-paper")
    parser.add_argument("--seconds", type=float, default=20, help="for each row")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe = dataclasses.replace(find_recipe(options.recipe), start_from="")
    recipe = dataclasses.replace(recipe, stages=recipe.stages[-1:])  # the dearest, alone
    with Processes(options.device) as processes:
        images = load_training_set(options.data, recipe, show_progress=False)
        device, pixels = processes.device, recipe.stages[-1].pixels
        report: dict[str, Any] = {"recipe": recipe.name, "pixels": pixels, "device": processes.machine(), "rows": []}
        report["torch"] = torch.__version__
        for name, make in rows(options.data, recipe, images, processes, options.workers):
            trainer = make()
            dtype = torch.bfloat16 if trainer._bf16 else torch.float32
            peak = peak_flops(device, dtype, 2)
            figures = measure(trainer, options.seconds)
            rate = figures["images_per_s"]
            figures["mfu"] = step_flops(trainer, pixels) * rate / recipe.batch_size / peak
            figures["peak_tflops"] = peak / 1e12
            figures["schedule_minutes"] = trainer.total_steps * recipe.batch_size / rate / 60
            report["rows"].append({"name": name, **figures})
            print(name, json.dumps(figures), flush=True)
    print(f"\n{report['recipe']}, {pixels} px, on {report['device']}, PyTorch {report['torch']}\n\n{table(report)}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
