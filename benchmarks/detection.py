"""What detectors cost, and which faces they find, beside facenet-pytorch's own MTCNN, in one run.

    python benchmarks/detection.py [--yunet FILE] [--faces DATA] [--rounds 3] [--json OUT]

Cost: CPU-ms a photo (process time, one thread), detectors in turn on each scene of `scenes.py`, medians over rounds.
Quality, on the same scenes and, with --faces, on scenes with faces of RAF-DB and FER+ test images from the folder DATA
(nothing of them is saved):

- pasted found: pasted faces with a detection on them, of all that were pasted;
- recall: faces found by facenet-pytorch at min_face_size 40 that are found, too: the middle of the landmarks less than
  half the distance of the eyes away;
- false: detections on no pasted face;
- landmarks: their mean distance from those of facenet-pytorch at 40, in parts of the distance of its eyes.

"shifted" is facenet-pytorch at 40 on the image without its first row and column: what chance alone makes of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from scenes import SIZES, Scene, astronaut, make_scene, make_scenes

from fergeneral.datasets import open_dataset
from fergeneral.detection import MTCNNDetector, YuNetDetector

Find = Callable[[Image.Image], np.ndarray]  # image -> landmarks (N, 5, 2)
REFERENCE = "facenet-pytorch, min_face_size 40"
SHIFTED = "the same, shifted"


@dataclasses.dataclass(frozen=True)
class Quality:
    """Of one detector on one set of scenes; see above. `recall`, `found`: shares. `median`, `p95`: landmark errors."""

    pasted: int
    found: float
    reference: int
    recall: float
    false: int
    median: float
    p95: float


def facenet(min_face_size: int) -> Find:
    network = MTCNN(keep_all=True, min_face_size=min_face_size, device="cpu")

    def find(image: Image.Image) -> np.ndarray:
        boxes, _, landmarks = network.detect(image, landmarks=True)
        return np.zeros((0, 5, 2)) if boxes is None else np.asarray(landmarks, dtype=np.float64)

    return find


def ours(detector: MTCNNDetector | YuNetDetector) -> Find:
    def find(image: Image.Image) -> np.ndarray:
        return np.array([face.landmarks for face in detector.detect(image)], dtype=np.float64).reshape(-1, 5, 2)

    return find


def detectors(yunet: Path | None) -> dict[str, Find]:
    return {
        "facenet-pytorch, defaults": facenet(20),
        REFERENCE: facenet(40),
        "fergeneral, mtcnn": ours(MTCNNDetector()),
        "fergeneral, yunet": ours(YuNetDetector(yunet)),
    }


def cost(find: Find, image: Image.Image) -> float:
    """CPU-ms of one call."""
    start = time.process_time()
    find(image)
    return 1000 * (time.process_time() - start)


def costs(systems: dict[str, Find], scenes: Sequence[Scene], rounds: int) -> dict[str, dict[str, float]]:
    """scene -> detector -> median CPU-ms; each detector has seen a photo before."""
    for find in systems.values():
        find(scenes[0].image)
    return {
        scene.name: {
            name: statistics.median(times)
            for name, times in zip(
                systems,
                zip(*([cost(find, scene.image) for find in systems.values()] for _ in range(rounds)), strict=True),
                strict=True,
            )
        }
        for scene in scenes
    }


def shifted(find: Find) -> Find:
    return lambda image: find(image.crop((1, 1, *image.size))) + 1


def quality(find: Find, scenes: Sequence[Scene], reference: Sequence[np.ndarray]) -> Quality:
    found = recalled = false = 0
    errors: list[float] = []
    for scene, known in zip(scenes, reference, strict=True):
        landmarks = find(scene.image)
        middles = landmarks.mean(axis=1)
        on = [[left < x < right and top < y < bottom for left, top, right, bottom in scene.faces] for x, y in middles]
        false += sum(not any(row) for row in on)
        found += sum(any(column) for column in zip(*on, strict=True))
        for points in known:
            eyes = np.linalg.norm(points[1] - points[0])
            distances = np.linalg.norm(middles - points.mean(axis=0), axis=1)
            if len(distances) and distances.min() < eyes / 2:
                recalled += 1
                moved = np.linalg.norm(landmarks[distances.argmin()] - points, axis=1)
                errors.append(float(moved.mean() / eyes))
    pasted, total = sum(len(scene.faces) for scene in scenes), sum(map(len, reference))
    median, p95 = np.quantile(errors, (0.5, 0.95)).tolist()
    return Quality(pasted, found / pasted, total, recalled / total, false, median, p95)


def qualities(systems: dict[str, Find], scenes: Sequence[Scene]) -> dict[str, Quality]:
    reference = [systems[REFERENCE](scene.image) for scene in scenes]
    compared = {**systems, SHIFTED: shifted(systems[REFERENCE])}
    return {name: quality(find, scenes, reference) for name, find in compared.items()}


def portraits(folder: Path, count: int, generator: np.random.Generator) -> list[Image.Image]:
    """Some of a data set's test images."""
    dataset = open_dataset(folder).split("test")
    chosen = generator.permutation(len(dataset.samples))[:count]
    dataset = dataclasses.replace(dataset, samples=tuple(dataset.samples[i] for i in chosen))
    return [Image.fromarray(pixels) for pixels in dataset.crops(lambda image: np.array(image.convert("RGB")))]


