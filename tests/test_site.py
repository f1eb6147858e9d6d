"""The documentation site builds without warnings or a network, loads nothing from other hosts, and can be searched."""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, chromium

import fergeneral

# Python runs this file at its start: a socket that is not of this machine's own kind is refused.
NO_NETWORK = """
import socket

class Refused(socket.socket):
    def connect(self, address):
        if self.family != getattr(socket, "AF_UNIX", None):
            raise OSError(f"the network is closed, asked for {address}")
        return super().connect(address)

def refused(*arguments, **options):
    raise OSError(f"the network is closed, asked for {arguments}")

socket.socket, socket.create_connection, socket.getaddrinfo = Refused, refused, refused
"""


def test_the_model_zoo_is_what_the_records_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "model_table.py"))
    assert (ROOT / "docs" / "models.md").read_text() == script["page"](), "run: python scripts/model_table.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with --strict in a process that reaches no network."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'blocked'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder / "built")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "built"


class Loaded(HTMLParser):
    """The addresses that a browser loads by itself when it shows a page: not those of links that people follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.addresses += [given[name] for name in ("src", "poster", "data", "srcset") if given.get(name)]
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.addresses.append(given.get("href", ""))
        if "style" in given:
            self.addresses += re.findall(r"url\(([^)]*)\)", given["style"])


@pytest.mark.show
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text())
        assert len(parser.addresses) > 3
        for address in parser.addresses:
            assert not re.match(r"(https?:)?//", address.strip("'\" ")), f"{page.name}: {address}"
        assert not re.search(r"@import|fonts\.g", page.read_text()), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet.name


@pytest.mark.show
@pytest.mark.parametrize("name", fergeneral.__all__)
def test_the_reference_has_every_public_name_with_an_example(site: Path, name: str) -> None:
    pages = [
        text for file in (site / "reference").glob("*.html") if f'id="fergeneral.{name}"' in (text := file.read_text())
    ]
    assert len(pages) == 1
    (start,) = re.finditer(rf'id="fergeneral\.{name}"', pages[0])
    end = re.search(r'<h2 id="', pages[0][start.end() :])
    part = pages[0][start.end() :][: end.start() if end else None]
    assert "&gt;&gt;&gt;" in part


@pytest.mark.show
def test_the_reference_has_every_command(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text()
    shown = subprocess.run(
        [sys.executable, "-m", "fergeneral", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300
    ).stdout
    commands = re.findall(r"^    (\w+) ", shown, flags=re.MULTILINE)
    assert {"extract", "predict", "info"} <= set(commands)
    for command in commands:
        assert f'id="fergeneral-{command}"' in page, command
    assert "--min-face-size N" in page


@pytest.mark.show
def test_what_lies_outside_the_folder_is_part_of_the_site(site: Path) -> None:
    for name in ("CHANGELOG", "SECURITY", "weights", "weights/general-r18-cycle", "benchmarks"):
        assert "<h1" in (site / "repository" / f"{name}.html").read_text()
    assert 'href="repository/' in (site / "results.html").read_text()


@pytest.mark.show
def test_the_index_of_the_search_has_the_words(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    found = {entry["location"].partition("#")[0] for entry in entries if "landmarks" in entry["text"].lower()}
    assert {"reference/extract.html", "tables.html"} <= found
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = ")  # without a server


@pytest.mark.show
@pytest.mark.parametrize("served", [True, False], ids=["http", "file"])
def test_a_browser_finds_a_word(site: Path, served: bool) -> None:
    from playwright.sync_api import sync_playwright

    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/" if served else f"{site.as_uri()}/"
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"], timeout=300_000
        )
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_default_timeout(300_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(base + "index.html")
        page.locator("label[for=__search]").first.click()
        page.locator("input[name=query]").press_sequentially("landmarks")
        page.locator(".md-search-result__item").first.wait_for()
        assert page.locator(".md-search-result__item").count() >= 5
        for name in ("models.html", "results.html", "reference/extract.html", "reference/command-line.html"):
            page.goto(base + name)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                f"{name} is wider than the screen"
            )
        assert [url for url in asked if not url.startswith((base, "data:", "blob:", "about:"))] == []
        browser.close()
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Does not print each request."""

    def log_message(self, *_: object) -> None:
        pass
