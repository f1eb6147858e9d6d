"""Weights from the package, from folders and from the Hub; the Hub is a small server on this machine.

What is wrong with weights and with the Hub is in test_weights.py and test_hub_faults.py.
"""

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
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from huggingface_hub import ModelCard
from safetensors.torch import load, save

from fergeneral import DataError, ExpressionExtractor, ModelError, hub, list_models
from fergeneral.cli import main
from fergeneral.encoder import EncoderConfig, build_network
from fergeneral.heads import Head
from fergeneral.hub import CONFIG_FILE, WEIGHTS_FILE, load_folder, save_folder, write_card


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


def test_the_packaged_weights_are_named_and_hold_what_their_folder_says(extractor: ExpressionExtractor) -> None:
    names = list_models()
    assert names[0] == extractor.config.model_id
    assert len(set(names)) == len(names)
    for name in names:
        assert ExpressionExtractor.from_pretrained(name, device="cpu").config.model_id == name
    folders = [file.parent.name for file in (ROOT / "weights").glob(f"*/{CONFIG_FILE}")]
    assert sorted(folders) == sorted(names)


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three packaged models, each of other weights and another crop size."""
    weights = tmp_path / "weights"
    for seed, (name, size) in enumerate([("main", 96), ("z-wide", 128), ("a-low", 48)]):
        torch.manual_seed(seed)
        config = EncoderConfig(name, crop_size=size, training_data=("rafdb (train)",))
        save_folder(weights / name, build_network("resnet18").state_dict(), config)
    monkeypatch.setattr(hub, "weights_folder", lambda: weights)
    monkeypatch.setattr(hub, "DEFAULT_MODEL", "main")
    return weights


def test_of_several_packaged_models_each_is_found_by_its_name(packaged: Path) -> None:
    assert list_models() == ["main", "a-low", "z-wide"]
    assert ExpressionExtractor.from_pretrained(device="cpu").config.model_id == "main"
    for name in ("main", "a-low", "z-wide"):
        folder = packaged / name
        found = ExpressionExtractor.from_pretrained(name, device="cpu")
        assert found.config.model_id == name
        assert found.config.weights_sha256 == hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=r"neither a folder.*'main', 'a-low', 'z-wide'"):
        ExpressionExtractor.from_pretrained("a-lo")


def test_packaged_models_are_listed_with_their_sizes(packaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["model", "crop", "embedding", "default", "trained", "on"],
        ["main", "96", "512", "yes", "rafdb", "(train)"],
        ["a-low", "48", "512", "rafdb", "(train)"],
        ["z-wide", "128", "512", "rafdb", "(train)"],
    ]


def test_a_broken_further_model_does_not_keep_the_default_from_loading(packaged: Path) -> None:
    (packaged / "a-low" / CONFIG_FILE).write_text("{")
    assert ExpressionExtractor.from_pretrained(device="cpu").config.model_id == "main"
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON"):
        list_models()


def test_an_installation_without_weights_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "weights_folder", lambda: None)
    assert list_models() == []
    assert main(["models"]) == 0
    assert "no packaged weights" in capsys.readouterr().out
    with pytest.raises(ModelError, match="no packaged weights"):
        ExpressionExtractor.from_pretrained()


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
def server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"folder": folder, "asked": asked})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_address[1]}", asked
    listening.shutdown()
    listening.server_close()


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


def test_weights_come_from_the_hub_and_then_from_its_cache(server: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = server
    offline = load_in_new_process(tmp_path, endpoint, "owner/encoder", offline=True)
    assert offline.startswith("ModelError")
    assert "HF_HUB_OFFLINE" in offline
    assert load_in_new_process(tmp_path, endpoint, "owner/encoder", revision="v1") == "random"
    # The weights are asked for at the commit that the configuration came from, not at a name that may have moved on.
    assert any(request.startswith("GET") and f"/{COMMIT}/{WEIGHTS_FILE}" in request for request in asked)
    asked.clear()
    assert load_in_new_process(tmp_path, endpoint, "owner/encoder", revision="v1", offline=True) == "random"
    assert load_in_new_process(tmp_path, endpoint, "owner/encoder", revision="v1", local_files_only=True) == "random"
    assert asked == []


def report_of(config: EncoderConfig) -> dict[str, Any]:
    metrics = {"accuracy": 0.8123, "uar": 0.7, "macro_f1": 0.69, "recall": {"fear": 0.4}, "n": 3068}
    intervals = {name: [0.6, 0.9] for name in ("accuracy", "uar", "macro_f1")}
    cell = {
        "system": config.model_id,
        "train": "rafdb",
        "test": "rafdb",
        "status": "held-out",
        "near_duplicates": "out",
    }
    return {
        "model": {"model_id": config.model_id, "weights_sha256": config.weights_sha256},
        "environment": {"date": "2026-11-24"},
        "seed": 0,
        "linear_probe": [{**cell, **metrics, "intervals": intervals}],
    }


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Notes with a picture beside them and one on the web."""
    (tmp_path / "notes" / "pictures").mkdir(parents=True)
    (tmp_path / "notes" / "pictures" / "tilted.png").write_bytes(b"a picture")
    text = '### Tilted\n\n![tilted](pictures/tilted.png "by 45 degrees") ![far](https://example.org/far.png)\n'
    (tmp_path / "notes" / "notes.md").write_text(text)
    return tmp_path / "notes" / "notes.md"


