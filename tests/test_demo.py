"""The demo without a browser: what its tabs answer, what its server refuses, and that it calls no other machine."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from conftest import PHOTOS, ROOT
from PIL import Image

from fergeneral import ExpressionClassifier, ExpressionExtractor, Head
from fergeneral.cli import main
from fergeneral.demo import DemoSettings
from fergeneral.demo.app import MOST_WAITING, listen, temporary_folder, web_app
from fergeneral.demo.photo import PhotoAnswer, read_photo
from fergeneral.demo.teach import Lesson, add_photos, clean_name, fit, head_archive, try_photo
from fergeneral.errors import DataError
from fergeneral.heads import fit_head
from fergeneral.images import load_image
from fergeneral.storage import read_table

# Gradio leaves event loops open that it has made for its locks, and uses an option of pandas that is deprecated.
pytestmark = [
    pytest.mark.usefixtures("gradio_event_loops"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LONDON = ROOT / "examples" / "london"
PEOPLE = ("002", "005", "006")


@pytest.fixture(scope="module")
def settings(extractor: ExpressionExtractor) -> DemoSettings:
    return DemoSettings(classifier=ExpressionClassifier.from_pretrained(encoder=extractor), max_megabytes=1)


# Photo


def test_photo_is_answered_as_predict_answers(settings: DemoSettings, tmp_path: Path) -> None:
    answer = read_photo(str(PHOTOS / "three_faces.jpg"), settings)
    assert main(["predict", str(PHOTOS / "three_faces.jpg"), "-o", str(tmp_path / "wanted.csv")]) == 0
    (tmp_path / "table.csv").write_bytes(answer.table)
    wanted, table = read_table(tmp_path / "wanted.csv"), read_table(tmp_path / "table.csv")
    assert list(table) == list(wanted)
    assert table["path"].tolist() == ["three_faces.jpg"] * 3
    assert table["expression"].tolist() == wanted["expression"].tolist()
    for name in ("box", "confidence", "embedding"):
        np.testing.assert_allclose(table[name], wanted[name], atol=1e-3)
    assert "3 faces found" in answer.message
    assert all(f'<td class="">{name}</td>' in answer.message for name in table["expression"])
    embeddings = settings.classifier.extractor.encode(list(answer.crops), show_progress=False)
    np.testing.assert_allclose(embeddings, wanted["embedding"], atol=1e-3)


def test_most_faces(settings: DemoSettings) -> None:
    answer = read_photo(str(PHOTOS / "three_faces.jpg"), dataclasses.replace(settings, max_faces=2))
    assert len(answer.faces) == len(answer.crops) == 2
    assert "3 faces found. The 2 largest are shown" in answer.message
    assert len(list(csv.reader(io.StringIO(answer.table.decode())))) == 4


def test_choose_a_face_in_the_picture(settings: DemoSettings) -> None:
    answer = read_photo(str(PHOTOS / "three_faces.jpg"), settings)
    for number, face in enumerate(answer.faces):
        x, y = (np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2 * answer.scale).tolist()
        assert answer.face_at(x, y) == number
    assert PhotoAnswer("").face_at(1, 1) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "Holiday.jpg is not an image in a format that is read"),
        (b"", "Holiday.jpg is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text (HTML, XML or SVG)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "is HEIC"),
        ((PHOTOS / "three_faces.jpg").read_bytes()[:5000], "corrupt or truncated"),
    ],
)
def test_unreadable_files(settings: DemoSettings, tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "Holiday.jpg"
    file.write_bytes(content)
    answer = read_photo(str(file), settings)
    assert words in answer.message
    assert str(tmp_path) not in answer.message  # where an upload lies concerns nobody
    assert answer.drawn is None
    assert not answer.faces


def test_no_face(settings: DemoSettings) -> None:
    answer = read_photo(str(PHOTOS / "coffee.png"), settings)
    assert "No face was found. Try" in answer.message
    assert answer.drawn is not None
    assert not answer.table


def test_fifty_megapixels(settings: DemoSettings, tmp_path: Path) -> None:
    Image.open(PHOTOS / "astronaut.png").convert("RGB").resize((7100, 7100)).save(tmp_path / "large.jpg", quality=80)
    start = time.monotonic()
    answer = read_photo(str(tmp_path / "large.jpg"), settings)
    assert time.monotonic() - start < 120
    assert answer.faces[0].expression == "happiness"
    assert answer.drawn is not None
    assert max(answer.drawn.size) == 1600
    assert answer.face_at(1600 * 0.43, 1600 * 0.24) == 0


@pytest.mark.parametrize("mode", ["16 bit", "CMYK", "animation", "turned"])
def test_the_library_reads_the_photo(settings: DemoSettings, tmp_path: Path, mode: str) -> None:
    picture = Image.open(PHOTOS / "astronaut.png").convert("RGB")
    file = tmp_path / {"16 bit": "a.png", "CMYK": "a.jpg", "animation": "a.gif", "turned": "a.jpg"}[mode]
    if mode == "16 bit":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(file)
    elif mode == "CMYK":
        picture.convert("CMYK").save(file)
    elif mode == "animation":
        picture.save(file, save_all=True, append_images=[Image.new("RGB", picture.size)])
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    answer = read_photo(str(file), settings)
    assert len(answer.faces) == 1
    assert answer.faces[0].box[3] < 256  # upright: the face is in the upper half


def test_unsure_answers_are_named(extractor: ExpressionExtractor) -> None:
    head = Head.from_pretrained(encoder=extractor.encoder)
    vague = Head(dataclasses.replace(head.config, temperature=1000.0), **head.arrays)
    answer = read_photo(
        str(PHOTOS / "three_faces.jpg"), DemoSettings(classifier=ExpressionClassifier(extractor, vague))
    )
    assert "Faces 0, 1, 2 have a confidence below 0.5" in answer.message


def test_a_name_is_no_formula(settings: DemoSettings, tmp_path: Path) -> None:
    file = tmp_path / "=HYPERLINK(1).png"
    file.write_bytes((PHOTOS / "astronaut.png").read_bytes())
    table = read_photo(str(file), settings).table.decode()
    assert list(csv.reader(io.StringIO(table)))[1][0] == "./=HYPERLINK(1).png"


# Teach


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("x" * 41, "41 characters"),
        ("UNCERTAIN", "answer where no expression"),
        (" Smiling ", "is there already"),
        ("a\0b", "cannot be printed"),
    ],
)
def test_names_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        clean_name(text, ("smiling",))
    with pytest.raises(DataError, match="no more"):
        clean_name("more", tuple(map(str, range(12))))


def test_names_are_trimmed() -> None:
    assert clean_name("  raised \t eyebrows ", ()) == "raised eyebrows"
    assert clean_name("<b>", ()) == "<b>"


@pytest.fixture(scope="module")
def lesson(settings: DemoSettings) -> Lesson:
    lesson = Lesson().add_class("neutral").add_class("smiling")
    for label in lesson.classes:
        paths = [str(LONDON / label / f"{person}.jpg") for person in PEOPLE]
        lesson, message = add_photos(lesson, label, paths, settings)
        assert message == f"<p>3 faces added to &quot;{label}&quot;.</p>"
    return lesson


def test_photos_that_give_no_example_are_named(settings: DemoSettings, tmp_path: Path) -> None:
    broken = tmp_path / "<broken>.jpg"
    broken.write_bytes(b"nothing")
    paths = [PHOTOS / "coffee.png", broken, PHOTOS / "three_faces.jpg", LONDON / "smiling" / "002.jpg"]
    before = Lesson().add_class("smiling")
    after, message = add_photos(before, "smiling", [str(path) for path in paths], settings)
    assert [example.name for example in after.examples] == ["three_faces.jpg", "002.jpg"]
    assert "2 faces added" in message
    assert "the largest was taken: three_faces.jpg" in message
    assert "no face was found: coffee.png" in message
    assert "&lt;broken&gt;.jpg is not an image" in message
    assert str(tmp_path) not in message
    assert add_photos(before, None, [str(paths[0])], settings)[0] is before
    full, message = add_photos(after, "smiling", [str(paths[3])], dataclasses.replace(settings, max_photos=2))
    assert full.examples == after.examples
    assert "1 photos were left out: at most 2" in message


def test_leave_one_out(lesson: Lesson, extractor: ExpressionExtractor) -> None:
    """The sentence and the table, against heads that are fitted on all faces but one."""
    labels = [example.label for example in lesson.examples]
    rows = np.stack([example.embedding for example in lesson.examples])
    answers = []
    for number in range(len(labels)):
        others = [other for other in range(len(labels)) if other != number]
        head, _ = fit_head(rows[others], [labels[other] for other in others], extractor.encoder)
        answers.append(head.predict(rows[number : number + 1])[0])
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    fitted = fit(lesson, extractor)
    assert f"{right} of 6 faces are given the right expression when each face is left out once" in fitted.message
    assert f"{100 * right / 6:.0f} %. By chance, 50 % would be right." in fitted.message
    kept = sum(answer == "neutral" for answer in answers[:3])
    row = f'<tr><th scope="row">neutral</th><td class="number right">{kept}</td><td class="number">{3 - kept}</td></tr>'
    assert row in fitted.message


def test_too_few_examples(lesson: Lesson, extractor: ExpressionExtractor) -> None:
    first = [next(example for example in lesson.examples if example.label == label) for label in lesson.classes]
    assert "Name two expressions" in fit(Lesson(), extractor).message
    fitted = fit(Lesson(lesson.classes, tuple(first[:1])), extractor)
    assert fitted.head is None
    assert "Add a face of smiling" in fitted.message
    fitted = fit(Lesson(lesson.classes, tuple(first)), extractor)
    assert "Add a second face" in fitted.message
    assert fitted.head is not None
    both = Lesson(lesson.classes, (*first, dataclasses.replace(first[0], label="smiling")))
    fitted = fit(both, extractor)  # one picture in two classes
    assert fitted.head is None
    assert "002.jpg" in fitted.message


def test_removal(lesson: Lesson) -> None:
    left = lesson.remove_example(3)
    assert [example.label for example in left.sorted_examples()] == ["neutral"] * 3 + ["smiling"] * 2
    assert lesson.sorted_examples()[3] not in left.examples
    assert lesson.remove_class("neutral").classes == ("smiling",)
    assert {example.label for example in lesson.remove_class("neutral").examples} == {"smiling"}


def test_the_head_is_loaded_again(lesson: Lesson, settings: DemoSettings, tmp_path: Path) -> None:
    head = fit(lesson, settings.classifier.extractor).head
    assert head is not None
    zipfile.ZipFile(io.BytesIO(head_archive(head))).extractall(tmp_path)
    classifier = ExpressionClassifier.from_pretrained(tmp_path / "my-head", encoder=settings.classifier.extractor)
    photo = str(LONDON / "smiling" / "021.jpg")
    message, probabilities = try_photo(photo, head, settings)
    face = classifier.predict(photo)[0]
    assert probabilities == pytest.approx(face.probabilities, abs=1e-5)
    assert f"{face.expression}, with a confidence of {face.confidence:.2f}" in message
    assert "No face" in try_photo(str(PHOTOS / "coffee.png"), head, settings)[0]
    assert "not an image" in try_photo(__file__, head, settings)[0]


# The command


def test_command_line_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (["--port", port], f"port {port} is in use"),
            (["--host", "192.0.2.1"], "cannot listen at '192.0.2.1'"),
            (["--search", str(tmp_path / "none")], "none"),
            (["--port", "0", "--head", "no-such-head"], "no-such-head"),
            (["--port", "0", "--model", "no-such-model"], "no-such-model"),
        ):
            assert main(["demo", *arguments]) in (1, 2)
            error = capsys.readouterr().err.strip()
            assert words in error
            assert error.startswith("error: ")
            assert len(error.splitlines()) == 1
    with pytest.raises(SystemExit):
        main(["demo", "--port", "65536"])


def test_without_gradio() -> None:
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from fergeneral.cli import main\n"
        "import fergeneral.demo\n"
        "sys.exit(main(['demo', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'fergeneral[demo]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# The server


class Client:
    """Does what the page does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.config = self.get("config").json()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}/{path}", timeout=120, trust_env=False, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/{path}", timeout=120, trust_env=False, **options)

    def upload(self, name: str, data: bytes) -> httpx.Response:
        return self.post("gradio_api/upload", files={"files": (name, data)})

    def photo(self, path: Any, session: str, way: str = "gradio_api/queue/join") -> httpx.Response:
        """Ask for the answer of the tab Photo."""
        (component,) = (c["id"] for c in self.config["components"] if c["props"].get("elem_id") == "photo-input")
        (event,) = (d for d in self.config["dependencies"] if [component, "change"] in d["targets"])
        value = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [value], "fn_index": event["id"], "session_hash": session}
        return self.post(way, json=body)

    def answer(self, session: str) -> str:
        """All messages of a session's queue."""
        return self.get("gradio_api/queue/data", params={"session_hash": session}).text


