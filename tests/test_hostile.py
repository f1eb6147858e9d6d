"""The corpus of broken, odd and hostile images: one image at a time, all through `extract_many`, and mutated."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import corpus as hostile
import numpy as np
import PIL
import pytest
from corpus import PICTURE, PNG, Case, Endless
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from fergeneral import Detection, ExpressionExtractor, ImageError, align_face, images, load_image
from fergeneral.detection import MTCNNDetector, YuNetDetector

# Pillow warns of faults in metadata, which is left to the user.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}:PIL") for kind in ("UserWarning", "RuntimeWarning")]

CASES = {case.name: case for case in hostile.corpus()}
Outcome = np.ndarray | str  # pixels, or an ImageError's message

# Pillow 12 keeps the values of all tags (600 MB from a file of 2 MB); its libtiff leaves rows of a broken fax as the
# memory was.
OLD_PILLOW = int(PIL.__version__.split(".")[0]) <= 12
LEFT_TO_NEWER_PILLOWS = ["tiff 300 tags of 2 MB, all the same", "tiff fax of raw pixels"] if OLD_PILLOW else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def outcome(source: Any) -> Outcome:
    try:
        image = load_image(source)
    except ImageError as error:
        return str(error)
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def check(case: Case, found: Outcome) -> None:
    if isinstance(found, str):
        assert isinstance(case.wanted, str), f"{case.name}: {found}"
        assert re.search(case.wanted, found), f"{case.name}: {found}"
        assert found.isprintable()  # nothing that a terminal, log or table could stumble over
        assert 15 < len(found) < 700
    elif isinstance(case.wanted, str):
        assert case.wanted == hostile.EITHER, f"{case.name}: was read, {found.shape}"
    else:
        assert found.shape == case.wanted.shape, case.name
        assert abs(found.astype(int) - case.wanted).max() <= case.tolerance, case.name


def same_outcome(a: Outcome, b: Outcome) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str)
    return np.array_equal(a, b)


def test_the_corpus_is_large_and_no_case_comes_twice() -> None:
    data = [case.make(Path()) for case in hostile.byte_cases()]
    assert len(set(data)) == len(data) > 500
    assert len(CASES) == len(hostile.corpus()) > 700
    assert sum(isinstance(case.wanted, str) and case.wanted == hostile.EITHER for case in CASES.values()) < 60


@pytest.mark.parametrize("name", CASES)
def test_pixels_or_an_error_that_says_why(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    source = case.make(folder)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = outcome(source)
    check(case, found)
    assert all("/PIL/" in Path(warning.filename).as_posix() for warning in warned)  # Pillow's own, none of ours
    out, err = capfd.readouterr()
    assert out == ""
    assert not err or name.startswith("tiff"), err  # what libtiff prints


def test_path_bytes_and_file_object_give_the_same(tmp_path: Path) -> None:
    for case in hostile.byte_cases():
        data = case.make(tmp_path)
        if len(data) > 100_000:
            continue
        (tmp_path / "a.bin").write_bytes(data)
        with (tmp_path / "a.bin").open("rb") as file:
            found = outcome(data), outcome(tmp_path / "a.bin"), outcome(io.BytesIO(data)), outcome(file)
        assert all(same_outcome(found[0], other) for other in found[1:]), (case.name, found)


def test_threads_do_not_disturb_each_other() -> None:
    data = [case.make(Path()) for case in hostile.byte_cases() if case.name not in LEFT_TO_NEWER_PILLOWS]
    alone = [outcome(source) for source in data]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(outcome, data)
        for found, expected in zip(together, alone, strict=True):
            assert same_outcome(found, expected)


def test_good_photos_among_them_keep_their_faces(random_folder: Path, photos: Path, folder: Path) -> None:
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    (expected,) = extractor.extract(photos / "astronaut.png")
    every = 100
    sources: list[Any] = []
    for number, case in enumerate(CASES.values()):
        if number % every == 0:
            sources.append(photos / "astronaut.png")
        sources.append(case.make(folder))
    errors: dict[int, ImageError] = {}
    found = list(extractor.extract_many(sources, on_error=errors.__setitem__))
    assert len(found) == len(sources)
    good = set(range(0, len(sources), every + 1))
    for number, faces in enumerate(found):
        if number in good:
            assert abs(faces[0].embedding - expected.embedding).max() < 1e-5
        else:
            assert faces == []
    unreadable = [isinstance(case.wanted, str) for case in CASES.values() if case.wanted is not hostile.EITHER]
    assert len(errors) >= sum(unreadable) - 60
    assert not good & set(errors)
    for error in errors.values():  # a traceback would hold the photo, as long as somebody keeps the error
        assert error.__traceback__ is error.__cause__ is error.__context__ is None


class Watched:
    """Counts programs started and connections made while it is on; an audit hook cannot be taken away again."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event.startswith(
            ("subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "socket.")
        ):
            self.seen.append(event)


