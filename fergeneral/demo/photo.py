"""The tab Photo: the expressions in a photo."""

from __future__ import annotations

import dataclasses
import html
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from fergeneral.classifier import ExpressionClassifier
from fergeneral.demo.settings import DemoSettings
from fergeneral.drawing import draw_faces
from fergeneral.errors import FergeneralError
from fergeneral.images import load_image
from fergeneral.storage import FaceTable
from fergeneral.types import ClassifiedFace, Face

SHOWN_SIDE = 1600  # pixels: the longer side of a picture that is sent back is at most this
UNSURE = 0.5  # confidence below which a hint is given
NO_FACE = (
    "No face was found. Try a photo in which the face is larger, brighter and seen from the front. It should be at "
    "least 40 pixels wide, in very large photos about a fiftieth of the photo's width."
)
_WAITING = "The answer appears here."
_FORMULA = re.compile(r"[=+\-@\t\r]")


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoAnswer:
    """What is shown of a photo.

    `message`: HTML. `drawn`: the photo with its boxes, at most SHOWN_SIDE pixels a side; None where it could not be
    read. `scale`: of `drawn`, in pixels of it for one of the photo. `faces`: those that are shown, largest first, with
    their aligned `crops`. `table`: of all faces, CSV, as `fergeneral predict -o` writes it; empty without a face.
    """

    message: str
    drawn: Image.Image | None = None
    scale: float = 1.0
    faces: tuple[ClassifiedFace, ...] = ()
    crops: tuple[np.ndarray, ...] = ()
    table: bytes = b""

    def face_at(self, x: float, y: float) -> int | None:
        """The face shown at a pixel of `drawn`: the smallest box around it, else the nearest; None without a face."""
        best = None
        for number, face in enumerate(self.faces):
            left, top, right, bottom = (face.box * self.scale).tolist()
            away = math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))
            key = (away, face.area)
            if best is None or key < best[0]:
                best = (key, number)
        return None if best is None else best[1]


def read_photo(path: str, settings: DemoSettings) -> PhotoAnswer:
    """Find the faces in an uploaded photo, name their expressions and draw them.

    Parameters
    ----------
    path : str
        Of the upload.
    settings : DemoSettings
        Classifier, and how many faces are shown.

    Returns
    -------
    PhotoAnswer
        Also for a file that cannot be read and for a photo without a face: its message then says so.
    """
    try:
        image = load_image(path)
        found = settings.classifier.predict(image)
    except FergeneralError as error:
        return PhotoAnswer(note(readable(error, path)))
    faces = tuple(found[: settings.max_faces])
    drawn, scale = _draw(image, faces)
    if not found:
        return PhotoAnswer(note(NO_FACE), drawn, scale)
    crops = tuple(settings.classifier.extractor.align(image, face.landmarks) for face in faces)
    table = _csv(path, found, settings.classifier)
    return PhotoAnswer(_summary(faces, len(found)), drawn, scale, faces, crops, table)


def readable(error: Exception, path: str) -> str:
    """What an error says of an upload, which is called by its name, not by where it lies."""
    text = str(error).replace(path, Path(path).name)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def note(*sentences: str) -> str:
    """Paragraphs of HTML."""
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)


def html_table(headings: list[str], rows: list[list[str]], *, right: int | None = None) -> str:
    """A table of text as HTML. Its first column has the rows' headings; cells that are numbers stand to the right.

    `right`: the first column of those in which cells on the diagonal are marked as right answers.
    """

    def cell(row: int, column: int, text: str) -> str:
        if column == 0:
            return f'<th scope="row">{html.escape(text)}</th>'
        kinds = ["number"] if re.fullmatch(r"[\d.]+", text) else []
        kinds += ["right"] if right is not None and column - right == row else []
        return f'<td class="{" ".join(kinds)}">{html.escape(text)}</td>'

    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in headings)
    body = "".join(
        f"<tr>{''.join(cell(row, column, text) for column, text in enumerate(texts))}</tr>"
        for row, texts in enumerate(rows)
    )
    return (
        f'<div class="fer-table-box"><table class="fer-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        f"</table></div>"
    )


def _summary(faces: tuple[ClassifiedFace, ...], found: int) -> str:
    sentences = ["1 face found." if found == 1 else f"{found} faces found, the largest first."]
    if found > len(faces):
        sentences = [f"{found} faces found. The {len(faces)} largest are shown; the table to download has all of them."]
    unsure = [str(number) for number, face in enumerate(faces) if face.confidence < UNSURE]
    if unsure:
        which = f"Face {unsure[0]} has" if len(unsure) == 1 else f"Faces {', '.join(unsure)} have"
        sentences.append(
            f"{which} a confidence below {UNSURE}: the answer is not reliable. Look at the bars of all expressions."
        )
    rows = [[str(number), face.expression, f"{face.confidence:.2f}"] for number, face in enumerate(faces)]
    return note(*sentences) + html_table(["Face", "Expression", "Confidence"], rows)


def _draw(image: Image.Image, faces: tuple[ClassifiedFace, ...]) -> tuple[Image.Image, float]:
    """The photo with boxes, scaled down before they are drawn, so that labels can be read."""
    smaller = min(1.0, SHOWN_SIDE / max(image.size))
    shown = image
    if smaller < 1:
        width, height = (max(1, round(side * smaller)) for side in image.size)
        shown = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    moved = [dataclasses.replace(face, box=face.box * smaller, landmarks=face.landmarks * smaller) for face in faces]
    drawn = draw_faces(shown, moved)  # a small photo is enlarged
    return drawn, smaller * drawn.width / shown.width


