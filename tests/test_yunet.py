from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.base import clone

from fergeneral import Detection, ExpressionExtractor, ExpressionFeatures, MissingExtraError, ModelError, load_image
from fergeneral.cli import main
from fergeneral.mtcnn import MTCNNDetector
from fergeneral.yunet import MODEL_FILE, YuNetDetector, _pixels


@pytest.fixture(scope="module")
def detector(yunet_model: Path) -> YuNetDetector:
    return YuNetDetector(yunet_model)


@pytest.mark.parametrize(
    ("photo", "faces"),
    [("astronaut.png", 1), ("three_faces.jpg", 3), ("chelsea.png", 0), ("coffee.png", 0), ("rocket.jpg", 0)],
)
def test_how_many_faces_are_in_each_photo(detector: YuNetDetector, photos: Path, photo: str, faces: int) -> None:
    assert len(detector.detect(load_image(photos / photo))) == faces


def test_landmarks_come_in_our_order(detector: YuNetDetector, photos: Path) -> None:
    (found,) = detector.detect(load_image(photos / "astronaut.png"))
    # read off the picture by eye, in pixels: left eye, right eye, nose, left and right mouth corner
    by_eye = np.array([[204, 101], [248, 103], [224, 128], [202, 139], [244, 142]])
    assert abs(found.landmarks - by_eye).max() < 6
    assert found.box.dtype == found.landmarks.dtype == np.float32
    assert (found.box.shape, found.landmarks.shape) == ((4,), (5, 2))
    assert (found.box[:2] < found.landmarks.min(axis=0)).all()
    assert (found.landmarks.max(axis=0) < found.box[2:]).all()
    assert 0.7 < found.score <= 1


def test_left_stays_left_in_a_mirror(detector: YuNetDetector, photos: Path) -> None:
    image = load_image(photos / "astronaut.png")
    (plain,), (mirrored,) = detector.detect(image), detector.detect(ImageOps.mirror(image))
    back = mirrored.landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (image.width, 0)
    assert abs(back - plain.landmarks).max() < 10  # YuNet itself leans to a side; the eyes are 46 pixels apart


@pytest.mark.parametrize(
    ("photo", "size"),
    [
        ("astronaut.png", (320, 320)),
        ("three_faces.jpg", (768, 341)),
        ("coffee.png", (417, 300)),
        ("astronaut.png", (99, 77)),
    ],
)
def test_what_yunet_proposes_is_what_opencv_makes_of_it(
    detector: YuNetDetector, yunet_model: Path, photos: Path, photo: str, size: tuple[int, int]
) -> None:
    small = load_image(photos / photo).resize(size)
    opencv = cv2.FaceDetectorYN.create(str(yunet_model), "", size, 0.2, 0.3)
    _, expected = opencv.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))
    assert len(expected) > 0
    assert detector._rows(_pixels(small)) == pytest.approx(expected, abs=1e-3)


def test_a_large_photo_is_seen_small_and_answered_in_its_own_pixels(detector: YuNetDetector, photos: Path) -> None:
    image = load_image(photos / "astronaut.png")
    (small,) = detector.detect(image.resize((1024, 1024)))
    (large,) = detector.detect(image.resize((4096, 4096)))
    assert abs(large.box / 4 - small.box).max() < 6  # of 1024
    assert abs(large.landmarks / 4 - small.landmarks).max() < 6


def test_landmarks_are_those_of_mtcnn(detector: YuNetDetector, photos: Path) -> None:
    """Crops are defined by MTCNN's landmarks; YuNet's own lie about 0.11 distances between the eyes from them."""
    photo = load_image(photos / "three_faces.jpg")
    by_place = [sorted(one.detect(photo), key=lambda face: face.box[0]) for one in (detector, MTCNNDetector())]
    for ours, mtcnn in zip(*by_place, strict=True):
        eyes = np.linalg.norm(mtcnn.landmarks[1] - mtcnn.landmarks[0])
        assert np.linalg.norm(ours.landmarks - mtcnn.landmarks, axis=1).mean() < 0.06 * eyes


