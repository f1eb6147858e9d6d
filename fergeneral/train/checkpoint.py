"""The state of a run, to and from a file: safetensors, whole or not at all, no pickle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fergeneral.errors import TrainingError
from fergeneral.storage import whole_file
from fergeneral.train.config import Recipe


@dataclasses.dataclass
class Run:
    """What a checkpoint holds: the state of a run after `step` steps and `seconds` seconds of training.

    `average`: the moving average of the encoder's weights, where the recipe wants one.
    """

    recipe: Recipe
    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all, as safetensors."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        counters = {"step": self.step, "seconds": self.seconds}
        metadata = {"recipe": self.recipe.fingerprint(), "counters": json.dumps(counters)}
        with whole_file(path) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)

    def load(self, path: Path) -> None:
        """Take over a checkpoint. Raises TrainingError for a damaged one and for one of another recipe."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{path} is not a readable checkpoint: {error}") from error
        if metadata.get("recipe") != self.recipe.fingerprint():
            raise TrainingError(
                f"{path} was written by another recipe than {self.recipe.name!r} as it stands now; "
                f"train into another --out folder, or leave out --resume to start again"
            )
        for part, module in (("network.", self.network), ("average.", self.average)):
            if module is not None:
                state = {name.removeprefix(part): tensors[name] for name in tensors if name.startswith(part)}
                module.load_state_dict(state)
        parameters = dict(self.network.named_parameters())
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, key, parameter_name = name.split(".", maxsplit=2)
                parameter = parameters[parameter_name]
                if value.shape == parameter.shape:  # in the parameter's memory layout
                    value = torch.empty_like(parameter).copy_(value)
                self.optimizer.state[parameter][key] = value
        for name, value in json.loads(metadata["counters"]).items():
            setattr(self, name, value)
