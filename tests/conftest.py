from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from sklearn.linear_model import LogisticRegression

import fergeneral
from fergeneral import ExpressionExtractor, Head
from fergeneral.encoder import EncoderConfig, build_network
from fergeneral.hub import save_folder

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "examples" / "photos"

torch.set_num_threads(1)  # the suite runs on small shared machines, where threads wait for each other


@pytest.fixture(scope="session")
def photos() -> Path:
    return PHOTOS


@pytest.fixture(scope="session")
def extractor() -> ExpressionExtractor:
    return ExpressionExtractor.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder folder with seeded random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    save_folder(folder, build_network("resnet18").state_dict(), EncoderConfig("random", crop_size=64))
    return folder


def random_head(encoder: Path, folder: Path, seed: int = 0) -> Path:
    """A head of the random weights, for three classes drawn by chance."""
    generator = np.random.default_rng(seed)
    rows, labels = generator.random((30, 512)), np.repeat(["happiness", "neutral", "surprise"], 10)
    of = ExpressionExtractor.from_pretrained(encoder, device="cpu").encoder
    Head.from_sklearn(LogisticRegression().fit(rows, labels), of, name=f"drawn-{seed}").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """The real data sets: the folder named by FERGENERAL_DATA. In CI they must be there."""
    folder = os.environ.get("FERGENERAL_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    message = "FERGENERAL_DATA must name the folder with rafdb/, ferplus/ and affectnet/"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def yunet_model() -> Path:
    """YuNet's file, which comes with the package."""
    return Path(fergeneral.__file__).parent / "_detectors" / "face_detection_yunet_2023mar.onnx"


@pytest.fixture(scope="session")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight photos of a face with what is around it, LABEL/PHOTO, in two classes: as taken, and mirrored and darker."""
    folder = tmp_path_factory.mktemp("portraits")
    picture = Image.open(PHOTOS / "astronaut.png").convert("RGB")
    for label in ("mirrored", "taken"):
        (folder / label).mkdir()
    for number in range(4):
        part = picture.crop((100 + 6 * number, 8 * number, 340, 240))
        part.save(folder / "taken" / f"{number}.png")
        dark = ImageEnhance.Brightness(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).enhance(0.6)
        dark.save(folder / "mirrored" / f"{number}.png")
    return sorted(folder.glob("*/*.png"))


@pytest.fixture
def faces_folder(tmp_path: Path) -> Path:
    """A small data set of drawn 'faces' in the layout SPLIT/LABEL/IMAGE: what differs is the mouth."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        for label, curve in (("happiness", 1.0), ("sadness", -1.0), ("neutral", 0.0), ("surprise", 3.0)):
            folder = tmp_path / "faces" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(drawn_face(curve, generator)).save(folder / f"{i}.png")
    return tmp_path / "faces"


def drawn_face(curve: float, generator: np.random.Generator) -> np.ndarray:
    size = 48
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.full((size, size, 3), generator.integers(150, 220), dtype=np.float64)
    for eye in (0.27, 0.73):
        image[(x - eye) ** 2 + (y - 0.34) ** 2 < 0.004] = 30
    if curve == 3.0:
        image[(x - 0.5) ** 2 + (y - 0.75) ** 2 < 0.02] = 60
    else:
        image[(abs(y - 0.75 + curve * (2 * (x - 0.5) ** 2 - 0.05)) < 0.04) & (abs(x - 0.5) < 0.25)] = 60
    return np.clip(image + generator.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def chromium() -> str:
    """The browser's program, for playwright."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"no browser is installed; one of {', '.join(names)} is wanted: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def gradio_event_loops() -> Iterator[None]:
    """Gradio makes event loops for its locks and leaves them open, the last as this thread's: they end here."""
    yield
    with suppress(RuntimeError):  # there is none
        asyncio.get_event_loop().close()
    asyncio.set_event_loop(None)
    gc.collect()
