"""Where weights come from and go to: the packaged ones, a folder, or the Hugging Face Hub. No pickle, ever."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
_REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*$")


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


def list_models() -> list[str]:
    """The names of the weights that came with this package."""
    return [_read_config(folder).model_id for folder in _packaged_folders()]


def _packaged_folders() -> list[Path]:
    """weights/ lies inside an installed package, and beside it in a checkout."""
    here = Path(__file__).parent
    return [folder for folder in (here / "_weights", here.parent / "weights") if (folder / CONFIG_FILE).is_file()][:1]


def load_encoder(
    name_or_path: str | Path | None,
    revision: str | None = None,
    device: str | None = None,
    local_files_only: bool = False,
) -> Encoder:
    """Find, verify and load an encoder; the arguments are those of `ExpressionExtractor.from_pretrained`."""
    packaged = _packaged_folders()
    if name_or_path is None:
        if not packaged:
            raise ModelError("this installation has no packaged weights; give a folder or a Hub repository id")
        return load_folder(packaged[0], device)
    if os.path.isdir(name_or_path):
        return load_folder(name_or_path, device)
    if packaged and str(name_or_path) == _read_config(packaged[0]).model_id:
        return load_folder(packaged[0], device)
    if isinstance(name_or_path, Path) or not _REPOSITORY.match(name_or_path):
        raise ModelError(
            f"{str(name_or_path)!r} is neither a folder, nor one of the packaged weights {list_models()}, "
            f"nor a Hub repository id 'owner/name'"
        )
    return load_folder(_download(name_or_path, revision, local_files_only), device)


def load_folder(folder: str | Path, device: str | None = None) -> Encoder:
    """Load model.safetensors + config.json. The bytes must have the stated SHA-256 and fit the network exactly."""
    config = _read_config(Path(folder))
    path = Path(folder) / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != config.weights_sha256:
        raise ModelError(
            f"{path} is damaged or was changed: its SHA-256 is {digest}, {CONFIG_FILE} says "
            f"{config.weights_sha256!r}; get the file again"
        )
    try:
        tensors = {name: _full(tensor) for name, tensor in load_tensors(data).items()}
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
        network = build_network(config.architecture)
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the architecture {config.architecture}: {error}") from error
    check_network(network, config)
    return Encoder(network, config, device)


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def push(repo: str, state: dict[str, torch.Tensor], config: EncoderConfig) -> str:
    """Upload an encoder to a Hub repository, made if need be. Returns the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder, _hub_errors(repo):
        save_folder(folder, state, config)
        api.create_repo(repo, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Upload {config.model_id}"))


def _read_config(folder: Path) -> EncoderConfig:
    path = folder / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return EncoderConfig.from_json(text)


def _download(repo: str, revision: str | None, local_files_only: bool) -> Path:
    """Both files of one commit, in the Hub's cache."""
    from huggingface_hub import hf_hub_download

    with _hub_errors(repo):
        config = Path(hf_hub_download(repo, CONFIG_FILE, revision=revision, local_files_only=local_files_only))
        commit = config.parent.name  # the cache's layout is snapshots/COMMIT/FILE
        hf_hub_download(repo, WEIGHTS_FILE, revision=commit, local_files_only=local_files_only)
        return config.parent


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into ModelError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repo} asks for its terms to be accepted on huggingface.co, and for a log-in: {error}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repo} has no such revision: {error}") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{repo} is not in the local cache and the Hub was not asked or not reached: check the network, unset "
            f"HF_HUB_OFFLINE and local_files_only, or pass a folder: {error}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f"{repo} is not an encoder of this package: it lacks {CONFIG_FILE} or {WEIGHTS_FILE}: {error}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo} is not on the Hub, or is private and needs a log-in (hf auth login): {error}"
        ) from error
    except Exception as error:  # HTTP, validation, disk and transfer errors have no base of their own in common
        raise ModelError(f"the Hub could not give {repo}: {error}; try again later, or pass a folder") from error
