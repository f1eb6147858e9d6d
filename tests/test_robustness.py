from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import affine_transform, gaussian_filter

from fergeneral import Detection
from fergeneral.alignment import TEMPLATE
from fergeneral.datasets import Dataset, Sample
from fergeneral.encoder import EncoderConfig
from fergeneral.evaluate import CONDITIONS, Condition, conditions

SIZE = 64
CONFIG = EncoderConfig("test", crop_size=SIZE)
RAFDB = Dataset("rafdb", Path("."), (Sample("a.png", "fear"),), TEMPLATE)
SHIFTED = Dataset("other", Path("."), RAFDB.samples, tuple((0.1 + 0.8 * x, 0.15 + 0.8 * y) for x, y in TEMPLATE))
FACE = np.array(TEMPLATE) * 100


def picture(size: int = 100, seed: int = 0) -> Image.Image:
    """Smooth random colours."""
    pixels = np.random.default_rng(seed).uniform(0, 255, (size, size, 3))
    smooth = gaussian_filter(pixels, (3, 3, 0), mode="nearest")
    return Image.fromarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8))


def dots(points: np.ndarray, size: int = 100) -> Image.Image:
    """White dots on black."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    near = np.min([(x - px) ** 2 + (y - py) ** 2 for px, py in points], axis=0)
    return Image.fromarray(np.repeat((255 * (near < 9))[..., None], 3, axis=2).astype(np.uint8))


def by_name(dataset: Dataset = RAFDB, **options) -> dict[tuple[str, str], Condition]:  # type: ignore[no-untyped-def]
    return {(c.group, c.severity): c for c in conditions(dataset, CONFIG, **options)}


def corrupted(group: str, number: int, image: Image.Image, seed: int = 0) -> np.ndarray:
    return np.asarray(CONDITIONS[group][number][1](image, np.random.default_rng(seed), FACE)).astype(float)


def test_every_condition_gives_a_crop_and_only_the_clean_one_is_clean() -> None:
    image = picture()
    found = conditions(RAFDB, CONFIG)
    assert found[0][:2] == ("clean", "")
    assert len({(c.group, c.severity) for c in found}) == len(found)
    clean = RAFDB.align(image, SIZE)
    assert (found[0].crop(image, 0) == clean).all()
    for condition in found[1:]:
        crop = condition.crop(image, 0)
        assert crop is not None
        assert crop.shape == (SIZE, SIZE, 3)
        assert crop.dtype == np.uint8
        assert abs(crop.astype(int) - clean).mean() > 0.3, condition


def test_the_image_given_is_left_as_it_is() -> None:
    image = picture()
    before = image.tobytes()
    for condition in conditions(RAFDB, CONFIG):
        condition.crop(image, 0)
    assert image.tobytes() == before


def test_what_is_drawn_depends_on_seed_and_place_alone() -> None:
    image = picture()
    again, other = by_name(seed=1), by_name(seed=2)
    for name, condition in by_name(seed=1).items():
        first = condition.crop(image, 3)
        assert (first == again[name].crop(image, 3)).all()
        by_chance = name[0] in ("noise", "random jitter") or name[1].startswith("square")
        assert (first != condition.crop(image, 4)).any() == by_chance
        assert (first != other[name].crop(image, 3)).any() == by_chance


def test_blur_is_that_of_scipy() -> None:
    image = picture()
    for number, sigma in enumerate((1.0, 2.0, 4.0)):
        wanted = gaussian_filter(np.asarray(image).astype(float), (sigma, sigma, 0), mode="nearest")
        # Pillow approximates the bell by boxes.
        assert abs(corrupted("blur", number, image) - wanted)[15:-15, 15:-15].max() < 6


def test_noise_has_the_stated_spread() -> None:
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    for number, sigma in enumerate((10, 20, 40)):
        noise = corrupted("noise", number, grey) - 128
        assert noise.std() == pytest.approx(sigma, rel=0.03)
        assert abs(noise.mean()) < 0.6


def test_jpeg_is_that_of_the_stated_quality() -> None:
    image, data = picture(), io.BytesIO()
    image.save(data, "JPEG", quality=10)
    assert (corrupted("JPEG", 2, image) == np.asarray(Image.open(data))).all()


def test_low_resolution_averages_and_never_enlarges() -> None:
    image = picture(64)
    pixels = np.asarray(image).astype(float)
    for number, side in ((0, 64), (2, 32), (4, 16)):
        small = corrupted("low resolution", number, image)
        wanted = pixels.reshape(side, 64 // side, side, 64 // side, 3).mean(axis=(1, 3))
        assert small == pytest.approx(wanted, abs=1.01)  # Pillow rounds rows, then columns
    assert CONDITIONS["low resolution"][0][1](picture(48), np.random.default_rng(0), FACE).size == (48, 48)


def test_tiny_images_are_taken() -> None:
    for condition in conditions(SHIFTED, CONFIG):
        for size in ((8, 8), (9, 6)):
            crop = condition.crop(Image.new("RGB", size), 0)
            assert crop is not None
            assert crop.shape == (SIZE, SIZE, 3)


def test_bars_lie_on_the_landmarks() -> None:
    white = Image.new("RGB", (100, 100), (255, 255, 255))
    for number, on, off in ((0, FACE[:2], FACE[2:]), (1, FACE[3:], FACE[:3])):
        changed = corrupted("occlusion", number, white)
        assert all((changed[int(y), int(x)] == 128).all() for x, y in on)
        assert all((changed[int(y), int(x)] == 255).all() for x, y in off)
    square = corrupted("occlusion", 2, white)[..., 0] == 128
    assert square.sum() == pytest.approx(40 * 40, abs=80)
    assert square.any(axis=0).sum() * square.any(axis=1).sum() == square.sum()


@pytest.mark.parametrize("dataset", [RAFDB, SHIFTED])
@pytest.mark.parametrize(
    ("group", "severity", "where"),
    [
        ("scale", "+20%", lambda p: (p - 0.5) * 1.2 + 0.5),
        ("scale", "-20%", lambda p: (p - 0.5) * 0.8 + 0.5),
        ("shift right", "+10%", lambda p: np.add(p, (0.1, 0))),
        ("shift down", "-10%", lambda p: np.add(p, (0, -0.1))),
        # Clockwise as seen, y pointing down.
        ("rotation", "+15 deg", lambda p: (p - 0.5) @ np.array([[0.9659, 0.2588], [-0.2588, 0.9659]]) + 0.5),
    ],
)
def test_landmarks_move_as_stated(dataset: Dataset, group: str, severity: str, where) -> None:  # type: ignore[no-untyped-def]
    image = dots(np.array(dataset.landmarks) * 100)
    crop = by_name(dataset)[group, severity].crop(image, 0)
    assert crop is not None
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    for px, py in where(np.array(TEMPLATE)) * SIZE:
        near = crop[..., 0].astype(float) * ((x - px) ** 2 + (y - py) ** 2 < 6**2)
        assert (near * x).sum() / near.sum() == pytest.approx(px, abs=0.35)
        assert (near * y).sum() / near.sum() == pytest.approx(py, abs=0.35)


def test_a_moved_crop_is_the_one_of_scipy() -> None:
    image = picture(SIZE)
    crop = by_name()["rotation", "+7 deg"].crop(image, 0)
    angle = np.deg2rad(7)
    # In (row, column), from crop to image.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, SIZE / 2 - 0.5)
    pixels = np.asarray(image).astype(float)
    for channel in range(3):
        wanted = affine_transform(pixels[..., channel], turn, centre - turn @ centre, order=1, mode="nearest")
        assert abs(crop[..., channel] - wanted).max() < 2  # type: ignore[index]


def test_random_jitter_stays_within_its_bounds() -> None:
    image = dots(FACE[2:3])  # the nose
    condition = by_name()["random jitter", "20%, 10%, 15 deg"]
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    places = []
    for index in range(200):
        weight = condition.crop(image, index)[..., 0].astype(float)  # type: ignore[index]
        places.append(((weight * x).sum() / weight.sum() / SIZE, (weight * y).sum() / weight.sum() / SIZE))
    offsets = np.array(places) - TEMPLATE[2]
    reach = 0.1 + 0.058 * 0.29  # shift; the nose lies 0.058 below the centre, and is turned and scaled about it
    assert abs(offsets).max() < reach + 0.01
    assert abs(offsets).max(axis=0) == pytest.approx((0.1, 0.1), abs=0.02)
    assert abs(offsets.mean(axis=0)).max() < 0.015


class _Fixed:
    """Finds the face where it is told to, beside a smaller one, or none."""

    def __init__(self, landmarks: np.ndarray | None) -> None:
        self.landmarks, self.seen = landmarks, Image.new("RGB", (1, 1))

    def detect(self, image: Image.Image) -> list[Detection]:
        self.seen = image
        if self.landmarks is None:
            return []
        small = Detection(np.array([0, 0, 9, 9]), FACE[::-1] / 10, 1.0)
        return [small, Detection(np.array([0, 0, 90, 90]), self.landmarks, 0.5)]


def test_a_face_found_in_its_place_gives_the_clean_crop() -> None:
    image, detector = picture(), _Fixed(FACE + 20)
    crop = by_name(detectors={"fixed": detector})["found again", "fixed"].crop(image, 0)
    assert crop is not None
    inside = np.s_[2:-2, 2:-2]  # the rest takes from the black around
    assert abs(crop.astype(int) - RAFDB.align(image, SIZE))[inside].max() <= 1
    assert detector.seen.size == (140, 140)
    assert detector.seen.getpixel((5, 70)) == (0, 0, 0)
    assert (np.asarray(ImageOps.crop(detector.seen, 20)) == np.asarray(image)).all()


def test_no_face_is_none() -> None:
    assert by_name(detectors={"blind": _Fixed(None)})["found again", "blind"].crop(picture(), 0) is None