class Api:
    """A stand-in for huggingface_hub.HfApi that keeps what is uploaded."""

    calls: list[tuple[str, str]]
    uploaded: Path

    def create_repo(self, repo: str, *, exist_ok: bool) -> None:
        self.calls.append(("create", repo))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        self.calls.append(("upload", repo_id))
        shutil.copytree(folder_path, self.uploaded)
        return "address of the commit"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Api]:
    stand_in = type("StandIn", (Api,), {"calls": [], "uploaded": tmp_path / "uploaded"})
    monkeypatch.setattr("huggingface_hub.HfApi", stand_in)
    return stand_in


def test_push_uploads_what_from_pretrained_reads_with_its_card(
    extractor: ExpressionExtractor, api: type[Api], notes: Path
) -> None:
    report = report_of(extractor.config)
    assert extractor.push_to_hub("owner/encoder", report=report, notes=notes) == "address of the commit"
    assert api.calls == [("create", "owner/encoder"), ("upload", "owner/encoder")]
    assert load_folder(api.uploaded, "cpu").config == extractor.config
    card = ModelCard.load(api.uploaded / "README.md")
    assert [result.metric_value for result in card.data.eval_results] == [0.8123, 0.7, 0.69]
    assert (api.uploaded / card.data.license_link).read_text().startswith("# Licence of the weights")
    assert (api.uploaded / "pictures" / "tilted.png").read_bytes() == b"a picture"
    names = {path.name for path in api.uploaded.iterdir()}
    assert names == {WEIGHTS_FILE, CONFIG_FILE, "README.md", "LICENSE.md", "pictures"}


def test_push_without_a_report_uploads_the_terms_all_the_same(extractor: ExpressionExtractor, api: type[Api]) -> None:
    extractor.push_to_hub("owner/encoder")
    card = ModelCard.load(api.uploaded / "README.md")
    assert card.data.license_name == "research-only"
    assert card.data.eval_results is None
    assert "Not measured" in card.text


def test_nothing_is_uploaded_with_a_report_of_other_weights(extractor: ExpressionExtractor, api: type[Api]) -> None:
    report = report_of(EncoderConfig("other", weights_sha256="ab"))
    with pytest.raises(DataError, match="the report is of other"):
        extractor.push_to_hub("owner/encoder", report=report)
    assert api.calls == []


def test_a_failed_upload_is_an_error_of_the_model(
    extractor: ExpressionExtractor, api: type[Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(api, "create_repo", refuse)
    with pytest.raises(ModelError, match=r"owner/encoder.*no route to host"):
        extractor.push_to_hub("owner/encoder")


def test_push_uploads_a_head_with_its_card(api: type[Api]) -> None:
    head = Head.from_pretrained()
    assert head.push_to_hub("owner/head") == "address of the commit"
    assert api.calls == [("create", "owner/head"), ("upload", "owner/head")]
    assert Head.from_pretrained(api.uploaded).sha256 == head.sha256
    card = ModelCard.load(api.uploaded / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    for name, row in head.config.quality.items():  # each number of the card is one of head.json
        assert f"| {name} | {row['status']} | {row['n']} | {row['accuracy']:.3f} (" in card.text


def test_saving_writes_a_card_when_asked(extractor: ExpressionExtractor, tmp_path: Path) -> None:
    extractor.save_pretrained(tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {WEIGHTS_FILE, CONFIG_FILE}
    (tmp_path / "report.json").write_text(json.dumps(report_of(extractor.config)))
    extractor.save_pretrained(tmp_path / "with", report=tmp_path / "report.json")
    assert "0.812 (0.600-0.900)" in (tmp_path / "with" / "README.md").read_text()
    assert load_folder(tmp_path / "with", "cpu").config == extractor.config


def test_the_command_writes_a_card_with_the_training_record_of_the_folder(
    folder: Path, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report_of(load_folder(folder, "cpu").config)))
    recipe = {"architecture": "resnet18", "crop_size": 64, "name": "small", "stages": [{"pixels": 64, "share": 1.0}]}
    recipe.update(objective="simclr", optimizer="sgd", learning_rate=0.5, batch_size=8)
    record = {"recipe": recipe, "command": "train it", "minutes": 3, "device": "NVIDIA H200", "images": {"rafdb": 80}}
    record.update(steps=10, images_drawn=80, torch="2.14.1", date="2026-11-24", started_from="another model")
    (folder / "training.json").write_text(json.dumps(record))
    arguments = ["card", str(folder), "--report", str(tmp_path / "report.json"), "--notes", str(notes)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    card = (folder / "README.md").read_text()
    for text in ("3 GPU-minutes", "another model", "0.812 (0.600-0.900)", "### Tilted"):
        assert text in card
    assert (folder / "pictures" / "tilted.png").is_file()
    # The card can be written again, with notes that lie in the folder itself.
    shutil.copy(notes, folder / "notes.md")
    assert main(["card", str(folder), "--notes", str(folder / "notes.md"), "--overwrite"]) == 0
    assert (folder / "pictures" / "tilted.png").read_bytes() == b"a picture"


def test_files_of_a_card_that_cannot_be_read_are_named(folder: Path, notes: Path, tmp_path: Path) -> None:
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", "does not hold an object"),
        ("{}", "lacks the field 'model'"),
    ):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(DataError, match=message):
            write_card(folder, report=tmp_path / "report.json")
    with pytest.raises(DataError, match=r"no\.json cannot be read"):
        write_card(folder, report=tmp_path / "no.json")
    for picture in ("no.png", "../report.json"):
        notes.write_text(f"![a]({picture})")
        with pytest.raises(DataError, match=f"the notes show '{picture}'"):
            write_card(folder, notes=notes)
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        write_card(tmp_path / "nowhere")
    assert not (folder / "README.md").exists()
