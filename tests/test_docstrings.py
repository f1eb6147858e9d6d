"""The examples in docstrings run: of every public name, and of all else that the reference of the site shows."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_examples import write_video

import fergeneral

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
SHOWN = [name for page in PAGES for name in re.findall(r"^::: (\S+)", page.read_text(), flags=re.MULTILINE)]
OPTIONS = doctest.NORMALIZE_WHITESPACE


def looked_up(name: str) -> Any:
    """The object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def documented(name: str) -> Iterator[tuple[str, str]]:
    """Of a name and, of a class, its public methods: their names and docstrings."""
    value = looked_up(name)
    yield name, inspect.getdoc(value) or ""
    if inspect.isclass(value):
        for member, method in vars(value).items():
            if not member.startswith("_") and (callable(method) or isinstance(method, (classmethod, property))):
                yield f"{name}.{member}", inspect.getdoc(getattr(value, member)) or ""


EXAMPLES = [(name, text) for shown in SHOWN for name, text in documented(shown) if ">>>" in text]


def test_the_reference_shows_every_public_name_once() -> None:
    assert len(SHOWN) == len(set(SHOWN))
    assert {f"fergeneral.{name}" for name in fergeneral.__all__} <= set(SHOWN)


@pytest.mark.parametrize("module", ["evaluate", "heads"])
def test_the_reference_shows_every_name_of(module: str) -> None:
    names = set(getattr(fergeneral, module).__all__) - {"CONDITIONS", "DEFAULT_HEAD"}  # constants
    assert names <= {name.rpartition(".")[2] for name in SHOWN}


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_reference_shows_has_an_example(name: str) -> None:
    if not isinstance(looked_up(name), (dict, str)):
        assert re.search(r"^Examples\n-+\n", inspect.getdoc(looked_up(name)) or "", flags=re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the photos of the examples, as in a clone, and a video."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").symlink_to(ROOT / "examples")
    write_video(folder / "clip.mp4")
    return folder


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_example_runs(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself: it imports all that it uses."""
    monkeypatch.chdir(folder)
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    printed: list[str] = []
    failed = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=printed.append).failed
    assert not failed, "".join(printed)
