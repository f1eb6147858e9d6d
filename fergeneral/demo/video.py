"""The tab Video of the demo: a clip, its frames with their faces, and a timeline with a cursor."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from fergeneral.classifier import UNCERTAIN
from fergeneral.console import counted
from fergeneral.demo.photo import NO_FACE, csv_table, download, note, readable
from fergeneral.demo.settings import DemoSettings
from fergeneral.errors import FergeneralError, ImageError
from fergeneral.types import ClassifiedTrackedFace

FRAMES_PER_SECOND = 5.0  # that are looked at
MOST_TRACKS = 8  # rows of the timeline
_FILE_TYPES = ["video", ".mkv", ".flv", ".mts", ".m2ts", ".ts", ".wmv", ".gif"]
_CAMERA = {"width": {"ideal": 1280}, "height": {"ideal": 720}}  # else a browser may take all that the camera has
_WIDTH = 640  # pixels: a wider frame is shown smaller
_QUALITY = 75  # of the frames as JPEG
_LEAST = 0.12  # of a row's height, so that a low bar can be seen
_LAST = 0.95  # of the axis: a label there is written to its left
_LETTERS = 0.58  # width of a letter, in font sizes
# Of the classes in their order: to be told apart, also by the colour-blind, on white and on black.
_COLOURS = (
    "#8b929c",
    "#e69f00",
    "#56b4e9",
    "#4477cc",
    "#dd5522",
    "#10a37f",
    "#d684b3",
    "#9467bd",
    "#b0a020",
    "#a0705a",
)
_UNCERTAIN = "#8b929c"

_HELP = """Upload a clip or record one. Faces are found, followed from frame to frame and their expressions named in
{rate:g} frames of each second; of a clip longer than {seconds:g} s, the first {seconds:g} s. At most {megabytes} MB.
The clip stays on the machine that runs this demo."""
_ROWS = """Each row is a track: one face that is followed from frame to frame. The colour of a bar is the expression,
its height the confidence, 0 to 1; where there is no bar, the face is not seen. Nothing is smoothed over time."""


@dataclass(frozen=True, kw_only=True)
class ClipFrame:
    """A frame that was looked at: `time` in seconds, its faces, largest first, and the picture as JPEG.

    `size`: width and height of the frame in pixels, to which the boxes belong; the JPEG may be smaller.
    """

    time: float
    faces: Sequence[ClassifiedTrackedFace]
    picture: bytes
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What was found in a video.

    `damaged`: how many frames cannot be read. `cut`: the seconds after which the video goes on without being looked
    at; None where it ends.
    """

    name: str
    frames: Sequence[ClipFrame]
    classes: Sequence[str]
    damaged: int
    cut: float | None

    @property
    def faces(self) -> int:
        """How many there are in all frames."""
        return sum(len(frame.faces) for frame in self.frames)


