from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import facenet_pytorch
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from fergeneral import Detection, ExpressionExtractor, load_image
from fergeneral.detection import MTCNNDetector, YuNetDetector, make_detector
from fergeneral.mtcnn import _in_stripes, _not_inside


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


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def test_mtcnns_own_weights_are_read_without_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """facenet-pytorch reads three files that lie in its wheel, by torch.load(path) as it stands.

    Since torch 2.6, the least that this package takes, that makes tensors and nothing else.
    """
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pt")
    read, load = [], torch.load

    def watched(path: str) -> object:  # any further argument would be an error
        read.append(Path(path))
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            load(tmp_path / "evil.pt")
        return load(path)

    monkeypatch.setattr(torch, "load", watched)
    MTCNNDetector()
    assert [path.name for path in read] == ["pnet.pt", "rnet.pt", "onet.pt"]
    assert {path.resolve().parent for path in read} == {Path(facenet_pytorch.__file__).parent / "data"}
    assert not (tmp_path / "executed").exists()


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


@pytest.fixture(scope="module")
def untouched() -> MTCNN:
    """facenet-pytorch's own driver, to compare with."""
    return MTCNN(keep_all=True, min_face_size=40, device="cpu")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    shared = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


@pytest.mark.parametrize("turn", [0, -25, 20])
@pytest.mark.parametrize("photo", ["astronaut.png", "three_faces.jpg"])
@pytest.mark.parametrize("scale", [0.8, 1.0, 2.3])
def test_faces_are_those_of_facenet_pytorch(
    detector: MTCNNDetector, untouched: MTCNN, photos: Path, photo: str, turn: int, scale: float
) -> None:
    image = load_image(photos / photo).rotate(turn, Image.Resampling.BICUBIC)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    boxes, _, landmarks = untouched.detect(image, landmarks=True)
    found = detector.detect(image)
    assert len(found) >= len(boxes) - (turn != 0)  # a small face that is turned is at the edge of what MTCNN finds
    for face in found:
        overlaps = [overlap(face.box, np.clip(np.float64(box), 0, image.size * 2)) for box in boxes]
        best = int(np.argmax(overlaps))
        assert overlaps[best] > 0.7
        points = np.float64(landmarks[best])
        eyes = np.linalg.norm(points[1] - points[0])
        assert np.linalg.norm(face.landmarks - points, axis=1).mean() < 0.15 * eyes


def test_the_first_network_gives_facenet_pytorchs_maps(detector: MTCNNDetector, untouched: MTCNN) -> None:
    """One head, 16 channels, pixels 0..255 and stripes change the sums' order and nothing else."""
    generator = torch.Generator().manual_seed(0)
    for height, width in ((12, 12), (13, 30), (74, 40), (75, 12), (76, 33), (77, 13), (138, 25), (139, 24), (200, 13)):
        pixels = torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)
        with torch.no_grad():
            shifts, scores = untouched.pnet((pixels.float() - 127.5) / 128)
            maps = _in_stripes(detector._pnet, pixels)
        assert maps.shape[1:] == scores.shape[2:]
        assert maps[1:] == pytest.approx(shifts[0].numpy(), abs=1e-5)
        assert 1 / (1 + np.exp(-maps[0])) == pytest.approx(scores[0, 1].numpy(), abs=1e-5)


