"""int8-quantized encoders, for CPUs: a folder of model.onnx + config.json, run by ONNX Runtime.

Needs the extra: 'fergeneral[onnx]'. The scheme is Jacob et al., CVPR 2018, as onnxruntime.quantization carries it out:
weights are rounded by channel, activations by ranges seen on face crops. Weights take 7 bits: processors without VNNI
add pairs of products in 16 bits, which 8-bit weights overflow, and embeddings are to be the same everywhere.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fergeneral.card import INT8_SUFFIX
from fergeneral.encoder import Encoder, EncoderConfig, choose_device
from fergeneral.errors import DataError, ModelError
from fergeneral.hub import INT8_FILE, verified_weights, write_weights
from fergeneral.sessions import import_onnxruntime, open_session

MIN_COSINE = 0.99
_MIN_CROPS = 64
_BATCH = 16


class Int8Encoder(Encoder):
    """An encoder whose network is an int8-quantized ONNX model. CPU only; safe to call from several threads."""

    def __init__(self, model: bytes, config: EncoderConfig) -> None:
        """`model`: the bytes of model.onnx. Raises ModelError for a model that is not one of this package's."""
        self.config = config
        self.device = torch.device("cpu")
        self._model = model
        self._module = _Session(model, config)
        self._accelerator = threading.Lock()

    def __reduce__(self) -> tuple[type[Int8Encoder], tuple[Any, ...]]:
        """As Encoder's."""
        return type(self), (self._model, self.config)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Not there: the weights were rounded. Raises ModelError."""
        raise ModelError(
            f"{self.config.model_id} is int8-quantized and cannot be saved or exported again; "
            f"use the weights it was made from, {self.config.model_id.removesuffix(INT8_SUFFIX)}"
        )


class _Session:
    """(N, S, S, 3) uint8 -> (N, D) float32, in the thread that calls."""

    def __init__(self, model: bytes, config: EncoderConfig) -> None:
        onnxruntime = _runtime()
        try:
            self._session = open_session(onnxruntime, model)
            (given,), (returned,) = self._session.get_inputs(), self._session.get_outputs()
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise ModelError(f"{INT8_FILE} is not a model that ONNX Runtime runs: {error}") from error
        found = given.name, given.type, given.shape[1:], returned.type, returned.shape[1:]
        sizes = [config.crop_size, config.crop_size, 3], [config.embedding_size]
        wanted = "crops", "tensor(uint8)", sizes[0], "tensor(float)", sizes[1]
        if found != wanted:
            raise ModelError(f"{INT8_FILE} takes and gives {found}, config.json describes {wanted}")

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self._session.run(None, {"crops": crops.numpy()})[0])


def load_int8(folder: Path, config: EncoderConfig, device: str | None) -> Int8Encoder:
    """Load model.onnx, whose bytes must have the SHA-256 that `config` states."""
    if device is not None and choose_device(device).type != "cpu":
        raise ModelError(f"{config.model_id} runs on the CPU only, device {device!r} was asked for")
    return Int8Encoder(verified_weights(folder / INT8_FILE, config), config)


def quantize(encoder: Encoder, folder: str | Path, crops: Any) -> float:
    """Write `encoder` int8-quantized: `folder`/model.onnx and config.json, for `from_pretrained(folder)`.

    `crops`: at least 64 face crops, in any form that `Encoder.encode` takes; some hundreds of many people are better.
    Every other one gives the ranges of activations, the rest is the check. Returns the cosine similarity to the
    embeddings of `encoder` that 95 % of those reach. Raises ModelError, and writes nothing, where it is below 0.99;
    DataError for too few crops; MissingExtraError without onnx and onnxruntime.

    Examples
    --------
    >>> import numpy as np
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.int8 import quantize
    >>> encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
    >>> crops = np.load("crops.npy")  # (N, 96, 96, 3) uint8: aligned faces, some hundreds # doctest: +SKIP
    >>> quantize(encoder, "my-int8", crops)  # doctest: +SKIP
    """
    _runtime()
    if len(crops) < _MIN_CROPS:
        raise DataError(
            f"at least {_MIN_CROPS} face crops are needed to find the ranges of activations, got {len(crops)}"
        )
    pixels = encoder.to_crops(crops)
    model = _quantized(encoder, pixels[::2])
    config = dataclasses.replace(encoder.config, model_id=encoder.config.model_id + INT8_SUFFIX)
    reached = _cosine(encoder, Int8Encoder(model, config), pixels[1::2])
    if not reached >= MIN_COSINE:  # so that NaN is refused, too
        raise ModelError(
            f"int8 quantization changes these embeddings too much: 95 % of the crops reach a cosine similarity of "
            f"{reached:.4f}, wanted {MIN_COSINE}; nothing was written. Give more, and more typical, face crops"
        )
    write_weights(folder, INT8_FILE, model, config)
    return reached


def _runtime() -> Any:
    return import_onnxruntime("int8 weights", "onnx")


class _Batches:
    """What onnxruntime.quantization calls a CalibrationDataReader."""

    def __init__(self, crops: np.ndarray) -> None:
        self._batches = iter(np.split(crops, range(_BATCH, len(crops), _BATCH)))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"crops": batch}


def _quantized(encoder: Encoder, crops: np.ndarray) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from fergeneral.export import to_onnx

    with tempfile.TemporaryDirectory() as name:
        plain, prepared, result = (str(Path(name) / file) for file in ("plain.onnx", "prepared.onnx", "result.onnx"))
        Path(plain).write_bytes(to_onnx(encoder))
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            _Batches(crops),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return Path(result).read_bytes()


def _cosine(encoder: Encoder, other: Encoder, crops: np.ndarray) -> float:
    """The similarity of both encoders' embeddings that 95 % of the crops reach."""
    ours, theirs = (one.encode(crops, show_progress=False, normalize=True) for one in (encoder, other))
    return float(np.quantile((ours * theirs).sum(axis=1), 0.05))
