"""The notebooks: each .py and its .ipynb say the same, and each runs to its end and finds what its text says."""

from __future__ import annotations

import base64
import csv
import io
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import jupytext
import matplotlib.font_manager  # noqa: F401 - builds its cache, if need be, before a notebook would be told of it
import nbformat
import pytest
from conftest import ROOT
from PIL import Image

# Of the libraries that run a kernel.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(jupyter_client|nbclient|zmq|ipykernel|traitlets)")
]

NOTEBOOKS = ROOT / "examples" / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))
NAMES = [path.stem for path in SOURCES]
EXAMPLES = 'examples = Path("examples") if Path("examples/london").is_dir() else Path("..")'
MOST_BYTES = 400_000  # of a notebook
MOST_PICTURE_BYTES = 60_000


def stored(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What the outputs say, pictures apart, each as plain text."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs(notebook)]


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    found = [output.get("data", {}) for output in outputs(notebook)]
    return [base64.b64decode(data[kind]) for data in found for kind in ("image/png", "image/jpeg") if kind in data]


# As they are in the repository


def test_there_is_a_pair_of_each() -> None:
    assert NAMES == ["explore_folder", "quick_start", "teach_expression", "video_timeline"]
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_is_in_step(name: str) -> None:
    """If this fails: python scripts/run_notebooks.py NAME."""
    source, notebook = jupytext.read(NOTEBOOKS / f"{name}.py"), stored(name)
    nbformat.validate(notebook)
    cells = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (source, notebook)]
    assert cells[0] == cells[1]
    assert notebook.metadata.jupytext.formats == "ipynb,py:percent"


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_how_to_install_it_and_whose_faces_these_are(name: str) -> None:
    first = stored(name).cells[0].source
    (block,) = re.findall(r"```sh\n(.*?)```", first, re.DOTALL)
    install, start = block.splitlines()
    assert re.fullmatch(r"pip install '\.\[eval(,parquet|,video)?\]' jupyterlab ipywidgets", install)
    assert start == f"jupyter lab examples/notebooks/{name}.ipynb"
    assert "10.6084/m9.figshare.5047666" in first
    assert "CC BY 4.0" in first


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_the_examples_from_both_folders(name: str) -> None:
    assert f"\n{EXAMPLES}\n" in (NOTEBOOKS / f"{name}.py").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_its_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (NOTEBOOKS / f"{name}.py").read_text())
    assert sum(link.endswith(".md") for link in links) >= 2
    for link in links:
        assert link.startswith("https://") or (NOTEBOOKS / link).is_file(), link


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_are_small_and_say_nothing_of_the_machine(name: str) -> None:
    notebook = stored(name)
    assert all(cell.execution_count == number for number, cell in enumerate(code_cells(notebook), 1))
    assert not any("execution" in cell.metadata for cell in notebook.cells)
    assert not any(output.get("name") == "stderr" or output.output_type == "error" for output in outputs(notebook))
    for text in texts(notebook):
        assert not re.search(r"/(home|root|tmp|work|Users|var|usr)/|[A-Z]:\\\\", text), text
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size <= MOST_BYTES
    drawn = pictures(notebook)
    assert len(drawn) >= 2
    assert max(map(len, drawn)) <= MOST_PICTURE_BYTES
    assert all(Image.open(io.BytesIO(picture)).width <= 1000 for picture in drawn)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# As they run


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "run_notebooks.py"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, with nothing else of the repository."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


