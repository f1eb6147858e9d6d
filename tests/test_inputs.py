"""Every row of the tables in docs/inputs.md: what is taken as an image and as many, and what is refused."""

from __future__ import annotations

import collections
import io
import itertools
import re
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fergeneral import DataError, ExpressionExtractor, Face, ImageError, align_face, load_image
from fergeneral.datasets import open_dataset
from fergeneral.images import IMAGE_SUFFIXES, as_image_list, as_images
from fergeneral.sources import list_photos

DOCUMENT = (Path(__file__).parent.parent / "docs" / "inputs.md").read_text()
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def rows(heading: str, table: int = 0) -> list[str]:
    """The first column of a table below a heading of the document."""
    section = DOCUMENT.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [line.split("|")[1].strip() for line in tables[table].splitlines()[2:]]


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


PNG = encoded(PIXELS)


class Named:
    """A path of somebody's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def stored(folder: Path, data: bytes = PNG) -> Path:
    path = folder / "a.png"
    path.write_bytes(data)
    return path


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("inside/a.png", PNG)
    return folder / "a.zip"


def in_memory() -> Any:
    fsspec.filesystem("memory").pipe("/a.png", PNG)
    return fsspec.open("memory://a.png").open()


def mapped(folder: Path) -> np.ndarray:
    array = np.memmap(folder / "mapped", np.uint8, "w+", shape=PIXELS.shape)
    array[:] = PIXELS
    return array


def read_only() -> np.ndarray:
    array = PIXELS.copy()
    array.flags.writeable = False
    return array


WITH_ALPHA = np.dstack([PIXELS, np.full(GREY.shape, 255, np.uint8)])
ACCEPTED: dict[str, Callable[[Path], list[Any]]] = {
    "a path: `str`": lambda folder: [
        str(stored(folder)), np.str_(stored(folder)), stored(folder), Named(stored(folder))
    ],
    "`zipfile.Path`": lambda folder: [zipfile.Path(zipped(folder), "inside/a.png")],
    "`bytes`": lambda _: [PNG, bytearray(PNG), memoryview(PNG), np.bytes_(PNG)],
    "a binary file object": lambda folder: [
        stored(folder).open("rb"), io.BytesIO(PNG), zipfile.Path(zipped(folder), "inside/a.png").open("rb"),
        in_memory(), fsspec.open(str(stored(folder))).open(),
    ],
    "a dict of `bytes` and `path`": lambda folder: [
        {"bytes": PNG, "path": None}, {"bytes": PNG, "path": "gone.png"}, {"bytes": None, "path": str(stored(folder))},
        {"bytes": bytearray(PNG)}, {"path": stored(folder)},
    ],
    "a PIL image of any mode but F": lambda folder: [
        Image.fromarray(PIXELS), Image.open(stored(folder)), Image.open(io.BytesIO(PNG)),
        *(Image.fromarray(PIXELS).convert(mode) for mode in ("RGBA", "RGBX", "RGBa")),
    ],
    "a uint8 array (H, W) or": lambda _: [GREY, GREY[..., None]],
    "a uint8 array (H, W, 3)": lambda _: [PIXELS],
    "a uint8 array (H, W, 4)": lambda _: [WITH_ALPHA],
    "a uint8 array that is read-only": lambda folder: [
        read_only(), np.asfortranarray(PIXELS), np.repeat(PIXELS, 2, axis=1)[:, ::2], PIXELS[::-1, ::-1][::-1, ::-1],
        mapped(folder), np.ma.masked_array(PIXELS),
    ],
    "a uint8 torch tensor (C, H, W)": lambda _: [
        torch.from_numpy(PIXELS).permute(2, 0, 1), torch.from_numpy(WITH_ALPHA).permute(2, 0, 1),
        torch.from_numpy(GREY.copy())[None],
    ],
    "a uint8 torch tensor (H, W)": lambda _: [torch.from_numpy(GREY.copy()), torch.from_numpy(PIXELS)],
}  # fmt: skip


def closed_images(folder: Path) -> list[Image.Image]:
    with Image.open(stored(folder)) as unread:
        pass
    with Image.open(stored(folder, encoded(PIXELS, "JPEG"))) as unread_jpeg:
        pass
    with stored(folder).open("rb") as file:
        of_closed_file = Image.open(file)
    with stored(folder, encoded(PIXELS, "JPEG")).open("rb") as file:
        jpeg_of_closed_file = Image.open(file)
    read = Image.open(io.BytesIO(PNG))
    read.load()
    made = Image.fromarray(PIXELS)
    for image in (read, made):
        image.close()
    return [unread, unread_jpeg, of_closed_file, jpeg_of_closed_file, read, made]


def at_its_end() -> io.BytesIO:
    file = io.BytesIO(PNG)
    file.read()
    return file


def few_bits(bits: int) -> list[bytes]:
    """16-bit colours that use as many, as PNG and as TIFF; Pillow writes none."""
    cv2 = pytest.importorskip("cv2")
    wide = PIXELS.astype(np.uint16) >> 8 - bits if bits < 8 else PIXELS.astype(np.uint16) << bits - 8
    return [cv2.imencode(suffix, wide)[1].tobytes() for suffix in (".png", ".tiff")]


FLOAT_TENSORS = [torch.zeros(3, 4, 5, dtype=kind, requires_grad=True) for kind in (torch.bfloat16, torch.float16)]
REFUSED: dict[str, tuple[Callable[[Path], list[Any]], str]] = {
    "a float array or tensor": (lambda _: [PIXELS / 255, PIXELS * 1.0, torch.zeros(3, 4, 5)], r"uint8.*0\.\.1: \(255"),
    "a float16 or bfloat16 tensor": (lambda _: FLOAT_TENSORS, r"uint8.*0\.\.1: \(255"),
    "a bool array": (lambda _: [PIXELS > 3], "uint8.*of a mask"),
    "a uint16 array": (
        lambda _: [PIXELS.astype(kind) for kind in (np.uint16, ">u2", int)], r"uint8.*of 12 bits.*of 16"
    ),
    "a complex or object array": (lambda _: [PIXELS * 1j, PIXELS.astype(object)], "uint8"),
    "a masked array": (lambda _: [np.ma.masked_array(PIXELS, PIXELS > 250)], "filled"),
    "a batch of one": (
        lambda _: [PIXELS[None], torch.from_numpy(PIXELS)[None], torch.from_numpy(PIXELS).permute(2, 0, 1)[None]],
        "looks like a batch",
    ),
    "a NumPy array (3, H, W)": (lambda _: [PIXELS.transpose(2, 0, 1), PIXELS[..., :2]], "shape"),
    "an array without pixels": (lambda _: [PIXELS[:0], GREY[:, :0], torch.from_numpy(PIXELS[:0])], "has no pixels"),
    "a list, tuple": (
        lambda _: [[PIXELS], (PNG,), iter([PNG]), pd.Series(["a.png"]), pl.Series(["a.png"]), PIXELS.tolist()],
        "may hold many: extract_many",
    ),
    "another dict": (lambda _: [{"image": PNG, "label": 3}, {}, {"bytes": PNG, "label": 3}], r"keys.*row\['image'\]"),
    "a dict whose bytes": (lambda _: [{"bytes": None, "path": None}, {"bytes": 7}], "whose bytes are"),
    "a PIL image that was closed": (closed_images, "is closed"),
    "a PIL image of mode F": (lambda _: [Image.new("F", (3, 3))], "floating-point"),
    "a file opened as text": (lambda folder: [stored(folder).open(), io.StringIO("text")], "binary mode"),
    "a file object at its end": (lambda folder: [at_its_end(), io.BytesIO(), stored(folder, b"")], "is empty"),
    "a URL": (lambda _: ["https://example.org/a.jpg", "s3://bucket/a.jpg"], "is a URL"),
    "a directory": (lambda folder: [folder, "/dev/null"], "is a directory|is a pipe, socket or device"),
    "a path where nothing is": (
        lambda folder: [
            folder / "no.png", {"bytes": None, "path": "no.png"}, zipfile.Path(zipped(folder), "no.png"),
        ],
        "no such file|cannot be opened",
    ),
    "a file in another format": (
        lambda _: [b"%PDF-1.7" + bytes(99), PNG[: len(PNG) // 2], encoded(PIXELS, "JPEG")[:300]],
        r"is PDF|\.\.\.|truncated|cut off|corrupt|damaged",
    ),
    "16-bit colours": (lambda _: few_bits(12) + few_bits(8), "16-bit colours that use 12 bits"),
    "None, a number": (lambda _: [None, 7, np.uint8(3)], "NoneType|int"),
}  # fmt: skip


def row_of(table: list[str], start: str) -> str:
    (row,) = [row for row in table if row.startswith(start)]
    return row


@pytest.mark.parametrize(
    ("table", "cases"),
    [
        (rows("## One image"), ACCEPTED),
        (rows("## One image", 1), REFUSED),
    ],
)
def test_every_row_of_the_document_has_its_case(table: list[str], cases: dict[str, Any]) -> None:
    assert [row_of(table, start) for start in cases] == table


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # files left open, as a user's would be
@pytest.mark.parametrize("row", ACCEPTED)
def test_accepted_as_one_image(row: str, tmp_path: Path) -> None:
    for source in ACCEPTED[row](tmp_path):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        found = np.asarray(loaded)
        colour = (found == PIXELS).all()
        assert colour or (found == GREY[..., None]).all(), type(source)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("row", REFUSED)
def test_refused_as_one_image(row: str, tmp_path: Path) -> None:
    make, message = REFUSED[row]
    for source in make(tmp_path):
        with pytest.raises(ImageError, match=message):
            load_image(source)


def test_every_mode_of_pil() -> None:
    modes = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "LA", "PA", "RGBX", "RGBa", "La"]
    for mode in (*modes, "I;16", "I;16L", "I;16B", "I;16N"):
        assert load_image(Image.new(mode, (4, 3))).size == (4, 3), mode


def test_an_unread_image_that_needs_no_file_is_read() -> None:
    """WebP's decoder has the whole file: the image is not closed with it."""
    with Image.open(io.BytesIO(encoded(PIXELS, "WEBP", lossless=True))) as image:
        pass
    assert (np.asarray(load_image(image)) == PIXELS).all()


