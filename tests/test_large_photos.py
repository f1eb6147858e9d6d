"""Small faces in large photos, faces at the edge, impossible faces of a detector, alignment as the weights want it, and
tracks where few frames are asked for."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_video import GREEN, RED, SQUARE, SquareDetector, blank, noise, picture, write_video

from fergeneral import DataError, Detection, ExpressionExtractor, align_face, load_image
from fergeneral.alignment import TEMPLATE
from fergeneral.cli import main
from fergeneral.detection import MTCNNDetector, YuNetDetector, make_detector
from fergeneral.jobs import run_job
from fergeneral.mtcnn import smallest_face
from fergeneral.sources import list_photos
from fergeneral.types import Detector
from fergeneral.video import TRACKING_RATE, read_frames
from fergeneral.yunet import MODEL_SHA256

HEAD = (132, 0, 312, 216)  # in astronaut.png, in pixels; the face in it is 89 wide and 115 high


# The smallest face looked for


def test_the_smallest_face_goes_by_the_area() -> None:
    assert [smallest_face(size, None) for size in ((640, 480), (1920, 1080), (2560, 1440))] == [40, 40, 40]
    sizes = [(6000, 4000), (4000, 6000), (12_000, 1500), (4000, 3000), (3000, 3000)]
    by_hand = [102.06, 102.06, 88.39, 72.17, 62.5]  # sqrt(width * height) / 48
    assert [smallest_face(size, None) for size in sizes] == pytest.approx(by_hand, abs=0.01)
    assert smallest_face((6000, 4000), 55) == 55


def crowd(photos: Path, size: tuple[int, int], count: int, height: int) -> tuple[Image.Image, np.ndarray]:
    """A photo with `count` faces, `height` pixels high and not quite in a grid, and the squares (N, 4) they are in."""
    head = load_image(photos / "astronaut.png").crop(HEAD)
    head = head.resize((round(head.width * height / 115), round(head.height * height / 115)), Image.Resampling.LANCZOS)
    scene = load_image(photos / "coffee.png").resize(size, Image.Resampling.BICUBIC)
    generator = np.random.default_rng(0)
    columns = round((count * size[0] / size[1]) ** 0.5)
    places = []
    for number in range(count):
        cell = np.array([number % columns + 0.5, number // columns + 0.5]) / (columns, -(-count // columns))
        left, top = (cell * size - np.array(head.size) / 2 + generator.integers(-20, 20, 2)).astype(int).tolist()
        scene.paste(head.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else head, (left, top))
        places.append([left, top, left + head.width, top + head.height])
    return scene, np.array(places)


def found_in(faces: list[Detection], places: np.ndarray) -> list[int]:
    """How many faces have their middle in each place."""
    middles = np.array([face.landmarks.mean(axis=0) for face in faces]).reshape(-1, 1, 2)
    return ((middles > places[:, :2]) & (middles < places[:, 2:])).all(axis=2).sum(axis=0).tolist()


@pytest.mark.parametrize("height", [110, 80])
def test_forty_faces_in_24_megapixels_are_found(photos: Path, height: int) -> None:
    scene, places = crowd(photos, (6000, 4000), 40, height)
    faces = MTCNNDetector().detect(scene)
    assert found_in(faces, places) == [1] * 40
    assert len(faces) == 40


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_small_faces_in_a_panorama_are_found(photos: Path, name: str) -> None:
    scene, places = crowd(photos, (12_000, 1500), 5, 89)
    assert found_in(make_detector(name).detect(scene), places) == [1] * 5


@pytest.fixture(scope="module")
def small_face(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo with a face of 15 x 19 pixels."""
    scene = Image.new("RGB", (640, 480), (90, 120, 60))
    scene.paste(load_image(photos / "astronaut.png").crop(HEAD).resize((30, 36)), (300, 200))
    path = tmp_path_factory.mktemp("small") / "small.png"
    scene.save(path)
    return path


