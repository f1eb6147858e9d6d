"""int8-quantized encoders, against the float32 ones they are made from."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from fergeneral import DataError, ExpressionExtractor, MissingExtraError, ModelError, list_models
from fergeneral.cli import main
from fergeneral.encoder import EncoderConfig
from fergeneral.hub import save_folder
from fergeneral.int8 import quantize


def cut_from_photos(photos: Path, count: int, size: int) -> np.ndarray:
    """(count, size, size, 3): squares from anywhere in the example photos."""
    generator = np.random.default_rng(0)
    images = [Image.open(path).convert("RGB") for path in sorted(photos.iterdir()) if path.suffix in (".png", ".jpg")]
    crops = []
    for number in range(count):
        image = images[number % len(images)]
        side = int(generator.integers(40, min(image.size)))
        left, top = (int(generator.integers(0, limit - side + 1)) for limit in image.size)
        crops.append(np.asarray(image.resize((size, size), box=(left, top, left + side, top + side))))
    return np.stack(crops)


@pytest.fixture(scope="module")
def small(random_folder: Path) -> ExpressionExtractor:
    return ExpressionExtractor.from_pretrained(random_folder, device="cpu")


@pytest.fixture(scope="module")
def crops(small: ExpressionExtractor, photos: Path) -> np.ndarray:
    return cut_from_photos(photos, 96, small.config.crop_size)


@pytest.fixture(scope="module")
def folder(small: ExpressionExtractor, crops: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "made"
    assert 0.99 <= quantize(small.encoder, target, crops) <= 1
    return target


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_a_folder_of_int8_weights_loads_as_any_other(
    small: ExpressionExtractor, folder: Path, photos: Path, crops: np.ndarray
) -> None:
    int8 = ExpressionExtractor.from_pretrained(folder)
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    expected = dataclasses.replace(small.config, model_id="random-int8", weights_sha256=digest)
    assert int8.config == expected == EncoderConfig.from_json((folder / "config.json").read_text())
    found = int8.encode(crops)
    assert (found.dtype, found.shape) == (np.float32, (len(crops), small.config.embedding_size))
    similar = cosines(found, small.encode(crops))
    assert similar.min() > 0.98
    assert similar.max() < 1 - 1e-7  # so it is not the float network after all
    (face,) = int8.extract(photos / "astronaut.png")
    assert face.model_id == "random-int8"


def test_batching_changes_nothing(folder: Path, crops: np.ndarray) -> None:
    encoder = ExpressionExtractor.from_pretrained(folder, device="cpu").encoder
    together = encoder.encode(crops)
    alone = np.concatenate([encoder.encode(crops[i : i + 1]) for i in range(len(crops))])
    assert alone == pytest.approx(together, abs=1e-5)
    assert encoder.encode([]).shape == (0, encoder.config.embedding_size)


def test_the_packaged_int8_weights_stay_close_to_the_packaged_ones(photos: Path) -> None:
    default = list_models()[0]
    names = [f"{default}-int8", default]
    found = [
        ExpressionExtractor.from_pretrained(name, device="cpu").extract(photos / "three_faces.jpg") for name in names
    ]
    int8, full = (np.stack([face.embedding for face in faces]) for faces in found)
    assert cosines(int8, full).min() > 0.995
    assert {face.model_id for face in found[0]} == {f"{default}-int8"}


def test_what_int8_weights_cannot_do_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = ExpressionExtractor.from_pretrained(folder)
    with pytest.raises(
        ModelError, match=r"cannot be saved or exported again.*use the weights it was made from, random"
    ):
        int8.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr("fergeneral.int8.choose_device", torch.device)  # as on a machine with a GPU
    with pytest.raises(ModelError, match="runs on the CPU only"):
        ExpressionExtractor.from_pretrained(folder, device="cuda")
    assert ExpressionExtractor.from_pretrained(folder).encoder.device.type == "cpu"


def test_the_check_refuses_what_rounding_spoils(small: ExpressionExtractor, crops: np.ndarray, tmp_path: Path) -> None:
    spoilt = crops.copy()
    spoilt[::2] = 124  # ranges from flat grey, nearly the mean: everything else is then cut off
    with pytest.raises(ModelError, match="changes these embeddings too much"):
        quantize(small.encoder, tmp_path / "out", spoilt)
    with pytest.raises(DataError, match="at least 64 face crops"):
        quantize(small.encoder, tmp_path / "out", crops[:63])
    assert not (tmp_path / "out").exists()


def broken(folder: Path, target: Path, model: bytes) -> Path:
    """The folder with another model, whose SHA-256 is stated."""
    config = EncoderConfig.from_json((folder / "config.json").read_text())
    target.mkdir()
    (target / "model.onnx").write_bytes(model)
    stated = dataclasses.replace(config, weights_sha256=hashlib.sha256(model).hexdigest())
    (target / "config.json").write_text(stated.to_json())
    return target


def test_other_bytes_are_refused(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    changed = broken(folder, tmp_path / "changed", bytes(data))
    (changed / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match="SHA-256"):
        ExpressionExtractor.from_pretrained(changed)
    for name, model in (("none", b""), ("text", b"no model"), ("half", bytes(data[: len(data) // 2]))):
        with pytest.raises(ModelError, match=r"model\.onnx"):
            ExpressionExtractor.from_pretrained(broken(folder, tmp_path / name, model))


def test_another_kind_of_model_is_refused(folder: Path, tmp_path: Path) -> None:
    tensor, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node("Identity", ["a"], ["b"])
    one = tensor("a", onnx.TensorProto.FLOAT, [2]), tensor("b", onnx.TensorProto.FLOAT, [2])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [one[0]], [one[1]]), ir_version=8)
    model.opset_import[0].version = 17
    with pytest.raises(ModelError, match=r"config\.json describes"):
        ExpressionExtractor.from_pretrained(broken(folder, tmp_path / "other", model.SerializeToString()))


def test_a_model_that_points_to_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    """An ONNX file may name files that hold its numbers; such a name must not reach out of the folder."""
    secret = tmp_path / "secret"
    for place in (str(secret), "../secret"):
        model = onnx.load(folder / "model.onnx")
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        secret.write_bytes(largest.raw_data)
        onnx.external_data_helper.set_external_data(largest, place)
        largest.ClearField("raw_data")
        target = broken(folder, tmp_path / f"external{len(place)}", model.SerializeToString())
        with pytest.raises(ModelError, match=r"model\.onnx"):
            ExpressionExtractor.from_pretrained(target)


def test_the_command_line(random_folder: Path, crops: np.ndarray, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(tmp_path / "crops" / f"{number}.png")
    model, target, table = str(random_folder), str(tmp_path / "int8"), tmp_path / "faces.npz"
    assert main(["export", "--model", model, "--int8", target, "--crops", str(tmp_path / "crops")]) == 0
    assert main(["extract", str(photos / "astronaut.png"), "--model", target, "-o", str(table)]) == 0
    assert np.load(table)["model_id"].tolist() == ["random-int8"]
    assert main(["export", "--model", model, "--int8", str(tmp_path / "no")]) == 1  # without crops
    with pytest.raises(SystemExit):
        main(["export", "--model", model, "--int8", target, "--onnx", "both.onnx"])


def test_without_onnx_runtime_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fergeneral\[onnx\]'"):
        ExpressionExtractor.from_pretrained(folder)


def test_float_weights_come_first(small: ExpressionExtractor, folder: Path, tmp_path: Path) -> None:
    save_folder(tmp_path, small.encoder.state_dict(), small.config)
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    assert ExpressionExtractor.from_pretrained(tmp_path, device="cpu").config.model_id == "random"