# 16 bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_of_few_bits_in_sixteen_is_as_bright_as_it_was(bits: int) -> None:
    grey = np.full((50, 40), 9, dtype=np.uint8)
    grey.ravel()[:256] = range(256)
    wide = ((grey.astype(int) * (2**bits - 1) + 127) // 255).astype(np.uint16)
    lzw = {"compression": "tiff_lzw"}
    files = [encoded(wide), encoded(wide, "TIFF"), encoded(wide, "TIFF", **lzw), encoded(wide, "PPM")]
    images = [Image.fromarray(wide), Image.fromarray(wide.astype(">u2")), Image.fromarray(wide.astype(np.int32))]
    for source in (*files, encoded(wide, "JPEG2000"), *images):
        assert (np.asarray(load_image(source)) == grey[..., None]).all()


def test_sixteen_bits_in_use_are_read_as_ever_and_black_stays_black() -> None:
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = (wide.astype(int) + 128) // 257
    assert (np.asarray(load_image(encoded(wide)))[..., 0] == expected).all()
    assert np.asarray(load_image(encoded(np.zeros((3, 3), np.uint16)))).max() == 0
    noise = np.random.default_rng(0).integers(0, 9, (30, 30)).astype(np.uint16)
    assert np.asarray(load_image(encoded(noise))).max() == 8


def test_a_transparent_value_says_nothing_of_the_bits_in_use() -> None:
    wide = np.array([[0, 4095, 65535]], dtype=np.uint16)
    assert np.asarray(load_image(encoded(wide, transparency=65535)))[0, :, 0].tolist() == [0, 255, 255]


def test_sixteen_bits_take_little_memory() -> None:
    image = Image.fromarray(np.full((3000, 4000), 4000, dtype=np.uint16))
    tracemalloc.start()
    try:
        assert load_image(image).getpixel((0, 0)) == (249, 249, 249)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_sixteen_bit_colours_of_fourteen_bits_and_more_are_read() -> None:
    for data in (*few_bits(14), *few_bits(16)):
        assert load_image(data).size == (30, 20)


def test_a_face_in_a_grey_photo_of_twelve_bits(extractor: ExpressionExtractor, photos: Path) -> None:
    grey = load_image(photos / "astronaut.png").convert("L")
    (expected,) = extractor.extract(grey)
    (found,) = extractor.extract(encoded((np.asarray(grey).astype(int) * 4095 // 255).astype(np.uint16)))
    assert abs(found.box - expected.box).max() < 1
    cosine = found.embedding @ expected.embedding
    assert cosine > 0.999 * np.linalg.norm(found.embedding) * np.linalg.norm(expected.embedding)


# Many images

CROPS = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
FILES = [encoded(crop) for crop in CROPS]
COLUMN = datasets.Dataset.from_dict(
    {"image": [{"bytes": file, "path": None} for file in FILES]},
    features=datasets.Features({"image": datasets.Image()}),
)
UNDECODED = COLUMN.cast_column("image", datasets.Image(decode=False))
OBJECTS = np.array([*FILES, None], dtype=object)[:3]


class Items:
    """Has items and a length, as a torch Dataset, and nothing else."""

    def __len__(self) -> int:
        return len(FILES)

    def __getitem__(self, index: int) -> bytes:
        return FILES[index]


MANY: dict[str, Callable[[], list[Any]]] = {
    "a list, tuple, deque": lambda: [
        FILES, tuple(FILES), collections.deque(FILES), Items(), dict(enumerate(FILES)).values(),
    ],
    "a pandas or polars Series": lambda: [
        pd.Series(FILES, index=[5, 6, 0]), pd.Series(list(CROPS), index=[2, 1, 0]), pl.Series(FILES),
        pl.DataFrame({"image": [{"bytes": file, "path": None} for file in FILES]})["image"],
    ],
    "a column of a Hugging Face": lambda: [COLUMN["image"], UNDECODED["image"]],
    "an array of objects or text": lambda: [OBJECTS, OBJECTS[:, None]],
    "a uint8 array (N, H, W, 3)": lambda: [
        CROPS, CROPS[::-1][::-1], np.concatenate([CROPS, np.full_like(CROPS[..., :1], 255)], axis=3),
    ],
    "a uint8 torch tensor": lambda: [torch.from_numpy(CROPS), torch.from_numpy(CROPS).permute(0, 3, 1, 2)],
    "a generator": lambda: [(file for file in FILES), iter(FILES), map(bytes, FILES)],
    "nothing": lambda: [[], (), np.array([]), CROPS[:0], iter([])],
}  # fmt: skip
NOT_MANY: dict[str, tuple[list[Any], str]] = {
    "a path, bytes": (
        ["photos", Path("photos"), PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), Image.fromarray(PIXELS)],
        "one image",
    ),
    "an array (H, W)": (
        [GREY, PIXELS, PIXELS / 255, PIXELS[..., :1], PIXELS.transpose(2, 0, 1), torch.from_numpy(PIXELS),
         torch.from_numpy(PIXELS).permute(2, 0, 1), CROPS[0]],
        "one image",
    ),
    "an array (N, H, W)": ([CROPS[..., 0].repeat(3, axis=0)], r"pass list\(images\)"),
    "a set": ([{"a", "b"}, frozenset("a")], "has no order"),
    "a dict": ([{"a": PNG}, {"bytes": PNG, "path": None}, {}], "pass a list"),
    "a data frame": (
        [pd.DataFrame({"a": ["x"]}), pl.DataFrame({"a": ["x"]}), pl.LazyFrame({"a": ["x"]}), pa.table({"a": ["x"]}),
         COLUMN, datasets.DatasetDict(train=COLUMN), np.array([["a", "b"]]), np.array([["a", 1]], dtype=object)],
        "pass the column of images",
    ),
    "an array of numbers": (
        [np.arange(3), torch.arange(3), np.array(FILES), CROPS[None], np.array("a.png")], r"of shape \("
    ),
    "an array (N, H, W, 3) with masked values": ([np.ma.masked_array(CROPS, CROPS > 250)], "masked values"),
    "None, a number": ([None, 7, 0.5], "NoneType|int|float"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "cases"), [(rows("## Many images"), MANY), (rows("## Many images", 1), NOT_MANY)])
def test_every_row_of_the_document_on_many_has_its_case(table: list[str], cases: dict[str, Any]) -> None:
    assert [row_of(table, start) for start in cases] == table


@pytest.fixture(scope="module")
def small(random_folder: Path) -> ExpressionExtractor:
    """With random weights, and a detector that takes the whole image for a face."""
    return ExpressionExtractor.from_pretrained(random_folder, device="cpu", detector=WholeImage())


class WholeImage:
    def detect(self, image: Image.Image) -> list[Any]:
        from fergeneral import Detection

        box = np.array([0, 0, image.width, image.height], dtype=np.float32)
        landmarks = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.7], [0.65, 0.7]]) * image.size
        return [Detection(box, landmarks.astype(np.float32), 1.0)]