def watch_clip(path: str | Path, settings: DemoSettings) -> Generator[float, None, Clip]:
    """Find the faces of a video file and their expressions.

    Parameters
    ----------
    path : path
        Of the video.
    settings : DemoSettings
        Its classifier, and its limits on megabytes and seconds.

    Yields
    ------
    float
        The time of the frame that was looked at, in seconds.

    Returns
    -------
    Clip

    Raises
    ------
    ImageError
        For a file that is too large, no video, or corrupt from its start.
    MissingExtraError
        Without PyAV.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > settings.max_megabytes * 2**20:
        megabytes = path.stat().st_size / 2**20
        raise ImageError(f"{path.name} has {megabytes:.1f} MB; at most {settings.max_megabytes} MB are taken")
    damaged: list[float] = []
    found: dict[float, Sequence[Any]] = {}
    cut = None
    frames: Any = settings.classifier.predict_video(
        path, fps=FRAMES_PER_SECOND, on_error=lambda time, _: damaged.append(time)
    )
    with closing(frames):
        for time, faces in frames:
            if time >= settings.max_video_seconds:
                cut = settings.max_video_seconds
                break
            found[time] = faces
            yield time
    return Clip(
        name=path.name,
        frames=_frames(path, found),
        classes=settings.classifier.classes,
        damaged=len(damaged),
        cut=cut,
    )


def _frames(path: Path, found: dict[float, Sequence[Any]]) -> list[ClipFrame]:
    """The frames at the times of `found`, with their pictures."""
    from fergeneral.video import read_frames

    frames: list[ClipFrame] = []
    with closing(read_frames(path, FRAMES_PER_SECOND)) as pictures:
        for frame in pictures:
            if len(frames) == len(found):
                break
            if frame.time in found and not isinstance(frame.picture, ImageError):
                image = frame.image()
                size = image.size
                image.thumbnail((_WIDTH, _WIDTH))
                frames.append(ClipFrame(time=frame.time, faces=found[frame.time], picture=_jpeg(image), size=size))
    return frames


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def table(clip: Clip, embedding_size: int) -> bytes:
    """The faces as `fergeneral predict VIDEO -o FILE.csv` writes them, one row each.

    Parameters
    ----------
    clip : Clip
        Of `watch_clip`.
    embedding_size : int
        Of the encoder.

    Returns
    -------
    bytes
        Of the .csv file. A name that a spreadsheet could take for a formula begins with ./ there.
    """
    name = clip.name if clip.name[:1].isalnum() else f"./{clip.name}"
    return csv_table([(name, frame.faces) for frame in clip.frames], embedding_size, clip.classes, video=True)


def describe(clip: Clip) -> str:
    """In a sentence or three, what was found.

    Parameters
    ----------
    clip : Clip
        Of `watch_clip`.

    Returns
    -------
    str
        Plain text.
    """
    tracks = {face.track for frame in clip.frames for face in frame.faces}
    looked = counted(len(clip.frames), "frame")
    parts = [f"{counted(clip.faces, 'face')} in {looked} of {clip.name}, in {counted(len(tracks), 'track')}."]
    if not clip.faces:
        advice = NO_FACE.replace("photo", "clip")
        parts = [advice.replace("No face was found.", f"No face was found in {looked} of {clip.name}.")]
    if clip.cut is not None:
        parts.append(f"The clip is longer: only its first {clip.cut:g} s were looked at.")
    if clip.damaged:
        parts.append(f"{counted(clip.damaged, 'frame')} could not be read.")
    return " ".join(parts)


def player(clip: Clip) -> str:
    """HTML of the frames with their faces, and of the timeline.

    Parameters
    ----------
    clip : Clip
        Of `watch_clip`, with a face.

    Returns
    -------
    str
        Without any script; `SCRIPT` moves the cursor.
    """
    end = _end(clip)
    colours = _colours(clip.classes)
    lines = max(len(frame.faces) for frame in clip.frames)
    frames = "".join(_frame(frame, colours) for frame in clip.frames)
    present = {face.expression for frame in clip.frames for face in frame.faces}
    legend = "".join(
        f'<li><i style="background:{colours[name]}"></i>{escape(name)}</li>' for name in colours if name in present
    )
    return (
        f'<div class="clip" data-end="{end:.3f}"><div class="frames" style="--lines:{lines}">{frames}</div>'
        f'<div class="controls"><button type="button" class="play">Play</button>'
        f'<output class="clock">0.0 s</output><span>of {end:.1f} s</span></div>'
        f'<input class="cursor-time" type="range" min="0" max="{end:.3f}" step="any" value="0" '
        f'aria-label="Time in the clip, in seconds">'
        f'<div class="chart">{_rows(clip, end, colours)}<div class="cursor"></div></div>'
        f'<div class="axis">{_axis(end)}</div><ul class="legend">{legend}</ul><p class="help">{_ROWS}</p></div>'
    )


def _end(clip: Clip) -> float:
    """Of the last frame, in seconds: it is shown as long as the one before it, at most for 1/FRAMES_PER_SECOND."""
    return clip.frames[-1].time + 1 / FRAMES_PER_SECOND


def _colours(classes: Sequence[str]) -> dict[str, str]:
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(classes)}
    return {**colours, UNCERTAIN: _UNCERTAIN}


def _frame(frame: ClipFrame, colours: dict[str, str]) -> str:
    width, height = frame.size
    picture = base64.b64encode(frame.picture).decode()
    boxes = "".join(_box(face, frame.size, colours[face.expression]) for face in frame.faces)
    lines = "".join(_line(face, colours) for face in sorted(frame.faces, key=lambda face: face.track))
    return (
        f'<figure class="frame" data-time="{frame.time:.3f}"><svg viewBox="0 0 {width} {height}">'
        f'<image href="data:image/jpeg;base64,{picture}" width="{width}" height="{height}"/>{boxes}</svg>'
        f"<figcaption>{lines or 'No face in this frame.'}</figcaption></figure>"
    )


def _box(face: ClassifiedTrackedFace, size: tuple[int, int], colour: str) -> str:
    """A face's box and its label, above it or, where there is no room, inside."""
    left, top, right, bottom = (float(value) for value in face.box)
    letter = max(size) / 30
    text = f"{face.track}: {face.expression}"
    width, height = letter * (_LETTERS * len(text) + 0.8), letter * 1.5
    x, y = max(0.0, min(left, size[0] - width)), top - height if top >= height else max(0.0, top)
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="{max(size) / 180:.2f}"/>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
        f'<text x="{x + 0.4 * letter:.1f}" y="{y + 1.08 * letter:.1f}" font-size="{letter:.1f}">{escape(text)}</text>'
    )


