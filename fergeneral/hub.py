"""Where weights come from and go to: the packaged ones, a folder, or the Hugging Face Hub. No pickle, ever."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import reprlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fergeneral.card import license_text, model_card
from fergeneral.encoder import Encoder, EncoderConfig, check_network, empty_network, fill_network, ramp_crop
from fergeneral.errors import DataError, ModelError
from fergeneral.storage import CONFIG_FILE as CONFIG_FILE
from fergeneral.storage import DEFAULT_MODEL as DEFAULT_MODEL
from fergeneral.storage import read_weights, whole_file
from fergeneral.storage import weights_folder as weights_folder

WEIGHTS_FILE = "model.safetensors"
INT8_FILE = "model.onnx"  # in its place: fergeneral.int8
CARD_FILE = "README.md"
LICENSE_FILE = "LICENSE.md"  # one of the two names that the Hub lets a card's licence link to
TRAINING_FILE = "training.json"
Record = Mapping[str, Any] | str | Path  # of an evaluation or a training run, or the path of its JSON file
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_REPOSITORY = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9][A-Za-z0-9_.\-]*/[A-Za-z0-9][A-Za-z0-9_.\-]*")
_REVISION = re.compile(r"(?!/|.*(\.\.|//))[^\x00-\x20\x7f~^:?*\[\\]{1,255}")  # as git; it becomes a path in the cache
_MOST_CONFIG_BYTES = 2**20  # ours has a thousand
_MOST_WEIGHT_BYTES = 2**30  # a tenth of this is float32 weights of the largest architecture
RESEARCH_ONLY = "research only"  # what such a licence begins with, in config.json and head.json
_LOGGER = logging.getLogger("fergeneral")
_logged: dict[str, object] = {}  # SHA-256 of weights whose terms were logged in this process


def save_folder(folder: str | Path, state: dict[str, torch.Tensor], config: EncoderConfig) -> EncoderConfig:
    """Write model.safetensors (fp16) and config.json (with the weights' SHA-256), each whole or not at all."""
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in state.items()
    }
    return write_weights(folder, WEIGHTS_FILE, save_tensors(tensors), config)


def write_weights(folder: str | Path, name: str, data: bytes, config: EncoderConfig) -> EncoderConfig:
    """Write the weights' file `name` and config.json with its SHA-256, each whole or not at all; the folder is made if
    need be. Returns the configuration as written."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = dataclasses.replace(config, weights_sha256=hashlib.sha256(data).hexdigest())
    with whole_file(target / name, durable=True) as path:
        path.write_bytes(data)
    with whole_file(target / CONFIG_FILE, durable=True) as path:
        path.write_text(written.to_json(), encoding="utf-8")
    return written


def write_card(
    folder: str | Path,
    *,
    report: Record | None = None,
    training: Record | None = None,
    notes: str | Path | None = None,
    repository: str | None = None,
) -> Path:
    """Write the model card (README.md) and the licence it links to (LICENSE.md) beside the weights in `folder`.

    `report`: what `fergeneral.evaluate` returned, or the path of its report.json. `training`: the record of the
    training run or its path; by default `folder`/training.json, if it is there. `notes`: path of a Markdown file of
    your own on known failure modes; the pictures beside it that it shows, as ![...](FILE), are copied too.
    `repository`: the id of the Hub repository that the card is for, which its examples then name.
    Returns the card's path.
    Raises DataError for a file that cannot be read or a record that does not belong to these weights.
    """
    target = Path(folder)
    config = _read_config(target)
    if training is None and (target / TRAINING_FILE).is_file():
        training = target / TRAINING_FILE
    text = None if notes is None else _read_text(Path(notes))
    card = model_card(
        config, report=_read_record(report), training=_read_record(training), notes=text, repository=repository
    )
    if notes is not None and text is not None:
        _copy_pictures(_pictures(text, Path(notes).parent, target))
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


def card_files(folder: str | Path, notes: str | Path | None = None) -> list[Path]:
    """The files that `write_card` writes: the card, the licence, and copies of the pictures that the notes show."""
    target = Path(folder)
    copies = [] if notes is None else _pictures(_read_text(Path(notes)), Path(notes).parent, target)
    return [target / CARD_FILE, target / LICENSE_FILE, *(copy for _, copy in copies)]


def _pictures(text: str, source: Path, target: Path) -> list[tuple[Path, Path]]:
    """The pictures that a Markdown text in `source` shows, and their copies in `target`; not those that lie there, nor
    those with an address on the web."""
    pairs = []
    for name in _PICTURE.findall(text):
        if "://" in name:
            continue
        picture, copy = source / name, target / name
        if not (picture.is_file() and picture.resolve().is_relative_to(source.resolve())):
            raise DataError(f"the notes show {name!r}, which is not a file in {source} or below it")
        if picture.resolve() != copy.resolve():
            pairs.append((picture, copy))
    return pairs


def _copy_pictures(pairs: list[tuple[Path, Path]]) -> None:
    for picture, copy in pairs:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(copy) as path:
            shutil.copyfile(picture, path)


def list_models() -> list[str]:
    """The names of the weights that came with this package.

    Returns
    -------
    list of str
        The default first.

    Examples
    --------
    >>> from fergeneral import list_models
    >>> list_models()
    ['general-r18-cycle', 'crs-cont-cpu', 'general-r18-cycle-int8']
    """
    return [config.model_id for config in packaged_models()]


def packaged_models() -> list[EncoderConfig]:
    """The configurations of the weights that came with this package, the default's first."""
    return [_read_config(folder) for folder in _packaged_folders()]


