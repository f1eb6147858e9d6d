"""What other people's programs hold on to: JSON, repr, submodules, the README's commands, a torch module, tables."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import ROOT
from PIL import Image

import fergeneral
from fergeneral import Detection, ExpressionExtractor, ExpressionFeatures, Face, ModelError, TrackedFace, hub
from fergeneral.alignment import TEMPLATE
from fergeneral.cli import main
from fergeneral.drawing import draw_faces
from fergeneral.export import example_crops
from fergeneral.storage import FaceTable, read_table


def made_up_face() -> TrackedFace:
    generator = np.random.default_rng(0)
    box, landmarks, embedding = (generator.normal(size=shape).astype(np.float32) for shape in (4, (5, 2), 512))
    return TrackedFace(box, landmarks, 0.75, embedding, "m", 1.5, 3)


def test_a_face_goes_through_json_and_comes_back_exactly(extractor: ExpressionExtractor, photos: Path) -> None:
    (face,) = extractor.extract(photos / "astronaut.png")
    given = json.loads(json.dumps(face.to_dict(), allow_nan=False))
    assert list(given) == ["box", "landmarks", "score", "embedding", "model_id"]
    for name in ("box", "landmarks", "embedding"):
        back = np.array(given[name], dtype=np.float32)
        assert back.shape == getattr(face, name).shape
        assert (back == getattr(face, name)).all()
    assert (given["score"], given["model_id"]) == (face.score, face.model_id)
    assert "embedding" not in face.to_dict(embedding=False)
    assert len(json.dumps(face.to_dict(embedding=False))) < 400


def test_detections_and_tracked_faces_have_their_own_fields() -> None:
    face = made_up_face()
    detection = Detection(face.box, face.landmarks, face.score).to_dict()
    assert list(detection) == ["box", "landmarks", "score"]
    assert np.shape(detection["landmarks"]) == (5, 2)
    tracked = face.to_dict()
    assert list(tracked) == [*detection, "embedding", "model_id", "time", "track"]
    assert (tracked["time"], tracked["track"]) == (1.5, 3)
    assert json.loads(json.dumps(tracked)) == tracked


def test_float32_is_given_by_its_shortest_decimal_whatever_numpy_prints() -> None:
    numbers = np.array([0.3, 1 / 3, 1e-45, 3.4e38, 123456.7], dtype=np.float32)
    with np.printoptions(precision=2, legacy="1.13"):
        given = Face(np.zeros(4), [], np.float32(0.5), numbers, "m").to_dict()  # type: ignore[arg-type]
    assert given["embedding"] == [0.3, 0.33333334, 1e-45, 3.4e38, 123456.7]
    assert type(given["score"]) is float


@pytest.mark.parametrize(
    ("face", "shown"),
    [
        (
            made_up_face(),
            "TrackedFace(box=[0.1, -0.1, 0.6, 0.1], landmarks=<(5, 2) float32>, score=0.75, "
            "embedding=<(512,) float32>, model_id='m', time=1.5, track=3)",
        ),
        (Detection([1, 2], None, 0.98765), "Detection(box=[1, 2], landmarks=None, score=0.988)"),  # type: ignore[arg-type]
    ],
)
def test_repr_is_one_short_line(face: Detection, shown: str) -> None:
    assert repr(face) == shown


def test_modules_are_attributes_and_loaded_when_used() -> None:
    code = (
        "import sys, fergeneral\n"
        "assert set(fergeneral._MODULES) < set(dir(fergeneral))\n"
        "assert not [name for name in sys.modules if name.startswith('fergeneral.')]\n"
        "assert fergeneral.jobs.run_job and fergeneral.storage.read_table\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_the_documentation_names_are_attributes(file: Path) -> None:
    for module, name in re.findall(r"\bfergeneral\.(?!fish\b|tcsh\b)([a-z]\w*)(?:\.(\w+))?", file.read_text()):
        assert module in dir(fergeneral)
        value = getattr(fergeneral, module)
        there = not name or hasattr(value, name) or importlib.util.find_spec(f"fergeneral.{module}.{name}")
        assert there, f"{module}.{name}"


def test_the_torch_module_is_the_encoder_by_itself(extractor: ExpressionExtractor) -> None:
    encoder = extractor.encoder
    crops = example_crops(encoder.config.crop_size)
    expected = encoder.encode(crops, show_progress=False)
    module = encoder.torch_module()
    pixels = torch.from_numpy(crops)
    for form in (module, torch.nn.DataParallel(module), copy.deepcopy(module).train()):
        given = form(pixels)
        assert (given.dtype, given.requires_grad) == (torch.float32, False)
        assert given.numpy() == pytest.approx(expected, abs=1e-5)
    assert not module.training
    for parameter in module.parameters():
        parameter.zero_()
    assert (encoder.encode(crops, show_progress=False) == expected).all()


def test_the_torch_module_is_exported_and_compiled(extractor: ExpressionExtractor) -> None:
    encoder = extractor.encoder
    crops = example_crops(encoder.config.crop_size)
    expected = encoder.encode(crops, show_progress=False)
    module, pixels = encoder.torch_module(), torch.from_numpy(crops)
    program = torch.export.export(module, (pixels[:2],), dynamic_shapes=({0: torch.export.Dim("N")},))
    for count in (1, 3, 16):
        assert program.module()(pixels[:count]).numpy() == pytest.approx(expected[:count], abs=1e-5)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)  # not inductor, which needs a C++ compiler
    assert compiled(pixels).numpy() == pytest.approx(expected, abs=1e-5)


def test_int8_weights_have_no_torch_module() -> None:
    encoder = ExpressionExtractor.from_pretrained("general-r18-cycle-int8").encoder
    with pytest.raises(ModelError, match=r"use the weights it was made from, general-r18-cycle$"):
        encoder.torch_module()


def at(left: float, top: float, side: float) -> Detection:
    """A face with its landmarks where they are in a face."""
    landmarks = np.array(TEMPLATE) * side + (left, top)
    return Detection(np.array([left, top, left + side, top + side], dtype=np.float32), landmarks, 0.987)


def labelled(image: Image.Image, faces: list[Detection]) -> tuple[np.ndarray, Image.Image]:
    """Where a drawn image has the colour of lines and labels, and the image."""
    drawn = draw_faces(image, faces)
    return (np.asarray(drawn) == (255, 196, 0)).all(axis=2), drawn


@pytest.mark.parametrize("side", [60, 110, 400])
def test_labels_stand_outside_faces_and_apart(side: int) -> None:
    """Rows of faces in a crowd: no face is covered, and every label is there."""
    faces = [at(100 + x * 1.5 * side, 100 + y * 1.6 * side, side) for y in range(2) for x in range(3)]
    image = Image.new("RGB", (200 + 4 * side, 200 + 3 * side), (90, 90, 90))
    marked, drawn = labelled(image, faces)
    for face in faces:
        left, top, right, bottom = face.box.round().astype(int)
        assert not marked[top:bottom, left:right].any()
    alone = [labelled(image, [face])[0].sum() for face in faces]
    assert marked.sum() == pytest.approx(sum(alone), rel=0.1)  # digits differ in width
    assert drawn.size == image.size


@pytest.mark.parametrize("size", [(480, 320), (1500, 1000), (6000, 4000)])
def test_labels_can_be_read_where_the_photo_fills_a_screen(size: tuple[int, int]) -> None:
    """In a photo that is shown 1,500 pixels wide, a label is at least 12 pixels high, and at most 50."""
    drawn = draw_faces(Image.new("RGB", size, (90, 90, 90)), [at(size[0] * 0.4, size[1] * 0.4, size[0] * 0.03)])
    shown = np.asarray(drawn.resize((1500, 1000), Image.Resampling.BOX)).astype(int)
    label = (abs(shown - (255, 196, 0)) < 40).all(axis=2)
    assert 12 <= np.count_nonzero(label.sum(axis=1) > 15) <= 50


def test_a_face_of_few_pixels_keeps_its_mouth() -> None:
    marked, drawn = labelled(Image.new("RGB", (55, 55), (90, 90, 90)), [at(4, 4, 48)])
    factor = drawn.width // 55
    assert factor > 5
    left, top, right, bottom = (int(v * factor) for v in (12, 15, 44, 50))  # from the eyes to below the mouth
    assert not marked[top:bottom, left:right].any()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 2)])
@pytest.mark.parametrize("face", [at(0, 0, 1), at(-500, -500, 100), at(5000, 0, 10), at(-100, -100, 5000), at(1, 1, 0)])
def test_any_box_on_any_image_is_drawn(size: tuple[int, int], face: Detection) -> None:
    image = Image.new("RGB", size)
    draw_faces(image, [face, face])
    assert image.getextrema() == ((0, 0),) * 3  # a copy is drawn on


def test_photos_that_are_jpeg_are_drawn_as_jpeg(tmp_path: Path, photos: Path) -> None:
    photo = Image.open(photos / "rocket.jpg").convert("RGB").resize((3000, 2000))
    photo.save(tmp_path / "a.JPG", quality=90)
    shutil.copy(photos / "coffee.png", tmp_path / "b.png")
    arguments = ["extract", str(tmp_path / "a.JPG"), str(tmp_path / "b.png"), "--device", "cpu"]
    assert main([*arguments, "--draw", str(tmp_path / "drawn")]) == 0
    assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["a.jpg", "b.png"]
    with Image.open(tmp_path / "drawn" / "a.jpg") as drawn:
        assert (drawn.format, drawn.size) == ("JPEG", photo.size)
    assert (tmp_path / "drawn" / "a.jpg").stat().st_size < 1.5 * (tmp_path / "a.JPG").stat().st_size


def test_pyinstaller_finds_a_hook_that_collects_the_weights() -> None:
    """A program was built and run by hand: torch alone takes PyInstaller some minutes and gigabytes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["pyinstaller40"]["hook-dirs"].partition(":")
    (folder,) = getattr(importlib.import_module(module), function)()
    hook = runpy.run_path(str(Path(folder) / "hook-fergeneral.py"))
    collected = set()
    for source, target in hook["datas"] + hook["binaries"]:
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        files = folder.rglob("*") if Path(source).is_dir() else [Path(source)]
        collected |= {f"{target}/{file.relative_to(folder).as_posix()}" for file in files}
    expected = {f"fergeneral/_weights/{hub.DEFAULT_MODEL}/{name}" for name in ("model.safetensors", "config.json")}
    expected |= {f"facenet_pytorch/data/{name}net.pt" for name in "pro"}
    assert expected <= collected
    assert any(name.startswith("torchvision/") for name in collected)
    for module in hook["hiddenimports"]:
        assert importlib.util.find_spec(module), module
    assert {getattr(fergeneral, name).__module__ for name in fergeneral.__all__} <= set(hook["hiddenimports"])


