"""The examples run, and so do the commands and the Python of the README and of docs, as they stand."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import PHOTOS, ROOT, drawn_face
from PIL import Image
from torch.distributed.run import get_args_parser as torchrun_parser

from fergeneral import ExpressionExtractor
from fergeneral.cli import main
from fergeneral.jobs import Summary
from fergeneral.storage import FaceTable


@pytest.fixture
def photos_folder(portraits: list[Path], tmp_path: Path) -> Path:
    """Photos with a face in the layout SPLIT/LABEL/PHOTO."""
    for split in ("train", "test"):
        shutil.copytree(portraits[0].parents[1], tmp_path / "photos" / split)
    return tmp_path / "photos"


def run(*arguments: object, folder: Path = ROOT) -> str:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_extract_faces() -> None:
    assert run("examples/extract_faces.py", "examples/photos/three_faces.jpg").count("embedding (512,)") == 3


def test_classify(faces_folder: Path, photos_folder: Path) -> None:
    shutil.copy(ROOT / "examples" / "photos" / "coffee.png", photos_folder / "train" / "taken")  # without a face
    for folder, *options in ((photos_folder,), (faces_folder, "--aligned")):
        report = run("examples/classify.py", folder / "train", folder / "test", *options)
        accuracy = re.search(r"accuracy\s+([\d.]+)", report)
        assert accuracy
        assert float(accuracy[1]) > 0.8
        assert f"{folder / 'train'}: {8 if folder is photos_folder else 64} of" in report


def test_own_detector() -> None:
    similarity = re.search(r"finds: ([\d.]+)", run("examples/own_detector.py", "examples/photos/astronaut.png"))
    assert similarity
    assert float(similarity[1]) > 0.9


def test_teach_expression(tmp_path: Path) -> None:
    arguments = ("examples/london", tmp_path / "my-head", "examples/photos/astronaut.png")
    printed = run("examples/teach_expression.py", *arguments)
    assert "on 24 faces in 2 classes" in printed
    assert printed.splitlines()[-1].startswith("smiling 0.")


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text()
    for example in (ROOT / "examples").glob("*.py"):
        assert f'"examples/{example.name}"' in tests


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page_name(file: Path) -> str:
    """Of a page of docs, with the folders that it lies in; of README.md, its own."""
    return file.relative_to(ROOT).as_posix().removeprefix("docs/")


def snippets(file: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", file.read_text(), flags=re.DOTALL)


# Their Python is run as it stands, block by block; that of the others by tests of their own below.
PYTHON = [
    pytest.param(code, id=f"{file.name}, {number}")
    for file in DOCUMENTS
    if page_name(file) in ("README.md", "extending.md", "index.md", "scikit-learn.md", "videos.md")
    for number, code in enumerate(snippets(file))
]


def test_the_documents_have_their_python() -> None:
    assert len(PYTHON) == 8


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qscale": "2"})
        stream.width = stream.height = 512
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_image(Image.open(ROOT / "examples" / "photos" / "astronaut.png").convert("RGB"))
        for number in range(10):
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.mark.parametrize("code", PYTHON)
def test_the_documents_python_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if "my_photos" in code:
        write_photos(tmp_path / "my_photos")
    if "clip.mp4" in code:
        write_video(tmp_path / "clip.mp4")
    shutil.copytree(PHOTOS, "examples/photos")
    shutil.copytree(ROOT / "examples" / "london", "examples/london")
    exec(compile(code, "document", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert printed
    if "extract_video" in code:
        assert [float(line.split()[0]) for line in printed.splitlines()] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
        assert printed.count("[(0, 0.9") == 5


@pytest.mark.parametrize("file", DOCUMENTS, ids=page_name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", file.read_text()):
        link = target[0] or target[1]
        built = page_name(file) == "reference/index.md" and link == "command-line.md"  # by scripts/site_hooks.py
        assert built or link.startswith("https://") or (file.parent / link).exists(), link


def write_photos(folder: Path) -> None:
    """Photos in the layout SPLIT/LABEL/IMAGE, of two labels that differ: in one the photo is much darker."""
    photo = Image.open(PHOTOS / "astronaut.png").convert("RGB").crop((110, 0, 340, 230))
    for split, count in (("train", 3), ("test", 1)):
        for label, light in (("day", 1.0), ("night", 0.5)):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                photo.point(lambda value, share=light - i / 20: round(value * share)).save(
                    folder / split / label / f"{i}.png"
                )


def commands(file: Path) -> list[str]:
    """The lines of a document's ```sh blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", file.read_text(), flags=re.DOTALL)
    return [
        line for block in blocks for line in (line.partition("  #")[0].strip() for line in block.splitlines()) if line
    ]


