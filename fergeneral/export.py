"""The encoder with its preprocessing as an ONNX file. Needs the extra: 'fergeneral[onnx]'."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fergeneral.encoder import Encoder
from fergeneral.errors import MissingExtraError, ModelError
from fergeneral.storage import check_target, whole_file

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise MissingExtraError("ONNX", "onnx and onnxruntime", "onnx") from error

TOLERANCE = 1e-4  # of each number of an embedding; float32 rounding makes 1e-6 of it with the packaged weights
_OPSET = 17  # of 2022: read by ONNX Runtime since 1.12


def export_onnx(encoder: Encoder, target: str | Path, crops: Any = None) -> float:
    """Write encoder and preprocessing as one ONNX file, whole or not at all.

    Its input "crops" is (N, S, S, 3) uint8 RGB, S = `config.crop_size`, for any N; its output "embeddings" (N, D)
    float32. Its metadata hold model_id, weights_sha256, and config: the text of config.json.
    `crops`: what `Encoder.encode` takes, to check the file on, besides made-up pictures.
    Returns the largest difference to `encode` that the check found. Raises ModelError, and writes nothing, if it
    is above 1e-4; DataError for a target that cannot be written; MissingExtraError without onnx and onnxruntime.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.export import export_onnx
    >>> encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
    >>> export_onnx(encoder, "encoder.onnx") < 1e-4
    True
    """
    path = Path(target)
    check_target(path)
    model = _with_metadata(to_onnx(encoder), encoder)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    difference = _difference(encoder, session, example_crops(encoder.config.crop_size))
    if crops is not None and len(crops):
        difference = max(difference, _difference(encoder, session, encoder.to_crops(crops)))
    if not difference <= TOLERANCE:  # so that NaN is refused, too
        raise ModelError(
            f"the ONNX model gives other embeddings than torch: they differ by {difference:.2g}, at most {TOLERANCE} "
            f"is allowed; nothing was written. Try other versions of torch, onnx and onnxruntime"
        )
    with whole_file(path) as temporary:
        temporary.write_bytes(model)
    return difference


def example_crops(size: int) -> np.ndarray:
    """(16, size, size, 3) uint8, always the same: blots of colour of all brightnesses with noise, black, and white."""
    generator = np.random.default_rng(0)
    pictures = [np.zeros((size, size, 3)), np.full((size, size, 3), 255.0)]
    for _ in range(14):
        blots = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size))
        pictures.append(np.asarray(blots) + generator.normal(generator.uniform(-60, 60), 15, (size, size, 3)))
    return np.clip(pictures, 0, 255).astype(np.uint8)


def to_onnx(encoder: Encoder) -> bytes:
    """The ONNX model's bytes. By torch's exporter on TorchScript: the newer one needs two more packages, and torch 2.4
    lacks it."""
    module = encoder.torch_module()
    example = torch.from_numpy(example_crops(encoder.config.crop_size)[:2])
    older: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that this exporter is the older one
        torch.onnx.export(
            module,
            (example,),
            str(Path(folder) / "model.onnx"),
            input_names=["crops"],
            output_names=["embeddings"],
            dynamic_axes={"crops": {0: "N"}, "embeddings": {0: "N"}},
            opset_version=_OPSET,
            **older,
        )
        return (Path(folder) / "model.onnx").read_bytes()


def _with_metadata(model: bytes, encoder: Encoder) -> bytes:
    config = encoder.config
    proto = onnx.load_from_string(model)
    proto.producer_name = "fergeneral"
    facts = {"model_id": config.model_id, "weights_sha256": config.weights_sha256, "config": config.to_json()}
    onnx.helper.set_model_props(proto, facts)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _difference(encoder: Encoder, session: Any, crops: np.ndarray) -> float:
    expected = encoder.encode(crops, show_progress=False)
    return float(np.abs(session.run(None, {"crops": crops})[0] - expected).max())
