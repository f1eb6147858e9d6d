"""Where weights come from and go to: the packaged ones, a folder, or the Hugging Face Hub. No pickle, ever."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fergeneral.encoder import Encoder, EncoderConfig, build_network, check_network
from fergeneral.errors import ModelError
from fergeneral.storage import whole_file

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_folder(folder: str | Path, state: dict[str, torch.Tensor], config: EncoderConfig) -> EncoderConfig:
    """Write model.safetensors (fp16) and config.json (with the weights' SHA-256), each whole or not at all."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in state.items()
    }
    data = save_tensors(tensors)
    written = dataclasses.replace(config, weights_sha256=hashlib.sha256(data).hexdigest())
    with whole_file(target / WEIGHTS_FILE) as path:
        path.write_bytes(data)
    with whole_file(target / CONFIG_FILE) as path:
        path.write_text(written.to_json(), encoding="utf-8")
    return written