@pytest.mark.parametrize("name", [None, "mtcnn", "yunet"])
def test_from_pretrained_takes_the_smallest_face(random_folder: Path, small_face: Path, name: str | None) -> None:
    by_default = ExpressionExtractor.from_pretrained(random_folder, device="cpu", detector=name)
    assert by_default.extract(small_face) == []
    asked = ExpressionExtractor.from_pretrained(random_folder, device="cpu", detector=name, min_face_size=15)
    (face,) = asked.extract(small_face)
    assert (face.box > (300, 200, 300, 200)).all()
    assert (face.box < (335, 240, 335, 240)).all()


@pytest.mark.parametrize("make", [make_detector, lambda _, **options: MTCNNDetector(**options)])
def test_a_smallest_face_that_makes_no_sense_is_refused(make: Callable[..., Detector]) -> None:
    for wrong in (11, 0, -40):
        with pytest.raises(ValueError, match=f"min_face_size must be at least 12 pixels, got {wrong}"):
            make("mtcnn", min_face_size=wrong)
    for odd in (40.0, "40", True, np.float32(40), [40]):
        with pytest.raises(TypeError, match=r"min_face_size must be an integer \(pixels\) or None, got"):
            make("mtcnn", min_face_size=odd)
    assert type(make("mtcnn", min_face_size=np.int64(50)).min_face_size) is int  # type: ignore[attr-defined]


def test_the_smallest_face_is_not_for_a_detector_of_ones_own(extractor: ExpressionExtractor) -> None:
    for own in (SquareDetector(), MTCNNDetector()):
        with pytest.raises(ValueError, match=rf"not with an object \({type(own).__name__}\); set it where the object"):
            make_detector(own, min_face_size=40)
    with pytest.raises(ValueError, match="not with an object"):
        ExpressionExtractor.from_pretrained(device="cpu", detector=SquareDetector(), min_face_size=40)


def test_a_job_goes_on_with_the_same_smallest_face_only(random_folder: Path, small_face: Path, tmp_path: Path) -> None:
    def extractor(size: int | None) -> ExpressionExtractor:
        return ExpressionExtractor.from_pretrained(random_folder, device="cpu", min_face_size=size)

    photos = list_photos(small_face)
    assert run_job(extractor(15), photos, tmp_path / "out").faces == 1
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]["min_face_size"] == 15
    for other in (20, None):
        with pytest.raises(DataError, match=f"min_face_size is 15 there, {other} now"):
            run_job(extractor(other), photos, tmp_path / "out", resume=True)
    assert run_job(extractor(15), photos, tmp_path / "out", resume=True).faces == 1


def test_the_command_line_takes_the_smallest_face(
    random_folder: Path, small_face: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(random_folder), "--device", "cpu"]
    command = ["extract", str(small_face), *model]
    assert main(command) == 0
    assert "0 faces in 1 photo" in capsys.readouterr().err
    job = [*command, "--min-face-size", "15", "-o", str(tmp_path / "out")]
    for asked in ([*command, "--min-face-size", "15"], job, [*job, "--resume"]):
        assert main(asked) == 0
        assert "1 face in 1 photo" in capsys.readouterr().err
    assert main([*command, "--min-face-size", "20", "-o", str(tmp_path / "out"), "--resume"]) == 1
    assert "min_face_size is 15 there, 20 now" in capsys.readouterr().err
    still = np.asarray(Image.open(small_face))
    clip = write_video(tmp_path / "v.mp4", [still] * 3, codec="libx264")
    assert main(["video", str(clip), "--min-face-size", "15", *model]) == 0
    assert "3 faces in 3 frames" in capsys.readouterr().err
    for wrong in ("11", "many", "40.5"):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--min-face-size", wrong])
        assert caught.value.code == 2