@pytest.mark.parametrize("row", MANY)
def test_many_images_give_as_many_rows_in_their_order(row: str, small: ExpressionExtractor) -> None:
    expected = small.encode(CROPS)
    faces = [small.extract(crop)[0].embedding for crop in CROPS]
    count = 0 if row == "nothing" else 3
    for images in MANY[row]():
        found = small.encode(images)
        assert found.shape == (count, 512)
        assert abs(found - expected[:count]).max(initial=0) < 1e-4
    for images in MANY[row]():
        found_faces = list(small.extract_many(images))
        assert len(found_faces) == count
        for (face,), wanted in zip(found_faces, faces[:count], strict=True):
            assert abs(face.embedding - wanted).max() < 1e-4


@pytest.mark.parametrize("row", NOT_MANY)
def test_what_is_not_many_images_is_one_kind_of_error(row: str, small: ExpressionExtractor) -> None:
    sources, message = NOT_MANY[row]
    for source in sources:
        for call in (small.encode, small.extract_many):  # at the call: no result has been asked for
            with pytest.raises(TypeError, match=rf"^{call.__name__} takes many images, got .*({message})"):
                call(source)


def test_one_photo_for_extract_many_is_told_of_extract(small: ExpressionExtractor) -> None:
    for photo in (PIXELS, torch.from_numpy(PIXELS).permute(2, 0, 1), "a.jpg"):
        with pytest.raises(TypeError, match=r"got one image .*; use extract, or put it into a list"):
            small.extract_many(photo)


