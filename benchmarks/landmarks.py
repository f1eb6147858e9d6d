"""Where MTCNN finds the five landmarks in each data set's images: the source of TEMPLATE and of the sets' fixed crops.

    python benchmarks/landmarks.py DATA [--images 400]

DATA is the folder that holds rafdb/, affectnet/ and so on. Prints median and median absolute deviation, as fractions
of the image's side. Images are brought to 100 pixels and get a margin of 20 % of black, since MTCNN is made for faces
with something around them: without it, RAF-DB's eyes scatter six times as much.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fergeneral.datasets import Dataset, open_dataset
from fergeneral.detection import MTCNNDetector

SIDE, MARGIN = 100, 20


def measure(dataset: Dataset, count: int) -> tuple[np.ndarray, int]:
    detector = MTCNNDetector()
    chosen = np.random.default_rng(0).permutation(len(dataset.samples))[:count]
    dataset = dataclasses.replace(dataset, samples=tuple(dataset.samples[i] for i in chosen))
    landmarks = []
    for pixels in dataset.crops(lambda image: np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))):
        found = detector.detect(ImageOps.expand(Image.fromarray(pixels), MARGIN))
        if found:
            landmarks.append((max(found, key=lambda face: face.area).landmarks - MARGIN) / SIDE)
    return np.array(landmarks), len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    for folder in sorted(path for path in options.data.iterdir() if path.is_dir()):
        landmarks, count = measure(open_dataset(folder), options.images)
        median = np.median(landmarks, axis=0)
        deviation = np.median(abs(landmarks - median), axis=0)
        print(f"{folder.name}: found in {len(landmarks)} of {count}")
        print(f"  median {median.round(3).tolist()}\n  MAD    {deviation.round(3).tolist()}", flush=True)


if __name__ == "__main__":
    main()
