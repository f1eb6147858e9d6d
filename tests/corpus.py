"""Broken, odd and hostile images, made here byte by byte: each with the pixels it must give or the error it must meet.

`corpus()` lists them. PICTURE is what all sound ones show.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, features

DAMAGED = "corrupt or truncated"
NOT_AN_IMAGE = "not an image"
TOO_LARGE = "too large"
NOT_READ = "not read"
EITHER = ""  # pixels or an error: decoders, and their versions, differ

HEIGHT, WIDTH = 24, 32
_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH]
PICTURE = np.stack([40 + 6 * _X, 30 + 8 * _Y, 220 - 3 * _X - 4 * _Y], axis=2).astype(np.uint8)  # no symmetry
GREY = (20 + 3 * _X + 5 * _Y).astype(np.uint8)
WIDE = (GREY.astype(np.uint16) * 257 - 100).astype(np.uint16)  # GREY in 16 bits: 257 * GREY, +-128
WIDE_PICTURE = PICTURE.astype(np.uint16) * 257 - 100
ALPHA = np.where(_X < 12, 255, np.where(_X < 22, 100, 0)).astype(np.uint8)
WHITE = 255


@dataclasses.dataclass(frozen=True)
class Case:
    """`make(folder)` gives what `load_image` is to read. `wanted`: pixels (H, W, 3), or a pattern of ImageError's
    message; EITHER where both are right. `tolerance`: by how much a pixel may differ."""

    name: str
    make: Callable[[Path], Any]
    wanted: np.ndarray | str
    tolerance: int = 0


def same(value: Any) -> Callable[[Path], Any]:
    return lambda folder: value


def case(name: str, data: Any, wanted: np.ndarray | str, tolerance: int = 0) -> Case:
    return Case(name, same(data), wanted, tolerance)


@functools.cache
def corpus() -> tuple[Case, ...]:
    kinds = (buffer_cases, array_cases, tensor_cases, pil_cases, path_cases, file_object_cases)
    return (*byte_cases(), *itertools.chain.from_iterable(kind() for kind in kinds))


@functools.cache
def byte_cases() -> tuple[Case, ...]:
    """Those whose `make` gives bytes."""
    kinds = (
        png_cases, jpeg_cases, webp_cases, gif_cases, tiff_cases, bmp_cases, avif_cases, jpeg2000_cases, ppm_cases,
        exif_cases, profile_cases, truncated_cases, other_format_cases, tiny_cases,
    )  # fmt: skip
    return tuple(itertools.chain.from_iterable(kind() for kind in kinds))


def seeds() -> list[bytes]:
    """What to mutate: the files that are not too large to do so quickly."""
    return [data for data in (found.make(Path()) for found in byte_cases()) if 0 < len(data) < 20_000]


def mutated(seeds: Sequence[bytes], choose: Callable[[int, int], int]) -> bytes:
    """One of `seeds`, changed in one to four places. `choose(low, high)`: any whole number in low..high."""
    data = bytearray(seeds[choose(0, len(seeds) - 1)])
    for _ in range(choose(1, 4)):
        place, change = choose(0, len(data)), choose(0, 5)
        if change == 0 and place < len(data):
            data[place] ^= 1 << choose(0, 7)
        elif change == 1:
            del data[place : place + choose(1, 200)]
        elif change == 2:
            data[place:place] = bytes(choose(0, 255) for _ in range(choose(1, 8)))
        elif change == 3:
            new = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\1", b"\x80")[choose(0, 4)]
            data[place : place + len(new)] = new
        elif change == 4:
            other = seeds[choose(0, len(seeds) - 1)]
            data[place:] = other[choose(0, len(other)) :]
        else:
            data[place:place] = data[place : place + choose(1, 50)] * choose(1, 20)
    return bytes(data)


# What each picture must look like.


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.floor(pixels * share + WHITE * (1 - share) + 0.5).astype(np.uint8)


def shown(orientation: int, stored: np.ndarray) -> np.ndarray:
    """The EXIF standard's table: which side of the picture, as it is seen, row 0 and column 0 of the file are."""
    if orientation in (5, 6, 7, 8):  # row 0 is the left or right side
        stored = stored.transpose(1, 0, 2)
    bottom, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return stored[:: -1 if bottom else 1, :: -1 if right else 1]


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def patched(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


# PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    size: tuple[int, int],
    rows: Sequence[bytes],
    depth: int = 8,
    colour: int = 2,
    before: bytes = b"",
    interlaced: int = 0,
) -> bytes:
    """`size`: width, height. `rows`: as they are, without filter bytes. `before`: chunks before the pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def rows_of(pixels: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in pixels]


def adam7(pixels: np.ndarray) -> list[bytes]:
    """The rows of the seven passes of an interlaced PNG."""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    return [row for y, dy, x, dx in passes for row in rows_of(pixels[y::dy, x::dx]) if row]


SIZE = (WIDTH, HEIGHT)
PNG = png(SIZE, rows_of(PICTURE))
GREEN_PROFILE = b"profile\0\0" + zlib.compress(b"no ICC profile at all" * 10)


def png_cases() -> Iterator[Case]:
    wide, wide_colour = WIDE.astype(">u2"), WIDE_PICTURE.astype(">u2")
    wide_alpha = ALPHA.astype(np.uint16) * 257
    palette = chunk(b"PLTE", bytes(range(30)) + b"\xc8\x64\x32")  # colour i: 3i, 3i+1, 3i+2; the 10th: 200, 100, 50
    index = (_X % 11).astype(np.uint8)
    table = np.array([(3 * i, 3 * i + 1, 3 * i + 2) for i in range(10)] + [(200, 100, 50)], dtype=np.uint8)
    bits = (_X + _Y) % 3 == 0
    packed = [row.tobytes() for row in np.packbits(bits, axis=1)]
    opaque = np.full_like(ALPHA, 255)
    yield case("png RGB", PNG, PICTURE)
    yield case("png grey", png(SIZE, rows_of(GREY), colour=0), rgb(GREY))
    rgba = np.dstack([PICTURE, ALPHA])
    yield case("png RGBA", png(SIZE, rows_of(rgba), colour=6), on_white(PICTURE, ALPHA), 1)
    yield case("png RGBA opaque", png(SIZE, rows_of(np.dstack([PICTURE, opaque])), colour=6), PICTURE)
    grey_alpha = np.dstack([GREY, ALPHA])
    yield case("png grey with alpha", png(SIZE, rows_of(grey_alpha), colour=4), on_white(rgb(GREY), ALPHA), 1)
    yield case("png palette", png(SIZE, rows_of(index), colour=3, before=palette), table[index])
    for name, alphas in (("bytes", [255, 100, 0, 255, 7]), ("index", [255, 255, 0])):
        before = palette + chunk(b"tRNS", bytes(alphas))
        alpha = np.array(alphas + [255] * 11, dtype=np.uint8)[index]
        wanted = on_white(table[index], alpha)
        yield case(f"png palette, transparent {name}", png(SIZE, rows_of(index), colour=3, before=before), wanted, 1)
    yield case("png 1 bit", png(SIZE, packed, 1, 0), rgb(np.where(bits, 255, 0).astype(np.uint8)))
    clear = chunk(b"tRNS", b"\0\0")
    yield case("png 1 bit, black clear", png(SIZE, packed, 1, 0, clear), np.full_like(PICTURE, 255))
    two = [bytes([0b00011011] * (WIDTH // 4))] * HEIGHT
    four = [bytes(range(0x00, 0x100, 0x11))] * HEIGHT
    yield case("png 2 bits grey", png(SIZE, two, 2, 0), rgb(np.tile(np.array([0, 85, 170, 255], np.uint8), (24, 8))))
    grey4 = np.repeat(np.arange(0, 256, 17).astype(np.uint8), 2)
    yield case("png 4 bits grey", png(SIZE, four, 4, 0), rgb(np.tile(grey4, (HEIGHT, 1))))
    yield case("png 2 bits palette", png(SIZE, two, 2, 3, palette), table[np.tile(np.arange(4), (HEIGHT, 8))])
    clear = chunk(b"tRNS", struct.pack(">H", int(GREY[5, 5])))
    wanted = np.where(GREY[5, 5] == GREY, 255, GREY).astype(np.uint8)
    yield case("png grey, one clear", png(SIZE, rows_of(GREY), 8, 0, clear), rgb(wanted))
    clear = chunk(b"tRNS", struct.pack(">3H", *PICTURE[3, 4].tolist()))
    wanted = np.where((PICTURE[3, 4] == PICTURE).all(axis=2, keepdims=True), 255, PICTURE).astype(np.uint8)
    yield case("png RGB, one clear", png(SIZE, rows_of(PICTURE), 8, 2, clear), wanted)
    yield case("png 16 bits grey", png(SIZE, rows_of(wide), 16, 0), rgb(GREY))
    clear = chunk(b"tRNS", struct.pack(">H", int(wide[5, 5])))
    wanted = np.where(wide[..., None] == wide[5, 5], 255, rgb(GREY)).astype(np.uint8)
    yield case("png 16 bits grey, one clear", png(SIZE, rows_of(wide), 16, 0, clear), wanted)
    yield case("png 16 bits RGB", png(SIZE, rows_of(wide_colour), 16, 2), PICTURE, 1)
    clear = chunk(b"tRNS", struct.pack(">3H", *wide_colour[3, 4].tolist()))
    yield case("png 16 bits RGB, one clear", png(SIZE, rows_of(wide_colour), 16, 2, clear), EITHER)
    rgba = np.dstack([WIDE_PICTURE, wide_alpha]).astype(">u2")  # numpy's results are not big-endian by themselves
    yield case("png 16 bits RGBA", png(SIZE, rows_of(rgba), 16, 6), on_white(PICTURE, ALPHA), 2)
    grey_alpha = np.dstack([WIDE, wide_alpha]).astype(">u2")
    yield case("png 16 bits grey with alpha", png(SIZE, rows_of(grey_alpha), 16, 4), on_white(rgb(GREY), ALPHA), 2)
    yield case("png interlaced", png(SIZE, adam7(PICTURE), interlaced=1), PICTURE)
    yield case("png interlaced grey", png(SIZE, adam7(GREY), colour=0, interlaced=1), rgb(GREY))
    yield case("png gamma", png(SIZE, rows_of(PICTURE), before=chunk(b"gAMA", struct.pack(">I", 100_000))), PICTURE)
    yield case("png unknown chunk", png(SIZE, rows_of(PICTURE), before=chunk(b"abCd", b"hello")), PICTURE)
    yield case("png time, text", png(SIZE, rows_of(PICTURE), before=chunk(b"tEXt", b"Title\0x" * 9)), PICTURE)
    yield case("png and garbage behind it", PNG + bytes(range(256)) * 20, PICTURE)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows_of(PICTURE)))
    start = PNG[:33]
    crumbs = b"".join(chunk(b"IDAT", pixels[i : i + 1]) for i in range(len(pixels)))
    yield case("png in one-byte chunks", start + crumbs + chunk(b"IEND", b""), PICTURE)
    empty = chunk(b"IDAT", b"") * 50
    yield case("png with empty chunks", start + empty + chunk(b"IDAT", pixels) + chunk(b"IEND", b""), PICTURE)
    frames = [Image.fromarray(PICTURE), Image.new("RGB", SIZE, "blue")]
    yield case("apng", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), PICTURE)
    hidden = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
    yield case("apng, default image aside", hidden, PICTURE)
    yield case("apng of no frames", png(SIZE, rows_of(PICTURE), before=chunk(b"acTL", bytes(8))), PICTURE)
    yield case("apng of 2**32 frames", png(SIZE, rows_of(PICTURE), before=chunk(b"acTL", b"\xff" * 8)), PICTURE)

    yield case("png without pixels", start + chunk(b"IEND", b""), DAMAGED)
    yield case("png header alone", start, DAMAGED)
    yield case("png signature alone", PNG[:8], DAMAGED)
    yield case("png wrong checksum", patched(PNG, 29, b"\0\0\0\0"), DAMAGED)
    yield case("png pixels damaged", patched(PNG, 60, b"\0" * 20), DAMAGED)
    yield case("png pixels missing", png(SIZE, rows_of(PICTURE[:5])), EITHER)
    yield case("png pixels no zlib", start + chunk(b"IDAT", b"garbage" * 50) + chunk(b"IEND", b""), DAMAGED)
    yield case("png more pixels than stated", png(SIZE, rows_of(np.vstack([PICTURE] * 9))), PICTURE)
    yield case("png filter 77", png_of(b"".join(b"\x4d" + row for row in rows_of(PICTURE))), DAMAGED)
    for name, body in (
        ("depth 3", struct.pack(">IIBBBBB", 32, 24, 3, 2, 0, 0, 0)),
        ("colour type 5", struct.pack(">IIBBBBB", 32, 24, 8, 5, 0, 0, 0)),
        ("filter method 9", struct.pack(">IIBBBBB", 32, 24, 8, 2, 0, 9, 0)),
        ("no width", struct.pack(">IIBBBBB", 0, 24, 8, 2, 0, 0, 0)),
        ("no height", struct.pack(">IIBBBBB", 32, 0, 8, 2, 0, 0, 0)),
        ("short header", b"\0\0\0\x20"),
        ("header of zeros", bytes(13)),
    ):
        yield case(f"png {name}", PNG[:8] + chunk(b"IHDR", body) + PNG[33:], DAMAGED)
    yield case("png chunk of 4 GB", start + b"\xff\xff\xff\xffIDAT" + pixels, EITHER)
    yield case("png text of 4 GB", start + b"\xff\xff\xff\xfftEXt" + pixels, DAMAGED)
    yield case("png chunk name of zeros", start + struct.pack(">I", 4) + bytes(4) + PNG[33:], DAMAGED)
    yield case("png palette missing", png(SIZE, rows_of(index), colour=3), EITHER)
    yield case("png palette too short", png(SIZE, rows_of(index), 8, 3, chunk(b"PLTE", b"\1\2\3")), EITHER)
    yield case("png short tRNS", png(SIZE, rows_of(PICTURE), before=chunk(b"tRNS", b"\0")), DAMAGED)
    bomb = zlib.compress(bytes(5_000_000))
    for name, body in (
        ("zTXt", b"Title\0\0" + bomb),
        ("iTXt", b"Title\0\1\0en\0t\0" + bomb),
        ("iCCP", b"profile\0\0" + bomb),
    ):
        before = chunk(name.encode(), body)
        yield case(f"png bomb in {name}", png(SIZE, rows_of(PICTURE), before=before), DAMAGED)
    many = chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(1_000_000))) * 80
    yield case("png bomb in 80 zTXt", png(SIZE, rows_of(PICTURE), before=many), DAMAGED)
    yield case(
        "png huge eXIf", png(SIZE, rows_of(PICTURE), before=chunk(b"eXIf", b"II*\0" + bytes(3_000_000))), PICTURE
    )
    for width, height in ((20_000, 20_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1)):
        yield case(f"png bomb {width}x{height}", png((width, height), [b""]), TOO_LARGE)
    yield case("png wider than 2**31", png((2**32 - 1, 1), [b""]), f"{TOO_LARGE}|{DAMAGED}")


def png_of(filtered: bytes) -> bytes:
    return PNG[:33] + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")


# JPEG


def jpeg(pixels: Image.Image | np.ndarray = PICTURE, **options: Any) -> bytes:
    return encoded(pixels, "JPEG", **{"quality": 98, "subsampling": 0, **options})


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(body) + 2) + body


def with_segment(marker: int, body: bytes, data: bytes | None = None) -> bytes:
    data = jpeg() if data is None else data
    return data[:2] + segment(marker, body) + data[2:]


def frame_header(data: bytes) -> int:
    """Where the body of the start-of-frame segment begins: precision, height, width, components."""
    return max(data.find(b"\xff\xc0\x00"), data.find(b"\xff\xc2\x00")) + 4


def many_scans(count: int, data: bytes) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def inverted_luma() -> np.ndarray:
    """Y, Cb, Cr of the negative: what the first three of YCCK are, since Adobe's C, M and Y are stored inverted."""
    return np.asarray(Image.fromarray(255 - PICTURE).convert("YCbCr"))


