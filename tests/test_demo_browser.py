"""The demo in chromium, as a visitor uses it. Screenshots go to the folder named by FERGENERAL_SCREENSHOTS, if any."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import ROOT, chromium
from playwright.sync_api import Page, Route, expect, sync_playwright

from fergeneral import ExpressionClassifier, ExpressionExtractor, Head

pytestmark = pytest.mark.show

LONDON = ROOT / "examples" / "london"
PEOPLE = ("002", "005", "006")
WAIT = 180_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "fergeneral", "demo", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        line = demo.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + demo.stderr.read()
        yield found[0]
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
        errors = demo.stderr.read()
        assert "Traceback" not in errors


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """A page on which no request goes elsewhere, and that reports no error."""
    elsewhere: list[str] = []
    errors: list[str] = []

    def check(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.netloc == urlsplit(address).netloc or url.scheme in ("data", "blob"):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        context.set_default_timeout(WAIT)
        context.route("**/*", check)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("websocket", lambda socket: elsewhere.append(socket.url))
        page.goto(address)
        yield page
        browser.close()
    assert elsewhere == []
    assert errors == []


def shoot(page: Page, name: str, folder: Path) -> None:
    """Screenshots of all widths and colours; none has to be scrolled sideways."""
    folder = Path(os.environ.get("FERGENERAL_SCREENSHOTS", folder))
    folder.mkdir(parents=True, exist_ok=True)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.wait_for_function("() => document.getAnimations().every(a => a.playState !== 'running')")
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width}"
    page.set_viewport_size({"width": 1280, "height": 900})


def test_photo(page: Page, tmp_path: Path, extractor: ExpressionExtractor) -> None:
    photo = LONDON / "smiling" / "038.jpg"
    (face,) = ExpressionClassifier.from_pretrained(encoder=extractor).predict(photo)
    page.locator("#photo-input input[type=file]").set_input_files(photo)
    row = page.locator("#photo-message tbody tr")
    expect(row).to_have_count(1, timeout=WAIT)
    expect(row).to_have_text(f"0{face.expression}{face.confidence:.2f}")
    expect(page.locator("#photo-bars")).to_contain_text(face.expression, timeout=WAIT)
    expect(page.locator("#photo-drawn img")).to_be_visible(timeout=WAIT)
    expect(page.locator("#photo-crops img")).to_have_count(1, timeout=WAIT)
    with page.expect_download() as started:
        page.locator("#photo-table").click()
    assert started.value.suggested_filename == "038.csv"
    started.value.save_as(tmp_path / "038.csv")
    assert face.expression in (tmp_path / "038.csv").read_text()
    shoot(page, "photo", tmp_path / "shots")


def test_choose_a_face(page: Page) -> None:
    page.locator("#photo-input input[type=file]").set_input_files(ROOT / "examples" / "photos" / "three_faces.jpg")
    expect(page.locator("#photo-crops img")).to_have_count(3, timeout=WAIT)
    expect(page.locator("#photo-bars")).to_contain_text("Probabilities of face 0", timeout=WAIT)
    page.locator("#photo-crops button.thumbnail-item").nth(2).click()
    expect(page.locator("#photo-bars")).to_contain_text("Probabilities of face 2", timeout=WAIT)
    picture = page.locator("#photo-drawn img")
    box = picture.bounding_box()
    assert box is not None
    picture.click(position={"x": 0.2 * box["width"], "y": 0.3 * box["height"]})  # the left face, which is the largest
    expect(page.locator("#photo-bars")).to_contain_text("Probabilities of face 0", timeout=WAIT)


def test_what_is_no_photo(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    page.locator("#photo-input input[type=file]").set_input_files(tmp_path / "notes.png")
    message = page.locator("#photo-message")
    expect(message).to_contain_text("Notes.png is not an image", timeout=WAIT, ignore_case=True)
    page.locator("#photo-input").get_by_label("Remove Image").click()
    expect(message).to_contain_text("The answer appears here", timeout=WAIT)
    page.locator("#photo-input input[type=file]").set_input_files(ROOT / "examples" / "photos" / "coffee.png")
    expect(message).to_contain_text("No face was found", timeout=WAIT)


def test_teach(page: Page, tmp_path: Path, extractor: ExpressionExtractor) -> None:
    page.get_by_role("tab", name="Teach").click()
    name = page.get_by_label("Name of an expression")
    message = page.locator("#teach-message")
    name.fill("  ")
    name.press("Enter")
    expect(message).to_contain_text("The name is empty", timeout=WAIT)
    for label in ("neutral", "smiling"):
        name.fill(label)
        page.get_by_role("button", name="Add expression").click()
        expect(message).to_contain_text(f'"{label}" is there', timeout=WAIT)
        photos = [LONDON / label / f"{person}.jpg" for person in PEOPLE]
        page.locator("#teach-files input[type=file]").set_input_files(photos)
        expect(message).to_contain_text("3 faces added", timeout=WAIT)
    expect(page.locator("#teach-gallery img")).to_have_count(6, timeout=WAIT)
    expect(page.locator("#teach-quality")).to_contain_text(
        re.compile(r"[0-6] of 6 faces are given the right expression when each face is left out once"), timeout=WAIT
    )
    page.locator("#teach-try input[type=file]").set_input_files(LONDON / "smiling" / "021.jpg")
    answer = page.locator("#teach-answer")
    expect(answer).to_contain_text("confidence", timeout=WAIT)
    with page.expect_download() as started:
        page.locator("#teach-download").click()
    started.value.save_as(tmp_path / "head.zip")
    zipfile.ZipFile(tmp_path / "head.zip").extractall(tmp_path)
    assert Head.from_pretrained(tmp_path / "my-head").classes == ("neutral", "smiling")
    classifier = ExpressionClassifier.from_pretrained(tmp_path / "my-head", encoder=extractor)
    (face,) = classifier.predict(LONDON / "smiling" / "021.jpg")
    expect(answer).to_have_text(f"{face.expression}, with a confidence of {face.confidence:.2f}.")
    shoot(page, "teach", tmp_path / "shots")
    page.locator("#teach-gallery button.thumbnail-item").nth(5).click()
    page.get_by_role("button", name="Remove the chosen face").click()
    expect(page.locator("#teach-gallery img")).to_have_count(5, timeout=WAIT)
    expect(page.locator("#teach-quality")).to_contain_text("of 5 faces", timeout=WAIT)
