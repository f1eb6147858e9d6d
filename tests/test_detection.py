from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fergeneral import Detection, ExpressionExtractor, load_image
from fergeneral.detection import MTCNNDetector


@pytest.fixture(scope="module")
def detector() -> MTCNNDetector:
    return MTCNNDetector()


@pytest.mark.parametrize(
    ("photo", "faces"),
    [("astronaut.png", 1), ("three_faces.jpg", 3), ("chelsea.png", 0), ("coffee.png", 0), ("rocket.jpg", 0)],
)
def test_how_many_faces_are_in_each_photo(detector: MTCNNDetector, photos: Path, photo: str, faces: int) -> None:
    assert len(detector.detect(load_image(photos / photo))) == faces


def test_landmarks_lie_on_the_astronauts_face(detector: MTCNNDetector, photos: Path) -> None:
    (found,) = detector.detect(load_image(photos / "astronaut.png"))
    # read off the picture by eye, in pixels
    by_eye = np.array([[204, 101], [248, 103], [224, 128], [202, 139], [244, 142]])
    assert abs(found.landmarks - by_eye).max() < 6
    assert found.box.shape == (4,)
    assert found.box.dtype == found.landmarks.dtype == np.float32
    assert 0.9 < found.score <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (19, 19), (39, 60), (40, 40), (41, 300)])
def test_images_too_small_for_a_face_have_none(detector: MTCNNDetector, size: tuple[int, int]) -> None:
    assert detector.detect(Image.new("RGB", size)) == []


def test_random_images_neither_crash_nor_leave_the_image(detector: MTCNNDetector) -> None:
    generator = np.random.default_rng(0)
    for _ in range(40):
        height, width = generator.integers(40, 200, 2)
        noise = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((int(width), int(height)))
        for found in detector.detect(image):
            assert (found.box >= 0).all()
            assert (found.box[2:] <= (width, height)).all()


def test_too_small_a_face_size_is_refused() -> None:
    with pytest.raises(ValueError, match="min_face_size"):
        MTCNNDetector(min_face_size=5)


class WholeImage:
    """A user's own detector: the whole image is a face, and there is a smaller one in its corner."""

    def detect(self, image: Image.Image) -> list[Detection]:
        points = np.array([[0.27, 0.34], [0.73, 0.34], [0.5, 0.56], [0.3, 0.76], [0.7, 0.76]], dtype=np.float32)
        boxes = [np.array([0, 0, share * image.width, share * image.height], dtype=np.float32) for share in (0.5, 1)]
        return [Detection(box, points * box[2:], 0.5) for box in boxes]


def test_a_users_own_detector_drops_in(extractor: ExpressionExtractor) -> None:
    own = ExpressionExtractor(extractor.encoder, WholeImage())
    faces = own.extract(np.zeros((80, 60, 3), dtype=np.uint8))
    assert [face.box[2] for face in faces] == [60, 30]  # largest first, whatever order the detector gives
    with pytest.raises(TypeError, match="detect"):
        ExpressionExtractor(extractor.encoder, object())  # type: ignore[arg-type]