def plain_cmyk() -> bytes:
    """Without Adobe's segment: 0 is no ink, as one would think."""
    data = jpeg(Image.fromarray(np.dstack([PICTURE, np.full_like(GREY, 255)]), "CMYK"))
    adobe = data.index(b"\xff\xee")
    return data[:adobe] + data[adobe + 16 :]


def jpeg_cases() -> Iterator[Case]:
    sound = jpeg()
    frame = frame_header(sound)
    cmyk = Image.fromarray(np.dstack([255 - PICTURE, np.zeros_like(GREY)]), "CMYK")
    raw = Image.fromarray(np.dstack([255 - inverted_luma(), np.zeros_like(GREY)]), "CMYK")
    yield case("jpeg", sound, PICTURE, 4)
    yield case("jpeg grey", jpeg(GREY), rgb(GREY), 3)
    yield case("jpeg 4:2:0", jpeg(subsampling=2), PICTURE, 12)
    yield case("jpeg 4:2:2", jpeg(subsampling=1), PICTURE, 12)
    yield case("jpeg progressive", jpeg(progressive=True), PICTURE, 4)
    yield case("jpeg optimized", jpeg(optimize=True), PICTURE, 4)
    yield case("jpeg restart markers", jpeg(restart_marker_blocks=1), PICTURE, 4)
    yield case("jpeg kept as RGB", jpeg(keep_rgb=True), PICTURE, 4)
    yield case("jpeg CMYK, inverted by Adobe", jpeg(cmyk), PICTURE, 4)
    yield case("jpeg CMYK, not inverted", plain_cmyk(), PICTURE, 4)
    ycck = jpeg(raw)
    yield case("jpeg YCCK", patched(ycck, ycck.index(b"Adobe") + 11, b"\2"), PICTURE, 6)
    yield case("jpeg of 50 scans", many_scans(50, jpeg(progressive=True)), EITHER)
    yield case("jpeg of 200 scans", many_scans(200, jpeg(progressive=True)), "scans")
    yield case("jpeg comment", with_segment(0xFE, b"c" * 60_000), PICTURE, 4)
    yield case("jpeg comments without end", sound[:2] + segment(0xFE, b"x") * 5000 + sound[2:], PICTURE, 4)
    yield case("jpeg filled with 255", sound[:2] + b"\xff" * 999 + sound[2:], PICTURE, 4)
    yield case("jpeg and garbage behind it", sound + bytes(999), PICTURE, 4)
    yield case("jpeg cut by two bytes", sound[:-2], EITHER)
    frames = [Image.fromarray(PICTURE), Image.new("RGB", SIZE, "blue")]
    options = {"save_all": True, "append_images": frames[1:], "quality": 98, "subsampling": 0}
    mpo = encoded(frames[0], "MPO", **options)
    yield case("mpo", mpo, PICTURE, 4)
    yield case("mpo damaged", patched(mpo, mpo.index(b"MPF\0") + 8, b"\xff" * 40), PICTURE, 4)
    yield case("mpo with its second picture cut off", mpo[: mpo.rfind(b"\xff\xd8\xff") + 9], PICTURE, 4)
    icc = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([i, 255]) + bytes(65_000)) for i in range(1, 256))
    yield case("jpeg with 16 MB of ICC profile", sound[:2] + icc + sound[2:], PICTURE, 4)
    yield case(
        "jpeg with Photoshop block",
        with_segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
        PICTURE,
        4,
    )

    yield case("jpeg 12 bits", patched(sound, frame, b"\x0c"), DAMAGED)
    yield case("jpeg two components", patched(sound, frame + 5, b"\2"), DAMAGED)
    yield case("jpeg no components", patched(sound, frame + 5, b"\0"), DAMAGED)
    yield case("jpeg no width", patched(sound, frame + 3, b"\0\0"), DAMAGED)
    yield case("jpeg no height", patched(sound, frame + 1, b"\0\0"), DAMAGED)
    yield case("jpeg lossless", patched(sound, frame - 3, b"\xc3"), DAMAGED)
    yield case("jpeg higher than its data", patched(sound, frame + 1, b"\1\0"), EITHER)
    yield case("jpeg bomb", patched(sound, frame + 1, b"\xff\xff\xff\xff"), TOO_LARGE)
    yield case(
        "jpeg bomb, progressive",
        patched(jpeg(progressive=True), frame + 1, b"\xff\xdc\xff\xdc"),
        f"{TOO_LARGE}|{DAMAGED}",
    )
    yield case("jpeg within a jpeg's start", b"\xff\xd8" + sound, DAMAGED)
    yield case("jpeg start alone", sound[:3], DAMAGED)
    yield case("jpeg without tables", sound[:2] + sound[sound.index(b"\xff\xc0") :], DAMAGED)
    tables = sound.index(b"\xff\xdb")
    yield case("jpeg wrong table", patched(sound, tables + 4, b"\xff"), DAMAGED)
    yield case("jpeg segment without length", sound[:2] + b"\xff\xe1\0\0" + sound[2:], EITHER)
    yield case("jpeg scan of zeros", sound[: sound.index(b"\xff\xda") + 14] + bytes(500) + b"\xff\xd9", EITHER)
    yield case(
        "jpeg scan of restarts", sound[: sound.index(b"\xff\xda") + 14] + b"\xff\xd0" * 500 + b"\xff\xd9", EITHER
    )