def test_no_program_is_started_and_nothing_is_connected() -> None:
    watched = Watched()
    sources = [case.make(Path()) for case in hostile.byte_cases()]
    watched.on = True
    for source in sources:
        outcome(source)
    assert watched.seen == []
    with pytest.raises(OSError, match=r"[Gg]hostscript|gs"):  # what Pillow itself does with such a file
        Image.open(io.BytesIO(hostile.EPS)).load()
    watched.on = False
    assert "subprocess.Popen" in watched.seen


# Memory

_CHILD = """
import json, resource, sys
sys.path.insert(0, {tests!r})
from corpus import byte_cases
from fergeneral import ImageError, load_image

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

cases = [(case.name, case.make(None)) for case in byte_cases() if case.name not in {left_out!r}]
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**29, taken + 2**29))
outcomes, before = {{}}, peak()
for name, data in cases:
    try:
        outcomes[name] = list(load_image(data).size)
    except ImageError as error:
        outcomes[name] = str(error)
print(json.dumps([outcomes, peak() - before]))
"""


def test_refusing_takes_no_memory() -> None:
    """The whole corpus, with its claims of up to 2**64 pixels, by a process that gets 512 MiB and no more."""
    child = _CHILD.format(tests=str(Path(__file__).parent), left_out=LEFT_TO_NEWER_PILLOWS)
    command = [sys.executable, "-W", "ignore", "-c", child]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    outcomes, megabytes = json.loads(ran.stdout)
    for case in hostile.byte_cases():
        if case.name in LEFT_TO_NEWER_PILLOWS:
            continue
        found = outcomes[case.name]
        assert isinstance(found, str) or not isinstance(case.wanted, str) or case.wanted == hostile.EITHER
        assert not isinstance(found, str) or "than there is" not in found  # a MemoryError
    assert megabytes < 200


_BYTES_A_PIXEL = """
import sys
from fergeneral import load_image
from PIL import Image

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

Image.init()
before = peak()
width, height = load_image(sys.argv[1]).size
print((peak() - before) / width / height)
"""


@pytest.mark.parametrize(
    ("kind", "mode", "options", "most"),
    [
        ("JPEG", "RGB", {}, 4),
        ("JPEG", "CMYK", {}, 8),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}, 10),
        ("PNG", "RGB", {"compress_level": 1}, 4),
        ("PNG", "RGBA", {"compress_level": 1}, 8),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 8),
        ("WEBP", "RGB", {"method": 0}, 17),
        ("BMP", "RGB", {}, 4),
    ],
)
def test_memory_is_what_the_documentation_says(
    kind: str, mode: str, options: dict[str, Any], most: int, tmp_path: Path
) -> None:
    side = 2500
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side)).convert(mode).save(tmp_path / "a", kind, **options)
    ran = subprocess.run(
        [sys.executable, "-c", _BYTES_A_PIXEL, tmp_path / "a"], capture_output=True, text=True, check=True
    )
    assert most - 1 < float(ran.stdout) < most + 40e6 / side**2


# Limits


