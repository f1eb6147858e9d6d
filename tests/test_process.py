"""A user's process stays as it is, and whatever is set in it, the faces and embeddings are the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from fergeneral import ImageError, load_image

PROGRAMS = Path(__file__).parent / "process_runs.py"


def run(program: str, *arguments: object, options: tuple[str, ...] = (), **environment: str) -> str:
    command = [sys.executable, *options, str(PROGRAMS), program, *map(str, arguments)]
    values = {"PYTHONPATH": str(ROOT), **os.environ, **environment}
    done = subprocess.run(command, env=values, capture_output=True, text=True, errors="replace", timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", ["state", "settings"])
def test_the_process(program: str, photos: Path) -> None:
    """`state`: nothing of it changes. `settings`: nothing of it matters."""
    run(program, photos / "astronaut.png")


def test_warnings_as_errors_no_docstrings_and_an_ascii_locale(
    photos: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Warnings are errors where they are in this suite: not with the oldest dependencies, which warn of themselves."""
    photo = tmp_path / "Straße 猫.png"
    shutil.copy(photos / "astronaut.png", photo)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    warnings = ("-W", "error") if "error" in pytestconfig.getini("filterwarnings") else ()
    run("strict", photo, options=(*warnings, "-OO"), **ascii_only)


@pytest.mark.filterwarnings("error")
def test_warnings_as_errors_make_a_warning_of_pillow_an_image_error(tmp_path: Path) -> None:
    """The photo can be read: it is the process that wants an error."""
    from corpus import tiff, with_segment

    cut = tiff([(274, "H", [1])])[:-6]  # EXIF that ends early
    data = with_segment(0xE1, b"Exif\0\0" + cut)
    with pytest.warns(UserWarning, match="EXIF"):
        assert load_image(data).mode == "RGB"
    with pytest.raises(ImageError, match="warnings are errors in this process"):
        load_image(data)


def test_without_a_home_or_a_place_to_write_to(photos: Path, random_folder: Path, tmp_path: Path) -> None:
    package, cache = tmp_path / "package", tmp_path / "cache"
    shutil.copytree(ROOT / "fergeneral", package / "fergeneral", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "weights").symlink_to(ROOT / "weights")
    commit = "0" * 40
    repository = cache / "hub" / "models--someone--encoder"
    shutil.copytree(random_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (tmp_path / "temporary").mkdir()
    folders = [tmp_path / "temporary", *(path for top in (package, cache) for path in (top, *top.rglob("*")))]
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o555)
    without_rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    values = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    values |= {"PYTHONPATH": str(package), "HF_HOME": str(cache), "TMPDIR": str(tmp_path / "temporary")}
    try:
        for home in ({}, {"HOME": "/nonexistent"}):
            command = [*without_rights, sys.executable, str(PROGRAMS), "bare", str(photos / "astronaut.png")]
            done = subprocess.run([*command, "someone/encoder"], env=values | home, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    finally:
        for folder in folders:
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o755)
