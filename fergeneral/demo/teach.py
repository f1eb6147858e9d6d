"""The tab Teach: expressions of one's own from a few photos."""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from fergeneral.classifier import UNCERTAIN, ExpressionClassifier
from fergeneral.console import counted
from fergeneral.demo.photo import (
    NO_FACE,
    crop_gallery,
    download,
    html_table,
    note,
    photo_input,
    probabilities_label,
    readable,
)
from fergeneral.demo.settings import DemoSettings
from fergeneral.errors import DataError, FergeneralError
from fergeneral.extractor import ExpressionExtractor
from fergeneral.heads.fit import FitReport, fit_with_messages
from fergeneral.heads.head import Head
from fergeneral.images import load_image

LONGEST_NAME = 40  # characters
MOST_CLASSES = 12
HEAD_NAME = "my-head"
LOADING = f"""from fergeneral import ExpressionClassifier

classifier = ExpressionClassifier.from_pretrained("{HEAD_NAME}")
print(classifier.predict("photo.jpg")[0].expression)
"""
_START = "Name two expressions, and add a face of each."
_NARROW = 0.3  # of a 95 % interval of an accuracy
_LISTED = 5  # files in a sentence


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """The largest face of a photo: its `label`, the photo's `name`, the aligned `crop` and the `embedding` (D,)."""

    label: str
    name: str
    crop: np.ndarray
    embedding: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """What a visitor has named and added."""

    classes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()

    def add_class(self, text: str) -> Lesson:
        """With one more expression. Raises DataError for a name that cannot be one."""
        return dataclasses.replace(self, classes=(*self.classes, clean_name(text, self.classes)))

    def remove_class(self, name: str) -> Lesson:
        """Without an expression and its examples."""
        return Lesson(
            tuple(other for other in self.classes if other != name),
            tuple(example for example in self.examples if example.label != name),
        )

    def remove_example(self, position: int) -> Lesson:
        """Without one of `sorted_examples`."""
        kept = self.sorted_examples()
        del kept[position]
        return dataclasses.replace(self, examples=tuple(kept))

    def sorted_examples(self) -> list[Example]:
        """By expression, in the order in which those were named."""
        return sorted(self.examples, key=lambda example: self.classes.index(example.label))


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What the examples give: `message` (HTML), and the `head`, None where they are too few."""

    message: str
    head: Head | None = None


def clean_name(text: str, classes: tuple[str, ...]) -> str:
    """The name of an expression, without space around it. Raises DataError that says why it cannot be one."""
    name = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()
    if not name:
        raise DataError("The name is empty: write one, such as smiling.")
    if len(name) > LONGEST_NAME:
        raise DataError(f"The name has {len(name)} characters; at most {LONGEST_NAME} are allowed.")
    if not name.isprintable():
        raise DataError("The name has characters that cannot be printed.")
    if name.casefold() == UNCERTAIN:
        raise DataError(f'"{UNCERTAIN}" is the answer where no expression is probable enough: take another name.')
    if name.casefold() in (other.casefold() for other in classes):
        raise DataError(f'"{name}" is there already.')
    if len(classes) >= MOST_CLASSES:
        raise DataError(f"There are {MOST_CLASSES} expressions, and there can be no more.")
    return name


def add_photos(lesson: Lesson, label: str | None, paths: list[str], settings: DemoSettings) -> tuple[Lesson, str]:
    """Add the largest face of each photo as an example.

    Parameters
    ----------
    lesson : Lesson
        What is there.
    label : str or None
        One of its expressions; None where none is chosen.
    paths : list of str
        Of uploads.
    settings : DemoSettings
        Extractor, and how many photos are taken.

    Returns
    -------
    lesson : Lesson
    message : str
        HTML: what was added, and what was left out and why.
    """
    if label is None or label not in lesson.classes:
        return lesson, note("Name an expression first, and choose it: the photos are added to it.")
    room = settings.max_photos - len(lesson.examples)
    added: list[Example] = []
    largest: list[str] = []
    left_out: list[str] = []
    without: list[str] = []
    for path in paths[: max(0, room)]:
        name = Path(path).name
        try:
            image = load_image(path)
            faces = settings.classifier.extractor.extract(image)
        except FergeneralError as error:
            left_out.append(readable(error, path))
            continue
        if not faces:
            without.append(name)
            continue
        if len(faces) > 1:
            largest.append(name)
        crop = settings.classifier.extractor.align(image, faces[0].landmarks)
        added.append(Example(label, name, crop, faces[0].embedding))
    sentences = [f'{counted(len(added), "face")} added to "{label}".']
    if largest:
        sentences.append(f"More than one face, of which the largest was taken: {_listed(largest)}.")
    if without:
        sentences.append(f"Left out, since no face was found: {_listed(without)}.")
    sentences += [f"Left out: {reason}" for reason in left_out]
    if len(paths) > room:
        sentences.append(f"{len(paths) - max(0, room)} photos were left out: at most {settings.max_photos} are taken.")
    return dataclasses.replace(lesson, examples=(*lesson.examples, *added)), note(*sentences)


def fit(lesson: Lesson, extractor: ExpressionExtractor) -> Fitted:
    """Fit a head on all examples, and say how well faces that were left out are told apart.

    Parameters
    ----------
    lesson : Lesson
        Expressions and examples.
    extractor : ExpressionExtractor
        Whose encoder gave the embeddings.

    Returns
    -------
    Fitted
    """
    counts = Counter(example.label for example in lesson.examples)
    if len(lesson.classes) < 2:
        return Fitted(note(_START))
    missing = [name for name in lesson.classes if not counts[name]]
    if missing:
        return Fitted(note(f"Add a face of {_listed(missing)}."))
    examples = lesson.sorted_examples()
    names = [f'{example.name} in "{example.label}"' for example in examples]
    try:
        head, report, messages = fit_with_messages(
            np.stack([example.embedding for example in examples]),
            [example.label for example in examples],
            extractor.encoder,
            method="auto",
            groups=None,
            files=names,
            name=HEAD_NAME,
            license="",
            seed=0,
        )
    except FergeneralError as error:
        return Fitted(note(readable(error, "")))
    return Fitted(_evaluation(report, messages), head)


def _evaluation(report: FitReport, messages: list[str]) -> str:
    classes = list(report.faces)
    sentences = []
    if not report.tested or report.confusion is None:
        return note("Add a second face of each expression, to see how well they are told apart. You can try it now.")
    right = sum(report.confusion[number][number] for number in range(len(classes)))
    how = "when each face is left out once" if report.folds.startswith("one face") else "when a tenth is left out"
    sentences.append(
        f"{right} of {report.tested} faces are given the right expression {how} and the head is fitted on the others: "
        f"{_percent(right / report.tested)}. By chance, {_percent(1 / len(classes))} would be right."
    )
    if report.accuracy_interval is not None:
        low, high = report.accuracy_interval
        few = "" if high - low < _NARROW else " That is too wide to rely on: add more faces."
        sentences.append(f"The 95 % interval is {_percent(low)} to {_percent(high)}.{few}")
    sentences += [message[:1].upper() + message[1:] + "." for message in messages]
    rows = [[name, *map(str, row)] for name, row in zip(classes, report.confusion, strict=True)]
    heading = "<p>Rows: the expression you gave. Columns: the answer when the face was left out.</p>"
    return note(*sentences) + heading + html_table(["", *classes], rows, right=1)


def try_photo(path: str, head: Head, settings: DemoSettings) -> tuple[str, dict[str, float] | None]:
    """The answer of a head for the largest face of a photo: a message (HTML), and the probabilities, None without."""
    try:
        faces = ExpressionClassifier(settings.classifier.extractor, head).predict(path)
    except FergeneralError as error:
        return note(readable(error, path)), None
    if not faces:
        return note(NO_FACE), None
    several = "" if len(faces) == 1 else f" It is the largest of {len(faces)} faces."
    face = faces[0]
    return note(f"{face.expression}, with a confidence of {face.confidence:.2f}.{several}"), face.probabilities


def head_archive(head: Head) -> bytes:
    """The folder that `Head.save_pretrained` writes, as a .zip file."""
    archive = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        head.save_pretrained(folder)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(Path(folder).iterdir()):
                file.write(path, f"{HEAD_NAME}/{path.name}")
    return archive.getvalue()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


# The page


def add_tab(settings: DemoSettings) -> None:
    """Add the tab to the page that is being built.

    Parameters
    ----------
    settings : DemoSettings
        Extractor and limits.
    """
    extractor = settings.classifier.extractor
    with gr.Tab("Teach", id="teach"):
        lesson, head, chosen = gr.State(Lesson()), gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(min_width=300):
                gr.Markdown("### 1. Name expressions")
                name = gr.Textbox(
                    label="Name of an expression",
                    placeholder="such as neutral, then smiling",
                    max_length=200,
                    elem_id="teach-name",
                )
                add_class = gr.Button("Add expression", elem_id="teach-add", variant="primary")
                label = gr.Radio([], label="Photos are added to", elem_id="teach-label", visible=False)
                drop_class = gr.Button("Remove this expression", elem_id="teach-drop", visible=False, size="sm")
            with gr.Column(min_width=300):
                gr.Markdown("### 2. Add faces")
                files = gr.File(
                    label="Photos with one face each",
                    file_count="multiple",
                    height=150,
                    elem_id="teach-files",
                )
                with gr.Accordion("From the webcam or the clipboard", open=False):
                    camera = photo_input("A face", sources=["webcam", "clipboard"], elem_id="teach-camera")
        message = gr.HTML(note(_START), elem_id="teach-message", elem_classes="fer-note", padding=False)
        with gr.Column(visible=False) as examples:
            gr.Markdown("**Examples.** Choose one to remove it.", elem_classes="fer-note")
            gallery = crop_gallery("Examples", elem_id="teach-gallery")
            with gr.Row():
                remove = gr.Button("Remove the chosen face", elem_id="teach-remove", interactive=False, size="sm")
                clear = gr.Button("Clear all", elem_id="teach-clear", variant="stop", size="sm")
        gr.Markdown("### 3. How well are they told apart?")
        quality = gr.HTML(note(_START), elem_id="teach-quality", elem_classes="fer-note", padding=False)
        with gr.Row(visible=False) as use:
            with gr.Column(min_width=300):
                gr.Markdown("### 4. Try it")
                live = photo_input("Another photo", elem_id="teach-try")
                answer = gr.HTML(elem_id="teach-answer", elem_classes="fer-note", padding=False)
                bars = probabilities_label("teach-bars", visible=False)
            with gr.Column(min_width=300):
                gr.Markdown("### 5. Keep it")
                keep = gr.DownloadButton("Download the head (.zip)", elem_id="teach-download", variant="primary")
                gr.Markdown("Unpack it, and load it in Python:", elem_classes="fer-note")
                gr.Markdown(f"```python\n{LOADING}```", elem_classes="fer-code")

        def show(now: Lesson, text: str, wanted: str | None) -> list[Any]:
            """Everything that follows from a lesson."""
            fitted = fit(now, extractor)
            numbers: Counter[str] = Counter()
            shown = []
            for example in now.sorted_examples():
                numbers[example.label] += 1
                shown.append((example.crop, f"{example.label} {numbers[example.label]}"))
            archive = head_archive(fitted.head) if fitted.head is not None else b""
            some = bool(now.classes)
            choice = wanted if wanted in now.classes else (now.classes[-1] if some else None)
            return [
                now,
                fitted.head,
                None,
                text,
                gr.update(choices=list(now.classes), value=choice, visible=some),
                gr.update(visible=some),
                gr.update(value=shown, selected_index=None),
                gr.update(visible=some),
                gr.update(interactive=False),
                fitted.message,
                gr.update(visible=fitted.head is not None),
                download(archive, f"{HEAD_NAME}.zip", keep),
            ]

        def name_class(now: Lesson, text: str, wanted: str | None) -> list[Any]:
            try:
                more = now.add_class(text)
            except DataError as error:
                return [*show(now, note(str(error)), wanted), gr.skip()]
            added = more.classes[-1]
            return [*show(more, note(f'"{added}" is there. Add photos of it.'), added), ""]

        def take_files(now: Lesson, paths: list[str] | None, wanted: str | None) -> list[Any]:
            return [*show(*add_photos(now, wanted, paths or [], settings), wanted), None]

        def take_picture(now: Lesson, path: str | None, wanted: str | None) -> list[Any]:
            return take_files(now, None if path is None else [path], wanted)

        def choose(event: gr.SelectData) -> list[Any]:
            return [event.index, gr.update(interactive=True)]

        def remove_chosen(now: Lesson, position: int | None, wanted: str | None) -> list[Any]:
            if position is None or not 0 <= position < len(now.examples):
                return show(now, note("Choose a face first."), wanted)
            return show(now.remove_example(position), note("The face is removed."), wanted)

        def remove_class(now: Lesson, wanted: str | None) -> list[Any]:
            if wanted not in now.classes:
                return show(now, note("Choose an expression first."), wanted)
            return show(now.remove_class(wanted), note(f'"{wanted}" is removed, with its faces.'), None)

        def clear_all() -> list[Any]:
            return show(Lesson(), note(_START), None)

        def answer_try(now: Head | None, path: str | None) -> list[Any]:
            if path is None or now is None:
                return ["", gr.update(value=None, visible=False)]
            text, probabilities = try_photo(path, now, settings)
            return [text, gr.update(value=probabilities, visible=probabilities is not None)]

        outputs = [lesson, head, chosen, message, label, drop_class, gallery, examples, remove, quality, use, keep]
        private = {"api_visibility": "private", "show_progress_on": message}
        gr.on([name.submit, add_class.click], name_class, [lesson, name, label], [*outputs, name], **private)
        files.upload(take_files, [lesson, files, label], [*outputs, files], **private)
        camera.input(take_picture, [lesson, camera, label], [*outputs, camera], **private)
        gallery.select(choose, None, [chosen, remove], api_visibility="private", queue=False, show_progress="hidden")
        remove.click(remove_chosen, [lesson, chosen, label], outputs, **private)
        drop_class.click(remove_class, [lesson, label], outputs, **private)
        clear.click(clear_all, None, outputs, **private)
        live.change(answer_try, [head, live], [answer, bars], api_visibility="private", show_progress_on=answer)
