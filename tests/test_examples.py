"""The examples and the README's Python run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from conftest import ROOT
from PIL import Image

README = (ROOT / "README.md").read_text()


@pytest.fixture
def photos_folder(portraits: list[Path], tmp_path: Path) -> Path:
    """Photos with a face in the layout SPLIT/LABEL/PHOTO."""
    for split in ("train", "test"):
        shutil.copytree(portraits[0].parents[1], tmp_path / "photos" / split)
    return tmp_path / "photos"


def run(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_extract_faces() -> None:
    assert run("examples/extract_faces.py", "examples/photos/three_faces.jpg").count("embedding (512,)") == 3


def test_classify(faces_folder: Path, photos_folder: Path) -> None:
    shutil.copy(ROOT / "examples" / "photos" / "coffee.png", photos_folder / "train" / "taken")  # without a face
    for folder, *options in ((photos_folder,), (faces_folder, "--aligned")):
        report = run("examples/classify.py", folder / "train", folder / "test", *options)
        accuracy = re.search(r"accuracy\s+([\d.]+)", report)
        assert accuracy
        assert float(accuracy[1]) > 0.8
        assert f"{folder / 'train'}: {8 if folder is photos_folder else 64} of" in report


def test_own_detector() -> None:
    similarity = re.search(r"finds: ([\d.]+)", run("examples/own_detector.py", "examples/photos/astronaut.png"))
    assert similarity
    assert float(similarity[1]) > 0.9


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text()
    for example in (ROOT / "examples").glob("*.py"):
        assert f'"examples/{example.name}"' in tests


PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_has_its_python() -> None:
    assert len(PYTHON) == 3


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qscale": "2"})
        stream.width = stream.height = 512
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_image(Image.open(ROOT / "examples" / "photos" / "astronaut.png").convert("RGB"))
        for number in range(10):
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.mark.parametrize("number", range(3))
def test_the_readmes_python_runs(number: int, faces_folder: Path, photos_folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    code = PYTHON[number].replace('"my_faces/', f'"{faces_folder}/').replace('"my_photos/', f'"{photos_folder}/')
    code = code.replace('"clip', f'"{tmp_path / "clip"}')
    script = tmp_path / "readme.py"
    script.write_text(code)
    printed = run(script)
    assert printed
    if "extract_video" in code:
        assert [float(line.split()[0]) for line in printed.splitlines()] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
        assert printed.count("[(0, 0.9") == 5


def test_the_readmes_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        link = target[0] or target[1]
        assert link.startswith("https://") or (ROOT / link).exists(), link
