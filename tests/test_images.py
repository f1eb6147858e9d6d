from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fergeneral import ImageError, load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_all_forms_give_the_same_pixels(tmp_path: Path) -> None:
    png = encoded(Image.fromarray(PIXELS), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(png)
    tensor = torch.from_numpy(PIXELS)
    forms = [path, str(path), png, bytearray(png), memoryview(png), io.BytesIO(png), Image.fromarray(PIXELS), PIXELS]
    forms += [tensor, tensor.permute(2, 0, 1), np.asfortranarray(PIXELS), PIXELS[::1]]
    for form in forms:
        loaded = load_image(form)
        assert loaded.mode == "RGB"
        assert (np.asarray(loaded) == PIXELS).all()
    with path.open("rb") as file:
        assert (np.asarray(load_image(file)) == PIXELS).all()


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
def test_grey_arrays(shape: tuple[int, ...]) -> None:
    grey = PIXELS[..., 0].reshape(shape)
    expected = np.repeat(PIXELS[..., :1], 3, axis=2)
    assert (np.asarray(load_image(grey)) == expected).all()
    assert (np.asarray(load_image(torch.from_numpy(grey.copy()))) == expected).all()
    assert (np.asarray(load_image(torch.from_numpy(PIXELS[..., 0].copy())[None])) == expected).all()


def test_transparency_is_laid_on_white() -> None:
    rgba = np.dstack([PIXELS, np.zeros((20, 30), dtype=np.uint8)])
    rgba[:, :15, 3] = 255
    for form in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba), "PNG"), torch.from_numpy(rgba)):
        loaded = np.asarray(load_image(form))
        assert (loaded[:, :15] == PIXELS[:, :15]).all()
        assert (loaded[:, 15:] == 255).all()


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    loaded = load_image(encoded(image, "PNG", transparency=0))
    assert loaded.getpixel((0, 0)) == (200, 100, 50)
    assert loaded.getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bits_become_eight() -> None:
    wide = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    loaded = load_image(encoded(Image.fromarray(wide), "PNG"))
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_one_bit_and_greyscale_with_alpha() -> None:
    assert load_image(Image.new("CMYK", (2, 2), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    assert load_image(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(Image.new("LA", (2, 2), (9, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(gif).getpixel((2, 2)) == (255, 0, 0)


# Which corner of the stored pixels (row, column) is shown at the top left, from the EXIF standard's table of
# orientations; from 5 on, rows are shown as columns.
STORED = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation: int) -> None:
    swap = orientation >= 5
    pixels = np.zeros((30, 20, 3) if swap else (20, 30, 3), dtype=np.uint8)
    pixels[STORED[orientation]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    assert loaded.size == (30, 20)
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert np.asarray(loaded).sum() == 3 * 255


def giant_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


PNG = encoded(Image.fromarray(PIXELS), "PNG")
JPEG = encoded(Image.fromarray(PIXELS), "JPEG")
BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is no image at all", "not an image"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "corrupt or truncated"),
    "truncated PNG": (PNG[: len(PNG) // 2], "corrupt or truncated"),
    "giant header": (giant_png(20_000, 20_000), "too large"),
    "large header": (giant_png(10_000, 10_000), "too large"),
    "float array": (np.zeros((5, 5, 3)), "uint8"),
    "batch": (np.zeros((2, 5, 5, 3), dtype=np.uint8), "batch"),
    "two channels": (np.zeros((5, 5, 2), dtype=np.uint8), "shape"),
    "channels first": (np.zeros((3, 50, 50), dtype=np.uint8), "shape"),
    "no pixels": (np.zeros((0, 5, 3), dtype=np.uint8), "no pixels"),
    "float tensor": (torch.zeros(3, 5, 5), "uint8"),
    "float image": (Image.new("F", (3, 3)), "floating-point"),
    "None": (None, "NoneType"),
    "number": (7, "int"),
    "URL": ("https://example.org/a.jpg", "URL"),
    "missing": ("/no/such/file.jpg", "no such file"),
    "NUL": ("a\0b.jpg", "cannot be opened"),
    "text file object": (io.StringIO("abc"), "binary mode"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_input_has_its_own_clear_error(name: str) -> None:
    source, message = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match=message):
            load_image(source)


def test_a_directory_and_a_text_named_jpg(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path)
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError, match="not an image"):
        load_image(tmp_path / "a.jpg")


def test_the_limit_on_pixels_can_be_set() -> None:
    for source in (PNG, Image.open(io.BytesIO(PNG))):
        with pytest.raises(ImageError, match=r"30x20 pixels, at most 100"):
            load_image(source, max_pixels=100)
    assert load_image(PNG, max_pixels=600).size == (30, 20)
    assert load_image(load_image(PNG), max_pixels=100).size == (30, 20)  # in memory already


def test_one_pixel_wide_images_are_fine() -> None:
    for size in ((1, 1), (1, 5000), (5000, 1)):
        assert load_image(Image.new("RGB", size)).size == size


def test_the_callers_image_is_not_changed() -> None:
    image = Image.new("RGBA", (3, 3), (1, 2, 3, 4))
    load_image(image)
    assert image.mode == "RGBA"
