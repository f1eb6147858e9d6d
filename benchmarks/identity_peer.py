"""Embeddings of a face-recognition network, to compare with: what dlib's gives for London, CK+ and FairFace.

    pip install dlib-bin face_recognition_models
    python benchmarks/identity_peer.py --data DATA --out peers/dlib-resnet.npz

DATA holds london/, ckplus48/ and fairface/. Written is one .npz with `path` (P,) str, "SET/PATH IN THE SET", and
`embedding` (P, 128) float16; NaN where MTCNN found no face. `benchmarks/trust.py --peers` reads it.

The network is dlib_face_recognition_resnet_model_v1.dat of Davis King: a ResNet with 29 layers, trained on about three
million faces of 7,485 people, 0.993833 on LFW by its author's account. Its README (github.com/davisking/dlib-models)
puts it, as the author's own work, into the public domain; the package face_recognition_models 0.3.0 (PyPI), which it is
taken from, says public domain or CC0 1.0. dlib itself is under the Boost Software License.

A face is the one that our detector finds, so that all systems see the same: dlib's five-point shape predictor is
started in a square about those landmarks, and dlib cuts its chip of 150 pixels. CK+'s crops of 48 pixels are enlarged
four times, and the square follows from where the landmarks lie in them on average.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import dlib
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from fergeneral.datasets import Dataset
from fergeneral.detection import detect_faces, make_detector
from fergeneral.evaluate.leakage_report import open_ckplus, open_fairface, open_london
from fergeneral.types import Detector

# dlib's detector gives a square whose side is so many times the distance between eyes and mouth, its centre so much of
# that distance below the middle of the two; medians over London's 204 photos (`--calibrate`).
SIDE, DOWN = 2.3, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--calibrate", action="store_true", help="print SIDE and DOWN by dlib's own detector on London")
    options = parser.parse_args()
    photos = {"london": open_london(options.data / "london").dataset}
    if options.calibrate:
        print("SIDE, DOWN = {:.2f}, {:.2f}".format(*calibrate(photos["london"])))
        return
    if options.out is None:
        parser.error("--out is needed")
    photos["fairface"] = open_fairface(options.data / "fairface").dataset
    paths: list[str] = []
    rows: list[np.ndarray] = []
    detector, network = make_detector(None, "cpu"), Network()
    for name, dataset in photos.items():
        for image, landmarks in found(dataset, detector):
            rows.append(np.full(128, np.nan) if landmarks is None else network.embed(image, landmarks))
        paths += [f"{name}/{sample.path}" for sample in dataset.samples]
    crops = open_ckplus(options.data / "ckplus48").dataset
    for pixels in tqdm(crops.crops(np.asarray), total=len(crops.samples), desc="ckplus48"):
        image = enlarged(Image.fromarray(pixels))
        rows.append(network.embed(image, margin_landmarks(crops, pixels.shape[1])))
    paths += [f"ckplus48/{sample.path}" for sample in crops.samples]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, path=np.array(paths), embedding=np.stack(rows).astype(np.float16))


class Network:
    """dlib's landmarks and face recognition."""

    def __init__(self) -> None:
        package = importlib.util.find_spec("face_recognition_models")  # importing it needs an old setuptools
        if package is None or package.origin is None:
            raise SystemExit("run: pip install face_recognition_models==0.3.0")
        models = Path(package.origin).parent / "models"
        self._shape = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))

    def embed(self, image: Image.Image, landmarks: np.ndarray) -> np.ndarray:
        """(128,) of the face at five landmarks of ours, in an RGB image."""
        pixels = np.ascontiguousarray(image)
        shape = self._shape(pixels, square(landmarks))
        chip = dlib.get_face_chip(pixels, shape, size=150, padding=0.25)
        return np.array(self._network.compute_face_descriptor(chip))


def square(landmarks: np.ndarray) -> dlib.rectangle:
    """About where dlib's detector would have found the face."""
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    unit = float(np.linalg.norm(mouth - eyes))
    (x, y), half = (eyes + mouth) / 2 + (mouth - eyes) * DOWN, SIDE * unit / 2
    return dlib.rectangle(*(round(float(value)) for value in (x - half, y - half, x + half, y + half)))


def calibrate(london: Dataset) -> tuple[float, float]:
    """Medians of SIDE and DOWN over photos, by dlib's own detector."""
    ours, theirs = make_detector(None, "cpu"), dlib.get_frontal_face_detector()
    london, values = dataclasses.replace(london, samples=london.samples[::20]), []
    for image, landmarks in found(london, ours):
        boxes = theirs(np.ascontiguousarray(image))
        if landmarks is None or not boxes:
            continue
        box = max(boxes, key=lambda box: box.area())
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        unit = float(np.linalg.norm(mouth - eyes))
        values.append((box.width() / unit, (box.center().y - (eyes + mouth)[1] / 2) / unit))
    side, down = np.median(values, axis=0)
    return float(side), float(down)


def found(dataset: Dataset, detector: Detector) -> Iterator[tuple[Image.Image, np.ndarray | None]]:
    """Each photo, and the landmarks of its largest face."""
    for pixels in tqdm(dataset.crops(np.asarray), total=len(dataset.samples), desc=dataset.name):
        image = Image.fromarray(pixels)
        faces = detect_faces(detector, image).detections
        yield image, faces[0].landmarks if faces else None


ENLARGED, MARGIN = 4, 0.5  # times; share of the side that is put around, the edge repeated


def enlarged(image: Image.Image) -> Image.Image:
    """A small crop, large enough for dlib's chip, with black around it."""
    large = image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.BICUBIC)
    return ImageOps.expand(large, round(MARGIN * large.width))


def margin_landmarks(dataset: Dataset, side: int) -> np.ndarray:
    """Where the landmarks lie in `enlarged` crops on average."""
    return (np.asarray(dataset.landmarks) + MARGIN) * side * ENLARGED


if __name__ == "__main__":
    main()
