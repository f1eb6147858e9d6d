"""Photos with known faces, made in memory: faces pasted over textures from the redistributable photos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
TEXTURES = ("chelsea.png", "coffee.png", "rocket.jpg")
SIZES = {"640x480": (640, 480), "1920x1080": (1920, 1080), "12 MP": (4000, 3000)}
HEAD = (132, 0, 312, 216)  # the head in astronaut.png, in pixels
TILE = 400  # pixels; large scenes are covered by tiles, so that they hold as much detail as a photo of their size

# How many faces, and the share of the scene's shorter side that the shortest and the longest of them take.
KINDS = {"one": (1, 0.25, 0.6), "three": (3, 0.15, 0.35), "many": (16, 0.06, 0.14), "none": (0, 0.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture, its name and the squares (left, top, right, bottom) that faces were pasted into."""

    name: str
    image: Image.Image
    faces: tuple[tuple[int, int, int, int], ...]


def astronaut() -> Image.Image:
    """The head of the one face among the photos."""
    return Image.open(PHOTOS / "astronaut.png").convert("RGB").crop(HEAD)


def make_scenes(faces: Sequence[Image.Image], *, seed: int = 0, sizes: Sequence[str] = tuple(SIZES)) -> list[Scene]:
    """One scene of each kind and size. `faces`: portraits to take in turn."""
    generator = np.random.default_rng(seed)
    return [
        make_scene(f"{kind}, {size}", SIZES[size], *KINDS[kind], faces=faces, generator=generator)
        for size in sizes
        for kind in KINDS
    ]


def make_scene(
    name: str,
    size: tuple[int, int],
    count: int,
    smallest: float,
    largest: float,
    *,
    faces: Sequence[Image.Image],
    generator: np.random.Generator,
) -> Scene:
    """A scene with up to `count` faces that do not touch; 500 places are tried."""
    canvas = _texture(size, generator)
    places: list[tuple[int, int, int, int]] = []
    for _ in range(500):
        if len(places) == count:
            break
        side = int(min(size) * generator.uniform(smallest, largest))
        left, top = (int(generator.integers(0, limit - side)) for limit in size)
        place = (left, top, left + side, top + side)
        if not any(_touch(place, other) for other in places):
            _paste(canvas, faces[int(generator.integers(len(faces)))], place, generator)
            places.append(place)
    noise = generator.normal(0, 3, (size[1], size[0], 1)).astype(np.float32)  # as of a camera
    pixels = np.clip(np.asarray(canvas, dtype=np.float32) + noise, 0, 255).astype(np.uint8)
    return Scene(name, Image.fromarray(pixels), tuple(places))


def _texture(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    photos = [Image.open(PHOTOS / name).convert("RGB") for name in TEXTURES]
    canvas = Image.new("RGB", size)
    for top in range(0, size[1], TILE):
        for left in range(0, size[0], TILE):
            photo = photos[int(generator.integers(len(photos)))]
            side = int(generator.integers(200, min(photo.size)))
            x, y = (int(generator.integers(0, limit - side + 1)) for limit in photo.size)
            tile = photo.crop((x, y, x + side, y + side)).resize((TILE, TILE), Image.Resampling.LANCZOS)
            if generator.integers(2):
                tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            canvas.paste(tile, (left, top))
    return canvas


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    margin = max(a[2] - a[0], b[2] - b[0]) // 4
    return a[0] < b[2] + margin and b[0] < a[2] + margin and a[1] < b[3] + margin and b[1] < a[3] + margin


def _paste(
    canvas: Image.Image, face: Image.Image, place: tuple[int, int, int, int], generator: np.random.Generator
) -> None:
    """The portrait with its longer side as the place's, behind a soft oval mask, mirrored every other time."""
    side = place[2] - place[0]
    scale = side / max(face.size)
    size = (max(1, round(face.width * scale)), max(1, round(face.height * scale)))
    portrait = face.resize(size, Image.Resampling.LANCZOS)
    if generator.integers(2):
        portrait = portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask = Image.new("L", size)
    inset = max(1, side // 40)
    ImageDraw.Draw(mask).ellipse((inset, inset, size[0] - inset, size[1] - inset), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(inset))
    canvas.paste(portrait, (place[0] + (side - size[0]) // 2, place[1] + (side - size[1]) // 2), mask)
