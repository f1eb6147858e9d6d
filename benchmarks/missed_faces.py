"""The photos of FairFace in which MTCNN finds no face, looked at again in ways that cost little.

    python benchmarks/missed_faces.py DATA

DATA holds fairface/. Printed is a table: in how many of the missed photos each way finds a face, and in how many of
those the landmarks are farther from YuNet's than half the distance between the eyes, so that it is probably no face.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fergeneral.detection import detect_faces, make_detector
from fergeneral.evaluate.leakage_report import open_fairface
from fergeneral.evaluate.tables import markdown_table
from fergeneral.images import load_image
from fergeneral.types import Detector

FAR = 0.5  # of the distance between the eyes

Look = Callable[[Image.Image], np.ndarray | None]


def landmarks(detector: Detector, image: Image.Image) -> np.ndarray | None:
    """(5, 2) of the largest face."""
    faces = detect_faces(detector, image).detections
    return faces[0].landmarks if faces else None


def with_margin(detector: Detector, share: float, *, edge: bool) -> Look:
    """With so much of the longer side around the photo, black or the edge's pixels repeated."""

    def look(image: Image.Image) -> np.ndarray | None:
        wide = round(share * max(image.size))
        pixels = np.pad(np.asarray(image), ((wide, wide), (wide, wide), (0, 0)), mode="edge")
        found = landmarks(detector, Image.fromarray(pixels) if edge else ImageOps.expand(image, wide))
        return None if found is None else found - wide

    return look


def enlarged(detector: Detector) -> Look:
    def look(image: Image.Image) -> np.ndarray | None:
        found = landmarks(detector, image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC))
        return None if found is None else found / 2

    return look


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    mtcnn, small, yunet = make_detector("mtcnn"), make_detector("mtcnn", min_face_size=20), make_detector("yunet")
    files = open_fairface(options.data / "fairface").dataset.files()
    missed = [image for image in map(load_image, files) if landmarks(mtcnn, image) is None]
    ways: dict[str, Look] = {
        "YuNet": lambda image: landmarks(yunet, image),
        "MTCNN, faces from 20 px": lambda image: landmarks(small, image),
        "MTCNN, photo twice as large": enlarged(mtcnn),
        "MTCNN, black margin of 20 %": with_margin(mtcnn, 0.2, edge=False),
        "MTCNN, edge repeated for 20 %": with_margin(mtcnn, 0.2, edge=True),
        "MTCNN, black margin of 50 %": with_margin(mtcnn, 0.5, edge=False),
    }
    reference = [landmarks(yunet, image) for image in missed]
    lines = []
    for name, look in ways.items():
        pairs = [(found, true) for found, true in zip(map(look, missed), reference, strict=True) if found is not None]
        far = sum(true is not None and _distance(found, true) > FAR for found, true in pairs)
        lines.append([name, f"{len(pairs)} of {len(missed)}", far])
    print(markdown_table(["looked at again by", "finds a face in", "far from YuNet's"], lines))


def _distance(found: np.ndarray, true: np.ndarray) -> float:
    """Mean distance of the landmarks, in distances between the eyes."""
    return float(np.linalg.norm(found - true, axis=1).mean() / max(1.0, np.linalg.norm(true[1] - true[0])))


if __name__ == "__main__":
    main()