# WebP


def riff(kind: bytes, body: bytes) -> bytes:
    data = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data


def webp_cases() -> Iterator[Case]:
    frames = [Image.fromarray(PICTURE), Image.new("RGB", SIZE, "blue")]
    lossless = encoded(PICTURE, "WEBP", lossless=True)
    lossy = encoded(PICTURE, "WEBP", quality=100)
    yield case("webp lossless", lossless, PICTURE)
    yield case("webp lossy", lossy, PICTURE, 16)
    rgba = np.dstack([PICTURE, ALPHA])
    yield case("webp RGBA", encoded(rgba, "WEBP", lossless=True, exact=True), on_white(PICTURE, ALPHA), 1)
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield case("webp animated", moving, PICTURE)
    yield case("webp and garbage behind it", lossless + bytes(99), PICTURE)
    yield case("webp wrong length", patched(lossless, 4, b"\xff\xff\xff\xff"), DAMAGED)
    yield case("webp unknown kind", patched(lossless, 12, b"VP9 "), NOT_AN_IMAGE)
    yield case("webp pixels damaged", patched(lossless, 40, bytes(60)), EITHER)
    yield case("webp animated, frame damaged", patched(moving, len(moving) // 4, bytes(40)), EITHER)
    yield case("webp bomb, extended", riff(b"VP8X", b"\x10\0\0\0" + b"\xff\xff\xff" * 2), f"{TOO_LARGE}|{DAMAGED}")
    yield case("webp bomb, lossless", riff(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(99)), TOO_LARGE)
    lossy_header = b"\x10\x02\0\x9d\x01\x2a\xff\x3f\xff\x3f"
    yield case("webp bomb, lossy", riff(b"VP8 ", lossy_header + bytes(99)), f"{TOO_LARGE}|{DAMAGED}")
    wide = encoded(Image.new("RGB", (16_383, 1)), "WEBP", lossless=True)
    yield case("webp of the greatest width", wide, np.zeros((1, 16_383, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield case("webp turned", encoded(PICTURE, "WEBP", lossless=True, exif=exif), shown(6, PICTURE))
    yield case("webp with broken EXIF", encoded(PICTURE, "WEBP", lossless=True, exif=b"MM\0*garbage"), PICTURE)
    yield case(
        "webp with huge EXIF", encoded(PICTURE, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(999_999)), PICTURE
    )


# GIF


def gif(size: tuple[int, int], frame: bytes, palette: bytes = bytes(range(12)), flags: int | None = None) -> bytes:
    """`frame`: image descriptors and data. `palette`: 2**n colours."""
    flags = 0x80 | (len(palette) // 3).bit_length() - 2 if flags is None else flags
    return b"GIF89a" + struct.pack("<HHBBB", *size, flags, 0, 0) + palette + frame + b";"


def gif_frame(left: int, top: int, width: int, height: int, data: bytes = b"\2\3\x4c\x12\5\0") -> bytes:
    """The default data are 4 pixels of index 1, LZW-coded: clear, 1, 1, 1 in 3 bits each, then 1, end in 4."""
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + data


def gif_cases() -> Iterator[Case]:
    grey = Image.fromarray(GREY)
    frames = [grey, Image.new("L", SIZE, 255)]
    yield case("gif", encoded(grey, "GIF"), rgb(GREY))
    yield case("gif not interlaced", encoded(grey, "GIF", interlace=0), rgb(GREY))
    yield case("gif animated", encoded(grey, "GIF", save_all=True, append_images=frames[1:]), rgb(GREY))
    index = Image.fromarray((_X % 4).astype(np.uint8)).convert("L")
    index = Image.frombytes("P", SIZE, index.tobytes())
    index.putpalette([10, 20, 30, 200, 100, 50, 7, 8, 9, 90, 90, 90])
    table = np.array([(10, 20, 30), (200, 100, 50), (255, 255, 255), (90, 90, 90)], np.uint8)
    yield case("gif, one colour clear", encoded(index, "GIF", transparency=2), table[_X % 4])
    second = np.full((2, 2, 3), (3, 4, 5), np.uint8)
    yield case("gif by hand", gif((2, 2), gif_frame(0, 0, 2, 2)), second)
    yield case("gif of 87", b"GIF87a" + gif((2, 2), gif_frame(0, 0, 2, 2))[6:], second)
    yield case("gif without background", gif((4, 4), gif_frame(1, 1, 2, 2)), EITHER)
    yield case("gif frame larger than the screen", gif((1, 1), gif_frame(0, 0, 2, 2)), EITHER)
    yield case("gif frame outside the screen", gif((2, 2), gif_frame(9, 9, 2, 2)), EITHER)
    yield case("gif without palette", gif((2, 2), gif_frame(0, 0, 2, 2), b"", 0), EITHER)
    yield case("gif palette cut", gif((2, 2), b"", b"\1\2", 0x87), DAMAGED)
    yield case("gif without frames", gif((2, 2), b""), DAMAGED)
    yield case("gif of 0x0", gif((0, 0), gif_frame(0, 0, 0, 0)), DAMAGED)
    yield case("gif code size 0", gif((2, 2), gif_frame(0, 0, 2, 2, b"\0\3\x4c\x12\5\0")), EITHER)
    yield case("gif code size 200", gif((2, 2), gif_frame(0, 0, 2, 2, b"\xc8\3\x4c\x12\5\0")), DAMAGED)
    yield case("gif data of 255", gif((2, 2), gif_frame(0, 0, 2, 2, b"\2\xff" + b"\xff" * 255 + b"\0")), EITHER)
    yield case("gif data missing", gif((2, 2), gif_frame(0, 0, 2, 2, b"\2\0")), DAMAGED)
    yield case("gif bomb", gif((65_535, 65_535), gif_frame(0, 0, 65_535, 65_535)), TOO_LARGE)
    yield case("gif bomb in its frame", gif((1, 1), gif_frame(0, 0, 65_535, 65_535)), TOO_LARGE)
    yield case("gif bomb by offset", gif((1, 1), gif_frame(65_535, 65_535, 1, 1)), TOO_LARGE)
    comment = b"!\xfe" + b"\xff" + bytes(255)
    yield case("gif comment without end", b"GIF89a\2\0\2\0\0\0\0" + comment * 20, DAMAGED)
    yield case("gif with many comments", gif((2, 2), (comment + b"\0") * 999 + gif_frame(0, 0, 2, 2)), second)
    yield case("gif unknown block", gif((2, 2), b"?" * 99 + gif_frame(0, 0, 2, 2)), EITHER)
    yield case("gif of 3000 frames", gif((2, 2), gif_frame(0, 0, 2, 2) * 3000), second)


# TIFF

_TIFF_TYPES = {"B": 1, "s": 2, "H": 3, "I": 4, "f": 11}
Entry = tuple[int, str, Sequence[int] | bytes]


def tiff(entries: Sequence[Entry], data: bytes = b"", order: str = "<", following: int | None = None) -> bytes:
    """Header, data (at byte 8), one directory with these entries (tag, type, values), then long values.

    `following`: where the next directory is said to be; None: nowhere.
    """
    start = 8 + len(data) + len(data) % 2
    behind = start + 2 + 12 * len(entries) + 4
    directory, extra = struct.pack(order + "H", len(entries)), b""
    for tag, kind, values in entries:
        body = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(body) > 4:
            where = struct.pack(order + "I", behind + len(extra))
            extra += body + b"\0" * (len(body) % 2)
        else:
            where = body.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, _TIFF_TYPES[kind], len(values)) + where
    directory += struct.pack(order + "I", following or 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data.ljust(start - 8, b"\0") + directory + extra


def plain_entries(**changed: Entry | None) -> list[Entry]:
    """Of PICTURE, not compressed, with its pixels at byte 8. `changed`: entries by name, None to leave one out."""
    entries: dict[str, Entry | None] = {
        "width": (256, "H", [WIDTH]),
        "height": (257, "H", [HEIGHT]),
        "bits": (258, "H", [8, 8, 8]),
        "compression": (259, "H", [1]),
        "photometric": (262, "H", [2]),
        "offsets": (273, "I", [8]),
        "samples": (277, "H", [3]),
        "rows": (278, "H", [HEIGHT]),
        "counts": (279, "I", [PICTURE.size]),
    }
    entries.update(changed)
    return sorted(entry for entry in entries.values() if entry is not None)


def tiff_cases() -> Iterator[Case]:
    data = PICTURE.tobytes()
    image = Image.fromarray(PICTURE)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        yield case(f"tiff {compression}", encoded(image, "TIFF", compression=compression), PICTURE)
    yield case("tiff jpeg", encoded(image, "TIFF", compression="jpeg", quality=98), PICTURE, 12)
    bits = (_X + _Y) % 3 == 0
    for compression in ("group3", "group4", "raw"):
        fax = encoded(Image.fromarray(bits), "TIFF", compression=compression)
        yield case(f"tiff 1 bit {compression}", fax, rgb(np.where(bits, 255, 0).astype(np.uint8)))
    yield case("tiff big", encoded(image, "TIFF", big_tiff=True), PICTURE)
    yield case("tiff grey", encoded(GREY, "TIFF"), rgb(GREY))
    rgba = np.dstack([PICTURE, ALPHA])
    yield case("tiff RGBA", encoded(rgba, "TIFF"), on_white(PICTURE, ALPHA), 1)
    cmyk = Image.fromarray(np.dstack([255 - PICTURE, np.zeros_like(GREY)]), "CMYK")
    yield case("tiff CMYK", encoded(cmyk, "TIFF"), PICTURE)
    yield case("tiff 16 bits grey", encoded(Image.fromarray(WIDE), "TIFF"), rgb(GREY))
    yield case("tiff 16 bits grey lzw", encoded(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"), rgb(GREY))
    big_end = plain_entries(
        bits=(258, "H", [16]), photometric=(262, "H", [1]), samples=(277, "H", [1]), counts=(279, "I", [2 * GREY.size])
    )
    yield case("tiff 16 bits grey, big-endian", tiff(big_end, WIDE.astype(">u2").tobytes(), ">"), rgb(GREY))
    colour = plain_entries(bits=(258, "H", [16] * 3), counts=(279, "I", [2 * PICTURE.size]))
    yield case("tiff 16 bits RGB", tiff(colour, WIDE_PICTURE.astype("<u2").tobytes()), PICTURE, 1)
    yield case("tiff floats", encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point")
    yield case("tiff 32 bits", encoded(Image.fromarray(GREY.astype(np.int32) * 70_000), "TIFF"), "32-bit")
    yield case("tiff 32 bits, small values", encoded(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), rgb(GREY))
    yield case("tiff 32 bits, negative", encoded(Image.fromarray(-GREY.astype(np.int32)), "TIFF"), "32-bit")
    yield case("tiff pages", encoded(image, "TIFF", save_all=True, append_images=[Image.new("1", (5, 5))] * 3), PICTURE)
    yield case(
        "tiff lab", encoded(image.convert("RGB").convert("L"), "TIFF"), np.asarray(image.convert("L").convert("RGB"))
    )
    for order in "<>":
        yield case(f"tiff by hand {order}", tiff(plain_entries(), data, order), PICTURE)
    planes = PICTURE.transpose(2, 0, 1).tobytes()
    third = PICTURE.size // 3
    planar = plain_entries(
        offsets=(273, "I", [8, 8 + third, 8 + 2 * third]), counts=(279, "I", [third] * 3), planar=(284, "H", [2])
    )
    yield case("tiff planar", tiff(planar, planes), PICTURE)
    strips = plain_entries(
        rows=(278, "H", [1]),
        offsets=(273, "I", [8 + 3 * WIDTH * i for i in range(HEIGHT)]),
        counts=(279, "I", [3 * WIDTH] * HEIGHT),
    )
    yield case("tiff strips", tiff(strips, data), PICTURE)
    for orientation in range(1, 9):
        turned = tiff(plain_entries(turn=(274, "H", [orientation])), data)
        yield case(f"tiff orientation {orientation}", turned, shown(orientation, PICTURE))
    for value in (0, 9, 65_535):
        yield case(f"tiff orientation {value}", tiff(plain_entries(turn=(274, "H", [value])), data), PICTURE)
    yield case("tiff orientation text", tiff(plain_entries(turn=(274, "s", b"up\0")), data), PICTURE)
    yield case(
        "tiff white is zero",
        tiff(
            plain_entries(
                bits=(258, "H", [8]),
                samples=(277, "H", [1]),
                photometric=(262, "H", [0]),
                counts=(279, "I", [GREY.size]),
            ),
            GREY.tobytes(),
        ),
        rgb(255 - GREY),
    )

    around = tiff(plain_entries(), data)
    start = struct.unpack("<I", around[4:8])[0]
    yield case("tiff next directory is itself", tiff(plain_entries(), data, following=start), PICTURE)
    yield case("tiff next directory far away", tiff(plain_entries(), data, following=2**32 - 2), PICTURE)
    yield case("tiff directory is the header", patched(around, 4, bytes(4)), DAMAGED)
    yield case("tiff directory far away", patched(around, 4, b"\xff\xff\xff\xff"), DAMAGED)
    yield case("tiff no entries", tiff([]), DAMAGED)
    yield case("tiff 65535 entries stated", patched(around, start, b"\xff\xff"), PICTURE)
    for name in ("width", "height", "bits", "compression", "photometric", "offsets", "samples", "rows", "counts"):
        wanted = PICTURE if name in ("compression", "rows", "counts") else DAMAGED
        yield case(f"tiff without {name}", tiff(plain_entries(**{name: None}), data), wanted)
    huge = [(tag, "B", b"x" * 9) for tag in range(30_000, 33_000)]
    yield case("tiff 3000 odd tags", tiff([*plain_entries(), *huge], data), PICTURE)  # type: ignore[list-item]
    tags = b"".join(struct.pack("<HHII", tag, 7, 2_000_000, 8) for tag in range(40_000, 40_300))
    entries = around[start + 2 : start + 2 + 12 * 9]
    bomb = b"II*\0" + struct.pack("<I", 8 + 2_000_000) + data.ljust(2_000_000, b"\0")
    bomb += struct.pack("<H", 9 + 300) + entries + tags + bytes(4)
    yield case("tiff 300 tags of 2 MB, all the same", patched(bomb, len(around) - 6, around[-6:]), PICTURE)
    one_bit = {"bits": (258, "H", [1]), "samples": (277, "H", [1]), "photometric": (262, "H", [0])}
    palette = {"bits": (258, "H", [8]), "samples": (277, "H", [1]), "photometric": (262, "H", [3])}
    hopeless = (
        "compression", "lzw of", "deflate of", "jpeg of", "webp of", "zstd of", "offsets outside", "no ",
        "photometric 99", "palette missing", "3 samples of", "60000 samples", "bits of", "width as", "predictor 9",
    )  # fmt: skip
    for name, changed in {
        "compression 9999": {"compression": (259, "H", [9999])},
        "compression JBIG": {"compression": (259, "H", [34661])},
        "compression old JPEG": {"compression": (259, "H", [6])},
        "compression LERC": {"compression": (259, "H", [34887])},
        "lzw of raw pixels": {"compression": (259, "H", [5])},
        "deflate of raw pixels": {"compression": (259, "H", [8])},
        "fax of raw pixels": {"compression": (259, "H", [4]), **one_bit},
        "jpeg of raw pixels": {"compression": (259, "H", [7])},
        "webp of raw pixels": {"compression": (259, "H", [50001])},
        "zstd of raw pixels": {"compression": (259, "H", [50000])},
        "packbits of raw pixels": {"compression": (259, "H", [32773])},
        "offsets outside": {"offsets": (273, "I", [2**31])},
        "offset in the header": {"offsets": (273, "I", [0])},
        "no rows a strip": {"rows": (278, "H", [0])},
        "many rows a strip": {"rows": (278, "I", [2**32 - 1])},
        "count zero": {"counts": (279, "I", [0])},
        "count 2**32": {"counts": (279, "I", [2**32 - 1])},
        "no width": {"width": (256, "H", [0])},
        "no height": {"height": (257, "H", [0])},
        "photometric 99": {"photometric": (262, "H", [99])},
        "YCbCr": {"photometric": (262, "H", [6])},
        "palette missing": palette,
        "palette short": {**palette, "palette": (320, "H", [1, 2, 3])},
        "3 samples of 77 bits": {"bits": (258, "H", [77] * 3)},
        "60000 samples": {"samples": (277, "H", [60_000])},
        "bits of 300 samples": {"bits": (258, "H", [8] * 300), "samples": (277, "H", [300])},
        "width as text": {"width": (256, "s", b"32\0")},
        "width as float": {"width": (256, "f", b"\0\0\xc0\x7f")},
        "two widths": {"width": (256, "H", [WIDTH, 99])},
        "planar 9": {"planar": (284, "H", [9])},
        "fill order 2": {"fill": (266, "H", [2])},
        "predictor 9": {"predictor": (317, "H", [9]), "compression": (259, "H", [5])},
        "subdirectory is itself": {"exif": (34665, "I", [start])},
        "subdirectory far away": {"exif": (34665, "I", [2**32 - 1])},
    }.items():  # fmt: skip
        wanted = DAMAGED if name.startswith(hopeless) else EITHER
        yield case(f"tiff {name}", tiff(plain_entries(**changed), data), wanted)  # type: ignore[arg-type]
    giant = {"width": (256, "I", [100_000]), "height": (257, "I", [100_000])}
    yield case("tiff bomb", tiff(plain_entries(**giant), data), TOO_LARGE)  # type: ignore[arg-type]
    giant["compression"] = (259, "H", [5])
    yield case("tiff bomb, lzw", tiff(plain_entries(**giant), data), TOO_LARGE)  # type: ignore[arg-type]
    edge = {"width": (256, "I", [2**32 - 1]), "height": (257, "I", [2**32 - 1])}
    yield case("tiff bomb of 2**64 pixels", tiff(plain_entries(**edge), data), f"{TOO_LARGE}|{DAMAGED}")  # type: ignore[arg-type]
    tile = {
        "tw": (322, "I", [2**30]),
        "th": (323, "I", [2**30]),
        "to": (324, "I", [8]),
        "tc": (325, "I", [PICTURE.size]),
    }
    tiles = plain_entries(offsets=None, counts=None, rows=None, **tile)  # type: ignore[arg-type]
    yield case("tiff bomb in its tile", tiff(tiles, data), f"{TOO_LARGE}|{DAMAGED}")
    tiles = plain_entries(offsets=None, counts=None, rows=None, compression=(259, "H", [5]), **tile)  # type: ignore[arg-type]
    yield case("tiff bomb in its lzw tile", tiff(tiles, data), f"{TOO_LARGE}|{DAMAGED}")


# BMP


def bmp(
    width: int, height: int, depth: int, data: bytes, compression: int = 0, palette: bytes = b"", masks: bytes = b""
) -> bytes:
    """`data`: rows from the bottom up (from the top down where `height` is negative), each of whole 4 bytes."""
    start = 14 + 40 + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(data), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + masks + palette + data


def bmp_cases() -> Iterator[Case]:
    bgr = PICTURE[:, :, ::-1]
    up = bgr[::-1].tobytes()
    grey_palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    yield case("bmp", bmp(WIDTH, HEIGHT, 24, up), PICTURE)
    yield case("bmp from the top", bmp(WIDTH, -HEIGHT, 24, bgr.tobytes()), PICTURE)
    yield case("bmp palette", bmp(WIDTH, HEIGHT, 8, GREY[::-1].tobytes(), 0, grey_palette), rgb(GREY))
    filled = np.dstack([bgr, np.full_like(GREY, 0)])[::-1].tobytes()
    yield case("bmp 32 bits", bmp(WIDTH, HEIGHT, 32, filled), PICTURE)
    red = np.full((HEIGHT, WIDTH), 0b1111100000000000, "<u2").tobytes()
    masks = struct.pack("<III", 0b1111100000000000, 0b11111100000, 0b11111)
    wanted = np.zeros_like(PICTURE)
    wanted[..., 0] = 255
    yield case("bmp 16 bits", bmp(WIDTH, HEIGHT, 16, red, 3, masks=masks), wanted)
    runs = b"".join(bytes([WIDTH, 10 * y]) + b"\0\0" for y in reversed(range(HEIGHT))) + b"\0\1"
    wanted = rgb(np.repeat((10 * np.arange(HEIGHT)).astype(np.uint8)[:, None], WIDTH, axis=1))
    yield case("bmp run lengths", bmp(WIDTH, HEIGHT, 8, runs, 1, grey_palette), wanted)
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    yield case("bmp of OS/2", b"BM" + struct.pack("<IHHI", 26 + len(up), 0, 0, 26) + core + up, PICTURE)
    bits = [bytes([0b10101010] * 4)] * HEIGHT
    wanted = rgb(np.tile(np.array([255, 0], np.uint8), (HEIGHT, 16)))
    black_white = b"\0\0\0\0\xff\xff\xff\0"
    yield case("bmp 1 bit", bmp(WIDTH, HEIGHT, 1, b"".join(bits), 0, black_white), wanted)
    for name, data in {
        "depth 7": bmp(WIDTH, HEIGHT, 7, up),
        "compression 99": bmp(WIDTH, HEIGHT, 24, up, 99),
        "PNG inside": bmp(WIDTH, HEIGHT, 24, PNG, 5),
        "no width": bmp(0, HEIGHT, 24, up),
        "no height": bmp(WIDTH, 0, 24, up),
        "pixels missing": bmp(WIDTH, HEIGHT, 24, up[:99]),
        "header of 9 bytes": b"BM" + bytes(8) + b"\x36\0\0\0\x09\0\0\0" + up,
        "runs cut": bmp(WIDTH, HEIGHT, 8, runs[:20], 1, grey_palette),
    }.items():
        yield case(f"bmp {name}", data, DAMAGED)
    yield case("bmp negative width", bmp(-WIDTH, HEIGHT, 24, up), f"{TOO_LARGE}|{DAMAGED}")
    yield case("bmp runs leave the picture", bmp(WIDTH, HEIGHT, 8, b"\0\2\xff\xff" * 99, 1, grey_palette), EITHER)
    yield case("bmp pixels far away", patched(bmp(WIDTH, HEIGHT, 24, up), 10, b"\xff\xff\xff\xff"), DAMAGED)
    yield case("bmp pixels in the header", patched(bmp(WIDTH, HEIGHT, 24, up), 10, bytes(4)), EITHER)
    yield case("bmp palette of 2**32", patched(bmp(WIDTH, HEIGHT, 8, up, 0, grey_palette), 46, b"\xff" * 4), EITHER)
    yield case("bmp bomb", bmp(100_000, 100_000, 24, up), TOO_LARGE)
    yield case("bmp bomb of run lengths", bmp(30_000, 30_000, 8, b"\xff\0" * 99, 1, grey_palette), TOO_LARGE)
    yield case("bmp of 2**62 pixels", bmp(2**31 - 1, 2**31 - 1, 24, up), TOO_LARGE)
    yield case("bmp lowest height", bmp(WIDTH, -(2**31), 24, up), f"{TOO_LARGE}|{DAMAGED}")


# AVIF, JPEG 2000, PPM


def avif_cases() -> Iterator[Case]:
    if not features.check("avif"):  # before Pillow 11.3
        return
    options = {"quality": 100, "subsampling": "4:4:4", "speed": 10, "max_threads": 1}
    sound = encoded(PICTURE, "AVIF", **options)
    yield case("avif", sound, PICTURE, 4)
    yield case("avif RGBA", encoded(np.dstack([PICTURE, ALPHA]), "AVIF", **options), on_white(PICTURE, ALPHA), 6)
    frames = [Image.new("RGB", SIZE, "blue")]
    moving = encoded(Image.fromarray(PICTURE), "AVIF", save_all=True, append_images=frames, **options)
    yield case("avif animated", moving, PICTURE, 4)
    for orientation in (3, 5, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = encoded(PICTURE, "AVIF", exif=exif, **options)
        yield case(f"avif orientation {orientation}", turned, shown(orientation, PICTURE), 4)
    size = sound.index(b"ispe") + 8
    yield case("avif bomb", patched(sound, size, struct.pack(">II", 16_000, 16_000)), f"{TOO_LARGE}|{DAMAGED}")
    yield case("avif of 2**64 pixels", patched(sound, size, b"\xff" * 8), f"{TOO_LARGE}|{DAMAGED}")
    yield case("avif size not that of its data", patched(sound, size, struct.pack(">II", 64, 48)), EITHER)
    yield case("avif pixels damaged", sound[:-60] + bytes(60), EITHER)
    yield case("avif without pixels", sound[: sound.index(b"mdat") + 4], DAMAGED)
    yield case("avif start alone", sound[:12], DAMAGED)
    yield case("avif box without end", patched(sound, 0, b"\xff\xff\xff\xff"), DAMAGED)
    yield case("avif box of itself", patched(sound, sound.index(b"meta") - 4, bytes(4)), EITHER)


def jpeg2000_cases() -> Iterator[Case]:
    if not features.check("jpg_2000"):
        return
    sound = encoded(PICTURE, "JPEG2000", irreversible=False)
    stream = encoded(PICTURE, "JPEG2000", irreversible=False, no_jp2=True)
    yield case("jpeg 2000", sound, PICTURE)
    yield case("jpeg 2000 stream", stream, PICTURE)
    yield case("jpeg 2000 grey", encoded(GREY, "JPEG2000", irreversible=False), rgb(GREY))
    rgba = np.dstack([PICTURE, ALPHA])
    yield case("jpeg 2000 RGBA", encoded(rgba, "JPEG2000", irreversible=False), on_white(PICTURE, ALPHA), 1)
    yield case("jpeg 2000 16 bits", encoded(Image.fromarray(WIDE), "JPEG2000", irreversible=False), rgb(GREY))
    tiles = encoded(PICTURE, "JPEG2000", irreversible=False, tile_size=(16, 8))
    yield case("jpeg 2000 tiles", tiles, PICTURE)
    yield case("jpeg 2000 lossy", encoded(PICTURE, "JPEG2000", quality_mode="dB", quality_layers=[60]), PICTURE, 12)
    size = stream.index(b"\xff\x51") + 6
    yield case("jpeg 2000 bomb", patched(stream, size, struct.pack(">II", 2**31, 2**31)), f"{TOO_LARGE}|{DAMAGED}")
    yield case("jpeg 2000 size 0", patched(stream, size, bytes(8)), DAMAGED)
    yield case("jpeg 2000 larger than its data", patched(stream, size, struct.pack(">II", 1500, 1500)), EITHER)
    yield case("jpeg 2000 tiles of nothing", patched(stream, size + 16, bytes(8)), DAMAGED)
    yield case("jpeg 2000 16384 components", patched(stream, size + 32, b"\x40\0"), DAMAGED)
    boxed = sound.index(b"ihdr") + 4
    yield case("jpeg 2000 bomb in its box", patched(sound, boxed, b"\xff" * 8), f"{TOO_LARGE}|{DAMAGED}")
    yield case("jpeg 2000 box without end", patched(sound, 12, b"\xff\xff\xff\xff"), EITHER)
    yield case("jpeg 2000 start alone", sound[:12], DAMAGED)
    yield case("jpeg 2000 pixels damaged", patched(stream, len(stream) // 2, bytes(90)), EITHER)


def ppm_cases() -> Iterator[Case]:
    data = PICTURE.tobytes()
    words = " ".join(map(str, PICTURE.ravel().tolist()))
    bits = (_X + _Y) % 3 == 0
    half = np.round((PICTURE >> 1) * (255 / 127)).astype(np.uint8)
    yield case("ppm", b"P6\n32 24\n255\n" + data, PICTURE)
    yield case("ppm grey", b"P5 32 24 255\n" + GREY.tobytes(), rgb(GREY))
    yield case(
        "ppm bits", b"P4 32 24\n" + np.packbits(~bits, axis=1).tobytes(), rgb(np.where(bits, 255, 0).astype(np.uint8))
    )
    yield case("ppm text", f"P3 32 24 255\n{words}\n".encode(), PICTURE)
    yield case("ppm with comments", b"P6 # a\n32 # width\n24 255\n" + data, PICTURE)
    yield case("ppm 16 bits grey", b"P5 32 24 65535\n" + WIDE.astype(">u2").tobytes(), rgb(GREY))
    yield case("ppm 16 bits RGB", b"P6 32 24 65535\n" + WIDE_PICTURE.astype(">u2").tobytes(), PICTURE, 1)
    yield case("ppm of 0..127", b"P6 32 24 127\n" + (PICTURE >> 1).tobytes(), half, 1)
    yield case("ppm floats", b"Pf\n32 24\n-1.0\n" + bytes(4 * GREY.size), "floating-point")
    for name, content in {
        "without pixels": b"P6 32 24 255\n",
        "with text for a number": b"P6 wide 24 255\n" + data,
        "negative": b"P6 -32 24 255\n" + data,
        "of 0x0": b"P6 0 0 255\n",
        "greatest value 0": b"P6 32 24 0\n" + data,
        "greatest value 70000": b"P6 32 24 70000\n" + data,
        "number of 9000 digits": b"P6 " + b"9" * 9000 + b" 24 255\n" + data,
        "pixels missing": b"P6 32 24 255\n" + data[:100],
        "text with letters": b"P3 32 24 255\n" + b"a b c " * 999,
        "text with long numbers": b"P3 32 24 255\n" + b"9" * 5000,
        "comment without end": b"P6 #" + b"c" * 9999,
        "kind 9": b"P9 32 24 255\n" + data,
    }.items():
        yield case(f"ppm {name}", content, f"{DAMAGED}|{NOT_AN_IMAGE}")
    yield case("ppm value above the greatest", b"P3 2 1 255 1 2 3 4 5 999\n", DAMAGED)
    yield case("ppm bomb", b"P6 99999 99999 255\n" + data, TOO_LARGE)
    yield case("ppm bomb of bits", b"P1 30000 30000 1 0 1\n", TOO_LARGE)
    yield case("ppm bomb of 2**100 pixels", b"P6 1125899906842624 1125899906842624 255\n", f"{TOO_LARGE}|{DAMAGED}")


# Metadata


def exif_cases() -> Iterator[Case]:
    for order in "<>":
        for orientation in range(1, 9):
            data = with_segment(0xE1, b"Exif\0\0" + tiff([(274, "H", [orientation])], order=order))
            yield case(f"exif orientation {orientation} {order}", data, shown(orientation, PICTURE), 4)
    for orientation in (2, 6):
        before = chunk(b"eXIf", tiff([(274, "H", [orientation])]))
        yield case(
            f"png orientation {orientation}", png(SIZE, rows_of(PICTURE), before=before), shown(orientation, PICTURE)
        )
    stored = shown(8, PICTURE)
    before = chunk(b"eXIf", tiff([(274, "I", [6]), (305, "s", b"a camera\0")]))
    yield case("png turned and turned back", png((HEIGHT, WIDTH), rows_of(stored), before=before), PICTURE)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    yield case("jpeg orientation in XMP", with_segment(0xE1, xmp), shown(6, PICTURE), 4)
    good = (274, "H", [6])
    for name, block, orientation in (
        ("orientation 0", tiff([(274, "H", [0])]), 1),
        ("orientation 9", tiff([(274, "H", [9])]), 1),
        ("orientation 65535", tiff([(274, "H", [65_535])]), 1),
        ("orientation 2**32 - 1", tiff([(274, "I", [2**32 - 1])]), 1),
        ("orientation as text", tiff([(274, "s", b"6\0")]), 1),
        ("orientation NaN", tiff([(274, "f", b"\0\0\xc0\x7f")]), 1),
        ("two orientations", tiff([(274, "H", [6, 3])]), None),
        ("no entries", tiff([]), 1),
        ("nothing", b"", 1),
        ("header alone", b"II*\0\x08\0\0\0", 1),
        ("garbage", b"garbage" * 99, 1),
        ("text for an offset", b"II*\0text", 1),
        ("offset far away", b"MM\0*\xff\xff\xff\xff", 1),
        ("60000 bytes", tiff([good], bytes(60_000)), 6),
        ("4000 entries", tiff([(tag, "B", b"x") for tag in range(1000, 5000)]), 1),
        ("a resolution of one byte", tiff([good, (282, "B", b"x")]), None),
        ("next directory is itself", tiff([good], following=8), 6),
        ("subdirectory is itself", tiff([good, (34665, "I", [8])]), 6),
        ("GPS is itself", tiff([good, (34853, "I", [8])]), 6),
        ("subdirectory far away", tiff([good, (34665, "I", [2**31])]), 6),
        ("a text far away", patched(tiff([good, (305, "s", b"a camera\0")]), 8 + 2 + 12 + 8, b"\xff\xff\xff\x7f"), 6),
        ("a value of an unknown type", patched(tiff([good, (999, "B", b"x")]), 8 + 2 + 12 + 2, b"\x63\0"), 6),
        ("a value of 4 GB", patched(tiff([good, (999, "B", b"x")]), 8 + 2 + 12 + 4, b"\xff" * 4), 6),
        ("resolution by zero", tiff([good, (282, "I", [5, 0])]), 6),
        ("a broken thumbnail", tiff([good, (513, "I", [2**31]), (514, "I", [2**31])]), 6),
    ):
        wanted = EITHER if orientation is None else shown(orientation, PICTURE)
        yield case(f"exif {name}", with_segment(0xE1, b"Exif\0\0" + block), wanted, 4)
        before = chunk(b"eXIf", block)
        yield case(f"exif {name}, png", png(SIZE, rows_of(PICTURE), before=before), wanted)
    tags = b"".join(struct.pack("<HHII", tag, 7, 60_000, 0) for tag in range(1000, 5900))
    swarm = b"II*\0\x08\0\0\0" + struct.pack("<H", 4900) + tags + bytes(4)
    yield case("exif 4900 tags of 60 kB, all the same", with_segment(0xE1, b"Exif\0\0" + swarm), PICTURE, 4)


def profile_cases() -> Iterator[Case]:
    """An ICC profile changes nothing, whatever it says."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, profile in (
        ("sRGB", srgb),
        ("LAB", lab),
        ("red is green", srgb.replace(b"rXYZ", b"tmp1").replace(b"gXYZ", b"rXYZ").replace(b"tmp1", b"gXYZ")),
        ("cut off", srgb[:100]),
        ("garbage", b"garbage" * 99),
        ("2 MB", bytes(2_000_000)),
    ):
        yield case(f"jpeg profile {name}", jpeg(icc_profile=profile), PICTURE, 4)
        if len(profile) < 2**20:
            before = chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))
            yield case(f"png profile {name}", png(SIZE, rows_of(PICTURE), before=before), PICTURE)
        yield case(f"webp profile {name}", encoded(PICTURE, "WEBP", lossless=True, icc_profile=profile), PICTURE)
        yield case(f"tiff profile {name}", encoded(PICTURE, "TIFF", icc_profile=profile), PICTURE)
    for name, body in (
        ("no zlib", b"name\0\0garbage"),
        ("method 7", b"name\0\7"),
        ("no name", b""),
        ("cut", b"name\0"),
    ):
        yield case(f"png profile {name}", png(SIZE, rows_of(PICTURE), before=chunk(b"iCCP", body)), EITHER)


def sound_files() -> dict[str, bytes]:
    found = {
        "png": PNG,
        "png interlaced": png(SIZE, adam7(PICTURE), interlaced=1),
        "jpeg": jpeg(),
        "jpeg progressive": jpeg(progressive=True),
        "webp lossless": encoded(PICTURE, "WEBP", lossless=True),
        "webp lossy": encoded(PICTURE, "WEBP", quality=100),
        "gif": encoded(Image.fromarray(GREY), "GIF"),
        "tiff": encoded(PICTURE, "TIFF"),
        "tiff lzw": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(PICTURE, "BMP"),
        "ppm": b"P6 32 24 255\n" + PICTURE.tobytes(),
        "ppm text": ("P3 32 24 255\n" + " ".join(map(str, PICTURE.ravel().tolist()))).encode(),
    }
    if features.check("avif"):
        found["avif"] = encoded(PICTURE, "AVIF", quality=100, subsampling="4:4:4", speed=10, max_threads=1)
    if features.check("jpg_2000"):
        found["jpeg 2000"] = encoded(PICTURE, "JPEG2000", irreversible=False)
    return found


def truncated_cases() -> Iterator[Case]:
    for name, data in sound_files().items():
        for tenth in range(1, 10):
            yield case(f"{name} cut at {tenth}/10", data[: len(data) * tenth // 10], f"{DAMAGED}|{NOT_AN_IMAGE}")


# Other formats


def other_format_cases() -> Iterator[Case]:
    image = Image.fromarray(PICTURE)
    for kind in ("ICO", "DDS", "PCX", "SGI", "TGA", "SPIDER", "DIB", "EPS", "PDF"):
        picture = image.convert("F") if kind == "SPIDER" else image
        yield case(f"{kind} as a file", encoded(picture, kind), f"{NOT_READ}|{NOT_AN_IMAGE}")
    yield case("XBM as a file", encoded(image.convert("1"), "XBM"), NOT_AN_IMAGE)
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, HEIGHT, WIDTH, 8, 3) + bytes(12) + bytes(2)
    yield case("PSD", psd + PICTURE.transpose(2, 0, 1).tobytes(), "PSD.*not read")
    yield case("EPS that starts a program", EPS, "EPS.*not read")
    yield case(
        "EPS in DOS clothes", b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, 99) + bytes(18) + EPS, "EPS.*not read"
    )
    for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"):
        head = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic"
        yield case(f"HEIC {brand.decode()}", head + b"\0\0\0\x08meta" + bytes(99), "HEIC.*pillow-heif")
    for brand in (b"isom", b"qt  ", b"mp42"):
        film = struct.pack(">I", 20) + b"ftyp" + brand + bytes(4) + b"avc1" + bytes(99)
        yield case(f"film {brand.decode()}", film, "film")
    yield case("JPEG XL", b"\xff\x0a" + bytes(99), "JPEG XL.*not read")
    yield case("HTML saved as a photo", b"<!DOCTYPE html><html><body>404</body></html>", "text")
    yield case("SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "text")
    yield case(
        "SVG that reads a file",
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><svg/>',
        "text",
    )
    yield case("zip", b"PK\3\4" + bytes(99), "zip")
    yield case("gzip of a photo", zlib.compress(PNG, wbits=31), "gzip")
    yield case("WMF", b"\xd7\xcd\xc6\x9a\0\0" + bytes(99), NOT_AN_IMAGE)
    yield case("FITS", b"SIMPLE  =                    T" + bytes(2880), NOT_AN_IMAGE)
    yield case("Windows program", b"MZ" + bytes(999), NOT_AN_IMAGE)
    yield case("ELF program", b"\x7fELF" + bytes(999), NOT_AN_IMAGE)
    yield case("pickle", b"\x80\x04\x95" + bytes(99), NOT_AN_IMAGE)
    yield case("JSON", b'{"image": 1}', NOT_AN_IMAGE)
    yield case("text", b"this is no image at all", NOT_AN_IMAGE)
    yield case("text in UTF-16", "this is no image".encode("utf-16"), NOT_AN_IMAGE)
    yield case("text that begins like BMP", b"BMW is no format", DAMAGED)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
(/tmp/fergeneral-was-here) (w) file closefile
%%EOF
"""


def tiny_cases() -> Iterator[Case]:
    yield case("no bytes", b"", "empty")
    yield case("1000 zeros", bytes(1000), NOT_AN_IMAGE)
    yield case("1000 times 255", b"\xff" * 1000, NOT_AN_IMAGE)
    yield case("noise", np.random.default_rng(7).bytes(5000), NOT_AN_IMAGE)
    for name, data in sound_files().items():
        for count in (1, 2, 4, 16):
            if len(name.split()) == 1:
                yield case(f"{name}: {count} bytes", data[:count], f"{DAMAGED}|{NOT_AN_IMAGE}")
    for size in ((1, 1), (1, 2000), (2000, 1)):
        pixels = np.full((size[1], size[0], 3), (200, 100, 50), np.uint8)
        for kind, options in (
            ("PNG", {}), ("JPEG", {"quality": 98}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {}),
            ("PPM", {}),
        ):  # fmt: skip
            yield case(
                f"{kind} {size[0]}x{size[1]}", encoded(pixels, kind, **options), pixels, 4 if kind == "JPEG" else 0
            )
        grey = encoded(pixels[..., 0], "GIF")
        yield case(f"GIF {size[0]}x{size[1]}", grey, rgb(pixels[..., 0]))


def buffer_cases() -> Iterator[Case]:
    yield case("bytearray", bytearray(PNG), PICTURE)
    yield case("memoryview", memoryview(PNG), PICTURE)
    every_second = bytes(itertools.chain.from_iterable(zip(PNG, PNG, strict=True)))
    yield case("memoryview of every second byte", memoryview(every_second)[::2], PICTURE)
    yield Case("memoryview let go", lambda _: _released(), "cannot be read")


def _released() -> memoryview:
    view = memoryview(PNG)
    view.release()
    return view


# In memory


def array_cases() -> Iterator[Case]:
    padded = np.zeros((HEIGHT, WIDTH, 6), np.uint8)
    padded[..., ::2] = PICTURE
    read_only = PICTURE.copy()
    read_only.flags.writeable = False
    yield case("array", PICTURE, PICTURE)
    yield case("array grey", GREY, rgb(GREY))
    yield case("array grey, one channel", GREY[..., None], rgb(GREY))
    yield case("array RGBA", np.dstack([PICTURE, ALPHA]), on_white(PICTURE, ALPHA), 1)
    yield case("array in Fortran's order", np.asfortranarray(PICTURE), PICTURE)
    yield case("array with strides", padded[..., ::2], PICTURE)
    yield case("array mirrored", PICTURE[:, ::-1][:, ::-1, :], PICTURE)
    yield case("array upside down", PICTURE[::-1], PICTURE[::-1])
    yield case("array of channels backwards", PICTURE[..., ::-1], PICTURE[..., ::-1])
    yield case("array read-only", read_only, PICTURE)
    yield case("array transposed", PICTURE.transpose(1, 0, 2), PICTURE.transpose(1, 0, 2))
    yield case(
        "array of one pixel repeated", np.broadcast_to(np.uint8(9), (50, 60, 3)), np.full((50, 60, 3), 9, np.uint8)
    )
    yield case("array masked", np.ma.masked_array(PICTURE, PICTURE > 100), "masked values")
    yield case("array masked nowhere", np.ma.masked_array(PICTURE), PICTURE)
    yield case("array big-endian", PICTURE.astype(">u1"), PICTURE)
    yield case("matrix", GREY.view(np.matrix), rgb(GREY))
    yield case("array 1x1", np.full((1, 1, 3), 7, np.uint8), np.full((1, 1, 3), 7, np.uint8))
    yield case("array 1x20000", np.zeros((1, 20_000), np.uint8), np.zeros((1, 20_000, 3), np.uint8))
    yield Case("array in a file", lambda folder: _mapped(folder), PICTURE)
    ones = np.ones((5, 6, 3))
    for name, array in {
        "NaN": ones * np.nan, "infinite": ones * np.inf, "negative": -ones.astype(np.int16), "negative float": -ones,
        "float": ones, "half": ones.astype(np.float16), "long double": ones.astype(np.longdouble),
        "complex": ones.astype(complex), "bool": ones.astype(bool), "int8": ones.astype(np.int8),
        "uint16": ones.astype(np.uint16), "int64": ones.astype(np.int64), "objects": ones.astype(object),
        "None": np.array(None), "text": np.full((5, 6, 3), "x"), "bytes": np.full((5, 6), b"x"),
        "dates": np.zeros((5, 6), "datetime64[s]"), "records": np.zeros((5, 6), [("r", "u1"), ("g", "u1")]),
        "void": np.zeros((5, 6), "V3"),
    }.items():  # fmt: skip
        yield case(f"array of {name}", array, "uint8")
    for shape in ((), (5,), (0,), (5, 6, 2), (5, 6, 5), (5, 6, 0), (3, 50, 50), (1, 5, 6), (1,) * 20, (2, 3, 4, 5, 6)):
        yield case(f"array of shape {shape}", np.zeros(shape, np.uint8), "shape")
    for shape in ((0, 0), (0, 5), (5, 0), (0, 5, 3), (5, 0, 4), (0, 0, 1)):
        yield case(f"array of shape {shape}", np.zeros(shape, np.uint8), "no pixels")
    for shape in ((2, 5, 5, 3), (0, 5, 5, 3), (1, 3, 5, 5)):
        yield case(f"array of shape {shape}", np.zeros(shape, np.uint8), "batch")
    vast = np.broadcast_to(np.uint8(0), (2**31, 2**31))
    yield case("array of 2**62 pixels, none in memory", vast, "memory|damaged")
    for name, thing in {
        "None": None, "number": 7, "float": 0.5, "list": PICTURE.tolist(), "tuple": (), "dict": {}, "set": {1},
        "uint8": np.uint8(3), "class": Image.Image, "module": np, "function": len, "complex": 1j, "generator": iter(()),
    }.items():  # fmt: skip
        yield case(f"no image: {name}", thing, "cannot read an image from|cannot be read")


def _mapped(folder: Path) -> np.ndarray:
    mapped = np.memmap(folder / "mapped", np.uint8, "w+", shape=PICTURE.shape)
    mapped[:] = PICTURE
    return mapped


def tensor_cases() -> Iterator[Case]:
    import torch  # what needs files alone does without

    tensor = torch.from_numpy(PICTURE.copy())
    yield case("tensor HWC", tensor, PICTURE)
    yield case("tensor CHW", tensor.permute(2, 0, 1), PICTURE)
    yield case("tensor CHW, contiguous", tensor.permute(2, 0, 1).contiguous(), PICTURE)
    yield case("tensor grey", torch.from_numpy(GREY.copy()), rgb(GREY))
    yield case("tensor 1HW", torch.from_numpy(GREY.copy())[None], rgb(GREY))
    yield case("tensor RGBA", torch.from_numpy(np.dstack([PICTURE, ALPHA])), on_white(PICTURE, ALPHA), 1)
    yield case("tensor mirrored", tensor.flip(1), PICTURE[:, ::-1])
    yield case("tensor expanded", torch.zeros(1, dtype=torch.uint8).expand(5, 6, 3), np.zeros((5, 6, 3), np.uint8))
    for dtype in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.int64,
        torch.bool,
        torch.complex64,
    ):
        yield case(f"tensor of {dtype}", torch.zeros(3, 5, 6, dtype=dtype), "uint8")
    yield case("tensor with gradient", torch.zeros(3, 5, 6, requires_grad=True), "uint8")
    yield case("tensor NaN", torch.full((3, 5, 6), torch.nan), "uint8")
    yield case("tensor without values", torch.zeros(3, 5, 6, dtype=torch.uint8, device="meta"), "no values")
    yield case("tensor sparse", torch.zeros(5, 6, dtype=torch.uint8).to_sparse(), "no values")
    yield case("tensor batch", torch.zeros(2, 3, 5, 6, dtype=torch.uint8), "batch")
    yield case("tensor scalar", torch.tensor(3, dtype=torch.uint8), "shape")
    yield case("tensor empty", torch.zeros(3, 0, 6, dtype=torch.uint8), "no pixels")
    yield case("tensor of two channels", torch.zeros(2, 5, 6, dtype=torch.uint8), "shape")


def pil_cases() -> Iterator[Case]:
    image = Image.fromarray(PICTURE)
    grey = Image.fromarray(GREY)
    yield Case("PIL RGB", lambda _: image.copy(), PICTURE)
    yield Case("PIL RGBA", lambda _: Image.fromarray(np.dstack([PICTURE, ALPHA])), on_white(PICTURE, ALPHA), 1)
    yield Case(
        "PIL RGBa", lambda _: Image.fromarray(np.dstack([PICTURE, ALPHA])).convert("RGBa"), on_white(PICTURE, ALPHA), 3
    )
    yield Case("PIL LA", lambda _: Image.fromarray(np.dstack([GREY, ALPHA])), on_white(rgb(GREY), ALPHA), 1)
    yield Case("PIL PA", lambda _: _with_alpha(grey.convert("P")), on_white(rgb(GREY), ALPHA), 1)
    yield Case("PIL L", lambda _: grey.copy(), rgb(GREY))
    yield Case(
        "PIL 1",
        lambda _: grey.point(lambda v: 255 * (v > 100), "1"),
        rgb(np.where(GREY > 100, 255, 0).astype(np.uint8)),
    )
    yield Case("PIL YCbCr", lambda _: image.convert("YCbCr"), PICTURE, 3)
    yield Case("PIL HSV", lambda _: image.convert("HSV"), PICTURE, 8)
    yield Case("PIL CMYK", lambda _: image.convert("CMYK"), PICTURE, 1)
    yield Case("PIL RGBX", lambda _: image.convert("RGBX"), PICTURE)
    yield Case("PIL I;16", lambda _: Image.fromarray(WIDE), rgb(GREY))
    yield Case("PIL I", lambda _: Image.fromarray(WIDE.astype(np.int32)), rgb(GREY))
    yield Case("PIL LAB", lambda _: Image.new("LAB", (4, 5), (255, 128, 128)), np.full((5, 4, 3), 255, np.uint8), 3)
    yield Case("PIL F", lambda _: Image.new("F", (3, 3)), "floating-point")
    yield Case("PIL I, out of range", lambda _: Image.new("I", (3, 3), 70_000), "32-bit")
    yield Case("PIL I, negative", lambda _: Image.new("I", (3, 3), -1), "32-bit")
    yield Case("PIL palette", lambda _: image.quantize(200), PICTURE, 24)
    yield Case("PIL without pixels", lambda _: Image.new("RGB", (0, 5)), "no pixels")
    yield Case("PIL made of nothing", lambda _: Image.Image(), "no pixels|damaged")
    yield Case("PIL closed", lambda _: _closed(image.copy()), "closed|damaged")
    yield Case("PIL file closed", lambda _: _closed(Image.open(io.BytesIO(PNG))), "closed|damaged")
    yield Case("PIL file, not yet read", lambda _: Image.open(io.BytesIO(PNG)), PICTURE)
    yield Case("PIL file cut off", lambda _: Image.open(io.BytesIO(PNG[: len(PNG) // 2])), DAMAGED)
    yield Case("PIL file whose data went", lambda _: _emptied(), DAMAGED)
    yield Case("PIL file too large", lambda _: _opened(png((10_000, 10_000), [b""])), TOO_LARGE)
    yield Case("PIL file EPS", lambda _: Image.open(io.BytesIO(EPS)), NOT_READ)
    yield Case("PIL file turned", lambda _: Image.open(io.BytesIO(_turned())), shown(6, PICTURE), 4)
    yield Case("PIL file CMYK, not inverted", lambda _: Image.open(io.BytesIO(plain_cmyk())), PICTURE, 4)
    yield Case("PIL 20000x1", lambda _: Image.new("RGB", (20_000, 1)), np.zeros((1, 20_000, 3), np.uint8))


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.fromarray(ALPHA))
    return image


def _turned() -> bytes:
    return with_segment(0xE1, b"Exif\0\0" + tiff([(274, "H", [6])]))


def _closed(image: Image.Image) -> Image.Image:
    image.close()
    return image


def _emptied() -> Image.Image:
    file = io.BytesIO(PNG)
    image = Image.open(file)
    file.truncate(40)
    return image


def _opened(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data))


# Paths and file objects


def path_cases() -> Iterator[Case]:
    def written(name: str, data: bytes) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            (folder / name).write_bytes(data)
            return folder / name

        return make

    yield Case("path", written("a.png", PNG), PICTURE)
    yield Case("path as text", lambda folder: str(written("b.png", PNG)(folder)), PICTURE)
    yield Case("path of bytes", lambda folder: _BytesPath(os.fsencode(written("c.png", PNG)(folder))), PICTURE)
    yield Case("jpeg named .png", written("jpeg.png", jpeg()), PICTURE, 4)
    yield Case("png named .jpg", written("png.jpg", PNG), PICTURE)
    yield Case("png named .tiff", written("png.tiff", PNG), PICTURE)
    yield Case("png named .eps", written("png.eps", PNG), PICTURE)
    yield Case("png without a suffix", written("png", PNG), PICTURE)
    yield Case("name of another script", written("Fotografía 写真.png", PNG), PICTURE)
    yield Case("name with a line break", written("a\nb.png", PNG), PICTURE)
    yield Case("name that is no UTF-8", lambda folder: written(os.fsdecode(b"\xff\xfe.png"), PNG)(folder), PICTURE)
    yield Case("text named .jpg", written("text.jpg", b"hello"), NOT_AN_IMAGE)
    yield Case("EPS named .jpg", written("eps.jpg", EPS), "EPS.*not read")
    yield Case("empty file", written("empty.jpg", b""), "empty")
    yield Case("damaged file of an odd name", written("\x1b[31mred\x07\n.png", PNG[:99]), DAMAGED)
    yield Case("file of 100 GB", lambda folder: _sparse(folder), "bytes, too large")
    yield Case("no such file", lambda folder: folder / "missing.jpg", "no such file")
    yield Case("no such file of an odd name", lambda folder: str(folder) + "/\x1b[31m\udcff.jpg", "no such file")
    yield Case("directory", lambda folder: folder, "directory")
    yield Case("file as a directory", lambda folder: written("d.png", PNG)(folder) / "x.png", "cannot be opened")
    yield Case(
        "link to nothing", lambda folder: _link(folder, "nowhere", "nothing"), "link to a file that is not there"
    )
    yield Case("link to itself", lambda folder: _link(folder, "loop", "loop"), "cannot be opened")
    yield Case("link to a photo", lambda folder: _link(folder, "link", str(written("e.png", PNG)(folder))), PICTURE)
    yield Case("FIFO", lambda folder: _fifo(folder), "pipe, socket or device")
    yield Case("socket", lambda folder: _socket(folder), "pipe, socket or device")
    yield case("/dev/zero", "/dev/zero", "pipe, socket or device")
    yield case("/dev/null", "/dev/null", "pipe, socket or device")
    yield case("/dev/stdin", Path("/dev/full"), "pipe, socket or device")
    yield case("empty path", "", "no such file")
    yield case("path with NUL", "a\0b.jpg", "cannot be opened")
    yield case("path with a lone surrogate", "\ud800.jpg", "cannot be opened")
    yield case("path of 5000 characters", "a" * 5000, "cannot be opened")
    yield case("path of 5000 folders", "a/" * 5000, "cannot be opened")
    yield case("URL", "https://example.org/a.jpg", "URL")
    yield case("URL of a file", "file:///etc/passwd", "URL")
    yield case("image data as text", PNG.decode("latin-1"), "cannot be opened")
    yield case("path object that raises", _BadPath(RuntimeError("no")), "no path")
    yield case("path object that gives a number", _BadPath(None), "no path")


class _BytesPath(os.PathLike[bytes]):
    def __init__(self, path: bytes) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return self.path


class _BadPath(os.PathLike[str]):
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __fspath__(self) -> str:
        if self.error:
            raise self.error
        return 7  # type: ignore[return-value]


def _sparse(folder: Path) -> Path:
    with (folder / "sparse.webp").open("wb") as file:
        file.write(encoded(PICTURE, "WEBP"))
        file.truncate(100 * 10**9)
    return folder / "sparse.webp"


def _link(folder: Path, name: str, target: str) -> Path:
    path = folder / name
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return path


def _fifo(folder: Path) -> Path:
    if not (folder / "fifo.jpg").exists():
        os.mkfifo(folder / "fifo.jpg")
    return folder / "fifo.jpg"


def _socket(folder: Path) -> Path:
    path = folder / "socket.jpg"
    if not path.exists():
        os.mknod(path, stat.S_IFSOCK | 0o600)
    return path


class Reader:
    """A file object that gives, one call after another, what it was given; then b"". An Exception is raised."""

    def __init__(self, *parts: Any, name: Any = "a reader") -> None:
        self.parts, self.name = list(parts), name

    def read(self, size: int = -1) -> Any:
        part = self.parts.pop(0) if self.parts else b""
        if isinstance(part, BaseException):
            raise part
        return part


class Endless:
    """Never ends, however much is read."""

    given = 0

    def read(self, size: int = -1) -> bytes:
        self.given += size
        return bytes(size)


class _BadName(Reader):
    @property
    def name(self) -> str:
        raise RuntimeError("no name")

    @name.setter
    def name(self, value: str) -> None:
        pass


def file_object_cases() -> Iterator[Case]:
    yield Case("file object", lambda _: io.BytesIO(PNG), PICTURE)
    yield Case(
        "file object that gives single bytes", lambda _: Reader(*(PNG[i : i + 1] for i in range(len(PNG)))), PICTURE
    )
    yield Case("file object that gives all at once", lambda _: Reader(PNG), PICTURE)
    yield Case(
        "file object that gives bytearrays", lambda _: Reader(bytearray(PNG[:50]), memoryview(PNG)[50:]), PICTURE
    )
    yield Case("file object half read", lambda _: _behind(b"before" + PNG, 6), PICTURE)
    yield Case("file object at its end", lambda _: _behind(PNG, len(PNG)), "seek")
    yield Case("file object that ends", lambda _: Reader(PNG[:90]), DAMAGED)
    yield Case("file object of nothing", lambda _: Reader(), "empty")
    yield Case("file object of text", lambda _: io.StringIO("abc"), "binary mode")
    yield Case("file object that turns to text", lambda _: Reader(PNG[:50], "text"), "binary mode")
    yield Case("file object that gives None", lambda _: Reader(None), "NoneType")
    yield Case("file object that gives a number", lambda _: Reader(7), "int")
    yield Case("file object that gives itself", lambda _: Reader(Reader()), "Reader")
    for error in (
        OSError(5, "Input/output error"),
        RuntimeError(),
        ValueError("I/O operation"),
        EOFError(),
        MemoryError(),
        StopIteration(),
        RecursionError(),
    ):
        yield Case(
            f"file object that raises {type(error).__name__}", lambda _, error=error: Reader(error), "cannot be read"
        )
        late = f"file object that raises {type(error).__name__} late"
        yield Case(late, lambda _, error=error: Reader(PNG[:50], error), "cannot be read")
    yield Case("file object closed", lambda _: _shut(), "cannot be read")
    yield Case("file object without a name to give", lambda _: _BadName(PNG), "cannot be read")
    yield Case("file object of a strange name", lambda _: Reader(b"x", name="\x1b[31m\udcff" * 999), NOT_AN_IMAGE)
    yield Case("file object whose read is no function", lambda _: _Attributes(read=3), "cannot be read")
    yield Case("file object whose read takes nothing", lambda _: _Attributes(read=lambda: PNG), "cannot be read")
    yield Case("file for writing", lambda _: Reader(io.UnsupportedOperation("not readable")), "cannot be read")


class _Attributes:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def _behind(data: bytes, place: int) -> io.BytesIO:
    file = io.BytesIO(data)
    file.seek(place)
    return file


def _shut() -> io.BytesIO:
    file = io.BytesIO(PNG)
    file.close()
    return file