def test_ray_workers_take_the_smallest_face(random_folder: Path) -> None:
    distributed = pytest.importorskip("fergeneral.distributed")
    assert inspect.signature(distributed.extract_dataset).parameters["min_face_size"].default is None
    values = {"model": random_folder, "min_face_size": 15, "device": "cpu", "version": distributed.__version__}
    weights = distributed.weights_sha256(ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder)
    fields = inspect.signature(distributed._Plan).parameters
    plan = distributed._Plan(**{**dict.fromkeys(fields), **values, "folder": ".", "weights_sha256": weights})
    assert distributed._load(plan).detector.min_face_size == 15


# Faces at the edge of a photo


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
@pytest.mark.parametrize("edges", [(190, 0, 512, 512), (0, 0, 262, 512), (0, 75, 512, 512), (185, 70, 290, 200)])
def test_landmarks_of_a_face_at_the_edge(photos: Path, name: str, edges: tuple[int, int, int, int]) -> None:
    photo = load_image(photos / "astronaut.png")
    detector = make_detector(name)
    (whole,) = detector.detect(photo)
    (cut,) = detector.detect(photo.crop(edges))
    inside = ((whole.landmarks > edges[:2]) & (whole.landmarks < edges[2:])).all(axis=1)
    assert inside.sum() >= 3
    away = np.linalg.norm(cut.landmarks + edges[:2] - whole.landmarks, axis=1)
    assert away[inside].max() < 9  # pixels; the eyes are 46 apart


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_photos_that_a_face_fills_are_read(data: Path, extractor: ExpressionExtractor, name: str) -> None:
    """Of 2,772 photos, these raised ImageError: O-Net saw the part of a face that lies in the photo."""
    with zipfile.ZipFile(data / "fairface" / "fairface-00.zip") as archive:
        photos = [archive.read(f"images/{name}.webp") for name in (1434, 1520, 2352, 2447)]
    own = ExpressionExtractor(extractor.encoder, make_detector(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(faces) for faces in own.extract_many(photos)] == [1, 1, 1, 1]


# Impossible faces, and detectors that return something else


GOOD = np.array([20, 20, 60, 60], np.float32)
POINTS = GOOD[:2] + np.array(TEMPLATE, np.float32) * 40


class Returns:
    """A user's own detector: the same for each photo."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def detect(self, image: Image.Image) -> Any:
        return self.value


BOX = np.array([30, 30, 99, 99], np.float32)  # larger than the good one
IMPOSSIBLE = {
    "equal points": (BOX, np.full((5, 2), 60), 0.9, "fall on one point"),
    "far outside the box": (BOX, POINTS + 500, 0.9, "lie outside its box"),
    "far outside the photo": (BOX + 900, POINTS + 900, 0.9, "far outside the image"),
    "wider than any face": (BOX, BOX[:2] + 35 + (POINTS - POINTS.mean(axis=0)) * 14, 0.9, "far outside the image"),
    "not finite": (BOX, np.full((5, 2), np.nan), 0.9, "impossible"),
    "beyond all numbers": (BOX, POINTS.astype(float) * 1e300, 0.9, "impossible"),
    "a box of NaN": (BOX * np.nan, POINTS, 0.9, "impossible"),
    "a score of NaN": (BOX, POINTS, float("nan"), "impossible"),
    "four points": (BOX, POINTS[:4], 0.9, r"have the shape \(4, 2\), wanted \(5, 2\)"),
    "no points": (BOX, np.zeros((0, 2)), 0.9, r"have the shape \(0, 2\)"),
    "width and height": (np.array([30, 30, 20, 20]), POINTS, 0.9, "has no area; wanted: left, top, right, bottom"),
}


@pytest.fixture(scope="module")
def encoder(random_folder: Path) -> Any:
    return ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_an_impossible_face_costs_no_other(encoder: Any, kind: str) -> None:
    *numbers, why = IMPOSSIBLE[kind]
    own = ExpressionExtractor(encoder, Returns([Detection(*numbers), Detection(GOOD, POINTS, 0.8)]))
    photo = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    with pytest.warns(UserWarning, match=rf"a face that Returns\.detect found was left out: .*{why}") as told:
        (face,) = own.extract(photo)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert (face.box == GOOD).all()
    with pytest.warns(UserWarning, match=rf"image 0: a face .*{why}.*Others in this call are not reported") as told:
        found = list(own.extract_many([photo] * 3, batch_size=2))
    assert len(told) == 1
    assert [len(faces) for faces in found] == [1, 1, 1]


def test_numbers_of_any_kind_become_float32(encoder: Any) -> None:
    own = ExpressionExtractor(encoder, Returns((Detection(GOOD.tolist(), POINTS.tolist(), np.float64(0.5)),)))  # type: ignore[arg-type]
    (face,) = own.extract(np.zeros((100, 100, 3), np.uint8))
    assert (face.box.dtype, face.landmarks.dtype, type(face.score)) == (np.float32, np.float32, float)


LIST = r"Returns\.detect must return a list of fergeneral\.Detection"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (None, TypeError, f"{LIST}, got NoneType"),
        (np.zeros((1, 4)), TypeError, f"{LIST}, got ndarray"),
        (Detection(GOOD, POINTS, 0.9), TypeError, f"{LIST}, got Detection"),
        ([GOOD], TypeError, f"{LIST} .* got a ndarray without box"),
        ([{"box": GOOD}], TypeError, f"{LIST} .* got a dict without box"),
        ([Detection(GOOD, None, 0.9)], TypeError, f"{LIST} .* got a landmarks of object"),  # type: ignore[arg-type]
        ([Detection(["1"] * 4, POINTS, 0.9)], TypeError, f"{LIST} .* got a box of <U1"),  # type: ignore[arg-type]
        ([Detection(GOOD, [[1, 2], [3]], 0.9)], TypeError, f"{LIST} .* got a landmarks of rows of"),  # type: ignore[arg-type]
        ([Detection(GOOD[:3], POINTS, 0.9)], ValueError, r"Returns\.detect returned a box of shape \(3,\)"),
        ([Detection(GOOD, POINTS, [0.9, 0.1])], ValueError, r"a score of shape \(2,\); wanted: box \(4,\), left"),  # type: ignore[arg-type]
    ],
)
def test_a_detector_that_returns_something_else(encoder: Any, value: Any, kind: type[Exception], message: str) -> None:
    own = ExpressionExtractor(encoder, Returns(value))
    photo = np.zeros((100, 100, 3), np.uint8)
    with pytest.raises(kind, match=message):
        own.extract(photo)
    with pytest.raises(kind, match=message):
        list(own.extract_many([photo]))


# Crops as the weights want them


def test_align_gives_what_extract_embeds(extractor: ExpressionExtractor, photos: Path) -> None:
    photo = photos / "three_faces.jpg"
    faces = extractor.extract(photo)
    crops = [extractor.align(photo, face.landmarks) for face in faces]
    size = extractor.config.crop_size
    assert {crop.shape for crop in crops} == {(size, size, 3)}
    assert {crop.dtype for crop in crops} == {np.dtype(np.uint8)}
    assert abs(extractor.encode(crops) - [face.embedding for face in faces]).max() < 1e-4
    with pytest.raises(TypeError, match="size"):
        align_face(photo, faces[0].landmarks)  # type: ignore[call-arg]


# YuNet's file


def test_yunet_comes_with_the_package(yunet_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert len(YuNetDetector().detect(load_image(photos / "astronaut.png"))) == 1
    assert hashlib.sha256(yunet_model.read_bytes()).hexdigest() == MODEL_SHA256
    licence = (yunet_model.parent / "LICENSE").read_text()
    assert licence.startswith("MIT License\n\nCopyright (c) 2020 Shiqi Yu")


# Tracks where few frames are asked for


class Counting:
    """An encoder that counts what it embeds."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.count = encoder, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode(self, crops: Any, **options: Any) -> np.ndarray:
        self.count += len(crops)
        return self.encoder.encode(crops, **options)


@pytest.fixture
def counting(encoder: Any) -> ExpressionExtractor:
    return ExpressionExtractor(Counting(encoder), SquareDetector())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def wanderer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds: red goes to and fro, 2.5 of its widths a second, green stays and comes only in the second half."""
    lefts = [int(abs((60 * i / 25 + 70) % 140 - 70)) for i in range(150)]
    pictures = [picture((left, 2, RED), *[(40, 38, GREEN)] * (i >= 75)) for i, left in enumerate(lefts)]
    return write_video(tmp_path_factory.mktemp("wanderer") / "v.mp4", pictures)


@pytest.mark.parametrize("fps", [0.5, 1, 2, 3, 7.5, 12.5, None])
def test_a_person_keeps_one_track_however_few_frames(
    wanderer: Path, counting: ExpressionExtractor, fps: float | None
) -> None:
    frames = list(counting.extract_video(wanderer, fps=fps))
    assert [frame.time for frame in frames] == [frame.time for frame in read_frames(wanderer, fps)]
    assert counting.encoder.count == sum(len(frame.faces) for frame in frames)  # type: ignore[attr-defined]
    for time, faces in frames:
        tracks = {("red" if face.box[1] < SQUARE else "green"): face.track for face in faces}
        assert tracks == ({"red": 0} if time < 3 else {"red": 0, "green": 1})
        assert all(face.embedding.shape == (512,) for face in faces)


def test_tracks_are_numbered_as_they_appear_in_what_is_given(tmp_path: Path, counting: ExpressionExtractor) -> None:
    """Green is there only between two frames that were asked for; its number is not missed."""
    pictures = [picture(*[(60, 30, GREEN)] * (5 <= i < 20), *[(4, 4, RED)] * (i >= 25)) for i in range(50)]
    frames = list(counting.extract_video(write_video(tmp_path / "v.mp4", pictures), fps=1))
    assert [[face.track for face in frame.faces] for frame in frames] == [[], [0]]


@pytest.mark.parametrize("fps", [0.5, 1, 2.5, 3, 7.5, 10, 30, None])
def test_frames_between_those_that_were_asked_for(wanderer: Path, fps: float | None) -> None:
    asked = [frame.time for frame in read_frames(wanderer, fps)]
    frames = list(read_frames(wanderer, fps, between=TRACKING_RATE))
    assert [frame.time for frame in frames if frame.asked] == asked
    assert max(np.diff([frame.time for frame in frames])) <= 1 / TRACKING_RATE + 0.04
    assert len(frames) <= max(len(asked), 6 * 2 * TRACKING_RATE)


def test_damage_between_frames_is_reported(tmp_path: Path, counting: ExpressionExtractor) -> None:
    path = write_video(tmp_path / "v.avi", [picture((8, 8, RED))] * 50, codec="mjpeg")
    blank(path, 7, 33)
    reported: list[float] = []
    frames = list(counting.extract_video(path, fps=1, on_error=lambda time, error: reported.append(time)))
    assert reported == pytest.approx([0.28, 1.32])
    assert [(frame.time, [face.track for face in frame.faces]) for frame in frames] == [(0, [0]), (1, [0])]


def test_an_impossible_face_between_frames_is_no_error(tmp_path: Path, encoder: Any) -> None:
    own = ExpressionExtractor(encoder, Returns([Detection(BOX, np.full((5, 2), 60), 0.9)]))
    path = write_video(tmp_path / "v.mp4", noise(50))
    with pytest.warns(UserWarning, match="image 0: a face") as told:
        frames = list(own.extract_video(path, fps=1))
    assert len(told) == 1
    assert [frame.faces for frame in frames] == [[], []]