def test_smaller_faces_are_found_when_asked_for(yunet_model: Path, photos: Path) -> None:
    head = load_image(photos / "astronaut.png").crop((132, 0, 312, 216)).resize((30, 36))
    scene = Image.new("RGB", (640, 480), (90, 120, 60))
    scene.paste(head, (300, 200))
    assert YuNetDetector(yunet_model).detect(scene) == []  # its face is about 20 pixels wide
    (found,) = YuNetDetector(yunet_model, min_face_size=12).detect(scene)
    assert (found.box[:2] > (295, 195)).all()
    assert (found.box[2:] < (335, 241)).all()
    with pytest.raises(ValueError, match="min_face_size must be at least 1 pixels"):
        YuNetDetector(yunet_model, min_face_size=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (19, 19), (31, 33), (3, 700), (700, 32), (9000, 30)])
def test_odd_sizes_have_no_face(detector: YuNetDetector, size: tuple[int, int]) -> None:
    assert detector.detect(Image.new("RGB", size, (90, 120, 60))) == []


def test_boxes_stay_inside_the_image(detector: YuNetDetector, photos: Path) -> None:
    cut = load_image(photos / "astronaut.png").crop((195, 60, 400, 250))  # through the left cheek
    (found,) = detector.detect(cut)
    assert found.box[0] == 0
    assert (found.box[2:] <= cut.size).all()


def test_threads_do_not_disturb_each_other(detector: YuNetDetector, photos: Path) -> None:
    images = [load_image(photos / name) for name in ("astronaut.png", "three_faces.jpg", "coffee.png")]
    expected = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(detector.detect, images * 6), expected * 6, strict=True):
            assert same(found, right)


def same(a: list[Detection], b: list[Detection]) -> bool:
    return len(a) == len(b) and all(
        (x.box == y.box).all() and (x.landmarks == y.landmarks).all() for x, y in zip(a, b, strict=True)
    )


def test_copies_find_the_same(detector: YuNetDetector, photos: Path) -> None:
    image = load_image(photos / "three_faces.jpg")
    expected = detector.detect(image)
    for again in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert same(again.detect(image), expected)


def test_the_threshold_is_kept(yunet_model: Path, photos: Path) -> None:
    image = load_image(photos / "three_faces.jpg")
    scores = sorted(face.score for face in YuNetDetector(yunet_model, score_threshold=0.1).detect(image))
    middle = (scores[-1] + scores[-2]) / 2
    assert [face.score for face in YuNetDetector(yunet_model, score_threshold=middle).detect(image)] == scores[-1:]
    for wrong in (0, 1, -1, 2):
        with pytest.raises(ValueError, match="score_threshold"):
            YuNetDetector(yunet_model, score_threshold=wrong)


def test_other_bytes_are_refused(yunet_model: Path, tmp_path: Path) -> None:
    data = bytearray(yunet_model.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / MODEL_FILE).write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        YuNetDetector(tmp_path / MODEL_FILE)
    with pytest.raises(ModelError, match="cannot be read"):
        YuNetDetector(tmp_path / "no.onnx")


def test_without_onnx_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, yunet_model: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fergeneral\[yunet\]'"):
        YuNetDetector(yunet_model)


def test_the_name_yunet_works_everywhere(extractor: ExpressionExtractor, photos: Path, tmp_path: Path) -> None:
    photo = photos / "astronaut.png"
    (face,) = ExpressionExtractor.from_pretrained(device="cpu", detector="yunet").extract(photo)
    (by_mtcnn,) = extractor.extract(photo)
    cosine = face.embedding @ by_mtcnn.embedding / np.linalg.norm(face.embedding) / np.linalg.norm(by_mtcnn.embedding)
    assert 0.9 < cosine < 0.99999  # another detector, nearly the same crop
    features = clone(ExpressionFeatures(device="cpu", detector="yunet"))
    assert features.transform([photo])[0] == pytest.approx(face.embedding, abs=1e-4)
    table = tmp_path / "faces.npz"
    assert main(["extract", str(photo), "--device", "cpu", "--detector", "yunet", "-o", str(table)]) == 0
    assert np.load(table)["embedding"][0] == pytest.approx(face.embedding, abs=1e-4)


def test_other_names_are_refused(extractor: ExpressionExtractor) -> None:
    with pytest.raises(ValueError, match="'mtcnn', 'yunet'"):
        ExpressionExtractor(extractor.encoder, "retinaface")