def _csv(path: str, faces: list[ClassifiedFace], classifier: ExpressionClassifier) -> bytes:
    name = Path(path).name
    if _FORMULA.match(name):  # spreadsheets would compute it
        name = f"./{name}"
    return csv_table([(name, faces)], classifier.config.embedding_size, classifier.classes)


def csv_table(
    rows: Iterable[tuple[str, Sequence[Face]]], embedding_size: int, classes: Sequence[str], *, video: bool = False
) -> bytes:
    """The faces of each named photo, or of each frame of a video, as the .csv file that the command line writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "faces.csv")
        with FaceTable(file, embedding_size, video, classes=classes) as table:
            for name, faces in rows:
                table.add(name, faces)
        return file.read_bytes()


# The page


def photo_input(label: str, *, sources: list[str] | None = None, elem_id: str) -> gr.Image:
    """A photo by upload, clipboard or webcam, given as the path of the file as it was uploaded: not read by Gradio."""
    picture = gr.Image(
        label=label,
        type="filepath",
        sources=sources or ["upload", "webcam", "clipboard"],
        webcam_options=gr.WebcamOptions(mirror=False),
        height=340,
        elem_id=elem_id,
        buttons=[],
        alt_text=label,
    )
    read = picture.preprocess

    def path_of(payload: Any) -> Any:
        if payload is None or not payload.path or (payload.url or "").startswith("data:"):
            return read(payload)
        return payload.path

    picture.preprocess = path_of  # Gradio's own would open and convert the picture; a subclass writes into the package
    return picture


def crop_gallery(label: str, *, elem_id: str) -> gr.Gallery:
    """Aligned crops, one of which can be chosen."""
    return gr.Gallery(
        label=label,
        elem_id=elem_id,
        elem_classes="fer-crops",
        show_label=False,
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        format="png",
        buttons=[],
    )


def probabilities_label(elem_id: str, *, visible: bool = True) -> gr.Label:
    """Bars of all classes."""
    return gr.Label(label="Probabilities", elem_id=elem_id, visible=visible)


def download(data: bytes, name: str, component: Any) -> Any:
    """A button's file, kept as long as an upload; none for no data."""
    if not data:
        return None
    return save_bytes_to_cache(data, name, component.GRADIO_CACHE)


def add_tab(settings: DemoSettings) -> None:
    """Add the tab to the page that is being built.

    Parameters
    ----------
    settings : DemoSettings
        Classifier and limits.
    """
    with gr.Tab("Photo", id="photo"):
        answer = gr.State(None)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = photo_input("A photo with faces", elem_id="photo-input")
                gr.Markdown(
                    f"Upload a photo of at most {settings.max_megabytes} MB, paste one, or take one with the webcam. "
                    f"The faces are found, turned upright and cut out, and each expression is named.",
                    elem_classes="fer-note",
                )
                message = gr.HTML(note(_WAITING), elem_id="photo-message", elem_classes="fer-note", padding=False)
            with gr.Column(scale=3, min_width=300, visible=False) as details:
                drawn = gr.Image(
                    label="Faces found",
                    show_label=False,  # it would cover a part of the photo
                    elem_id="photo-drawn",
                    format="jpeg",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    alt_text="The photo with a numbered box around each face",
                )
                with gr.Column(visible=False) as of_faces:
                    gr.Markdown("**Aligned faces.** Choose one, here or in the photo.", elem_classes="fer-note")
                    crops = crop_gallery("Aligned faces", elem_id="photo-crops")
                    bars = probabilities_label("photo-bars")
                    button = gr.DownloadButton("Download the table (CSV)", elem_id="photo-table")

        def answer_photo(path: str | None) -> list[Any]:
            if path is None:
                hidden = gr.update(visible=False)
                return [None, note(_WAITING), hidden, hidden, None, None, None, None]
            read = read_photo(path, settings)
            several = [(crop, f"{number}  {face.expression}") for number, (crop, face) in _numbered(read)]
            file = download(read.table, f"{Path(path).stem}.csv", button)
            shown, some = gr.update(visible=read.drawn is not None), gr.update(visible=bool(several))
            gallery = gr.update(value=several, selected_index=0 if several else None)
            return [_without_table(read), read.message, shown, some, read.drawn, gallery, _bars(read, 0), file]

        def choose_in_gallery(read: PhotoAnswer | None, event: gr.SelectData) -> Any:
            return _bars(read, event.index)

        def choose_in_photo(read: PhotoAnswer | None, event: gr.SelectData) -> list[Any]:
            number = None if read is None else read.face_at(*event.index)
            return [gr.skip(), gr.skip()] if number is None else [gr.update(selected_index=number), _bars(read, number)]

        outputs = [answer, message, details, of_faces, drawn, crops, bars, button]
        picture.change(answer_photo, picture, outputs, api_visibility="private", show_progress_on=message)
        options = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        crops.select(choose_in_gallery, answer, bars, **options)
        drawn.select(choose_in_photo, answer, [crops, bars], **options)


def _numbered(read: PhotoAnswer) -> Any:
    return enumerate(zip(read.crops, read.faces, strict=True))


def _without_table(read: PhotoAnswer) -> PhotoAnswer:
    """What a session holds: no pictures, no embeddings."""
    return dataclasses.replace(read, drawn=None, crops=(), table=b"")


def _bars(read: PhotoAnswer | None, number: int) -> Any:
    if read is None or not read.faces:
        return None
    face = read.faces[number]
    return gr.update(value=face.probabilities, label=f"Probabilities of face {number}")
