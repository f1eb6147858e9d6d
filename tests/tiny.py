"""An encoder of a few hundred weights, so that what loads weights can be tried thousands of times."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from fergeneral.encoder import Encoder, EncoderConfig
from fergeneral.hub import CONFIG_FILE, WEIGHTS_FILE, save_folder

SIZE = 8  # of its embedding


class TinyNetwork(nn.Module):
    num_features = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, SIZE, 3, stride=4, bias=False)
        self.bn = nn.BatchNorm2d(SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu().mean(dim=(2, 3))


def use_tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever architecture a folder names, load it as this one."""
    monkeypatch.setattr("fergeneral.encoder.build_network", lambda architecture, size: TinyNetwork())


def tiny_state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return TinyNetwork().state_dict()


def save_tiny(folder: Path, seed: int = 0) -> EncoderConfig:
    return save_folder(folder, tiny_state(seed), EncoderConfig("tiny", embedding_size=SIZE, crop_size=32))


def replace_weights(folder: Path, weights: bytes | dict[str, torch.Tensor]) -> None:
    """Other weights under a right SHA-256, so that the checks after it are reached."""
    data = weights if isinstance(weights, bytes) else save(weights)
    (folder / WEIGHTS_FILE).write_bytes(data)
    values = json.loads((folder / CONFIG_FILE).read_text())
    values["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / CONFIG_FILE).write_text(json.dumps(values))


def embeds(encoder: Encoder) -> bool:
    """Whether it does what an encoder is for."""
    crops = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    embeddings = encoder.encode(crops)
    return embeddings.shape == (2, SIZE) and bool(np.isfinite(embeddings).all())
