"""How-to pages for libraries that are not installed here, and the conda recipe: what can be said without them."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from fergeneral import __version__

NEEDS = re.compile(r"<!-- needs: (.+) -->\n```python\n(.*?)```", re.DOTALL)
PAGES = [page for page in sorted((ROOT / "docs" / "how-to").glob("*.md")) if NEEDS.search(page.read_text())]


def test_these_pages_have_such_blocks() -> None:
    assert {"label-studio", "lancedb", "mteb"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_blocks_are_parsed_and_what_they_import_of_this_package_is_there(page: Path) -> None:
    """`scripts/try_doors.py` installs the libraries and runs the blocks."""
    text = page.read_text()
    ((needs, code),) = NEEDS.findall(text)
    name, _, version = needs.split()[0].partition("==")
    assert re.search(rf"Tried with {name} {re.escape(version)} .* on 20\d\d-\d\d-\d\d", text)
    assert "they only parse the block" in text.replace("\n", " ")
    ours = 0
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "fergeneral":
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
            ours += 1
    assert ours


def test_the_conda_recipe_asks_for_what_the_package_does() -> None:
    recipe = yaml.safe_load((ROOT / "examples" / "conda" / "recipe.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert recipe["context"]["version"] == __version__
    wanted = {line.replace(" ", "") for line in recipe["requirements"]["run"][1:]}
    assert wanted == {re.sub(r"^torch(?=>)", "pytorch", line) for line in project["project"]["dependencies"]}
    assert (
        f"hatchling {project['build-system']['requires'][0].removeprefix('hatchling')}"
        in recipe["requirements"]["host"]
    )
    for file in recipe["about"]["license_file"]:
        assert (ROOT / file).is_file()
