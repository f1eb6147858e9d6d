"""Tutorials, guides and an explanation: their blocks run in order, in one folder, and print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from fergeneral.cli import main
from fergeneral.jobs import Summary
from fergeneral.train.__main__ import main as train_main

# Their own tests run the other how-to guides, which are of libraries and containers.
HOW_TO = ("gpu", "offline", "own-backbone", "own-data-set", "own-detector", "privacy", "web-service")
PAGES = [
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *(ROOT / "docs" / "how-to" / f"{name}.md" for name in HOW_TO),
    ROOT / "docs" / "explanation" / "embeddings.md",
]
BLOCKS = re.compile(r"```(python|sh)\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+")

pytestmark = [
    pytest.mark.show,  # they take minutes
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:fastapi.*"),
]


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a ```sh block, in this process, since each process of its own would load torch first."""
    words = shlex.split(line.partition("  #")[0])
    if words[:1] == ["fergeneral"]:
        if "--engine" in words:  # a cluster has to be there: only what would be asked of it
            monkeypatch.setattr("fergeneral.distributed.extract_dataset", lambda *_, **__: Summary())
        assert main(words[1:]) == 0, line
    elif words[:3] == ["python", "-m", "fergeneral.train"] and "DATA" not in words:
        assert train_main(words[3:]) == 0, line
    else:  # parsed by tests/test_examples.py, or not run
        assert line.startswith(("pip install", "OMP_NUM_THREADS=1 uvicorn")) or "fergeneral.train" in line, line


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_blocks_run_and_print_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "speed.json", tmp_path / "benchmarks")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "guide"}
    blocks = BLOCKS.findall(page.read_text())
    assert blocks
    for kind, code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if kind == "python":
                exec(compile(code, page.name, "exec"), names)
            else:
                for line in code.splitlines():
                    run_line(line, monkeypatch)
        if shown:
            assert NUMBER.sub("N", printed.getvalue()).split() == NUMBER.sub("N", shown).split()
            found, wanted = (list(map(float, NUMBER.findall(text))) for text in (printed.getvalue(), shown))
            assert found == pytest.approx(wanted, abs=0.06)
        assert "False" not in printed.getvalue()


def test_the_estimate_of_a_million_photos_is_what_the_page_concludes() -> None:
    text = (ROOT / "docs" / "tutorials" / "million-photos.md").read_text()
    (hours,) = re.findall(r"1920x1080  yunet, many +(\d+\.\d)", text)
    assert float(hours) / 8 == pytest.approx(1, abs=0.1)  # "about an hour on eight"
