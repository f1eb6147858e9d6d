"""Where weights come from and go to: the packaged ones, a folder, or the Hugging Face Hub. No pickle, ever."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fergeneral.card import license_text, model_card
from fergeneral.encoder import Encoder, EncoderConfig, build_network, check_network
from fergeneral.errors import DataError, ModelError
from fergeneral.storage import whole_file

WEIGHTS_FILE = "model.safetensors"
INT8_FILE = "model.onnx"  # in its place: fergeneral.int8
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
LICENSE_FILE = "LICENSE.md"  # one of the two names that the Hub lets a card's licence link to
TRAINING_FILE = "training.json"
Record = Mapping[str, Any] | str | Path  # of an evaluation or a training run, or the path of its JSON file
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)[^)]*\)")
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


def write_card(
    folder: str | Path,
    *,
    report: Record | None = None,
    training: Record | None = None,
    notes: str | Path | None = None,
) -> Path:
    """Write the model card (README.md) and the licence it links to (LICENSE.md) beside the weights in `folder`.

    `report`: what `fergeneral.evaluate` returned, or the path of its report.json. `training`: the record of the
    training run or its path; by default `folder`/training.json, if it is there. `notes`: path of a Markdown file of
    your own on known failure modes; the pictures beside it that it shows, as ![...](FILE), are copied too.
    Returns the card's path.
    Raises DataError for a file that cannot be read or a record that does not belong to these weights.
    """
    target = Path(folder)
    config = _read_config(target)
    if training is None and (target / TRAINING_FILE).is_file():
        training = target / TRAINING_FILE
    text = None if notes is None else _read_text(Path(notes))
    card = model_card(config, report=_read_record(report), training=_read_record(training), notes=text)
    if notes is not None and text is not None:
        _copy_pictures(text, Path(notes).parent, target)
    for name, content in ((CARD_FILE, card), (LICENSE_FILE, license_text(config))):
        with whole_file(target / name) as path:
            path.write_text(content, encoding="utf-8")
    return target / CARD_FILE


def _read_record(record: Record | None) -> Mapping[str, Any] | None:
    if record is None or isinstance(record, Mapping):
        return record
    try:
        value = json.loads(_read_text(Path(record)))
    except ValueError as error:
        raise DataError(f"{record} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{record} does not hold an object; wanted the {{...}} that fergeneral wrote")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _copy_pictures(text: str, source: Path, target: Path) -> None:
    """Copy the pictures that a Markdown text in `source` shows; those with an address on the web stay there."""
    for name in _PICTURE.findall(text):
        if "://" in name:
            continue
        picture, copy = source / name, target / name
        if not (picture.is_file() and picture.resolve().is_relative_to(source.resolve())):
            raise DataError(f"the notes show {name!r}, which is not a file in {source} or below it")
        if picture.resolve() != copy.resolve():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, copy)


def list_models() -> list[str]:
    """The names of the weights that came with this package; the first is the default."""
    return [config.model_id for config in packaged_models()]


def packaged_models() -> list[EncoderConfig]:
    """The configurations of the weights that came with this package, the default's first."""
    return [_read_config(folder) for folder in _packaged_folders()]


def _packaged_folders() -> list[Path]:
    """The default's folder, then those of further models inside it, by their names."""
    weights = _weights_folder()
    if weights is None:
        return []
    return [weights, *sorted(folder.parent for folder in weights.glob(f"*/{CONFIG_FILE}"))]


def _weights_folder() -> Path | None:
    """weights/ lies inside an installed package, and beside it in a checkout."""
    here = Path(__file__).parent
    places = (here / "_weights", here.parent / "weights")
    return next((folder for folder in places if (folder / CONFIG_FILE).is_file()), None)


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
    for folder in packaged:
        if str(name_or_path) == _read_config(folder).model_id:
            return load_folder(folder, device)
    if isinstance(name_or_path, Path) or not _REPOSITORY.match(name_or_path):
        raise ModelError(
            f"{str(name_or_path)!r} is neither a folder, nor one of the packaged weights {list_models()}, "
            f"nor a Hub repository id 'owner/name'"
        )
    return load_folder(_download(name_or_path, revision, local_files_only), device)


def load_folder(folder: str | Path, device: str | None = None) -> Encoder:
    """Load model.safetensors + config.json. The bytes must have the stated SHA-256 and fit the network exactly.

    In place of model.safetensors there may be the model.onnx of an encoder in 8-bit whole numbers.
    """
    config = _read_config(Path(folder))
    path = Path(folder) / WEIGHTS_FILE
    if not path.exists() and (path.parent / INT8_FILE).exists():
        from fergeneral.int8 import load_int8

        return load_int8(path.parent, config, device)
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


def push(
    repo: str,
    state: dict[str, torch.Tensor],
    config: EncoderConfig,
    *,
    report: Record | None = None,
    training: Record | None = None,
    notes: str | Path | None = None,
) -> str:
    """Upload an encoder and its model card to a Hub repository, made if need be. Returns the address of the commit.

    The card is that of `write_card`, which describes the options; it takes the place of one that is there.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_folder(folder, state, config)
        write_card(folder, report=report, training=training, notes=notes)
        with _hub_errors(repo):
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
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _hub_errors(repo):
        config = Path(hf_hub_download(repo, CONFIG_FILE, revision=revision, local_files_only=local_files_only))
        commit = config.parent.name  # the cache's layout is snapshots/COMMIT/FILE
        try:
            hf_hub_download(repo, WEIGHTS_FILE, revision=commit, local_files_only=local_files_only)
        except LocalEntryNotFoundError:  # the Hub was not asked or not reached
            hf_hub_download(repo, INT8_FILE, revision=commit, local_files_only=True)
        except EntryNotFoundError:
            hf_hub_download(repo, INT8_FILE, revision=commit, local_files_only=local_files_only)
        return config.parent


def fetch_file(repo: str, name: str, *, local_files_only: bool = False) -> Path:
    """One file of a Hub repository: from the Hub's cache where it is there, else downloaded into it.

    Its bytes are whatever lies there: the caller must know their SHA-256.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _hub_errors(repo, f"a repository with the file {name}"):
        try:
            return Path(hf_hub_download(repo, name, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(hf_hub_download(repo, name, local_files_only=local_files_only))


_AN_ENCODER = f"an encoder of this package: it lacks {CONFIG_FILE} or {WEIGHTS_FILE}"


@contextmanager
def _hub_errors(repo: str, wanted: str = _AN_ENCODER) -> Iterator[None]:
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
            f"HF_HUB_OFFLINE and local_files_only, or pass a path on this machine: {error}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"{repo} is not {wanted}: {error}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo} is not on the Hub, or is private and needs a log-in (hf auth login): {error}"
        ) from error
    except Exception as error:  # HTTP, validation, disk and transfer errors have no base of their own in common
        raise ModelError(
            f"the Hub could not give {repo}: {error}; try again later, or pass a path on this machine"
        ) from error
