"""What it costs when crops at inference differ from those of training: a probe fitted on right crops reads wrong ones.

    python benchmarks/crop_mismatch.py RAFDB [--model FOLDER]

RAFDB is the folder of RAF-DB. The images are whole aligned crops, so a wrong crop is made by moving, turning or scaling
the template on them; what lies beyond the image repeats its edge. "tight box" is the box of MTCNN stretched to a
square, as the common pipeline (facenet-pytorch's MTCNN without landmarks, margin 0) would feed it. "found again" is
what `extract` does with a photo: MTCNN finds the face of each image (with a margin of 20 % of black around it) and the
crop is aligned to its landmarks; where none is found, the image is taken whole.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageOps

from fergeneral.alignment import TEMPLATE, align_face
from fergeneral.datasets import open_dataset
from fergeneral.detection import MTCNNDetector
from fergeneral.evaluate import embed_dataset
from fergeneral.evaluate.probe import fit_probe
from fergeneral.extractor import ExpressionExtractor

CENTRE = np.array([0.5, 0.5])
# MTCNN's box on RAF-DB's aligned images, in fractions of their side: left, top, right, bottom (median of 346 images).
BOX = (0.006, -0.062, 0.964, 1.031)


def moved(scale: float = 1.0, degrees: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (np.array(TEMPLATE) - CENTRE) @ turn.T * scale + CENTRE + shift


MISMATCHES = {
    "none": moved(),
    "face 20 % larger": moved(1 / 1.2),
    "face 20 % smaller": moved(1.2),
    "10 % to the side": moved(shift=(0.1, 0.0)),
    "10 % down": moved(shift=(0.0, -0.1)),
    "turned by 15 degrees": moved(degrees=15),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rafdb")
    parser.add_argument("--model")
    options = parser.parse_args()
    extractor = ExpressionExtractor.from_pretrained(options.model)
    size = extractor.config.crop_size
    dataset = open_dataset(options.rafdb)
    train, test = dataset.split("train"), dataset.split("test")
    probe = fit_probe(embed_dataset(extractor.encoder, train), train.labels)

    def report(name: str, crops: list[np.ndarray]) -> None:
        result = probe.read(extractor.encode(crops, batch_size=128, show_progress=False), test.labels)
        print(f"{name:<22} accuracy {result.accuracy:.4f}  UAR {result.uar:.4f}", flush=True)

    for name, points in MISMATCHES.items():
        report(name, list(test.crops(lambda im, at=points: align_face(im, at * im.size, size=size))))

    def tight(image: Image.Image) -> np.ndarray:
        box = [round(side * v) for side, v in zip(image.size * 2, BOX, strict=True)]
        box = [max(0, box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3])]
        return np.array(image.crop(box).resize((size, size)))

    report("tight box", list(test.crops(tight)))

    detector = MTCNNDetector()
    missed = 0

    def found_again(image: Image.Image) -> np.ndarray:
        nonlocal missed
        margin = image.width // 5
        wide = ImageOps.expand(image, margin)
        faces = detector.detect(wide)
        if not faces:
            missed += 1
            return align_face(image, moved() * image.size, size=size)
        return align_face(wide, max(faces, key=lambda face: face.area).landmarks, size=size)

    report("found again", list(test.crops(found_again)))
    print(f"(no face found in {missed} of {len(test.samples)})")


if __name__ == "__main__":
    main()