def _packaged_folders() -> list[Path]:
    """The default's folder, then those of further models, by their names."""
    weights = weights_folder()
    if weights is None:
        return []
    folders = sorted(file.parent for file in weights.glob(f"*/{CONFIG_FILE}"))
    return sorted(folders, key=lambda folder: folder.name != DEFAULT_MODEL)


def load_encoder(
    name_or_path: str | Path | None,
    revision: str | None = None,
    device: str | None = None,
    local_files_only: bool = False,
) -> Encoder:
    """Find, verify and load an encoder; the arguments are those of `ExpressionExtractor.from_pretrained`."""
    if name_or_path is None:
        packaged = _packaged_folders()
        if not packaged:
            raise ModelError("this installation has no packaged weights; give a folder or a Hub repository id")
        return load_folder(packaged[0], device)
    folder = _local_folder(name_or_path)
    if folder is not None:
        return load_folder(folder, device)
    if not is_repository(name_or_path):
        raise ModelError(
            f"{str(name_or_path)!r} is neither a folder, nor one of the packaged weights {list_models()}, "
            f"nor a Hub repository id 'owner/name'"
        )
    return load_folder(_download(str(name_or_path), revision, local_files_only), device)


def _local_folder(name_or_path: str | Path) -> Path | None:
    """A folder as it is, or that of the packaged weights of this name; None for any other name."""
    if isinstance(name_or_path, (str, os.PathLike)) and os.path.isdir(name_or_path):
        return Path(name_or_path)
    folders = (folder for folder in _packaged_folders() if _read_config(folder).model_id == str(name_or_path))
    return next(folders, None)


def find_config(name_or_path: str | Path | None) -> EncoderConfig | None:
    """The configuration of packaged weights (None: the default's) or of a folder; None where neither is meant."""
    if name_or_path is None:
        return next(iter(packaged_models()), None)
    folder = _local_folder(name_or_path)
    return None if folder is None else _read_config(folder)


def training_record(name_or_path: str | Path) -> Mapping[str, Any] | None:
    """The training.json of packaged weights or of a folder; None where there is none, and for a Hub repository."""
    folder = _local_folder(name_or_path)
    return None if folder is None or not (folder / TRAINING_FILE).is_file() else _read_record(folder / TRAINING_FILE)


def load_folder(folder: str | Path, device: str | None = None) -> Encoder:
    """Load model.safetensors + config.json: all of it is checked, none of it is run.

    The bytes must have the SHA-256 that config.json states, the tensors the network's names, shapes and types and
    finite values, and the embedding of a crop finite values, too. Raises ModelError that says which does not hold.
    In place of model.safetensors there may be the model.onnx of an int8-quantized encoder.
    Each may be a link, as in the Hub's cache, but only to a file (not to a device, a pipe or a folder).
    """
    config = _read_config(Path(folder))
    path = Path(folder) / WEIGHTS_FILE
    if not path.exists() and path.with_name(INT8_FILE).exists():
        from fergeneral.int8 import load_int8

        path = path.with_name(INT8_FILE)
        encoder: Encoder = load_int8(path.parent, config, device)
    else:
        encoder = Encoder(_network(path, config), config, device)
    try:
        embedding = encoder.encode(ramp_crop(config.crop_size))
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise ModelError(f"{path} produced no embedding of a crop: {str(error)[:1000]}") from error
    if not np.isfinite(embedding).all():
        raise ModelError(f"{path} produced embeddings that are not finite numbers")
    log_terms(config.model_id, config.license, config.weights_sha256)
    return encoder