def documented_columns() -> list[tuple[str, list[str], str]]:
    """Of docs/tables.md: name in Parquet, names in CSV, type."""
    text = (ROOT / "docs" / "tables.md").read_text().partition("## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    columns = []
    for name, csv_names, kind, *_ in rows:
        names = re.findall(r"`(\w+)`", csv_names)
        if "..." in csv_names:
            names = [f"embedding_{i}" for i in range(int(names[1].rpartition("_")[2]) + 1)]
        columns.append((name.strip(" `"), names, kind.strip()))
    return columns


def test_the_columns_are_those_of_the_documentation(tmp_path: Path) -> None:
    columns = documented_columns()
    for suffix in (".csv", ".parquet", ".npz"):
        with FaceTable(tmp_path / f"a{suffix}", 512, video=True) as table:
            table.add("clip.mp4", [made_up_face()])
    header = (tmp_path / "a.csv").read_text().splitlines()[0].split(",")
    assert header == [name for _, names, _ in columns for name in names]
    schema = pyarrow.parquet.read_schema(tmp_path / "a.parquet")
    assert schema.names == [name for name, _, _ in columns]
    arrow_types = {"int32": "int32", "float32": "float", "float64": "double", "string": "string"}
    for name, _, kind in columns:
        size, _, number = kind.rpartition(" x ")
        there = schema.field(name).type
        assert str(there.value_type if size else there) == arrow_types[number], name
        assert not size or there.list_size == int(size), name
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays.files == schema.names
    assert set(made_up_face().to_dict()) == set(schema.names) - {"path", "face"}


def test_csv_tables_of_version_0_1_0_are_read(tmp_path: Path) -> None:
    with FaceTable(tmp_path / "new.csv", 512) as table:
        table.add("a.jpg", [made_up_face()])
    text = (tmp_path / "new.csv").read_text()
    (tmp_path / "old.csv").write_text(re.sub(r"\bembedding_(\d+)", r"e\1", re.sub(r"\b(box|landmarks)_", "", text)))
    old, new = (read_table(tmp_path / name) for name in ("old.csv", "new.csv"))
    assert (tmp_path / "old.csv").read_text() != text
    for name, column in new.items():
        assert (column == old[name]).all(), name


def test_features_have_the_names_of_the_tables() -> None:
    names = ExpressionFeatures(device="cpu").get_feature_names_out().tolist()
    assert names == next(names for name, names, _ in documented_columns() if name == "embedding")
