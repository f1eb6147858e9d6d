"""Whatever a person calls an image -> an upright 8-bit RGB image."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFile

from fergeneral.errors import ImageError, positive_integer

MAX_PIXELS = 89_478_485  # Pillow's own limit for a picture that is not an attack: 256 MiB of RGB
MAX_BYTES = 2**29  # of a file: 512 MiB, six bytes for each of MAX_PIXELS (16-bit RGB, not compressed)
# Pillow's names of what photos come in. Its many other readers are not used: they are seldom tried with hostile files,
# and one of them, for EPS, starts another program. HEIF and JXL are there where a plugin (pillow-heif) registers them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "HEIF", "JXL")
# By these, photos are found in folders and archives; how a file is read does not depend on its name.
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
IMAGE_SUFFIXES |= {".dib", ".avif", ".avifs", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".ppm", ".pgm", ".pbm"}
IMAGE_SUFFIXES |= {".pnm", ".heic", ".heif", ".hif", ".jxl"}
# What programs and systems leave beside photos, in lower case: macOS, Synology's NAS, Windows.
_LEFTOVERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}
_BITS = (8, 10, 12, 14, 16)  # that cameras and scanners use of 16

# Each scan goes over the whole picture, so that a small file of many would take hours. libtiff 4.7 stops at 100, too.
_MAX_SCANS = 100
_BLOCK = 2**20  # bytes read at once
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://")
_READABLE = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, JPEG 2000 and PPM"
_WANTED = (
    "wanted: a path, bytes, an open binary file, a PIL image, a uint8 array (H, W), (H, W, 3) or (H, W, 4), "
    "a uint8 torch tensor (3, H, W) or (H, W, 3), or a dict of 'bytes' and 'path'"
)
_OTHER_FORMATS = (  # how they begin, and what they are
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"DDS ", "DirectDraw (DDS)"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"<", "text (HTML, XML or SVG)"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
)
_TURNS = {  # EXIF orientation -> what brings the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image in any usual form and return it upright, as a PIL image of mode RGB.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits (by the fewest of
    8, 10, 12, 14 and 16 bits that hold its values), and of an animation or several pages the first is taken. Colours
    are taken as they are: an ICC profile is not applied, broken or not, and CMYK is turned into RGB by its plain
    formula. Metadata are left out of the result.

    Memory, at its peak, in bytes a pixel: 4 for the result; 8 where it had to be turned, was CMYK or transparent, and
    for a compressed TIFF; 10 for a progressive JPEG (12 with CMYK), 12 for AVIF, 17 for WebP, 25 for JPEG 2000; up to
    40 MB for the computation; and the file itself, unless `source` is a path (measured with Pillow 13). MAX_PIXELS of
    a photo thus take 340 MB to 1.1 GB, as WebP 1.5 and as JPEG 2000 2.2 GB; to find and cut its faces, up to 4 bytes a
    pixel are added to the result's. `extract_many` reads as many photos at once as there are cores, at most 8.

    Parameters
    ----------
    source
        A path (also `zipfile.Path`), bytes, an open binary file (read from where it stands to its end), a PIL image of
        any mode, a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, a uint8 torch tensor
        (H, W, C) or (C, H, W), or a dict {"bytes", "path"} as Hugging Face `datasets` gives. Files are read by their
        content, whatever their name, in the formats FORMATS; URLs are not fetched, and of devices, pipes and sockets
        nothing is read. docs/inputs.md lists every form.
    max_pixels : int
        A file of more pixels is refused before their memory is taken, and so is one of more than MAX_BYTES (or 6 bytes
        for each of `max_pixels`, where that is more). `extract` and all else use the default: to have a larger photo,
        pass them `load_image(path, max_pixels=...)`. What is in memory already has no limit.

    Returns
    -------
    PIL.Image.Image
        Of mode RGB, upright; a new image, also where `source` is one.

    Raises
    ------
    ImageError
        For whatever `source` is that cannot be read: it says what came and what is wanted.
    TypeError, ValueError
        For a `max_pixels` that is no integer, or not positive.

    Warns
    -----
    UserWarning
        By Pillow, of faults in a file's metadata. libtiff may also print what it finds wrong with a TIFF on stderr.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral import load_image
    >>> load_image("examples/photos/rocket.jpg").size
    (640, 427)
    >>> load_image(np.zeros((20, 30), dtype=np.uint8)).mode
    'RGB'
    """
    max_pixels = positive_integer(max_pixels, "max_pixels")
    if isinstance(source, Image.Image):
        return _from_pil(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(source, max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, "an array")
    if _is_tensor(source):
        return _from_tensor(source)
    if isinstance(source, Mapping):
        return _from_row(source, max_pixels)
    if hasattr(source, "read"):
        return _from_file(source, max_pixels)
    if hasattr(source, "read_bytes") and hasattr(source, "open"):
        return _from_place(source, max_pixels)
    many = ", which may hold many: extract_many and encode take those" if hasattr(source, "__iter__") else ""
    raise ImageError(f"cannot read an image from {type(source).__name__}{many}; {_WANTED}")


def as_images(images: Any, *, what: str, advice: str = "put it into a list") -> Iterable[Any]:
    """Many images, checked to be many: one image, a dict, a set or a table is an error, not a series of wrong answers.

    Parameters
    ----------
    images : iterable
        A list, tuple or other sequence, a pandas or polars Series (by position, whatever its index is), a NumPy array
        (N, H, W, C) of pixels, or (N,) or (N, 1) of objects or text, a torch tensor (N, C, H, W) or (N, H, W, C), or
        an iterator.
    what : str
        What the error calls the argument.
    advice : str
        What the error tells whoever passed a single image.

    Returns
    -------
    iterable
        The same images in the same order, each in a form that `load_image` takes or else refuses. Nothing is read or
        copied; an iterator is returned as it is.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU" and images.ndim == 2 and images.shape[1] == 1:
        images = images[:, 0]  # a column of a table
    fault = _not_many(images, advice)
    if fault is None:
        return images
    raise TypeError(
        f"{what} takes many images, got {fault} (many: a list or other sequence, a Series, an iterator, a uint8 array "
        f"(N, H, W, 3) or a uint8 tensor (N, 3, H, W))"
    )


def as_image_list(images: Any, *, what: str) -> Sequence[Any]:
    """As `as_images`, with a length, and items by their position (0, 1, ...): iterators are read to their end."""
    many = as_images(images, what=what)
    ready = isinstance(many, Sequence) or getattr(many, "ndim", None) == 4
    # Other sequences (such as a torch Dataset) stay as they are, too; a pandas Series has items by its index.
    ready = ready or (hasattr(many, "__len__") and hasattr(many, "__getitem__") and not hasattr(many, "ndim"))
    return many if ready else list(many)  # type: ignore[return-value]


def _not_many(images: Any, advice: str) -> str | None:
    """None for many images; else what they are, and what to do."""
    name = type(images).__name__
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)) or hasattr(images, "read"):
        return f"one image ({name}); {advice}"
    if any(hasattr(type(images), kind) for kind in ("columns", "column_names")):  # of pandas, polars, pyarrow, datasets
        return f"a table ({name}); pass the column of images"
    if isinstance(images, Mapping):
        return f"a {name}; pass a list: list(images.values()), or [image] if it is one {{'bytes', 'path'}}"
    if isinstance(images, (set, frozenset)):
        return f"a {name}, which has no order; pass a list"
    if hasattr(images, "ndim"):
        return _not_many_of_array(images, advice)
    return None if hasattr(images, "__iter__") or hasattr(images, "__getitem__") else f"one {name}"


def _not_many_of_array(array: Any, advice: str) -> str | None:
    shape, kind = tuple(array.shape), array.dtype.kind if isinstance(array, np.ndarray) else ""
    came = f"{type(array).__name__} of shape {shape}, {_printable(getattr(array, 'dtype', 'no dtype'))}"
    if array.ndim == 4:
        return f"{came} with masked values; say what they are to be (filled)" if np.ma.is_masked(array) else None
    if array.ndim == 1 and not _is_tensor(array) and (kind in ("", "O", "U") or array.size == 0):
        return None
    if array.ndim == 2 and kind in ("O", "U"):
        return f"a table ({came}); pass the column of images"
    if array.ndim == 2 or (array.ndim == 3 and (shape[0] in (1, 3, 4) or shape[2] in (1, 3, 4))):
        return f"one image ({came}); {advice}"
    return f"{came}; for grey images (N, H, W) pass list(images)" if array.ndim == 3 else came


def is_leftover(path: str) -> bool:
    """Whether any part of a relative path is hidden (as .ipynb_checkpoints, ._a.png), or of those that systems leave
    (__MACOSX, Thumbs.db): never a photo that a person put there."""
    parts = [part for part in path.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part.lower() in _LEFTOVERS for part in parts)


def _is_tensor(source: Any) -> bool:
    torch = sys.modules.get("torch")  # an object can only be a tensor if somebody has imported torch
    return torch is not None and isinstance(source, torch.Tensor)


def _printable(text: object) -> str:
    """On one line that any terminal, file and table takes: no control characters or lone surrogates, not too long."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return plain if len(plain) <= 300 else f"{plain[:200]}...{plain[-90:]}"


def _reason(error: BaseException) -> str:
    return _printable(error) or type(error).__name__


def _from_path(source: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    try:
        path = os.fspath(source)
    except Exception as error:
        raise ImageError(f"{type(source).__name__} gives no path: {_reason(error)}") from error
    name = _printable(path) or "the path ''"
    if isinstance(path, str) and _URL.match(path):
        raise ImageError(f"{name} is a URL; this package does not download images: save it first, then pass the file")
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind):
            with open(path, "rb") as file:
                return _decode(file, name, max_pixels)
    except ImageError:
        raise
    except FileNotFoundError:
        what = "is a link to a file that is not there" if os.path.islink(path) else "no such file"
        raise ImageError(f"{name}: {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte or a lone surrogate in the path
        raise ImageError(f"{name} cannot be opened: {_reason(error)}") from error
    if stat.S_ISDIR(kind):
        raise ImageError(f"{name} is a directory, not an image; pass the files in it one by one")
    raise ImageError(f"{name} is a pipe, socket or device, which may never end; wanted: a regular file, or its bytes")


def _from_bytes(source: bytes | bytearray | memoryview, max_pixels: int) -> Image.Image:
    try:
        file = io.BytesIO(bytes(source))  # bytes are not copied
    except Exception as error:  # a released memoryview
        raise ImageError(f"the image data cannot be read: {_reason(error)}") from error
    return _decode(file, "the image data", max_pixels)


def _from_row(row: Mapping[Any, Any], max_pixels: int) -> Image.Image:
    """What Hugging Face `datasets` and tables written by it hold for an image that is not decoded."""
    came = f"cannot read an image from a {type(row).__name__}"
    if not row or set(row) - {"bytes", "path"}:
        raise ImageError(
            f"{came} with the keys {_printable(list(row))}; wanted: 'bytes' and 'path', as Hugging Face datasets gives "
            f"for an image; of a whole row pass its image: row['image']"
        )
    data, path = row.get("bytes"), row.get("path")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _from_bytes(data, max_pixels)
    if data is None and isinstance(path, (str, os.PathLike)):
        return _from_path(path, max_pixels)
    raise ImageError(f"{came} whose bytes are {type(data).__name__} and whose path is {type(path).__name__}")


def _from_place(source: Any, max_pixels: int) -> Image.Image:
    """A path of another kind of file system, such as zipfile.Path."""
    try:
        file = source.open("rb")
    except Exception as error:  # each kind raises errors of its own
        raise ImageError(f"{_printable(source)} cannot be opened: {type(error).__name__}") from error
    with file:
        return _from_file(file, max_pixels)


def _from_file(source: Any, max_pixels: int) -> Image.Image:
    file = io.BytesIO()
    limit = _max_bytes(max_pixels)
    try:
        name = f"the file object {_printable(getattr(source, 'name', type(source).__name__))!r}"
        if isinstance(source, io.TextIOBase):
            raise ImageError(f"{name} is open as text; open it in binary mode ('rb')")
        while file.tell() <= limit:
            block = source.read(_BLOCK)
            if not isinstance(block, (bytes, bytearray, memoryview)):
                raise ImageError(f"{name} gives {type(block).__name__}, not bytes; open it in binary mode ('rb')")
            if not block:
                break
            file.write(block)
    except ImageError:
        raise
    except Exception as error:  # a user's object may raise anything
        raise ImageError(f"the file object {type(source).__name__} cannot be read: {_reason(error)}") from error
    if not file.tell():
        raise ImageError(f"{name} is empty (0 bytes), or stands at its end: seek(0) goes back")
    return _decode(file, name, max_pixels)


def _max_bytes(max_pixels: int) -> int:
    return max(MAX_BYTES, 6 * max_pixels)


def _decode(file: Any, name: str, max_pixels: int) -> Image.Image:
    size, limit = file.seek(0, os.SEEK_END), _max_bytes(max_pixels)
    if not size:
        raise ImageError(f"{name} is empty (0 bytes)")
    if size > limit:
        raise ImageError(
            f"{name} has more than {limit} bytes, too large for one photo; load_image(..., max_pixels=...) takes more"
        )
    with _translated(name), _open(file, name) as image:
        _check_unread(image, file, name, max_pixels)
        return _upright_rgb(image, name, own=True)


def _from_pil(image: Image.Image, max_pixels: int) -> Image.Image:
    name = "the PIL image"
    with _translated(name):
        try:
            if isinstance(image, ImageFile.ImageFile) and image.fp is not None:  # else the pixels are in memory already
                _check_unread(image, image.fp, name, max_pixels)
            if image.width < 1 or image.height < 1:
                raise ImageError(f"{name} has no pixels ({image.width}x{image.height})")
            return _upright_rgb(image, name, own=False)
        except (AssertionError, ValueError) as error:
            unread = isinstance(error, AssertionError) and getattr(image, "fp", image) is None
            if unread or "closed" in str(error):
                raise ImageError(f"{name}, or its file, is closed; load() it before, or pass it open") from error
            raise


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Whatever Pillow raises as ImageError, also a warning where the process has made warnings errors."""
    try:
        yield
    except ImageError:
        raise
    except Warning as warning:
        raise ImageError(
            f"{name} makes Pillow warn, and warnings are errors in this process: {_reason(warning)}"
        ) from warning
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is too large: {error}; for a file you trust, set PIL.Image.MAX_IMAGE_PIXELS, too"
        ) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ImageError(f"{name} is corrupt or truncated: {_reason(error)}") from error


def _open(file: Any, name: str) -> ImageFile.ImageFile:
    """Image.open, but for formats (FORMATS), limit (ours) and errors (what is wrong with a file of a known format)."""
    Image.init()
    file.seek(0)
    head = file.read(64)
    failures = []
    for format_name in FORMATS:
        if format_name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[format_name]
        accepted = accepts(head[:16]) if accepts else False
        if isinstance(accepted, str):
            failures.append(f"{name}: {accepted}")
        elif accepted:
            file.seek(0)
            try:
                return factory(file, "")
            except (Image.DecompressionBombError, MemoryError, Warning):
                raise
            except Exception as error:
                failures.append(f"{name} begins as {format_name} but is corrupt or truncated: {_reason(error)}")
    other = _other_format(head)
    if other:
        raise ImageError(f"{name} is {other}, which is not read; {_READABLE} are")
    if failures:
        raise ImageError(failures[0])
    raise ImageError(f"{name} is not an image in a format that is read: {_READABLE}")


def _other_format(head: bytes) -> str:
    if head[4:8] == b"ftyp" and b"avif" not in head and b"avis" not in head:
        if head[8:11] in (b"hei", b"hev", b"mif", b"msf"):
            return "HEIC (convert it, or  pip install pillow-heif  and call pillow_heif.register_heif_opener() once)"
        return "a film (MP4 or MOV)"
    return next((what for start, what in _OTHER_FORMATS if head.startswith(start)), "")


def _check_unread(image: ImageFile.ImageFile, file: Any, name: str, max_pixels: int) -> None:
    """What must hold before the pixels are read."""
    if image.format not in (*FORMATS, "MPO"):  # MPO: a JPEG file with more pictures in it
        raise ImageError(f"{name} is a file of the format {image.format}, which is not read; {_READABLE} are")
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name} is too large: {image.width}x{image.height} pixels, at most {max_pixels} are read; if you trust "
            f"it, load_image(..., max_pixels=...) takes more, and its result can be passed wherever an image is wanted"
        )
    if image.format in ("JPEG", "MPO"):
        scans = _scans(file)
        if scans > _MAX_SCANS:
            raise ImageError(f"{name} is a JPEG of {scans} scans; more than {_MAX_SCANS} are not read")


def _scans(file: Any) -> int:
    """Of a JPEG: inside a scan no byte 255 is followed by any but 0 and markers, so the markers can be counted."""
    before = file.tell()
    file.seek(0)
    scans = sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(_BLOCK), b""))
    file.seek(before)
    return scans


def _upright_rgb(image: Image.Image, name: str, *, own: bool) -> Image.Image:
    """A new image, or `image` itself, if it is our `own` to change, without metadata: what they say of the pixels, such
    as the orientation, is done."""
    # Of 16-bit colours Pillow keeps the upper eight.
    halved = isinstance(image, ImageFile.ImageFile) and any(";16" in str(tile.args) for tile in image.tile)
    image.load()
    if halved and image.mode in ("RGB", "RGBA") and np.max(image.getextrema()[:3]) < 16:
        raise ImageError(f"{name} has 16-bit colours that use 12 bits at most; scale them to 8 bits first")
    turn = _turn(image)
    result = _to_rgb(image, name)
    if turn is not None:
        result = result.transpose(turn)
    elif result is image and not own:
        result = image.copy()
    result.info = {}
    return result


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # damaged EXIF says nothing about the pixels, which have been read by now
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    transparent = "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_wide(image, name)
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow turns it into
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or transparent:
        return _on_white(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which are stored inverted
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{name} has the mode {image.mode}, which cannot be turned into RGB: {error}") from None


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in parts of about 2**20 pixels, each with its top row: what is computed of them then takes no memory
    to speak of."""
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _on_white(image: Image.Image) -> Image.Image:
    result = Image.new("RGB", image.size, (255, 255, 255))
    for top, band in _bands(image):
        rgba = band.convert("RGBA")
        result.paste(rgba, (0, top), rgba)
    return result


def _from_wide(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey, which Pillow holds as I;16 or I: 0..white becomes 0..255, white being the largest number of the
    fewest bits of _BITS that hold all values, so that what a 12-bit camera took is not nearly black."""
    if image.mode == "F":
        raise ImageError(f"{name} has 32-bit floating-point pixels; scale them to 0..255 and convert to 8 bits first")
    transparent = image.info.get("transparency")
    low, high = 0, 0
    for _, band in _bands(image):
        values = np.asarray(band)
        if transparent is not None:
            values = values[values != transparent]
        low, high = int(values.min(initial=low)), int(values.max(initial=high))
    if low < 0 or high > 65535:
        raise ImageError(f"{name} has 32-bit pixels ({low}..{high}); convert it to 8 or 16 bits first")
    white = next(2**bits for bits in _BITS if high < 2**bits) - 1
    result = Image.new("RGB", image.size)
    for top, band in _bands(image):
        values = np.asarray(band).astype(np.int32)
        grey = (values * 255 + white // 2) // white
        if transparent is not None:
            grey[values == transparent] = 255
        result.paste(Image.fromarray(grey.astype(np.uint8)), (0, top))
    return result


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    came = f"{name} of shape {array.shape} and type {_printable(array.dtype)}"
    if array.dtype != np.uint8:
        raise ImageError(f"got {came}; values must be uint8, 0..255{_conversion(array.dtype)}")
    if array.ndim == 4:
        raise ImageError(f"got {came}, which looks like a batch; pass x[0], x[1], ..., or the batch to extract_many")
    if np.ma.is_masked(array):
        raise ImageError(f"got {came} with masked values; say what they are to be, as by x.filled(255)")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(f"got {came}; {_WANTED}")
    if array.size == 0:
        raise ImageError(f"got {came}, which has no pixels")
    with _translated(came):
        return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def _conversion(dtype: np.dtype[Any]) -> str:
    """What brings values of this type to uint8. It is not done unasked: which range was meant is not known."""
    if dtype.kind == "b":
        return " (of a mask: 255 * x.astype('uint8'))"
    if dtype.kind == "f":
        return " (for floats in 0..1: (255 * x).astype('uint8'))"
    if dtype.kind in "iu":
        return " (of 0..255: x.astype('uint8'); of 12 bits: (x >> 4).astype('uint8'), of 16: (x >> 8).astype('uint8'))"
    return ""


def _from_tensor(tensor: Any) -> Image.Image:
    if str(tensor.dtype) != "torch.uint8":
        raise ImageError(
            f"got a tensor of shape {tuple(tensor.shape)} and type {tensor.dtype}; values must be uint8, 0..255 "
            f"(for floats in 0..1: (255 * x).to(torch.uint8))"
        )
    try:
        array = tensor.detach().cpu().numpy()
    except Exception as error:  # a sparse tensor, or one without values (device "meta")
        raise ImageError(
            f"got a tensor of shape {tuple(tensor.shape)} that gives no values: {_reason(error)}"
        ) from error
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):  # torch's own order, channels first, where both would fit
        array = np.moveaxis(array, 0, 2)
    return _from_array(array, "a tensor")