def test_the_size_of_a_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 5 * 2**20)
    endless = Endless()
    with pytest.raises(ImageError, match=r"more than 5242880 bytes"):
        load_image(endless, max_pixels=1000)
    assert endless.given <= 7 * 2**20
    (tmp_path / "a.png").write_bytes(PNG + bytes(6 * 2**20))
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        with pytest.raises(ImageError, match="bytes"):
            load_image(source, max_pixels=1000)
        assert load_image(source, max_pixels=2 * 2**20).size == hostile.SIZE  # 6 bytes for each pixel allowed


def test_one_limit_of_pixels_holds_whatever_pillow_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(PNG).size == hostile.SIZE
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match=r"10000x10000 pixels.*its result can be passed"):
        load_image(hostile.png((10_000, 10_000), [b""]))
    for wrong in (0, -1, None, 1e9, "many"):
        with pytest.raises((TypeError, ValueError), match="max_pixels"):
            load_image(PNG, max_pixels=wrong)  # type: ignore[arg-type]
    assert load_image(PNG, max_pixels=np.int64(10_000)).size == hostile.SIZE  # type: ignore[arg-type]


def test_a_photo_above_the_limit_gets_into_extract(random_folder: Path) -> None:
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    width = 90_000_000  # one byte a pixel in the file, in 90,000 runs of zeros
    giant = hostile.png((width, 1), [bytes(width)], colour=0)
    with pytest.raises(ImageError, match=r"load_image\(\.\.\., max_pixels=\.\.\.\)"):
        extractor.extract(giant)
    assert extractor.extract(load_image(giant, max_pixels=width)) == []


def test_the_result_stands_for_itself() -> None:
    turned = hostile.with_segment(0xE1, b"Exif\0\0" + hostile.tiff([(274, "H", [6])]))
    image = load_image(turned)
    for other in (load_image(image), pickle.loads(pickle.dumps(image)), copy.deepcopy(image), image.copy()):
        assert np.array_equal(np.asarray(other), np.asarray(image))  # and is not turned again
    untouched = load_image(hostile.jpeg())
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(untouched))), np.asarray(untouched))
    buffer = io.BytesIO()
    untouched.save(buffer, "PNG")
    assert np.array_equal(np.asarray(load_image(buffer.getvalue())), np.asarray(untouched))
    mine = Image.open(io.BytesIO(turned))
    load_image(mine).putpixel((0, 0), (1, 2, 3))
    assert mine.getexif()[274] == 6
    assert mine.info["exif"]
    assert mine.getpixel((0, 0)) != (1, 2, 3)


def test_a_plugin_for_heic_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (4, 3), "RGB"
            self.tile = [ImageFile._Tile("raw", (0, 0, 4, 3), 24, ("RGB", 0, 1))]

    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(36))
    with pytest.raises(ImageError, match="pillow_heif"):
        load_image(heic)
    monkeypatch.setitem(Image.OPEN, "HEIF", (Plugin, lambda prefix: prefix[4:12] == b"ftypheic"))
    assert np.asarray(load_image(heic)).ravel().tolist() == list(range(36))
    monkeypatch.setitem(Image.OPEN, "OTHER", (Plugin, lambda prefix: prefix.startswith(b"other")))
    with pytest.raises(ImageError, match="not an image"):
        load_image(b"other" + bytes(99))


# What comes after


def strips() -> Iterator[Image.Image]:
    """Images that are valid and odd: one-pixel sides, long strips, noise and a face in them."""
    head = load_image(Path(__file__).parent.parent / "examples" / "photos" / "astronaut.png").crop((150, 20, 300, 200))
    generator = np.random.default_rng(0)
    for width, height in ((1, 1), (1, 20_000), (2, 3), (7, 5), (11, 11), (12, 9000), (23, 24), (40, 5000), (63, 64)):
        for size in ((width, height), (height, width)):
            yield Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
            yield Image.new("RGB", size, (255, 255, 255))
            yield head.resize(size)
            strip = Image.new("RGB", size, (90, 90, 90))
            strip.paste(head.resize((min(size), min(size))), (0, 0))
            yield strip


