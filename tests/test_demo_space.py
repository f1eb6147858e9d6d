"""The demo as a Hugging Face Space: its header, its requirements and its app."""

from __future__ import annotations

import runpy
import tomllib
from importlib.metadata import version

import pytest
from conftest import ROOT
from huggingface_hub import RepoCard, SpaceCardData, metadata_load
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from packaging.version import Version

import fergeneral

# Gradio leaves event loops open that it has made for its locks.
pytestmark = [
    pytest.mark.usefixtures("gradio_event_loops"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SPACE = ROOT / "examples" / "space"


def test_the_header_is_that_of_a_space() -> None:
    header = metadata_load(SPACE / "README.md")
    assert header
    data = SpaceCardData(**header)
    assert data.to_dict() == header == RepoCard.load(SPACE / "README.md", repo_type="space").data.to_dict()
    assert (data.sdk, data.license, header["pinned"]) == ("gradio", "other", False)
    assert (SPACE / str(data.app_file)).is_file()
    assert len(header["short_description"]) <= 60  # more is refused by the Hub
    assert {header["colorFrom"], header["colorTo"]} <= {
        *("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    gradio = next(Requirement(line) for line in project["optional-dependencies"]["demo"] if "gradio" in line)
    assert Version(str(data.sdk_version)) in gradio.specifier
    assert Version(str(data.sdk_version)).major == Version(version("gradio")).major
    assert Version(str(data.python_version)) in Requirement(f"python{project['requires-python']}").specifier


def test_the_requirement_is_the_wheel_of_this_version() -> None:
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    requirement = Requirement(lines[0])
    assert len(lines) == 1
    assert (requirement.name, requirement.extras) == ("fergeneral", {"demo"})
    assert requirement.url
    name, of, *_ = parse_wheel_filename(requirement.url.rsplit("/", 1)[1])
    assert (name, of) == ("fergeneral", Version(fergeneral.__version__))


def test_the_app_has_all_tabs_and_stricter_limits() -> None:
    from fergeneral.demo import DemoSettings
    from fergeneral.demo.app import build_app

    settings = runpy.run_path(str(SPACE / "app.py"))["SETTINGS"]
    usual = DemoSettings(classifier=settings.classifier)
    for name in ("max_megabytes", "max_faces", "max_photos", "max_video_seconds"):
        assert 0 < getattr(settings, name) < getattr(usual, name)
    page = build_app(settings)
    tabs = [part["props"]["label"] for part in page.get_config_file()["components"] if part["type"] == "tabitem"]
    wanted = ["Photo", "Teach", "Similar", "Video"]
    assert [tab for tab in tabs if tab in wanted] == wanted
    assert f"{settings.max_video_seconds:g} s" in str(page.get_config_file())
