"""The examples and the README's Python run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()


def run(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_extract_faces() -> None:
    assert run("examples/extract_faces.py", "examples/photos/three_faces.jpg").count("embedding (512,)") == 3


def test_classify(faces_folder: Path) -> None:
    report = run("examples/classify.py", faces_folder / "train", faces_folder / "test")
    accuracy = re.search(r"accuracy\s+([\d.]+)", report)
    assert accuracy
    assert float(accuracy[1]) > 0.8


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
    assert len(PYTHON) == 2


@pytest.mark.parametrize("number", range(2))
def test_the_readmes_python_runs(number: int, faces_folder: Path, tmp_path: Path) -> None:
    code = PYTHON[number].replace('"my_faces/', f'"{faces_folder}/')
    script = tmp_path / "readme.py"
    script.write_text(code)
    assert run(script)


def test_the_readmes_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        link = target[0] or target[1]
        assert link.startswith("https://") or (ROOT / link).exists(), link
