"""What other people's programs hold on to: JSON, repr, submodules, the README's commands, a torch module, tables."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import fergeneral
from fergeneral import Detection, ExpressionExtractor, Face, ModelError, TrackedFace
from fergeneral.export import example_crops


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


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_the_documentation_names_are_attributes(file: Path) -> None:
    for module, name in re.findall(r"\bfergeneral\.([a-z]\w*)(?:\.(\w+))?", file.read_text()):
        assert module in dir(fergeneral)
        value = getattr(fergeneral, module)
        assert not name or hasattr(value, name), f"{module}.{name}"


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
    encoder = ExpressionExtractor.from_pretrained("general-r18-cpu-int8").encoder
    with pytest.raises(ModelError, match=r"use the weights it was made from, general-r18-cpu$"):
        encoder.torch_module()