def log_terms(name: str, license: str, sha256: str) -> None:
    """Log at INFO level that weights are for research only, once for each of them in a process."""
    if not license.lower().startswith(RESEARCH_ONLY):
        return
    mine = object()
    if _logged.setdefault(sha256, mine) is not mine:  # one step, so that no lock has to survive a fork
        return
    _LOGGER.info("%s: %s; `fergeneral info --terms` shows the terms", name, license.partition(":")[0])


def verified_weights(path: Path, config: EncoderConfig) -> bytes:
    """The bytes of a file of weights. Raises ModelError unless they have the SHA-256 that `config` states."""
    data = read_weights(path, _MOST_WEIGHT_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != config.weights_sha256:
        raise ModelError(
            f"{path} is corrupt or was changed: its SHA-256 is {digest}, {CONFIG_FILE} says "
            f"{config.weights_sha256!r}; get the file again"
        )
    return data


def _network(path: Path, config: EncoderConfig) -> torch.nn.Module:
    data = verified_weights(path, config)
    try:
        tensors = {name: _full(tensor) for name, tensor in load_tensors(data).items()}
    except Exception as error:  # a header that lies brings out errors of many kinds
        raise ModelError(f"{path} is not a safetensors file that torch can read: {error}") from error
    network = _network_with(tensors, config, path)
    check_network(network)
    return network


def _network_with(tensors: dict[str, torch.Tensor], config: EncoderConfig, path: Path) -> torch.nn.Module:
    network = empty_network(config)
    misfit = f"{path} does not fit the architecture {config.architecture}, embedding_size {config.embedding_size}"
    for name, wanted in network.state_dict().items():
        if name in tensors and tensors[name].dtype != wanted.dtype:
            raise ModelError(f"{misfit}: {name} has the type {tensors[name].dtype}, wanted {wanted.dtype}")
    try:
        return fill_network(network, tensors, config)
    except RuntimeError as error:
        raise ModelError(f"{misfit}: {str(error)[:1000]}") from error


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
    with tempfile.TemporaryDirectory() as folder:
        save_folder(folder, state, config)
        write_card(folder, report=report, training=training, notes=notes, repository=repo)
        return upload_folder(repo, folder, f"Upload {config.model_id}")


def upload_folder(repo: str, folder: str | Path, message: str) -> str:
    """Upload the files of a folder to a Hub repository, made if need be. Returns the address of the commit.

    Raises ModelError where the Hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(repo):
        api.create_repo(repo, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))


def is_repository(name: object) -> bool:
    """Whether this is the id of a Hub repository, "owner/name"."""
    return isinstance(name, str) and _REPOSITORY.fullmatch(name) is not None


def download_files(
    repo: str, names: Sequence[str], revision: str | None, *, kind: str, local_files_only: bool = False
) -> Path:
    """Files of one commit of a Hub repository, into the Hub's cache. Returns the folder that holds them there.

    `kind`: what they are together, for messages. Raises ModelError for a repository that lacks one of them, or that
    cannot be had.
    """
    _check_revision(revision)
    first, *others = names
    with _hub_errors(repo, kind, names):
        folder = _get(repo, first, revision, local_files_only).parent
        for name in others:
            _get(repo, name, folder.name, local_files_only)  # the cache's layout is snapshots/COMMIT/FILE
    return folder


def _read_config(folder: Path) -> EncoderConfig:
    path = folder / CONFIG_FILE
    data = read_weights(path, _MOST_CONFIG_BYTES)
    try:
        return EncoderConfig.from_json(data.decode())
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def _download(repo: str, revision: str | None, local_files_only: bool) -> Path:
    """Both files of one commit, in the Hub's cache; files that were damaged there are downloaded again.

    How long a Hub that does not answer holds this up is huggingface_hub's to say. Of 2.4: 10 seconds where the cache
    has both files, else up to 6.5 minutes (one try of 10 seconds, six of 60, and 23 seconds between them), and 66
    seconds once a download gets no further. Its HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT set the 10 seconds.
    """
    _check_revision(revision)
    try:
        with _hub_errors(repo):
            folder = _get(repo, CONFIG_FILE, revision, local_files_only).parent
            commit = folder.name  # the cache's layout is snapshots/COMMIT/FILE
            weights = _get_weights(repo, commit, local_files_only)
    except ModelError as error:
        whole = _whole_commits(repo)
        if not whole:
            raise
        raise ModelError(f"{error}; the cache holds another commit whole: revision={whole[0]!r}") from error
    if not local_files_only and _is_damaged(folder / weights):
        download_again(repo, commit, CONFIG_FILE, weights)
    return folder


def _check_revision(revision: str | None) -> None:
    if revision is not None and not (isinstance(revision, str) and _REVISION.fullmatch(revision)):
        raise ModelError(f"revision {reprlib.repr(revision)} is not the name of a commit, tag or branch")


def _get_weights(repo: str, commit: str, local_files_only: bool) -> str:
    """The weights of a commit into the Hub's cache. The name of their file: model.onnx is for want of the other."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    # A path; None where the cache does not know; another object where the Hub has said that there is no such file.
    in_cache = [try_to_load_from_cache(repo, name, revision=commit) for name in (WEIGHTS_FILE, INT8_FILE)]
    if in_cache[0] is not None and not isinstance(in_cache[0], str) and isinstance(in_cache[1], str):
        return INT8_FILE  # found so before: the Hub need not be asked again
    try:
        _get(repo, WEIGHTS_FILE, commit, local_files_only)
        return WEIGHTS_FILE
    except LocalEntryNotFoundError:  # the Hub was not asked or not reached
        raise
    except EntryNotFoundError:
        _get(repo, INT8_FILE, commit, local_files_only)
        return INT8_FILE


def _get(repo: str, name: str, revision: str | None, local_files_only: bool) -> Path:
    """One file from the Hub, or from its cache where the Hub gives no answer."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=local_files_only))
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError):  # an answer; or the client looked into its cache
        raise
    except Exception:  # it does not where the line breaks
        with suppress(errors.LocalEntryNotFoundError):
            return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
        raise


def _whole_commits(repo: str) -> list[str]:
    """The commits of which the Hub's cache has both files, the newest first."""
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE, f"models--{repo.replace('/', '--')}", "snapshots")
    whole = [
        file.parent
        for name in (WEIGHTS_FILE, INT8_FILE)
        for file in snapshots.glob(f"*/{name}")
        if file.is_file() and file.with_name(CONFIG_FILE).is_file()
    ]
    return [folder.name for folder in sorted(whole, key=lambda folder: -folder.stat().st_mtime)]