@pytest.fixture(scope="module")
def server(settings: DemoSettings) -> Iterator[Client]:
    """The demo, in a process that can reach nothing but itself."""
    outside: list[Any] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            outside.append(address)
            raise OSError("no network in this test")
        connect(self, address)

    def checked_resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in (None, "127.0.0.1", b"127.0.0.1", "localhost", "::1"):
            outside.append(host)
            raise OSError("no network in this test")
        return resolve(host, *arguments, **options)

    environment = {**os.environ, "PYTEST_CURRENT_TEST": ""}
    with pytest.MonkeyPatch.context() as patch, temporary_folder() as folder:
        patch.setattr(socket.socket, "connect", checked_connect)
        patch.setattr(socket, "getaddrinfo", checked_resolve)
        listening = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            web_app(settings, folder, hosts=["127.0.0.1"]), log_config=None, timeout_graceful_shutdown=1
        )
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            running.should_exit = True
            thread.join(60)
            listening.close()
        assert not thread.is_alive()
        assert not os.path.exists(folder.name)
    assert outside == []
    assert {**os.environ, "PYTEST_CURRENT_TEST": ""} == environment


def test_the_page_names_no_other_host(server: Client) -> None:
    page = server.get("").text
    assert "Photo" in page
    for attribute in ("src=", "href="):
        for part in page.split(attribute)[1:]:
            assert not part.lstrip("\"'").startswith(("http", "//")), part[:80]
    for link in ("fonts.googleapis", "fonts.gstatic", "cdnjs"):
        assert link not in page
    assert "googleapis" not in server.get("gradio_api/theme.css").text
    assert server.config["analytics_enabled"] is False
    assert server.get("gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=../../../../../../etc/passwd",
        "gradio_api/file=%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "gradio_api/file=file:///etc/passwd",
        "gradio_api/file=/proc/self/environ",
        "gradio_api/file=" + str(ROOT / "pyproject.toml"),
        "gradio_api/file=pyproject.toml",
        "gradio_api/file=http://192.0.2.1/photo.jpg",
        "gradio_api/proxy=http://192.0.2.1/photo.jpg",
        "gradio_api/file/etc/passwd",
        "static/../../../../../etc/passwd",
        "static/%2e%2e/%2e%2e/%2e%2e/routes.py",
        "assets/%2e%2e/index.html",
        "gradio_api/openapi.json",
        "gradio_api/runs",
        "monitoring",
        "docs",
    ],
)
def test_no_other_path_is_answered(server: Client, path: str) -> None:
    answer = server.get(path)
    assert answer.status_code in (400, 403, 404), answer.text[:200]
    assert "root:" not in answer.text
    assert "hatchling" not in answer.text


