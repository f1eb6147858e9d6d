from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fergeneral import ImageError, align_face
from fergeneral.alignment import TEMPLATE, resize_crop, similarity_transform

FIVE = np.array(TEMPLATE) * 100


def turned(points: np.ndarray, degrees: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ rotation.T + shift


def test_an_exact_similarity_is_recovered() -> None:
    target = turned(FIVE, 33, 0.7, (12, -5))
    matrix = similarity_transform(FIVE, target)
    assert FIVE @ matrix[:, :2].T + matrix[:, 2] == pytest.approx(target, abs=1e-9)


def test_least_squares_against_numpy() -> None:
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(5, 2)), generator.normal(size=(5, 2))
    # unknowns a, b, c, d in  x' = a x - b y + c,  y' = b x + a y + d
    rows = [[x, -y, 1, 0] for x, y in source] + [[y, x, 0, 1] for x, y in source]
    a, b, c, d = np.linalg.lstsq(np.array(rows), target.T.ravel(), rcond=None)[0]
    assert similarity_transform(source, target) == pytest.approx(np.array([[a, -b, c], [b, a, d]]), abs=1e-9)


def test_never_mirrored() -> None:
    mirrored = FIVE * (-1, 1)
    assert np.linalg.det(similarity_transform(mirrored, FIVE)[:, :2]) > 0


def test_landmarks_on_the_template_leave_an_image_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    assert (align_face(pixels, FIVE, size=100) == pixels).all()


@pytest.mark.parametrize("degrees", [0, 30, -75, 180])
@pytest.mark.parametrize("scale", [0.4, 1.0, 3.7, 9.0])
def test_dots_on_the_landmarks_come_to_the_template(degrees: float, scale: float) -> None:
    centre = np.array([500.0, 480.0])
    landmarks = turned(FIVE - 50, degrees, scale) + centre
    y, x = np.mgrid[0:960, 0:1000] + 0.5
    image = np.zeros((960, 1000, 3), dtype=np.uint8)
    for px, py in landmarks:
        image[(x - px) ** 2 + (y - py) ** 2 < (3 * max(1.0, scale)) ** 2] = 255
    crop = align_face(image, landmarks, size=96)[..., 0].astype(float)
    y, x = np.mgrid[0:96, 0:96] + 0.5
    for px, py in np.array(TEMPLATE) * 96:
        near = crop * ((x - px) ** 2 + (y - py) ** 2 < 9**2)
        drawn = 0.2 + 0.12 / scale  # a dot's centre is known to about an eighth of a source pixel
        assert (near * x).sum() / near.sum() == pytest.approx(px, abs=drawn)
        assert (near * y).sum() / near.sum() == pytest.approx(py, abs=drawn)


def test_shrinking_averages_over_the_source() -> None:
    # A checkerboard of single pixels must become grey, not black, white or a moire.
    board = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = align_face(board, FIVE * 8, size=64)
    assert abs(crop.astype(int) - 128).max() <= 3


def test_edge_pixels_are_repeated_beyond_the_image() -> None:
    image = np.full((100, 100, 3), 200, dtype=np.uint8)
    crop = align_face(image, FIVE - (60, 60), size=64)
    assert (crop == 200).all()


@pytest.mark.parametrize(
    "landmarks",
    [
        FIVE[:4],
        np.full((5, 2), np.nan),
        np.full((5, 2), 7.0),
        FIVE + 1000,
        FIVE * 1e6,
        np.zeros((5, 3)),
        FIVE * (1, 0) * 0,
    ],
)
def test_impossible_landmarks_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(ImageError, match="landmarks"):
        align_face(np.zeros((100, 100, 3), dtype=np.uint8), landmarks, size=112)


def test_crops_are_resized_like_faces_are_aligned() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    aligned = align_face(pixels, FIVE, size=64)
    assert abs(resize_crop(Image.fromarray(pixels), 64).astype(int) - aligned).max() <= 1