def crowd(data: Path, seed: int) -> list[Scene]:
    """Scenes with faces of many people: two thirds from RAF-DB, one third from FER+."""
    generator = np.random.default_rng(seed)
    faces = portraits(data / "rafdb", 400, generator) + portraits(data / "ferplus", 200, generator)
    plans = [("crowd, 640x480", 80, 4, 0.15, 0.45), ("crowd, 1920x1080", 20, 16, 0.07, 0.2)]
    return [
        make_scene(name, SIZES[name.split(", ")[1]], count, low, high, faces=faces, generator=generator)
        for name, scenes, count, low, high in plans
        for _ in range(scenes)
    ]


def cost_table(measured: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(measured.values())))
    lines = [f"| scene | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for scene, row in measured.items():
        first = row[names[0]]
        cells = [f"{first:.0f}", *(f"{row[name]:.0f} ({first / row[name]:.1f}x)" for name in names[1:])]
        lines.append(f"| {scene} | {' | '.join(cells)} |")
    return "\n".join(lines)


def quality_table(measured: dict[str, Quality]) -> str:
    lines = [
        "| detector | pasted found | recall | false | landmarks, median | 95 % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in measured.items():
        lines.append(
            f"| {name} | {row.found:.1%} of {row.pasted} | {row.recall:.1%} of {row.reference} | {row.false} "
            f"| {row.median:.3f} | {row.p95:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--yunet", type=Path, help="face_detection_yunet_2023mar.onnx (default: the packaged one)")
    parser.add_argument("--faces", type=Path, help="folder with rafdb/ and ferplus/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # facenet-pytorch's
    systems = detectors(options.yunet)
    scenes = make_scenes([astronaut()], seed=options.seed, sizes=options.sizes)
    measured = costs(systems, scenes, options.rounds)
    print("CPU-ms a photo, one thread (and how many times less than facenet-pytorch's defaults)\n")
    print(f"{cost_table(measured)}\n", flush=True)
    sets = {"scenes": scenes}
    if options.faces:
        sets["faces of RAF-DB and FER+"] = crowd(options.faces, options.seed)
    judged = {}
    for name, some in sets.items():
        judged[name] = qualities(systems, some)
        print(f"{name}: {len(some)} photos\n\n{quality_table(judged[name])}\n", flush=True)
    if options.json:
        plain = {name: {key: dataclasses.asdict(value) for key, value in rows.items()} for name, rows in judged.items()}
        options.json.write_text(json.dumps({"cpu_ms": measured, "quality": plain}, indent=1) + "\n")


if __name__ == "__main__":
    main()
