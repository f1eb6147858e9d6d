"""The ONNX file and ONNX Runtime as a back-end, against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from fergeneral import DataError, ExpressionExtractor, ImageError, ModelError, align_face
from fergeneral.cli import main
from fergeneral.encoder import Encoder, EncoderConfig, build_network
from fergeneral.export import example_crops, export_onnx


@pytest.fixture
def random_extractor(random_folder: Path) -> ExpressionExtractor:
    return ExpressionExtractor.from_pretrained(random_folder, device="cpu")


def plain_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def test_the_file_alone_gives_the_embeddings_of_real_faces(
    extractor: ExpressionExtractor, photos: Path, tmp_path: Path
) -> None:
    config = extractor.config
    faces = extractor.extract(photos / "three_faces.jpg")
    crops = [
        align_face(photos / "three_faces.jpg", face.landmarks, size=config.crop_size, template=config.template)
        for face in faces
    ]
    difference = export_onnx(extractor.encoder, tmp_path / "encoder.onnx", crops)
    assert 0 < difference < 1e-4
    session = plain_session(tmp_path / "encoder.onnx")
    for count in (1, 3):  # any number of crops
        (found,) = session.run(["embeddings"], {"crops": np.stack(crops[:count])})
        assert found.dtype == np.float32
        assert abs(found - [face.embedding for face in faces[:count]]).max() < 1e-4
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [config.crop_size, config.crop_size, 3])
    assert (returned.type, returned.shape[1:]) == ("tensor(float)", [config.embedding_size])


def test_the_file_says_which_weights_it_holds(random_extractor: ExpressionExtractor, tmp_path: Path) -> None:
    export_onnx(random_extractor.encoder, tmp_path / "e.onnx")
    facts = plain_session(tmp_path / "e.onnx").get_modelmeta().custom_metadata_map
    config = random_extractor.config
    assert (facts["model_id"], facts["weights_sha256"]) == ("random", config.weights_sha256)
    assert EncoderConfig.from_json(facts["config"]) == config
    onnx.checker.check_model(onnx.load(tmp_path / "e.onnx"), full_check=True)


@pytest.mark.parametrize("architecture", ["resnet34", "resnet50", "efficientnet_lite0"])
def test_other_architectures_export(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(architecture)
    config = EncoderConfig("a", architecture, network.num_features, crop_size=32)
    assert export_onnx(Encoder(network, config, "cpu"), tmp_path / "a.onnx") < 1e-4


def test_a_file_that_differs_is_not_written(
    random_extractor: ExpressionExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = random_extractor.encoder
    encode = Encoder.encode

    def wrong(self: Encoder, crops: object, **options: object) -> np.ndarray:
        return encode(self, crops, **options) + np.float32(2e-4)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "encode", wrong)
    (tmp_path / "kept.onnx").write_bytes(b"what was there")
    with pytest.raises(ModelError, match=r"differ by 0\.0002"):
        export_onnx(encoder, tmp_path / "kept.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.onnx"]
    assert (tmp_path / "kept.onnx").read_bytes() == b"what was there"
    monkeypatch.setattr(Encoder, "encode", lambda *_, **__: np.full((16, 512), np.nan, dtype=np.float32))
    with pytest.raises(ModelError, match="differ by nan"):
        export_onnx(encoder, tmp_path / "other.onnx")


def test_the_command(
    random_folder: Path, random_extractor: ExpressionExtractor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "crops").mkdir()
    generator = np.random.default_rng(0)
    for i, side in enumerate((48, 64)):
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(tmp_path / f"crops/{i}.png")
    command = ["export", "--model", str(random_folder), "--onnx"]
    assert main([*command, str(tmp_path / "e.onnx"), "--crops", str(tmp_path / "crops")]) == 0
    assert "e.onnx written; its embeddings differ by at most" in capsys.readouterr().err
    crops = example_crops(64)[:2]
    (found,) = plain_session(tmp_path / "e.onnx").run(None, {"crops": crops})
    assert abs(found - random_extractor.encode(crops)).max() < 1e-4

    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(tmp_path / "no" / "e.onnx")], f"its folder {tmp_path / 'no'} does not exist"),
        ([str(tmp_path / "f.onnx"), "--crops", str(tmp_path / "empty")], "no images in"),
    ):
        assert main([*command, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "f.onnx").exists()


def test_broken_crops_are_named(random_extractor: ExpressionExtractor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="empty"):
        export_onnx(random_extractor.encoder, tmp_path / "e.onnx", [b""])
    with pytest.raises(DataError, match="is a folder"):
        export_onnx(random_extractor.encoder, tmp_path)
    assert list(tmp_path.iterdir()) == []
