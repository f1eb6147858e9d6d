"""The Dockerfiles, where no engine is: the linter accepts them, and their steps and their entry point run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import PHOTOS, ROOT

DOCKERFILES = sorted((ROOT / "examples" / "docker").glob("*.Dockerfile"))
PAGE = ROOT / "docs" / "how-to" / "docker.md"
INSTALLED = "/opt/fergeneral"


def instructions(text: str) -> list[tuple[str, str]]:
    """Of a Dockerfile: each instruction's name and what follows, lines with a backslash joined."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line]


def hadolint(text: str) -> str:
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60).stdout


def test_the_linter_accepts_them() -> None:
    in_page = re.findall(r"```dockerfile\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(in_page) == 1
    assert len(DOCKERFILES) == 2
    for text in [file.read_text() for file in DOCKERFILES] + in_page:
        assert hadolint(text) == ""
    assert "DL3007" in hadolint("FROM python:latest\n")  # it would say so


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_what_they_state(file: Path) -> None:
    steps = instructions(file.read_text())
    assert {argument.split()[0] for name, argument in steps if name == "FROM"} == {"python:3.12-slim-bookworm"}
    assert [argument for name, argument in steps if name == "USER"] == ["1000"]
    assert f"docker build -f examples/docker/{file.name}" in file.read_text()
    assert ("whl/cpu" in file.read_text()) == (file.stem == "cpu")


@pytest.mark.show
@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.stem)
def test_their_steps_run(file: Path, tmp_path: Path) -> None:
    """COPY and `pip install .` as they stand, in a folder that has only what is copied. The base image, the step that
    installs torch (gigabytes, or from an index of PyTorch's own) and useradd are left out: torch is this environment's.
    """
    image, build = tmp_path / "image", tmp_path / "build"
    subprocess.run([sys.executable, "-m", "venv", image], check=True, timeout=300)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(image)}))
    (packages / "this.pth").write_text(sysconfig.get_path("purelib"))
    build.mkdir()
    ran = 0
    for name, argument in instructions(file.read_text()):
        if name == "COPY" and not argument.startswith("--from"):
            *sources, target = argument.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, build / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, build / target)
        elif name == "RUN" and "pip install" in argument and "torch" not in argument:
            command = argument.replace(INSTALLED, str(image))
            subprocess.run(command, shell=True, cwd=build, check=True, timeout=900)
            ran += 1
    assert ran == 1
    assert (packages / "fergeneral" / "_weights").is_dir()
    (entry,) = (json.loads(argument) for name, argument in instructions(file.read_text()) if name == "ENTRYPOINT")
    shutil.copy(PHOTOS / "three_faces.jpg", tmp_path)
    photo = ["predict", "three_faces.jpg", "--json"]
    environment = {"PATH": f"{image}/bin:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", *entry, *photo],  # without network
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["expression"] for line in done.stdout.splitlines()] == ["happiness"] * 3