def test_links_and_payloads_reach_no_other_file(server: Client, settings: DemoSettings) -> None:
    (upload,) = server.upload("photo.png", b"data").json()
    link = Path(upload).with_name("link.png")
    link.symlink_to("/etc/passwd")
    assert "root:" not in server.get(f"gradio_api/file={link}").text
    assert server.get(f"gradio_api/file={upload}").content == b"data"
    inside = str(Path(upload).parent / ".." / ".." / ".." / "etc" / "passwd")
    for path in (
        *("/etc/passwd", str(PHOTOS / "astronaut.png"), os.path.relpath(PHOTOS / "astronaut.png"), inside, str(link)),
        *("http://192.0.2.1/a.jpg", "ftp://192.0.2.1/a.jpg", " https://192.0.2.1/a.jpg", "a\0b", 7, {"path": 1}),
    ):
        assert server.photo(path, "reader").status_code == 400
    assert server.post("gradio_api/queue/join", content=b"[" * 100_000).status_code == 400
    assert server.get("", headers={"host": "evil.example"}).status_code == 400


def test_gradio_checks_files_too(server: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fergeneral.demo.guard.Guard._names_uploads_alone", lambda *_: True)
    for number, path in enumerate((PHOTOS / "astronaut.png", "/etc/passwd")):
        assert server.photo(str(path), f"reader{number}").status_code == 200
        answer = server.answer(f"reader{number}")
        assert '"success":false' in answer.replace(" ", "")
        assert "found" not in answer
        assert "root:" not in answer


def test_nothing_goes_past_the_queue(server: Client) -> None:
    (upload,) = server.upload("photo.png", (PHOTOS / "astronaut.png").read_bytes()).json()
    answer = server.photo(upload, "direct", "gradio_api/run/predict")
    assert answer.status_code == 404
    assert "join the queue" in answer.text
    assert server.photo("/etc/passwd", "direct", "gradio_api/run/predict").status_code == 400


def test_uploads_have_a_limit(server: Client) -> None:
    refused = server.upload("large.jpg", bytes(2**20 + 1))
    assert refused.status_code == 413
    assert "maximum allowed size" in refused.text
    assert server.upload("small.jpg", bytes(2**20)).status_code == 200
    assert server.post("gradio_api/queue/join", content=bytes(2**24 + 1)).status_code == 413


def test_twenty_at_once(server: Client) -> None:
    photos = {"three_faces.jpg": 3, "astronaut.png": 1, "coffee.png": 0}
    names = list(photos)

    def ask(number: int) -> bool:
        name = names[number % 3]
        (upload,) = server.upload(f"{number}-{name}", (PHOTOS / name).read_bytes()).json()
        joined = server.photo(upload, f"visitor{number}")
        assert joined.status_code == 200
        answer = server.answer(f"visitor{number}")
        found = {3: "3 faces found", 1: "1 face found", 0: "No face was found"}[photos[name]]
        return found in answer and '"success":true' in answer.replace(" ", "")

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(ask, range(20)))
    assert server.get("config").status_code == 200


def test_a_full_queue_says_so(server: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    (upload,) = server.upload("photo.png", (PHOTOS / "astronaut.png").read_bytes()).json()
    go_on = threading.Event()

    def slow(path: str) -> Image.Image:
        assert go_on.wait(120)
        return load_image(path)

    with monkeypatch.context() as patch:
        patch.setattr("fergeneral.demo.photo.load_image", slow)
        answers = [server.photo(upload, f"crowd{number}") for number in range(MOST_WAITING + 5)]
        go_on.set()
        statuses = [answer.status_code for answer in answers]
        assert 3 <= statuses.count(503) <= 5
        assert statuses.count(200) + statuses.count(503) == len(statuses)
        assert "Queue is full" in answers[-1].text
        assert "1 face found" in server.answer(f"crowd{statuses.count(200) - 1}")
    assert server.get("config").status_code == 200
