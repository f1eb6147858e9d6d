"""The tab Video of the demo: what is found in clips made here, what is said of others, and the cursor in chromium."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import ROOT, chromium
from PIL import Image

from fergeneral import ExpressionClassifier, ExpressionExtractor
from fergeneral.cli import main
from fergeneral.demo.settings import DemoSettings
from fergeneral.demo.video import (
    MOST_TRACKS,
    SCRIPT,
    STYLE,
    Clip,
    ClipFrame,
    add_tab,
    answers,
    describe,
    player,
    table,
    watch_clip,
)
from fergeneral.types import ClassifiedTrackedFace

# Gradio leaves event loops open that it has made for its locks.
pytestmark = [
    pytest.mark.usefixtures("gradio_event_loops"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LONDON = ROOT / "examples" / "london"
RATE = 10  # frames a second of the clips
PAPER = (90, 100, 90)


def photo(label: str, person: str) -> Image.Image:
    return Image.open(LONDON / label / f"{person}.jpg").convert("RGB")


def write_clip(path: Path, pictures: Sequence[Image.Image]) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=RATE, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path


def watch(path: Path, settings: DemoSettings) -> Clip:
    times = watch_clip(path, settings)
    while True:
        try:
            next(times)
        except StopIteration as done:
            return done.value


def said(path: Path | None, settings: DemoSettings) -> str:
    """The last sentence about a clip of which there is nothing to show."""
    message, clip = list(answers(None if path is None else str(path), settings))[-1]
    assert clip is None
    assert path is None or str(path.parent) not in message
    return message


@pytest.fixture(scope="module")
def settings(extractor: ExpressionExtractor) -> DemoSettings:
    return DemoSettings(classifier=ExpressionClassifier.from_pretrained(encoder=extractor))


@pytest.fixture(scope="module")
def smile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person, neutral for two seconds, then smiling for one."""
    pictures = [photo("neutral", "030")] * (2 * RATE) + [photo("smiling", "030")] * RATE
    return write_clip(tmp_path_factory.mktemp("clips") / "smile.mp4", pictures)


@pytest.fixture(scope="module")
def smile_clip(smile: Path, settings: DemoSettings) -> Clip:
    return watch(smile, settings)


def face(track: int, name: str = "a", confidence: float = 0.5, box: Any = (10, 20, 50, 60)) -> ClassifiedTrackedFace:
    numbers = np.zeros((5, 2), np.float32), 1.0, np.ones(3, np.float32), "model", 0.0, track
    probabilities = {name: confidence, "<b>": 1 - confidence}
    return ClassifiedTrackedFace(np.array(box, np.float32), *numbers, name, confidence, probabilities)


def made_up(frames: Sequence[tuple[float, Sequence[ClassifiedTrackedFace]]], **changed: Any) -> Clip:
    file = io.BytesIO()
    Image.new("RGB", (100, 80)).save(file, "JPEG")
    picture: dict[str, Any] = {"picture": file.getvalue(), "size": (100, 80)}
    shown = [ClipFrame(time=time, faces=faces, **picture) for time, faces in frames]
    fields: dict[str, Any] = {"name": "clip.mp4", "classes": ("a", "<b>"), "damaged": 0, "cut": None, **changed}
    return Clip(frames=shown, **fields)