@pytest.mark.parametrize("name", ["mtcnn", "mtcnn, small faces", "yunet", "yunet, all that may be faces"])
def test_a_detector_gives_faces_that_can_be_cut_or_none(name: str, yunet_model: Path) -> None:
    if name.startswith("mtcnn"):
        detector: Any = MTCNNDetector(min_face_size=12 if "small" in name else None)
    else:
        detector = YuNetDetector(yunet_model, score_threshold=0.01 if "all" in name else 0.7)
    total = 0
    for image in strips():
        for face in detector.detect(image):
            assert isinstance(face, Detection)
            assert np.isfinite(face.box).all()
            assert np.isfinite(face.landmarks).all()
            left, top, right, bottom = face.box.tolist()
            assert 0 <= left < right <= image.width
            assert 0 <= top < bottom <= image.height
            assert 0 < face.score <= 1
            assert align_face(image, face.landmarks, size=32).shape == (32, 32, 3)
            total += 1
    assert total  # the largest ones do show a face


def test_any_shape_is_a_crop_to_encode(random_folder: Path) -> None:
    extractor = ExpressionExtractor.from_pretrained(random_folder, device="cpu")
    size = extractor.config.crop_size
    plain = extractor.encode([np.full((size, size, 3), 77, np.uint8)])
    for shape in ((1, 1), (1, 2), (3, 1), (1, 20_000), (20_000, 1), (30_000_000, 1), (1000, 64)):
        crop = Image.new("RGB", shape, (77, 77, 77))
        assert abs(extractor.encode([crop]) - plain).max() < 1e-4


def test_a_crop_far_beyond_a_strip_is_refused_before_memory_is_taken() -> None:
    strip = Image.new("RGB", (60_000, 1))
    face = np.array([[10, 20], [50, 20], [30, 40], [15, 60], [45, 60]], dtype=np.float64)
    with pytest.raises(ImageError, match="far outside"):
        align_face(strip, face * 900 - [0, 20_000], size=112)  # 54,000 pixels wide and as high
    for wild in (1e9, 1e30, 1e150, 1e300):
        with pytest.raises(ImageError, match="landmarks"):
            align_face(strip, face * wild, size=112)


# Fuzzing; tests/fuzz_images.py does the same for longer


SEEDS = hostile.seeds()
FUZZ = settings(
    max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@FUZZ
@given(st.data())
def test_mutated_files_give_pixels_or_an_image_error(data: st.DataObject) -> None:
    found = outcome(hostile.mutated(SEEDS, lambda low, high: data.draw(st.integers(low, high))))
    if isinstance(found, str):
        assert found.isprintable()
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 3


SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)
DTYPES = st.one_of(st.just(np.dtype(np.uint8)), hnp.scalar_dtypes(), st.just(np.dtype("O")), hnp.array_dtypes())


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    array = np.zeros(draw(SHAPES), draw(DTYPES))
    if array.dtype == np.uint8:
        array[...] = np.random.default_rng(array.size).integers(0, 256, array.shape)
    if array.ndim and draw(st.booleans()):
        array = np.flip(array)
    return array.T if draw(st.booleans()) else array


@FUZZ
@given(arrays())
def test_any_array_gives_its_pixels_or_an_image_error(array: np.ndarray) -> None:
    found = outcome(array)
    colours = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or colours not in (1, 3, 4) or not array.size:
        assert isinstance(found, str)
        assert found.isprintable()
    elif colours == 4:
        assert abs(found.astype(int) - hostile.on_white(array[..., :3], array[..., 3])).max() <= 1
    else:
        grey_or_rgb = array.reshape(*array.shape[:2], colours)
        assert np.array_equal(found, np.broadcast_to(grey_or_rgb, (*array.shape[:2], 3)))


def test_the_picture_has_no_symmetry() -> None:
    """Else the orientations could not be told apart."""
    turned = [hostile.shown(orientation, PICTURE) for orientation in range(1, 9)]
    for i, a in enumerate(turned):
        assert not any(np.array_equal(a, b) for b in turned[:i])