def _line(face: ClassifiedTrackedFace, colours: dict[str, str]) -> str:
    """A face's three most probable expressions."""
    first = sorted(face.probabilities.items(), key=lambda item: -item[1])[:3]
    names = "".join(
        f'<span><i style="background:{colours[name]}"></i>{escape(name)} {value:.2f}</span>' for name, value in first
    )
    return f"<div><b>Track {face.track}</b>{names}</div>"


def _rows(clip: Clip, end: float, colours: dict[str, str]) -> str:
    """A row of bars for each of the tracks that are seen in the most frames."""
    seen: dict[int, list[tuple[float, float, ClassifiedTrackedFace]]] = {}
    times = [*(frame.time for frame in clip.frames), end]
    for frame, until in zip(clip.frames, times[1:], strict=True):
        for face in frame.faces:
            seen.setdefault(face.track, []).append((frame.time, until, face))
    longest = sorted(seen, key=lambda track: -len(seen[track]))[:MOST_TRACKS]
    rows = "".join(_row(track, seen[track], end, colours) for track in sorted(longest))
    hidden = len(seen) - len(longest)
    return rows + (f"<p>{counted(hidden, 'shorter track')} not shown; the table has all.</p>" if hidden else "")


def _row(
    track: int, bars: Sequence[tuple[float, float, ClassifiedTrackedFace]], end: float, colours: dict[str, str]
) -> str:
    rects = "".join(
        f'<rect x="{start:.3f}" y="{1 - max(_LEAST, face.confidence):.3f}" width="{until - start:.3f}" '
        f'height="{max(_LEAST, face.confidence):.3f}" fill="{colours[face.expression]}"/>'
        for start, until, face in bars
    )
    title = f"<b>Track {track}</b> seen {bars[0][0]:.1f} to {bars[-1][1]:.1f} s"
    return (
        f'<div class="row">{title}<svg viewBox="0 0 {end:.3f} 1" preserveAspectRatio="none" '
        f'shape-rendering="crispEdges">{rects}</svg></div>'
    )