class Tags(HTMLParser):
    """The attributes of all tags, by name; and that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, Any]]] = {}
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attributes)
        self._open += [] if tag == "input" else [tag]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, []).append(dict(attributes))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


# What is found


def test_the_expression_changes_at_the_right_second(smile_clip: Clip) -> None:
    assert [frame.time for frame in smile_clip.frames] == pytest.approx(np.arange(15) / 5)
    assert [[face.expression for face in frame.faces] for frame in smile_clip.frames] == [["neutral"]] * 10 + [
        ["happiness"]
    ] * 5
    assert {face.track for frame in smile_clip.frames for face in frame.faces} == {0}
    assert describe(smile_clip) == "15 faces in 15 frames of smile.mp4, in 1 track."


def test_the_pictures_are_those_of_their_times(smile_clip: Clip) -> None:
    for frame in smile_clip.frames:
        shown = np.asarray(Image.open(io.BytesIO(frame.picture)).convert("RGB"), dtype=float)
        away = {name: abs(shown - np.asarray(photo(name, "030"))).mean() for name in ("neutral", "smiling")}
        assert min(away, key=lambda name: away[name]) == ("neutral" if frame.time < 2 else "smiling")
        assert frame.size == (400, 400)


def test_a_large_frame_is_shown_smaller_with_its_boxes_in_its_own_pixels(
    tmp_path: Path, settings: DemoSettings
) -> None:
    path = write_clip(tmp_path / "large.mp4", [photo("neutral", "030").resize((1200, 1200))] * 2)
    frame = watch(path, settings).frames[0]
    assert Image.open(io.BytesIO(frame.picture)).size == (640, 640)
    assert frame.size == (1200, 1200)
    assert frame.faces[0].box == pytest.approx(3 * np.array([127, 114, 266, 298]), abs=30)


def test_the_table_is_that_of_the_command(
    smile: Path, smile_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(smile, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["video", "smile.mp4", "--head", "--fps", "5", "--device", "cpu", "-o", "wanted.csv"]) == 0
    assert table(smile_clip, 512) == (tmp_path / "wanted.csv").read_bytes()


def test_a_name_that_a_spreadsheet_would_compute_is_none_in_the_table() -> None:
    clip = made_up([(0.0, [face(0)])], name="=1+1.mp4", classes=("a", "<b>"))
    assert table(clip, 3).decode().splitlines()[1].startswith("./=1+1.mp4,0,")


def test_persons_have_a_row_each(tmp_path: Path, settings: DemoSettings) -> None:
    def pair(left: str, right: str | None) -> Image.Image:
        picture = Image.new("RGB", (800, 400), PAPER)
        picture.paste(photo(left, "030"), (0, 0))
        if right is not None:
            picture.paste(photo(right, "025"), (400, 0))
        return picture

    pictures = [pair("neutral", "smiling")] * 10 + [pair("neutral", None)] * 5
    clip = watch(write_clip(tmp_path / "pair.mp4", pictures), settings)
    html = player(clip)
    rows = re.findall(r'<div class="row"><b>(.*?)</b> (.*?)<svg.*?>(.*?)</svg>', html)
    seen = {name: (text, len(re.findall("<rect", bars))) for name, text, bars in rows}
    assert sorted(seen.values()) == [("seen 0.0 to 1.0 s", 5), ("seen 0.0 to 1.6 s", 8)]
    assert list(seen) == ["Track 0", "Track 1"]


# What is shown


def test_the_bars_have_the_colour_and_height_of_their_faces(smile_clip: Clip) -> None:
    html = player(smile_clip)
    row = Tags(re.findall(r'<div class="row">.*?</div>', html)[0]).found["rect"]
    faces = [frame.faces[0] for frame in smile_clip.frames]
    assert [float(bar["x"]) for bar in row] == pytest.approx([face.time for face in faces], abs=1e-3)
    assert [float(bar["height"]) for bar in row] == pytest.approx([face.confidence for face in faces], abs=1e-3)
    assert [float(bar["y"]) + float(bar["height"]) for bar in row] == pytest.approx([1.0] * 15)
    legend = dict(re.findall(r'<li><i style="background:(.*?)"></i>(.*?)</li>', html))
    assert [legend[bar["fill"]] for bar in row] == [face.expression for face in faces]


def test_the_boxes_are_those_of_the_frame() -> None:
    html = player(made_up([(0.0, [face(0, box=(10, 20, 50, 60)), face(3, box=(60, 0, 99, 30))]), (0.2, [])]))
    frames = html.split('<figure class="frame"')[1:]
    assert len(frames) == 2
    boxes = [box for box in Tags(frames[0].split("</figure>")[0].split(">", 1)[1]).found["rect"] if "stroke" in box]
    assert [[float(box[key]) for key in ("x", "y", "width", "height")] for box in boxes] == [
        [10, 20, 40, 40],
        [60, 0, 39, 30],
    ]
    assert "No face in this frame." in frames[1]
    assert "<rect" not in frames[1].split("</figure>")[0]


def test_names_are_text_in_the_page() -> None:
    evil = "<img src=x onerror=alert(1)>"
    html = player(made_up([(0.0, [face(0, name=evil)])], name=f"{evil}.mp4", classes=(evil, "<b>")))
    assert "img" not in Tags(html).found
    assert "&lt;img" in html
    assert "&lt;b&gt;" in html


def test_a_head_of_many_classes_has_a_colour_for_each() -> None:
    names = tuple(f"class-{number}" for number in range(30))
    classes = {"classes": (*names, "<b>")}
    html = player(made_up([(0.0, [face(track, name) for track, name in enumerate(names)])], **classes))
    assert html.count('<div class="row">') == MOST_TRACKS
    assert f"{30 - MOST_TRACKS} shorter tracks not shown" in html


def test_an_uncertain_face_is_shown() -> None:
    unsure = face(0)
    object.__setattr__(unsure, "expression", "uncertain")
    assert "0: uncertain" in player(made_up([(0.0, [unsure])]))


@pytest.mark.parametrize("end", [0.0, 0.3, 1.8, 7.0, 59.8, 3600.0])
def test_the_axis_has_round_times_inside_it(end: float) -> None:
    html = player(made_up([(0.0, [face(0)]), (end, [face(0)])]))
    axis = re.search(r'<div class="axis">(.*?)</div>', html)
    assert axis
    marks = re.findall(r'left:([\d.]+)%".*?>([\d.]+) s<', axis[1])
    assert 1 <= len(marks) <= 6
    for left, time in marks:
        assert float(left) <= 100
        assert float(left) / 100 * (end + 0.2) == pytest.approx(float(time), abs=0.005 * (end + 0.2))


def test_the_tab_states_its_limits(settings: DemoSettings) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as page:
        add_tab(settings)
    text = str(page.get_config_file())
    assert "5 frames of each second; of a clip longer than 60 s, the first 60 s" in text.replace("\\n", " ")
    assert "At most 64 MB" in text.replace("\\n", " ")


# What is said of clips that give nothing


def test_a_long_clip_is_looked_at_as_far_as_allowed(smile: Path, settings: DemoSettings) -> None:
    short = DemoSettings(classifier=settings.classifier, max_video_seconds=1.0)
    message, clip = list(answers(str(smile), short))[-1]
    assert clip
    assert [frame.time for frame in clip.frames] == pytest.approx(np.arange(5) / 5)
    assert message.endswith("The clip is longer: only its first 1 s were looked at.")


def test_a_large_file_is_refused(smile: Path, settings: DemoSettings) -> None:
    small = DemoSettings(classifier=settings.classifier, max_megabytes=0)
    assert re.fullmatch(r"Smile\.mp4 has [\d.]+ MB; at most 0 MB are taken\.", said(smile, small))


def test_a_clip_without_a_face(tmp_path: Path, settings: DemoSettings) -> None:
    path = write_clip(tmp_path / "empty.mp4", [Image.new("RGB", (320, 240), PAPER)] * 4)
    assert said(path, settings).startswith("No face was found in 2 frames of empty.mp4. Try a clip ")


def test_files_that_are_no_video(tmp_path: Path, settings: DemoSettings) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "none.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100, layout="stereo")
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        sound.sample_rate = 44100
        container.mux([*stream.encode(sound), *stream.encode(None)])
    assert "not a video in a format that is read" in said(tmp_path / "text.mp4", settings)
    assert said(tmp_path / "none.mp4", settings) == "None.mp4 is empty (0 bytes)."
    assert said(tmp_path / "song.mp4", settings) == "Song.mp4 holds no video, only audio."
    assert said(tmp_path / "gone.mp4", settings) == "Gone.mp4: no such file."
    assert "not a video" in said(shutil.copy(LONDON / "neutral" / "030.jpg", tmp_path / "photo.jpg"), settings)
    assert said(None, settings) == "Upload or record a clip first."


def test_a_damaged_clip(tmp_path: Path, smile: Path, settings: DemoSettings) -> None:
    data = bytearray(smile.read_bytes())
    with av.open(str(smile)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for at, size in packets[12:15]:
        data[at : at + size] = bytes([255]) * size
    (tmp_path / "hurt.mp4").write_bytes(data)
    message, clip = list(answers(str(tmp_path / "hurt.mp4"), settings))[-1]
    assert clip
    assert 9 <= len(clip.frames) < 15
    assert re.search(r"in 1 track\. \d frames? could not be read\.$", message)


def test_without_pyav(smile: Path, settings: DemoSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "fergeneral.video")
    assert "run: pip install 'fergeneral[video]'" in said(smile, settings)


# The cursor

_HARNESS = """
const element = document.body, changed = [];
const watch = (name, call) => changed.push(call);
"""


@pytest.mark.show
def test_the_cursor_moves_the_frame_in_chromium(smile_clip: Clip) -> None:
    """The script and the style as `gr.HTML` runs them, with a page of its own."""
    from playwright.sync_api import sync_playwright

    page_text = f"<style>{STYLE}</style><body>{player(smile_clip)}</body>"
    with sync_playwright() as drivers:
        browser = drivers.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"], timeout=180_000
        )
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.set_default_timeout(120_000)
        page.set_content(page_text)
        page.add_script_tag(content=f"{{{_HARNESS}{SCRIPT}}}")

        def state() -> tuple[float, str, float]:
            shown = page.locator(".frame:visible")
            assert shown.count() == 1
            box, cursor = page.locator(".chart").bounding_box(), page.locator(".cursor").bounding_box()
            assert box
            assert cursor
            place = (cursor["x"] + cursor["width"] / 2 - box["x"]) / box["width"] * 3
            return (
                float(shown.get_attribute("data-time") or "nan"),
                shown.locator("figcaption span").first.inner_text().split()[0],
                place,
            )

        assert state() == (0.0, "neutral", pytest.approx(0, abs=0.02))
        page.locator(".cursor-time").evaluate(
            "slider => { slider.value = 2.3; slider.dispatchEvent(new Event('input', {bubbles: true})); }"
        )
        assert state() == (2.2, "happiness", pytest.approx(2.3, abs=0.02))
        assert page.locator(".clock").inner_text() == "2.3 s"
        box = page.locator(".chart").bounding_box()
        assert box
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert state() == (1.4, "neutral", pytest.approx(1.5, abs=0.02))
        page.locator(".play").click()
        assert page.locator(".play").inner_text() == "Pause"
        page.locator(".play", has_text="Play").wait_for()  # at the end
        assert state() == (2.8, "happiness", pytest.approx(3, abs=0.02))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