def test_extract_many_takes_no_more_than_it_needs(small: ExpressionExtractor) -> None:
    given: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for number in itertools.count():
            given.append(number)
            yield CROPS[number % 3]

    found = small.extract_many(endless(), batch_size=2)
    assert given == []
    assert isinstance(next(iter(found))[0], Face)
    assert len(given) < 60
    assert as_images(images := iter(FILES), what="X") is images


def test_a_bad_item_among_many_is_that_item_s_error(small: ExpressionExtractor) -> None:
    errors: dict[int, ImageError] = {}
    sources = [FILES[0], None, {"bytes": FILES[1], "path": None}, CROPS, {"label": 1}]
    found = list(small.extract_many(sources, on_error=errors.__setitem__))
    assert [len(faces) for faces in found] == [1, 0, 1, 0, 0]
    assert sorted(errors) == [1, 3, 4]
    assert "batch" in str(errors[3])
    with pytest.raises(ImageError, match="float64"):
        small.encode(CROPS / 255)


def test_as_image_list_has_items_by_position() -> None:
    for images in (pd.Series(["a", "b"], index=[1, 0]), pl.Series(["a", "b"]), np.array([["a"], ["b"]]), iter("ab")):
        listed = as_image_list(images, what="X")
        assert [listed[i] for i in range(len(listed))] == ["a", "b"]
    with pytest.raises(TypeError, match=r"^X takes many images, got one image \(str\); put it into a list"):
        as_image_list("a", what="X")
    assert as_image_list(Items(), what="X").__class__ is Items  # not all in memory at once