@pytest.mark.parametrize(("name", "side"), [("rnet", 24), ("onet", 48)])
def test_the_other_networks_give_facenet_pytorchs_values(
    detector: MTCNNDetector, untouched: MTCNN, name: str, side: int
) -> None:
    crops = torch.randint(0, 256, (5, 3, side, side), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = getattr(untouched, name)((crops - 127.5) / 128)
        network = {"rnet": detector._rnet, "onet": detector._last._network}[name]
        said = network(crops.to(memory_format=torch.channels_last))[:, :, 0, 0]
    *others, scores = expected  # scores of both classes; ours come first, as one logit
    assert torch.sigmoid(said[:, 0]).numpy() == pytest.approx(scores[:, 1].numpy(), abs=1e-5)
    assert said[:, 1:].numpy() == pytest.approx(torch.cat(others, dim=1).numpy(), abs=1e-4)


def test_detectors_use_one_thread_of_torch_and_leave_its_count(
    detector: MTCNNDetector, yunet_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in what obeys no count for a thread: MKL's products of matrices."""
    counts: list[int] = []
    convolution = torch.mkldnn_convolution

    def counting(*arguments: Any) -> torch.Tensor:
        counts.append(torch.get_num_threads())
        return convolution(*arguments)

    monkeypatch.setattr(torch, "mkldnn_convolution", counting)
    image, before = load_image(photos / "astronaut.png"), torch.get_num_threads()
    for each in (detector, YuNetDetector(yunet_model)):
        counts.clear()
        torch.set_num_threads(3)
        try:
            with torch.profiler.profile() as profile:
                assert len(each.detect(image)) == 1
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)
        assert counts
        assert set(counts) == {1}
        seen = {event.key for event in profile.key_averages()}
        assert "aten::mkldnn_convolution" in seen
        assert not seen & {"aten::addmm", "aten::mm", "aten::bmm", "aten::_slow_conv2d_forward"}


def test_a_box_inside_another_is_dropped() -> None:
    boxes = np.array([[0, 0, 99, 99], [10, 10, 49, 49], [60, 60, 139, 139], [0, 0, 89, 99]], dtype=np.float32)
    # By hand, with sides of one pixel more: box 1 lies wholly in box 0 (share 1); box 2 shares 40x40 of 80x80 with it
    # (0.25); box 3 lies in box 0 and scores higher, so it stays and box 0 goes (share 1), and box 1 with it.
    assert _not_inside(boxes, np.array([0.8, 0.75, 0.7, 0.9], dtype=np.float32), 0.7) == [3, 2]
    assert _not_inside(boxes, np.array([0.9, 0.75, 0.7, 0.8], dtype=np.float32), 0.7) == [0, 2]
    assert _not_inside(boxes[:0], np.zeros(0, dtype=np.float32), 0.7) == []


def test_the_smallest_face_grows_with_a_large_photo_unless_it_is_given(photos: Path) -> None:
    head = load_image(photos / "astronaut.png").crop((150, 20, 300, 200)).resize((60, 72))
    canvas = Image.new("RGB", (4200, 4200), (90, 90, 90))
    canvas.paste(head, (900, 100))  # the face in it is about 50 pixels high; 4200 / 48 is 87
    assert MTCNNDetector().detect(canvas) == []
    (found,) = MTCNNDetector(min_face_size=40).detect(canvas)
    assert overlap(found.box, np.array([900, 100, 960, 172])) > 0.3
    (again,) = MTCNNDetector().detect(canvas.crop((0, 0, 4200, 300)))
    assert overlap(again.box, found.box) > 0.8


def test_faces_as_large_as_a_large_photo_are_found(detector: MTCNNDetector, photos: Path) -> None:
    head = load_image(photos / "astronaut.png").crop((132, 0, 312, 216))
    (small,) = detector.detect(head)
    (large,) = detector.detect(head.resize((12 * head.width, 12 * head.height), Image.Resampling.BICUBIC))
    assert overlap(large.box / 12, small.box) > 0.8
    assert abs(large.landmarks / 12 - small.landmarks).max() < 6  # the eyes are 44 pixels apart


@pytest.mark.parametrize("size", [(5000, 41), (43, 3001), (40, 40), (41, 997), (97, 61)])
def test_long_and_odd_sizes_do_not_crash(detector: MTCNNDetector, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for found in detector.detect(Image.fromarray(noise)):
        assert (found.box[2:] <= size).all()


def test_threads_and_copies_find_the_same(detector: MTCNNDetector, photos: Path) -> None:
    images = [load_image(photos / name) for name in ("astronaut.png", "three_faces.jpg", "coffee.png")]
    expected = [[face.landmarks for face in detector.detect(image)] for image in images]
    copied = copy.deepcopy(detector)
    with ThreadPoolExecutor(4) as pool:
        for chosen in (detector, copied):
            for found, right in zip(pool.map(chosen.detect, images * 3), expected * 3, strict=True):
                assert len(found) == len(right)
                for face, landmarks in zip(found, right, strict=True):
                    assert face.landmarks == pytest.approx(landmarks, abs=1e-3)


def test_names_make_detectors(detector: MTCNNDetector) -> None:
    assert isinstance(make_detector(None), MTCNNDetector)
    assert isinstance(make_detector("mtcnn"), MTCNNDetector)
    assert make_detector(detector) is detector


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