# What must come out, by a cell that is run after the others.
CHECKS = {
    "quick_start": """
assert len(faces) == 6
assert sorted(face.expression for face in faces) == ["happiness"] * 3 + ["neutral"] * 3
assert len(photos) == len(answers) == 24
assert np.median(similarity[same_expression]) > np.median(similarity[same_person]) + 0.05
assert scores.mean() > 0.7
assert answers.count("sadness") == 1  # "one resting face looks sad"
assert [answer for answer, path in zip(answers, photos) if path.parent.name == "smiling"].count("neutral") > 1
""",
    "teach_expression": """
assert classifier.report is None  # of the head that was loaded
assert curve.loc[8, "leave-one-out"] > 0.8
assert curve.loc[8, "low"] < curve.loc[8, "leave-one-out"] < curve.loc[8, "high"]
widths = curve["high"] - curve["low"]
assert widths.is_monotonic_decreasing
assert correct.sum() == 6
assert confidence[~correct].max() > 0.9  # as the text says
assert (~correct[confidence >= 0.85]).sum() == 1
assert (head / "head.safetensors").is_file()
""",
    "explore_folder": """
assert len(table) == 31 and len(faces) == 26
assert sorted(Path(path).name for path in without) == ["chelsea.png", "coffee.png", "rocket.jpg"]
assert pairs["similarity"][7] > 0.985 > 0.975 > pairs["similarity"][8]
assert sorted(odd["photo"][:2]) == ["masked.jpg", "neutral-136.jpg"]
assert odd["distance"].iloc[1] > 1.3 * odd["distance"].iloc[2]
smiles = faces["photo"].str.startswith("smiling") | faces["photo"].isin(["smaller.jpg", "astronaut.png", "masked.jpg"])
smiling = faces["cluster"][faces["photo"] == "astronaut.png"].item()
assert smiles[faces["cluster"] == smiling].all()
assert smiles[faces["cluster"] != smiling].sum() == 3
assert len(neighbours) == 7
""",
    "video_timeline": """
assert len(tracks) == 2
assert changes["track"].tolist() == [0, 1]
assert changes["before"].tolist() == ["neutral"] * 2 and changes["smoothed"].tolist() == ["happiness"] * 2
for found, (person, begin) in zip(changes["time"], people, strict=True):
    assert begin <= found <= begin + 0.5, (person, found)
assert len(stretches) == 4
""",
}


# Each from its own folder; one of them from the root, too, since the line that finds the examples is the same in all.
@pytest.mark.show
@pytest.mark.parametrize(("name", "folder"), [*((name, "examples/notebooks") for name in NAMES), ("quick_start", ".")])
def test_it_runs_and_finds_what_it_says(name: str, folder: str, script: dict[str, Any], checkout: Path) -> None:
    """In a fresh kernel without network. An error of a cell is raised here, with its traceback."""
    before = sorted(checkout.rglob("*"))
    source = checkout / "with_checks.py"
    source.write_text((NOTEBOOKS / f"{name}.py").read_text() + f"\n# %%\n{CHECKS[name].strip()}\n")
    notebook = script["execute"](source, checkout / folder)
    source.unlink()
    assert not any(output.get("name") == "stderr" for output in outputs(notebook)), texts(notebook)
    assert sorted(checkout.rglob("*")) == before  # what it writes goes to temporary folders
    script["tidy"](notebook)
    assert len(pictures(notebook)) == len(pictures(stored(name)))


@pytest.mark.show
def test_a_notebook_that_uses_the_network_fails(script: dict[str, Any], tmp_path: Path) -> None:
    for number, code in enumerate(
        (
            "import urllib.request\nurllib.request.urlopen('http://192.0.2.1')",
            "import socket\nsocket.getaddrinfo('example.org', 80)",
        )
    ):
        source = tmp_path / f"{number}.py"
        source.write_text(f"# %%\n{code}\n")
        with pytest.raises(Exception, match="a notebook must not use the network"):
            script["execute"](source, tmp_path)


def test_the_people_are_of_several_ages_and_skin_colours() -> None:
    """Those of the first picture of the quick start."""
    with (ROOT / "examples" / "london" / "manifest.csv").open(newline="") as file:
        people = {row["path"]: row for row in csv.DictReader(file)}
    shown = re.findall(r'"((?:neutral|smiling)/\d+\.jpg)"', (NOTEBOOKS / "quick_start.py").read_text())
    assert len(shown) == 6
    assert len({people[path]["ethnicity"] for path in shown}) >= 4
    ages = [int(people[path]["age"]) for path in shown]
    assert max(ages) - min(ages) >= 30
    assert {people[path]["gender"] for path in shown} == {"female", "male"}