def test_align_face_takes_the_same(photos: Path) -> None:
    landmarks = np.array([[9.0, 6], [21, 6], [15, 10], [10, 14], [20, 14]])
    expected = align_face(PIXELS, landmarks, size=32)
    for image in ({"bytes": PNG, "path": None}, UNDECODED[0]["image"], PNG):
        assert align_face(image, landmarks, size=32).shape == expected.shape
    assert (align_face({"bytes": PNG, "path": None}, landmarks, size=32) == expected).all()


# Formats, folders and archives


def test_the_suffixes_of_the_document_are_those_of_the_package() -> None:
    section = DOCUMENT.split("### Formats\n", 1)[1]
    table = {row[0].split(",")[0]: set(row[1].split()) for row in re.findall(r"^\| (.*) \| (\..*) \|$", section, re.M)}
    assert set().union(*table.values()) == IMAGE_SUFFIXES
    assert sum(map(len, table.values())) == len(IMAGE_SUFFIXES)
    for name, suffixes in table.items():
        if name in ("HEIF", "JPEG XL"):
            continue
        grey_only = {".pgm": "L", ".pbm": "1"}
        for suffix in suffixes:
            buffer = io.BytesIO()
            image = Image.new(grey_only.get(suffix, "RGB"), (9, 8))
            image.save(buffer, {"JPEG 2000": "JPEG2000"}.get(name, name))
            assert load_image(buffer.getvalue()).size == (9, 8)