# Not run here, but parsed by what would run them: a cluster has to be there, or training takes minutes to hours.
PARSED = ("--engine ray", "fergeneral.train")
# Neither: `pip install` is run by .ci/run (the two lines with &&), benchmarks need the data sets and take minutes, and
# web servers run until they are stopped.
NOT_PARSED = (
    "pip install",
    "pip download",
    "python benchmarks/",
    "python scripts/",
    "OMP_NUM_THREADS=1 uvicorn",
    "OMP_NUM_THREADS=1 gunicorn",
)
# Documents whose commands are run, in their order.
RUN = ("README.md", "command-line.md", "extending.md", "groups.md", "jobs.md")
RUN_COMMANDS = [
    (file.stem, line)
    for file in DOCUMENTS
    if page_name(file) in RUN
    for line in commands(file)
    if line.startswith("fergeneral ")
]


@pytest.fixture(scope="module")
def named_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small stand-ins for the files that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(PHOTOS, folder / "PHOTOS")
    shutil.copytree(ROOT / "examples" / "london", folder / "FACES")
    people = (folder / "FACES" / "manifest.csv").read_text()
    (folder / "PEOPLE.csv").write_text(re.sub(r"^(neutral|smiling)/", r"FACES/\1/", people, flags=re.MULTILINE))
    shutil.copy(ROOT / "examples" / "london" / "smiling" / "136.jpg", folder / "FACE.jpg")
    write_video(folder / "CLIP.mp4")
    generator = np.random.default_rng(0)
    for data in ("RAFDB", "FERPLUS", "CKPLUS"):
        for split, count in (("train", 12), ("test", 4)):
            for label, curve in (("happiness", 1.0), ("sadness", -1.0), ("surprise", 3.0)):
                (folder / data / split / label).mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(drawn_face(curve, generator)).save(folder / data / split / label / f"{i}.png")
    (folder / "CROPS").mkdir()
    for i in range(64):
        Image.fromarray(drawn_face(i % 3 - 1, generator)).save(folder / "CROPS" / f"{i}.png")
    (folder / "SHARDS").mkdir()
    with tarfile.open(folder / "SHARDS" / "0.tar", "w") as tar:
        tar.add(PHOTOS / "astronaut.png", "a.png")
    ExpressionExtractor.from_pretrained(device="cpu").save_pretrained(folder / "runs" / "mine")
    return folder


@pytest.mark.parametrize(("document", "command"), RUN_COMMANDS)
def test_the_documents_commands_run(
    document: str, command: str, named_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, in one folder per document. In this process, since each of its own would load torch first."""
    folder = named_files.parent / f"{named_files.name}-{document}"
    if not folder.exists():
        shutil.copytree(named_files, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(named_files / "cache"))
    asked: list[dict[str, Any]] = []
    if PARSED[0] in command:

        def extract_dataset(*_: object, **options: Any) -> Summary:
            asked.append(options)
            return Summary()

        monkeypatch.setattr("fergeneral.distributed.extract_dataset", extract_dataset)
    words = [name for word in shlex.split(command)[1:] for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    assert main(words) == 0
    for output in re.findall(r"(?:-o|--draw|--save-crops|--onnx|--int8|--plot|--sheet) (\S+)", command):
        assert asked or Path(output).exists(), output
    assert [options["address"] for options in asked] == (["auto"] if PARSED[0] in command else [])


@pytest.mark.parametrize(
    "command",
    [line for file in DOCUMENTS for line in commands(file) if PARSED[1] in line and "--data DATA" in line],
)
def test_training_commands_are_parsed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fergeneral.train import __main__ as module

    (tmp_path / "DATA").mkdir()
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "train", lambda recipe, data, out, **_: asked.append((recipe.name, data)))
    program, *words = shlex.split(command)
    if program == "torchrun":
        options = torchrun_parser().parse_args(words)
        assert options.module
        name, words = options.training_script, options.training_script_args
    else:
        assert (program, words.pop(0)) == ("python", "-m")
        name = words.pop(0)
    assert name == "fergeneral.train"
    module.main(words)
    assert asked == [(words[words.index("--recipe") + 1], "DATA")]


@pytest.mark.parametrize("file", DOCUMENTS, ids=page_name)
def test_every_command_is_one_of_these(file: Path) -> None:
    guide = page_name(file).startswith(("tutorials/", "how-to/"))  # run by tests/test_guides.py
    ran = "fergeneral " if guide or page_name(file) in (*RUN, "classifier.md") else NOT_PARSED[0]
    for command in commands(file):
        assert command.startswith((ran, *NOT_PARSED)) or PARSED[1] in command, command


@pytest.mark.parametrize("file", DOCUMENTS, ids=page_name)
def test_pip_is_told_to_install_what_there_is(file: Path) -> None:
    """No registry has this package: it is installed from the clone, with extras that there are."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = re.findall(r"pip install (?:'([^']+)'|(\S+))", file.read_text())
    assert installs or page_name(file) != "README.md"
    for quoted, bare in installs:
        name, _, wanted = (quoted or bare.strip("`")).rstrip("]").partition("[")
        assert not name.startswith("fergeneral"), name
        assert not wanted or set(wanted.split(",")) <= set(extras), wanted