def _is_damaged(weights: Path) -> bool:
    """Whether the weights are other bytes than the config.json beside them states, or that is not JSON at all."""
    try:
        stated = json.loads(read_weights(weights.with_name(CONFIG_FILE), _MOST_CONFIG_BYTES))["weights_sha256"]
        data = read_weights(weights, _MOST_WEIGHT_BYTES)
    except (ModelError, ValueError, RecursionError, TypeError, KeyError):
        return True
    return hashlib.sha256(data).hexdigest() != stated


def download_again(repo: str, commit: str, *names: str) -> None:
    """Put files of a commit into the Hub's cache, in place of corrupt copies. Raises ModelError without the Hub."""
    from huggingface_hub import hf_hub_download

    try:
        with _hub_errors(repo):
            for name in names:
                hf_hub_download(repo, name, revision=commit, force_download=True)
    except ModelError as error:
        raise ModelError(f"the copy of {repo} in the cache is corrupt, and no other could be had: {error}") from error


@contextmanager
def _hub_errors(
    repo: str, kind: str = "an encoder", names: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE)
) -> Iterator[None]:
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
        status = _status(error)
        answer = "was not asked or not reached" if status is None else f"answered HTTP {status}"
        raise ModelError(
            f"{repo} is not in the local cache and the Hub {answer}: {_way_out(status)}, or pass a path on this "
            f"machine: {error}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"{repo} is not {kind} of this package: it lacks {' or '.join(names)}: {error}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo} is not on the Hub, or is private and needs a log-in (hf auth login): {error}"
        ) from error
    except Exception as error:  # HTTP, validation, disk and transfer errors have no base of their own in common
        status = _status(error)
        way_out = "try again later" if status is None else _way_out(status)
        raise ModelError(
            f"the Hub could not give {repo}: {error}; {way_out}, or pass a path on this machine"
        ) from error


def _status(error: BaseException) -> int | None:
    """The HTTP status of what the Hub answered, if it did."""
    answers = (getattr(cause, "response", None) for cause in (error, error.__cause__))
    return next((answer.status_code for answer in answers if answer is not None), None)


def _way_out(status: int | None) -> str:
    if status is None:
        return "check the network, unset HF_HUB_OFFLINE and local_files_only"
    if status in (401, 403):
        return "log in with a token that is allowed to (hf auth login)"
    return "try again later"