LEFTOVERS = [".ipynb_checkpoints/1-checkpoint.png", "._1.png", ".hidden.jpg", ".DS_Store", "__MACOSX/._1.png"]
LEFTOVERS += ["__MACOSX/2.png", "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/1.png", "Thumbs.db", "desktop.ini"]
LEFTOVERS += ["System Volume Information/1.png"]
KEPT = ["1.png", "2.JPG", "3.pgm", "4.jfif", "5.TIF"]
OTHERS = ["notes.txt", "6.psd", "7"]


def filled(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_a_labelled_folder_has_its_images_and_no_leftovers(packed: bool, tmp_path: Path) -> None:
    names = [f"{split}/happy/{name}" for split in ("train", "test") for name in KEPT + OTHERS + LEFTOVERS]
    names += [f"{folder}/1.png" for folder in (".ipynb_checkpoints", "__MACOSX/train/happy", "train/.cache")]
    root = filled(tmp_path / "unpacked", names)
    (root / "README.txt").write_text("beside the folders of the labels")
    if packed:
        (tmp_path / "packed").mkdir()
        with zipfile.ZipFile(tmp_path / "packed" / "images.zip", "w") as archive:
            for name in names:
                archive.writestr(name, PNG)
        root = tmp_path / "packed"
    dataset = open_dataset(root)
    assert [sample.path for sample in dataset.samples] == [
        f"{s}/happy/{name}" for s in ("test", "train") for name in KEPT
    ]
    assert set(dataset.labels) == {"happiness"}
    assert dict(dataset.left_out) == {"not an image by its suffix": 2 * len(OTHERS)}
    assert len(list(dataset.crops(np.asarray))) == 10


def test_a_labelled_folder_of_leftovers_alone_has_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelled images"):
        open_dataset(filled(tmp_path, [f"happy/{name}" for name in LEFTOVERS]))
    with pytest.raises(DataError, match="no labelled images; 3 files left out: not an image by its suffix"):
        open_dataset(filled(tmp_path, [f"happy/{name}" for name in OTHERS]))


def test_a_folder_of_photos_has_its_images_and_no_leftovers(tmp_path: Path) -> None:
    filled(tmp_path, [*KEPT, *OTHERS, *LEFTOVERS, *(f"inner/{name}" for name in KEPT + OTHERS + LEFTOVERS)])
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for recursive in (False, True):
        skipped: list[str] = []
        found = list_photos(tmp_path, recursive=recursive, on_skip=skipped.append)
        inner = [f"inner/{name}" for name in KEPT] if recursive else []
        assert [str(Path(source.path).relative_to(tmp_path)) for source in found] == [*KEPT, *inner]
        folders = [tmp_path, tmp_path / "inner"] if recursive else [tmp_path]
        expected = {str(folder / name) for folder in folders for name in OTHERS} | {str(tmp_path / "gone.png")}
        assert set(skipped) == expected
        assert len(skipped) == len(expected)
    (named,) = list_photos(tmp_path / ".hidden.jpg")
    assert load_image(named.read()).size == (30, 20)
    assert len(list_photos(tmp_path / "inner" / ".ipynb_checkpoints")) == 1


def test_a_tar_has_its_images_and_no_leftovers(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in (*KEPT, *OTHERS, *LEFTOVERS):
            info = tarfile.TarInfo(f"./inner/{name}")  # as `tar cf a.tar .` names them
            info.size = len(PNG)
            tar.addfile(info, io.BytesIO(PNG))
    skipped: list[str] = []
    found = list_photos(tmp_path / "a.tar", on_skip=skipped.append)
    assert [source.path for source in found] == [f"{tmp_path}/a.tar/./inner/{name}" for name in KEPT]
    assert skipped == [f"{tmp_path}/a.tar/./inner/{name}" for name in OTHERS]


def test_what_systems_leave_is_what_the_document_says() -> None:
    (row,) = [row for row in rows("## Folders and archives") if row.startswith("what systems leave")]
    names = {name.strip("/`") for name in re.findall(r"`[^`]+`", row)}
    assert names == {path.split("/")[0] for path in LEFTOVERS if not path.startswith(".")}
