"""Weights from the package, from folders and from the Hub; the Hub is a small server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from fergeneral import ExpressionExtractor, ModelError, list_models
from fergeneral.encoder import EncoderConfig
from fergeneral.hub import CONFIG_FILE, WEIGHTS_FILE, load_folder


@pytest.fixture
def folder(random_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_folder, tmp_path / "encoder"))


def edit_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / CONFIG_FILE).read_text())
    values.update(changes)
    (folder / CONFIG_FILE).write_text(json.dumps(values))


def replace_weights(folder: Path, data: bytes) -> None:
    """Other weights with a right SHA-256, so that the checks after it are reached."""
    (folder / WEIGHTS_FILE).write_bytes(data)
    edit_config(folder, weights_sha256=hashlib.sha256(data).hexdigest())


def test_the_packaged_weights_are_named() -> None:
    (name,) = list_models()
    assert ExpressionExtractor.from_pretrained(name, device="cpu").config.model_id == name


def test_saved_weights_load_as_the_same_bytes(extractor: ExpressionExtractor, tmp_path: Path) -> None:
    extractor.save_pretrained(tmp_path / "copy")
    again = ExpressionExtractor.from_pretrained(tmp_path / "copy", device="cpu")
    assert again.config == extractor.config
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert (again.encode(crops) == extractor.encode(crops)).all()


def test_flipped_and_missing_bytes_are_noticed(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        load_folder(folder)
    (folder / WEIGHTS_FILE).write_bytes(data[:-100])
    with pytest.raises(ModelError, match="SHA-256"):
        load_folder(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_folder(folder)


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("unpickled",)


def test_a_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replace_weights(folder, pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_folder(folder)
    assert not (tmp_path / "unpickled").exists()


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    good = load((folder / WEIGHTS_FILE).read_bytes())
    missing = {name: tensor for name, tensor in good.items() if name != "conv1.weight"}
    broken = {**good, "bn1.weight": torch.full_like(good["bn1.weight"], float("nan"))}
    wrong = {**good, "bn1.weight": good["bn1.weight"][:5].clone()}
    for tensors, message in (
        (missing, "conv1.weight"),
        ({**good, "extra": torch.zeros(1)}, "extra"),
        (wrong, "size mismatch"),
        (broken, "not finite, in bn1.weight"),
    ):
        replace_weights(folder, save(tensors))
        with pytest.raises(ModelError, match=message):
            load_folder(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format_version", 99),
        ("architecture", "../../evil"),
        ("crop_size", 0),
        ("crop_size", "96"),
        ("crop_size", True),
        ("embedding_size", 128),
        ("channel_order", "BGR"),
        ("mean", [0.5, 0.5]),
        ("std", [0, 1, 1]),
        ("template", [[0, 0]] * 4),
        ("template", "here"),
        ("training_data", "rafdb"),
        ("model_id", 5),
    ],
)
def test_each_wrong_field_of_the_configuration_is_named(folder: Path, field: str, value: object) -> None:
    edit_config(folder, **{field: value})
    with pytest.raises(ModelError, match=field):
        load_folder(folder)


def test_a_broken_configuration_is_refused(folder: Path) -> None:
    edit_config(folder, surprise=1)
    with pytest.raises(ModelError, match="unknown ones"):
        load_folder(folder)
    for text in ("{", "[]", "null"):
        (folder / CONFIG_FILE).write_text(text)
        with pytest.raises(ModelError, match=r"config\.json"):
            load_folder(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_folder(folder)


def test_a_configuration_survives_its_file() -> None:
    config = EncoderConfig("a", training_data=("rafdb (train)",), weights_sha256="ab", license="research")
    assert EncoderConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder", "a/b/c", "../up", "https://huggingface.co/a/b"])
def test_what_is_neither_folder_nor_repository_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="neither a folder"):
        ExpressionExtractor.from_pretrained(name)
    with pytest.raises(ModelError, match="neither a folder"):
        ExpressionExtractor.from_pretrained(Path("no/folder"))


COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of huggingface.co for one file: HEAD for commit and ETag, then GET."""

    folder: Path
    asked: list[str]

    def _answer(self) -> bytes | None:
        self.asked.append(f"{self.command} {self.path}")
        parts = self.path.split("/")  # '', owner, name, 'resolve', revision, file
        if parts[:3] != ["", "owner", "encoder"] or len(parts) != 6:
            self._fail(404, "RepoNotFound")
        elif parts[4] not in ("main", "v1", COMMIT):
            self._fail(404, "RevisionNotFound")
        elif not (self.folder / parts[5]).is_file():
            self._fail(404, "EntryNotFound", commit=True)
        else:
            data = (self.folder / parts[5]).read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            return data
        return None

    def _fail(self, status: int, code: str, commit: bool = False) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        data = self._answer()
        if data is not None:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"folder": folder, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def load_in_new_process(cache: Path, endpoint: str, repo: str, *, offline: bool = False, **options: object) -> str:
    """Load through the real client, which reads its environment when imported. The model id, or the error's text."""
    code = (
        "import sys, json\n"
        "from fergeneral import ExpressionExtractor, ModelError\n"
        "repo, options = json.loads(sys.argv[1])\n"
        "try: print(ExpressionExtractor.from_pretrained(repo, device='cpu', **options).config.model_id)\n"
        "except ModelError as error: print('ModelError:', error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": str(int(offline))}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    command = [sys.executable, "-c", code, json.dumps([repo, options])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_weights_come_from_the_hub_and_then_from_its_cache(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    assert load_in_new_process(tmp_path, endpoint, "owner/encoder", revision="v1") == "random"
    # The weights are asked for at the commit that the configuration came from, not at a name that may have moved on.
    assert any(request.startswith("GET") and f"/{COMMIT}/{WEIGHTS_FILE}" in request for request in asked)
    asked.clear()
    assert load_in_new_process(tmp_path, endpoint, "owner/encoder", revision="v1", offline=True) == "random"
    assert load_in_new_process(tmp_path, endpoint, "owner/encoder", revision="v1", local_files_only=True) == "random"
    assert asked == []


def test_each_fault_of_the_hub_has_its_own_message(hub: tuple[str, list[str]], folder: Path, tmp_path: Path) -> None:
    endpoint, _ = hub
    assert "no such revision" in load_in_new_process(tmp_path, endpoint, "owner/encoder", revision="v9")
    assert "not on the Hub" in load_in_new_process(tmp_path, endpoint, "owner/other")
    offline = load_in_new_process(tmp_path, endpoint, "owner/encoder", offline=True)
    assert "HF_HUB_OFFLINE" in offline
    assert offline.startswith("ModelError")
    (folder / WEIGHTS_FILE).write_bytes(b"other bytes")
    assert "SHA-256" in load_in_new_process(tmp_path, endpoint, "owner/encoder")
    (folder / CONFIG_FILE).unlink()
    assert "not an encoder of this package" in load_in_new_process(tmp_path / "new", endpoint, "owner/encoder")


def test_push_uploads_what_from_pretrained_reads(
    extractor: ExpressionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []

    class Api:
        def create_repo(self, repo: str, *, exist_ok: bool) -> None:
            calls.append(("create", repo))

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            calls.append(("upload", repo_id))
            assert load_folder(folder_path, "cpu").config == extractor.config
            return "address of the commit"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert extractor.push_to_hub("owner/encoder") == "address of the commit"
    assert calls == [("create", "owner/encoder"), ("upload", "owner/encoder")]