@pytest.mark.parametrize("code", snippets(ROOT / "docs" / "tables.md"))
def test_the_snippets_that_read_tables(
    code: str,
    extractor: ExpressionExtractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    faces = extractor.extract(PHOTOS / "three_faces.jpg")
    for suffix in (".parquet", ".csv"):
        with FaceTable(f"faces{suffix}", 512) as table:
            table.add("a.jpg", faces)
    exec(compile(code, "tables.md", "exec"), {})
    assert "(3, 512)" in capsys.readouterr().out


def test_the_snippets_and_the_command_of_classifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples")
    fit, from_lists = snippets(ROOT / "docs" / "classifier.md")
    exec(compile(fit, "classifier.md", "exec"), {})
    printed = capsys.readouterr().out
    (shown,) = re.findall(r"```\n(logistic.*?)```", (ROOT / "docs" / "classifier.md").read_text(), flags=re.DOTALL)
    numbers, wanted = (re.findall(r"\d+\.\d+", text) for text in (printed, shown))
    assert [float(number) for number in numbers[: len(wanted)]] == pytest.approx(list(map(float, wanted)), abs=0.05)
    assert "\nsmiling 0." in printed
    exec(compile(from_lists, "classifier.md", "exec"), {})
    assert capsys.readouterr().out.startswith("0.8")
    shutil.rmtree("my-head")
    (command,) = commands(ROOT / "docs" / "classifier.md")
    assert main(shlex.split(command)[1:]) == 0
    assert Path("my-head", "head.safetensors").is_file()


def test_the_snippets_with_worker_processes(tmp_path: Path) -> None:
    """As one script: each part has its own processes."""
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        shutil.copy(PHOTOS / "three_faces.jpg", tmp_path / "photos" / f"{name}.jpg")
    parts = [code for code in snippets(ROOT / "docs" / "serving.md") if "__main__" in code]
    assert len(parts) == 3
    (tmp_path / "script.py").write_text("\n".join(parts))
    printed = run("script.py", folder=tmp_path).splitlines()
    assert printed == ["a.jpg 3", "b.jpg 3"] * 2 + ["torch.Size([2, 512])"]


def test_the_snippet_that_exports_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (code for code in snippets(ROOT / "docs" / "serving.md") if "torch_module" in code)
    exec(compile(code, "serving.md", "exec"), {})
    module = torch.export.load("encoder.pt2").module()
    assert module(torch.zeros(3, 96, 96, 3, dtype=torch.uint8)).shape == (3, 512)


def test_the_web_server(extractor: ExpressionExtractor) -> None:
    from fastapi.testclient import TestClient

    names: dict[str, Any] = {}
    (code,) = (code for code in snippets(ROOT / "docs" / "serving.md") if "FastAPI" in code)
    exec(compile(code, "serving.md", "exec"), names)
    client = TestClient(names["app"])
    photo = PHOTOS / "three_faces.jpg"
    given = client.post("/faces", files={"photo": photo.read_bytes()}).json()
    for face, expected in zip(given, extractor.extract(photo), strict=True):
        assert np.array(face["embedding"], dtype=np.float32) == pytest.approx(expected.embedding, abs=1e-4)
    assert "embedding" not in client.post("/faces?embedding=0", files={"photo": photo.read_bytes()}).json()[0]
    refused = client.post("/faces", files={"photo": b"no photo"})
    assert refused.status_code == 422
    assert "not an image" in refused.json()["detail"]