def _axis(end: float) -> str:
    """Labels at five or fewer round times."""
    step = next((step for step in (0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if end / step <= 5), end)
    shares = [(number * step, number * step / end) for number in range(int(end / step + 1e-9) + 1)]
    return "".join(
        f'<span style="left:{100 * share:.2f}%"{" class=last" if share > _LAST else ""}>{time:g} s</span>'
        for time, share in shares
    )


STYLE = """
.clip { contain: inline-size; color: var(--body-text-color); font-size: 14px; }
.frame { display: none; margin: 0; }
.frame.now, .frames:not(.ready) .frame:first-child { display: block; }
.frame svg { display: block; width: 100%; max-height: 60vh; background: #000; border-radius: 6px; }
.frame text { fill: #10151c; font-family: system-ui, sans-serif; font-weight: 600; }
figcaption { min-height: calc(1.7em * var(--lines)); margin-top: 6px; line-height: 1.7em; }
figcaption div { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
figcaption span { margin-left: 10px; }
.clip i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 4px; }
.controls { display: flex; align-items: center; gap: 10px; margin: 8px 0; }
.controls span { color: var(--body-text-color-subdued); }
.clock { min-width: 4em; font-variant-numeric: tabular-nums; font-weight: 600; text-align: right; }
.play { min-width: 72px; padding: 6px 14px; border-radius: 6px; cursor: pointer;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color);
  border: 1px solid var(--border-color-primary); }
.cursor-time { display: block; width: 100%; margin: 0; accent-color: var(--color-accent); }
.chart { position: relative; margin: 4px 8px 0; cursor: pointer; }
.row { padding-bottom: 6px; }
.row b { margin-left: 5px; }
.row svg { display: block; width: 100%; height: 44px; margin-top: 2px; border-radius: 4px;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.chart p { margin: 0; color: var(--body-text-color-subdued); }
.cursor { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; margin-left: -1px; pointer-events: none;
  background: var(--body-text-color); }
.axis { position: relative; height: 1.6em; margin: 0 8px; color: var(--body-text-color-subdued); }
.axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.axis span:first-child { transform: none; }
.axis .last { transform: translateX(-100%); }
.help { margin: 10px 8px 0; line-height: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; list-style: none; margin: 4px 8px 0; padding: 0; }
.legend li { margin: 0; }
"""

SCRIPT = """
let time = 0, playing = false;
const find = (what) => element.querySelector(what);
const end = () => Number(find('.clip').dataset.end);
function show(wanted) {
  time = Math.min(Math.max(wanted, 0), end());
  const frames = [...element.querySelectorAll('.frame')];
  const at = Math.max(0, frames.findLastIndex((frame) => Number(frame.dataset.time) <= time + 0.001));
  frames.forEach((frame, place) => frame.classList.toggle('now', place === at));
  find('.frames').classList.add('ready');
  find('.cursor').style.left = 100 * time / end() + '%';
  find('.clock').textContent = time.toFixed(1) + ' s';
  find('.cursor-time').value = time;
}
function stop() {
  playing = false;
  if (find('.play')) find('.play').textContent = 'Play';
}
function play() {
  playing = true;
  find('.play').textContent = 'Pause';
  const from = time >= end() ? 0 : time, began = performance.now();
  const step = () => {
    if (!playing || !find('.clip')) return;
    show(from + (performance.now() - began) / 1000);
    if (time >= end()) stop(); else requestAnimationFrame(step);
  };
  step();
}
element.addEventListener('input', (event) => {
  if (event.target.matches('.cursor-time')) { stop(); show(Number(event.target.value)); }
});
element.addEventListener('click', (event) => {
  if (event.target.closest('.play')) { if (playing) stop(); else play(); }
  const chart = event.target.closest('.chart');
  if (chart) {
    const box = chart.getBoundingClientRect();
    stop();
    show((event.clientX - box.left) / box.width * end());
  }
});
watch('value', () => { stop(); time = 0; });
"""


def add_tab(settings: DemoSettings) -> None:
    """Add the tab Video to the page that is being built.

    Parameters
    ----------
    settings : DemoSettings
        What finds faces and names expressions, and the limits.
    """
    limits = {
        "rate": FRAMES_PER_SECOND,
        "seconds": settings.max_video_seconds,
        "megabytes": settings.max_megabytes,
    }
    with gr.Tab("Video", id="video"):
        gr.Markdown(_HELP.format(**limits), elem_classes="fer-note")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                with gr.Tab("Upload"):
                    # Not gr.Video: it reports an error for what this browser cannot play, such as HEVC.
                    upload = gr.File(label="Clip", file_types=_FILE_TYPES, height=150, elem_id="video-file")
                    of_upload = gr.Button("Find expressions", variant="primary", elem_id="video-find")
                with gr.Tab("Webcam"):
                    camera = gr.Video(
                        label="Clip",
                        sources=["webcam"],
                        webcam_options=gr.WebcamOptions(mirror=False, constraints={"video": _CAMERA}),
                        include_audio=True,  # taken out, or mirrored, it would have to go through ffmpeg
                        height=300,
                        buttons=[],
                        elem_id="video-camera",
                    )
                    of_camera = gr.Button("Find expressions", variant="primary")
                stop = gr.Button("Stop")
                message = gr.HTML(
                    note("The timeline appears here."),
                    elem_id="video-message",
                    elem_classes="fer-note",
                    padding=False,
                )
                button = gr.DownloadButton("Download the table (CSV)", visible=False, elem_id="video-table")
            with gr.Column(scale=3, min_width=300):
                shown = gr.HTML(css_template=STYLE, js_on_load=SCRIPT, elem_id="video-player", padding=False)

        def analyse(path: str | None) -> Generator[tuple[Any, ...]]:
            for text, answer in answers(path, settings):
                if answer is None:
                    yield note(text), "", gr.DownloadButton(visible=False)
                else:
                    data = table(answer, settings.classifier.config.embedding_size)
                    file = download(data, f"{Path(answer.name).stem}.csv", button)
                    yield note(text), player(answer), gr.DownloadButton(value=file, visible=True)

        outputs = [message, shown, button]
        options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        started = [
            of_upload.click(analyse, upload, outputs, **options),
            of_camera.click(analyse, camera, outputs, **options),
        ]
        stop.click(lambda: note("Stopped."), None, message, cancels=started, queue=False, **options)


def answers(path: str | None, settings: DemoSettings) -> Generator[tuple[str, Clip | None]]:
    """What is said while a clip is looked at, and when that is done.

    Parameters
    ----------
    path : str or None
        Of the upload; None without one.
    settings : DemoSettings
        Its classifier, and its limits.

    Yields
    ------
    message : str
        A sentence, also for a clip that cannot be read.
    clip : Clip or None
        The last time, if there is a face in it.
    """
    if not path:
        yield "Upload or record a clip first.", None
        return
    yield "Looking at the first frames.", None
    try:
        with closing(watch_clip(path, settings)) as times:
            while True:
                yield f"Looked at {next(times):.1f} s of the clip.", None
    except StopIteration as done:
        clip: Clip = done.value
        yield describe(clip), clip if clip.faces else None
    except FergeneralError as error:
        yield readable(error, path), None
