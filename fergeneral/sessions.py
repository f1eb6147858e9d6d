"""ONNX Runtime, for the networks that come as ONNX files."""

from __future__ import annotations

from typing import Any

from fergeneral.errors import MissingExtraError


def import_onnxruntime(what: str, extra: str) -> Any:
    """The module onnxruntime. Raises MissingExtraError: `what` needs it, `extra` brings it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(what, "onnxruntime", extra) from error
    return onnxruntime


def open_session(onnxruntime: Any, model: bytes) -> Any:
    """An InferenceSession on the CPU that computes in the thread that calls, and prints nothing: errors are raised."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
