"""The state of a run, to and from a file: safetensors with a checksum, whole or not at all, no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fergeneral.errors import TrainingError
from fergeneral.storage import whole_file
from fergeneral.train.config import Recipe

_NO_DIGEST = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


@dataclasses.dataclass
class Run:
    """What a checkpoint holds: the state of a run after `step` steps and `seconds` seconds of training.

    `data`: TrainingSet.fingerprint() of its images. `average`: the moving average of the encoder's weights, where
    the recipe wants one. No state of a random generator is in it: what is random in a step is drawn from the
    recipe's seed and the number of the step (see `train`), on any number of processes.
    """

    recipe: Recipe
    data: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None
    step: int = 0
    seconds: float = 0.0
    _newest_is_damaged: bool = False

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all; the one before it is kept as `previous_of(path)`.

        The folder needs room for three checkpoints, of which two stay. A crash at any moment leaves at least one whole
        checkpoint, if there was one, and so does a full disk, for which OSError is raised. Raises TrainingError for
        weights that are not finite.
        """
        self._check_finite()
        tensors = {f"{part}{name}": value for part, of in self._modules() for name, value in of.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        metadata = {
            "sha256": _NO_DIGEST,
            "recipe": json.dumps(self.recipe.as_json()),
            "data": self.data,
            "counters": json.dumps({"step": self.step, "seconds": self.seconds}),
        }
        content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)
        for torn in path.parent.glob(f".*.{path.name}"):  # of a process that was killed while it wrote
            torn.unlink(missing_ok=True)
        with whole_file(path, durable=True) as temporary:
            temporary.write_bytes(seal(content))
            if path.exists() and not self._newest_is_damaged:
                os.replace(path, previous_of(path))
        self._newest_is_damaged = False

    def load(self, path: Path) -> str:
        """Take over the checkpoint at `path` or, if it is corrupt or missing, the one before it.

        Returns a line that says which. Raises TrainingError where neither is whole, and for a checkpoint of another
        recipe, other data or another network.
        """
        reasons: list[str] = []
        for file in (path, previous_of(path)):
            try:
                tensors, metadata = read_checkpoint(file)
            except TrainingError as error:
                reasons.append(str(error))
                continue
            self._check_origin(file, metadata)
            self._take_over(file, tensors, metadata["counters"])
            self._newest_is_damaged = bool(reasons) and path.exists()
            return "; ".join([*reasons, f"going on from step {self.step} in {file}"])
        raise TrainingError(f"there is no whole checkpoint: {'; '.join(reasons)}; start again in another --out folder")

    def _modules(self) -> list[tuple[str, nn.Module]]:
        return [("network.", self.network), *([("average.", self.average)] if self.average is not None else [])]

    def _check_finite(self) -> None:
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise TrainingError(
                    f"{name} is not finite at step {self.step}, which is therefore not saved; the last checkpoint is "
                    f"kept; try a lower learning rate"
                )

    def _check_origin(self, file: Path, metadata: dict[str, Any]) -> None:
        differences = self.recipe.differences(metadata["recipe"])
        if differences:
            raise TrainingError(
                f"{file} was written by another recipe than {self.recipe.name!r} as it stands now "
                f"({'; '.join(differences)}); go on with that one, or choose another --out folder"
            )
        if metadata["data"] != self.data:
            raise TrainingError(
                f"{file} was written with other data ({metadata['data']}) than --data holds now ({self.data}); "
                f"go on with those, or choose another --out folder"
            )

    def _take_over(self, file: Path, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        parameters = dict(self.network.named_parameters())
        states: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
        try:
            for part, module in self._modules():
                module.load_state_dict({n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)})
            for name in tensors:
                if name.startswith("optimizer."):
                    _, key, of = name.split(".", maxsplit=2)
                    states[of][key] = _laid_out_as(parameters[of], tensors[name])
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(f"{file} does not fit the recipe's network: {error}") from error
        groups = self.optimizer.state_dict()["param_groups"]
        kept = {number: state for number, state in enumerate(states.values()) if state}
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        self.step, self.seconds = counters["step"], counters["seconds"]


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_stem(f"{path.stem}-previous")


def checkpoint_exists(path: Path) -> bool:
    """Whether there is a checkpoint to go on from, damaged or not, at `path` or before it."""
    return path.exists() or previous_of(path).exists()


def seal(content: bytes) -> bytes:
    """A safetensors file with its SHA-256 in its header, in the place of 64 zeros with which it was taken."""
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(f'"sha256":"{_NO_DIGEST}"'.encode(), f'"sha256":"{digest}"'.encode(), 1)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, its checksum checked, and its metadata: recipe (dict), data (str), counters (dict).

    Raises TrainingError, in whose message the file and what is wrong with it stand.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing") from error
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror})") from error
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    found = _DIGEST.search(header)
    if found is None:
        raise TrainingError(f"{path} is corrupt (no checksum in it)")
    start, end = (8 + position for position in found.span(1))
    digest = hashlib.sha256(content[:start] + _NO_DIGEST.encode())
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != found[1]:
        raise TrainingError(f"{path} is corrupt (its checksum is wrong)")
    try:
        return load(content), _parse(json.loads(header)["__metadata__"])
    except Exception as error:  # whole but not ours: safetensors and json raise errors of many kinds
        raise TrainingError(f"{path} is not a checkpoint ({error!r})") from error


def _parse(metadata: dict[str, str]) -> dict[str, Any]:
    recipe, counters = json.loads(metadata["recipe"]), json.loads(metadata["counters"])
    step, seconds = counters["step"], counters["seconds"]
    if not (isinstance(recipe, dict) and type(step) is int and step >= 0 and math.isfinite(seconds) and seconds >= 0):
        raise ValueError("recipe, step or seconds")
    return {"recipe": recipe, "data": metadata["data"], "counters": counters}


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A tensor of an optimiser's state as that keeps it: a scalar, or in its parameter's shape and memory layout."""
    if value.dim() == 0:
        return value
    if value.shape != parameter.shape:
        raise ValueError(f"a state of shape {tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}")
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
