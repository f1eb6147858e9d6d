"""Whatever a person calls an image -> an upright 8-bit RGB image."""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from fergeneral.errors import ImageError

MAX_PIXELS = 89_478_485  # Pillow's own limit for a picture that is not an attack: 256 MiB of RGB
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://")
_WANTED = (
    "wanted: a path, bytes, an open binary file, a PIL image, a uint8 array (H, W), (H, W, 3) or (H, W, 4), "
    "or a uint8 torch tensor (3, H, W) or (H, W, 3)"
)


def load_image(source: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image in any usual form and return it upright, as a PIL image of mode RGB.

    `source`: a path, bytes, an open binary file, a PIL image of any mode, a uint8 array of shape (H, W),
    (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, or a uint8 torch tensor in the layouts (H, W, C) or (C, H, W).
    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits, and of
    an animation the first frame is taken. URLs are not fetched.
    Raises ImageError that says what came and what is wanted, also for a file of more than `max_pixels` pixels,
    before their memory is taken (Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS, stands beside this one).
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL image", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), "the image bytes", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, "an array")
    if _is_tensor(source):
        return _from_tensor(source)
    if hasattr(source, "read"):
        return _from_file(source, max_pixels)
    raise ImageError(f"cannot read an image from {type(source).__name__}; {_WANTED}")


def _is_tensor(source: Any) -> bool:
    torch = sys.modules.get("torch")  # an object can only be a tensor if somebody has imported torch
    return torch is not None and isinstance(source, torch.Tensor)


def _from_path(source: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    text = os.fspath(source)
    if isinstance(text, str) and _URL.match(text):
        raise ImageError(f"{text} is a URL; this package does not download images: save it first, then pass the file")
    try:
        with open(text, "rb") as file:
            return _decode(file, text, max_pixels)
    except FileNotFoundError:
        raise ImageError(f"{text}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{text} is a directory, not an image; pass the files in it one by one") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{text!r} cannot be opened: {error}") from error


def _from_bytes(data: bytes, name: str, max_pixels: int) -> Image.Image:
    return _decode(io.BytesIO(data), name, max_pixels)


def _from_file(source: Any, max_pixels: int) -> Image.Image:
    name = f"the file object {getattr(source, 'name', type(source).__name__)!r}"
    try:
        data = source.read()
    except Exception as error:  # a user's object may raise anything
        raise ImageError(f"{name} cannot be read: {error}") from error
    if not isinstance(data, (bytes, bytearray)):
        raise ImageError(f"{name} gives {type(data).__name__}, not bytes; open it in binary mode ('rb')")
    return _from_bytes(bytes(data), name, max_pixels)


def _decode(file: Any, name: str, max_pixels: int) -> Image.Image:
    if not file.read(1):
        raise ImageError(f"{name} is empty (0 bytes)")
    file.seek(0)
    try:
        with Image.open(file) as image:
            return _from_pil(image, name, max_pixels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not an image in a format that Pillow reads (JPEG, PNG, WebP, GIF, TIFF, BMP and others)"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is too large: {error}; for a file you trust, set PIL.Image.MAX_IMAGE_PIXELS and pass "
            f"load_image(..., max_pixels=...)"
        ) from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise ImageError(f"{name} is damaged or cut off: {error}") from error


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{name} has no pixels ({image.width}x{image.height})")
    in_file = isinstance(image, ImageFile.ImageFile)  # else the pixels are in memory already
    if in_file and image.width * image.height > max_pixels:
        raise ImageError(
            f"{name} is too large: {image.width}x{image.height} pixels, at most {max_pixels} are read "
            f"(load_image(..., max_pixels=...) sets another limit)"
        )
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"{name} is damaged or cut off: {error}") from error
    return _to_rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels, which have been read by now
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_wide(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{name} has the mode {image.mode}, which cannot be turned into RGB: {error}") from None


def _from_wide(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey, which Pillow holds as I;16 or I: the full range 0..65535 becomes 0..255."""
    if image.mode == "F":
        raise ImageError(f"{name} has 32-bit floating-point pixels; scale them to 0..255 and convert to 8 bits first")
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} has 32-bit pixels ({values.min()}..{values.max()}); convert it to 8 or 16 bits first")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    came = f"{name} of shape {array.shape} and type {array.dtype}"
    if array.dtype != np.uint8:
        raise ImageError(f"got {came}; values must be uint8, 0..255 (for floats in 0..1: (255 * x).astype('uint8'))")
    if array.ndim == 4:
        raise ImageError(f"got {came}, which looks like a batch; pass images one by one, or a list to extract_many")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(f"got {came}; {_WANTED}")
    if array.size == 0:
        raise ImageError(f"got {came}, which has no pixels")
    return _from_pil(Image.fromarray(np.ascontiguousarray(array)), name, MAX_PIXELS)


def _from_tensor(tensor: Any) -> Image.Image:
    array = tensor.detach().cpu()
    if str(array.dtype) != "torch.uint8":
        raise ImageError(
            f"got a tensor of shape {tuple(array.shape)} and type {array.dtype}; values must be uint8, 0..255 "
            f"(for floats in 0..1: (255 * x).to(torch.uint8))"
        )
    array = array.numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):  # torch's own order, channels first, where both would fit
        array = np.moveaxis(array, 0, 2)
    return _from_array(array, "a tensor")
