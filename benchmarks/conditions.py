"""Detectors and encoder under worse conditions, and what costs little against the worst of them.

python benchmarks/conditions.py DATA OUT [--cache FOLDER] [--remedies]

DATA holds london/ (with people.csv), rafdb/ and fairface/. Written are conditions.json, conditions.md and figures. With
--remedies also remedies.json: the share of faces found, and the accuracy, when small photos are enlarged before
detection, when the detector looks for smaller faces, and when brightness is normalised.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fergeneral import ExpressionClassifier
from fergeneral.detection import MTCNNDetector, YuNetDetector
from fergeneral.evaluate.conditions_report import evaluate_conditions
from fergeneral.types import Detector

LEAST_SIDE = 320  # pixels
MIDDLE = 0.5  # of the range of brightness: where the median is put
FAR = 0.3  # from the middle: images whose median is nearer stay as they are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--remedies", action="store_true")
    options = parser.parse_args()
    classifier = ExpressionClassifier.from_pretrained(device="cpu")
    record = evaluate_conditions(
        classifier,
        options.data / "london" / "people.csv",
        options.data / "rafdb",
        options.out,
        pose_photos=options.data / "fairface" / "attributes.csv",
        cache=options.cache,
    )
    print(record["seconds"])
    if options.remedies:
        found = dict(remedies(classifier, options.data, options.cache))
        (options.out / "remedies.json").write_text(json.dumps(found, indent=1) + "\n")


def remedies(classifier: ExpressionClassifier, data: Path, cache: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of each remedy, by its name."""
    photos = data / "london" / "people.csv"
    small: dict[str, Detector] = {
        "MTCNN, faces from 12 px": MTCNNDetector(min_face_size=12),
        "YuNet, faces from 12 px": YuNetDetector(min_face_size=12),
    }
    yield "smaller faces", evaluate_conditions(classifier, photos, detectors=small, cache=cache)
    yield "small photos enlarged", evaluate_conditions(classifier, photos, prepare=enlarged, cache=cache)
    yield (
        "brightness normalised",
        evaluate_conditions(classifier, photos, data / "rafdb", prepare=normalised, pose_count=10, cache=cache),
    )


def enlarged(image: Image.Image) -> Image.Image:
    """The photo with LEAST_SIDE pixels or more on its longer side."""
    scale = LEAST_SIDE / max(image.size)
    if scale <= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def normalised(image: Image.Image) -> Image.Image:
    """By the gamma, 1/4 to 4, that puts the median of the central half of a dark or bright image in the middle."""
    grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    centre = grey[height // 4 : height - height // 4, width // 4 : width - width // 4]
    median = float(np.clip(np.median(centre) / 255, 1 / 255, 254 / 255))
    if abs(median - MIDDLE) <= FAR:
        return image
    gamma = float(np.clip(np.log(MIDDLE) / np.log(median), 0.25, 4))
    return image.point(np.rint(255 * (np.arange(256) / 255) ** gamma).astype(int).tolist() * 3)


if __name__ == "__main__":
    main()
