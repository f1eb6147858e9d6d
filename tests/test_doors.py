"""The weights through timm, transformers and torch.hub: the embeddings of the encoder itself, to 1e-4.

The Hub is a server on this machine, to which the real client pushes, and from which the real libraries load.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import inspect
import json
import os
import re
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
import timm
import torch
import yaml
from conftest import PHOTOS, ROOT
from huggingface_hub import ModelCard, ModelCardData, constants
from PIL import Image
from test_hub import report_of
from transformers import AutoImageProcessor, AutoModel, pipeline

from fergeneral import ExpressionExtractor, ModelError
from fergeneral.card import model_card
from fergeneral.encoder import EncoderConfig, build_network
from fergeneral.hub import load_folder, save_folder

TOLERANCE = 1e-4  # of each number of an embedding, of which the largest are about 2
WEIGHTS = ROOT / "weights"
FLOAT = sorted(path.parent.name for path in WEIGHTS.glob("*/model.safetensors"))
DOCUMENT = ROOT / "docs" / "how-to" / "timm-transformers.md"


@pytest.fixture(scope="module")
def crops(extractor: ExpressionExtractor) -> np.ndarray:
    """Aligned crops of faces in London and example photos: (N, 96, 96, 3) uint8."""
    photos = [*sorted((ROOT / "examples" / "london").glob("*/00*.jpg")), PHOTOS / "three_faces.jpg"]
    found = [(photo, face) for photo in photos for face in extractor.extract(photo)]
    assert len(found) == 9
    return np.stack([extractor.align(photo, face.landmarks) for photo, face in found])


@pytest.fixture(scope="module")
def expected(crops: np.ndarray) -> dict[str, np.ndarray]:
    """Their embeddings by fergeneral, by the weights' name."""
    return {name: load_folder(WEIGHTS / name, "cpu").encode(crops) for name in FLOAT}


def by_timm(network: torch.nn.Module, crops: np.ndarray) -> np.ndarray:
    """The embeddings as a user of timm gets them, by the preprocessing that timm reads in config.json."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.inference_mode():
        return network.eval()(torch.stack([transform(Image.fromarray(crop)) for crop in crops])).numpy()


def by_transformers(folder: Path, crops: np.ndarray) -> np.ndarray:
    processor = AutoImageProcessor.from_pretrained(folder)
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info  # no weights that are missing or left over
    assert (model.dtype, model.training) == (torch.float32, False)
    with torch.inference_mode():
        return model(**processor([Image.fromarray(crop) for crop in crops])).pooler_output.numpy()


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE
    assert np.abs(expected - expected[::-1]).max() > 0.1  # that of another face would not do


@pytest.mark.parametrize("name", FLOAT)
def test_timm_and_transformers_read_the_packaged_folders(
    name: str, crops: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    network = timm.create_model(f"local-dir:{WEIGHTS / name}", pretrained=True, num_classes=0)
    assert_same(by_timm(network, crops), expected[name])
    assert_same(by_transformers(WEIGHTS / name, crops), expected[name])


def test_the_pipeline_of_transformers(crops: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    extract = pipeline("image-feature-extraction", model=str(WEIGHTS / FLOAT[0]), pool=True)
    assert_same(np.concatenate([extract(Image.fromarray(crop)) for crop in crops]), expected[FLOAT[0]])


def test_transformers_takes_arrays_too(crops: np.ndarray) -> None:
    processor = AutoImageProcessor.from_pretrained(WEIGHTS / FLOAT[0])
    images = [Image.fromarray(crop) for crop in crops]
    assert torch.equal(processor(list(crops)).pixel_values, processor(images).pixel_values)


def test_a_crop_of_another_shape_is_stretched_as_fergeneral_does(extractor: ExpressionExtractor) -> None:
    """Not cut: by another filter than ours, so that embeddings are near, not equal."""
    photo = Image.open(PHOTOS / "astronaut.png").convert("RGB").crop((150, 50, 300, 170))
    network = timm.create_model(f"local-dir:{WEIGHTS / extractor.config.model_id}", pretrained=True)
    found, expected = by_timm(network, [np.asarray(photo)])[0], extractor.encode([photo])[0]
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.995


def test_timm_adds_a_classifier_of_ones_own() -> None:
    name = f"local-dir:{WEIGHTS / FLOAT[0]}"
    own = timm.create_model(name, pretrained=True, num_classes=5, in_chans=1)
    assert own(torch.zeros(1, 1, 96, 96)).shape == (1, 5)
    ours = timm.create_model(name, pretrained=True)
    assert torch.equal(own.layer1[0].conv1.weight, ours.layer1[0].conv1.weight)
    assert own.pretrained_cfg["license"].startswith("research only")


@pytest.mark.parametrize(
    ("architecture", "crop", "size"),
    [("vit_tiny_patch16_224", 224, 192), ("mobilenetv3_small_050", 64, 1024), ("resnet18", 64, 32)],
    ids=["of one size only", "with a hidden head", "with a layer to another size"],
)
def test_so_do_folders_of_other_architectures(
    architecture: str, crop: int, size: int, crops: np.ndarray, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = EncoderConfig("other", architecture=architecture, crop_size=crop, embedding_size=size)
    save_folder(tmp_path, build_network(architecture, size).state_dict(), config)
    pictures = np.stack([np.asarray(Image.fromarray(picture).resize((crop, crop))) for picture in crops[:2]])
    expected = load_folder(tmp_path, "cpu").encode(pictures)
    largest = np.abs(expected).max()
    found = by_timm(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), pictures)
    assert np.abs(found - expected).max() <= TOLERANCE * max(1, largest)
    if architecture != "resnet18":
        assert np.abs(by_transformers(tmp_path, pictures) - expected).max() <= TOLERANCE * max(1, largest)
    else:  # of which transformers reads the features before that layer: the card does not name it
        assert "transformers" not in model_card(config)


def test_int8_weights_are_refused_by_both() -> None:
    folder = WEIGHTS / "general-r18-cycle-int8"
    with pytest.raises(RuntimeError, match="No suitable checkpoints"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModel.from_pretrained(folder)
    assert "cannot read int8-quantized weights" in (folder / "README.md").read_text()


def test_torch_hub_has_an_entry_for_each_of_them() -> None:
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec
    assert spec.loader
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    entries = {name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert entries == {"extractor", *map(entry_of, FLOAT)}
    assert all("Returns" in inspect.getdoc(getattr(hubconf, name)) for name in entries)


def entry_of(name: str) -> str:
    return name.replace("-", "_")


# The Hub

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    """What huggingface.co answers to a push of small files, and to whoever asks for them afterwards."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            self.give({"url": "https://huggingface.co/owner/encoder"})
        elif path == "/api/validate-yaml":
            errors = faults_of_metadata(json.loads(body)["content"])
            self.give({"errors": [{"message": text} for text in errors], "warnings": []}, 400 if errors else 200)
        elif path == "/api/models/owner/encoder/preupload/main":
            asked = json.loads(body)["files"]
            self.give(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
            )
        elif path == "/api/models/owner/encoder/commit/main":
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.give({"commitUrl": f"https://huggingface.co/owner/encoder/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.give({"error": "not found"}, 404)

    def do_GET(self) -> None:
        resolve = re.fullmatch(r"/(?:api/)?owner/encoder/resolve/(?:main|[0-9a-f]{40})/([^?]+)", self.path)
        if resolve and resolve[1] in self.files:
            self.give(self.files[resolve[1]])
        elif re.fullmatch(r"/api/models/owner/encoder(/revision/\w+)?(\?.*)?", self.path):
            siblings = [{"rfilename": name} for name in self.files]
            self.give({"id": "owner/encoder", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        else:
            self.give({"error": "Entry not found"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def give(self, answer: Any, status: int = 200) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def faults_of_metadata(card: str) -> list[str]:
    """What the Hub's specification of a model card's metadata would object to (hub-docs, modelcard.md)."""
    values = yaml.safe_load(card.split("---\n")[1])
    known = {*inspect.signature(ModelCardData.__init__).parameters, "model-index"}
    faults = [f"{name} is not a field" for name in values if name not in known]
    if values["license"] == "other" and not (values.get("license_name") and values.get("license_link")):
        faults.append("license other needs license_name and license_link")
    if not re.fullmatch(r"[a-z0-9.\-]+", values.get("license_name", "a")):
        faults.append("license_name is not an id")
    if values.get("license_link") not in ("LICENSE", "LICENSE.md"):
        faults.append("license_link leads to no file")
    faults += [f"{tag} is not a tag" for tag in values["tags"] if not re.fullmatch(r"[a-z0-9\-]+", tag)]
    try:
        ModelCard(card, ignore_metadata_errors=False)  # which reads the model-index
    except (KeyError, TypeError, ValueError) as error:
        faults.append(repr(error))
    return faults


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The server's address, and the files that were pushed to it."""
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"files": files}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", address)
        patch.setenv("HF_TOKEN", "hf_none")
        yield address, files
    server.shutdown()
    server.server_close()


TORCH_HUB = """
import numpy, torch
pixels = torch.from_numpy(numpy.load("crops.npy")).permute(0, 3, 1, 2) / 255
mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
for name in ENTRIES:
    network = torch.hub.load(ROOT, name, source="local")
    assert isinstance(network, torch.nn.Module) and not network.training
    with torch.inference_mode():
        numpy.save(name, network((pixels - mean) / std).numpy())
import fergeneral
print(fergeneral.__file__)
"""
FROM_HUB = """
extractor = torch.hub.load(ROOT, "extractor", source="local", weights="owner/encoder", device="cpu")
numpy.save("hub", extractor.encode(crops))
"""


@pytest.fixture(scope="module")
def card(extractor: ExpressionExtractor, hub: tuple[str, dict[str, bytes]]) -> str:
    """That of a repository that was pushed."""
    files = hub[1]
    assert COMMIT in extractor.push_to_hub("owner/encoder", report=report_of(extractor.config))
    assert set(files) == {"README.md", "LICENSE.md", "config.json", "model.safetensors"}
    return files["README.md"].decode()


@pytest.fixture(scope="module")
def folder(
    card: str, hub: tuple[str, dict[str, bytes]], crops: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where a process has left what each door gave. At its start, nothing but torch.hub's call names the package."""
    folder = tmp_path_factory.mktemp("doors")
    np.save(folder / "crops.npy", crops)
    shutil.copy(PHOTOS / "three_faces.jpg", folder / "photo.jpg")
    by_fergeneral, align, by_timm, by_transformers = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    code = [f"ROOT, ENTRIES = {str(ROOT)!r}, {list(map(entry_of, FLOAT))}", TORCH_HUB, by_fergeneral, align]
    code += ["numpy.save('photo', crops)", by_timm, "numpy.save('timm', embeddings)"]
    code += [by_transformers, "numpy.save('transformers', embeddings)", FROM_HUB]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    environment.update(HF_ENDPOINT=hub[0], HF_HOME=str(folder / "cache"), HF_HUB_DISABLE_TELEMETRY="1")
    command = [sys.executable, "-W", "error", "-c", "\n".join(code)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(ROOT / "fergeneral" / "__init__.py")
    assert done.stdout.count("(512,)") == 3
    return folder


@pytest.mark.show
@pytest.mark.parametrize("name", FLOAT)
def test_torch_hub_loads_each_of_them_from_another_folder(
    name: str, expected: dict[str, np.ndarray], folder: Path
) -> None:
    assert_same(np.load(folder / f"{entry_of(name)}.npy"), expected[name])


@pytest.mark.show
@pytest.mark.parametrize("door", ["timm", "transformers", "hub"])
def test_a_pushed_repository_is_loaded_by_the_code_of_its_card(
    door: str, extractor: ExpressionExtractor, folder: Path
) -> None:
    expected = extractor.encode(np.load(folder / "photo.npy"))
    assert np.abs(np.load(folder / f"{door}.npy") - expected).max() <= TOLERANCE


def test_the_card_of_a_pushed_repository_is_complete(card: str) -> None:
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert (data.library_name, data.pipeline_tag) == ("fergeneral", "image-feature-extraction")
    assert {"timm", "transformers"} <= set(data.tags)
    assert (data.license, data.license_name, data.license_link) == ("other", "research-only", "LICENSE.md")
    assert [result.metric_value for result in data.eval_results] == [0.8123, 0.7, 0.69]
    ModelCard(card).validate()  # by the server, which has the rules of faults_of_metadata
    assert "FOLDER_OR" not in card


def test_a_card_that_the_hub_refuses_is_an_error_and_uploads_nothing(
    extractor: ExpressionExtractor, hub: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(hub[1])
    monkeypatch.setattr("fergeneral.card._libraries", lambda config: ["No Tag"])
    with pytest.raises(ModelError, match="No Tag is not a tag"):
        extractor.push_to_hub("owner/encoder")
    assert hub[1] == before


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_the_packaged_cards_begin_as_is_generated(path: Path) -> None:
    config = EncoderConfig.from_json(path.with_name("config.json").read_text())
    generated, stored = model_card(config), path.read_text()
    start, stop = f"\n# {config.model_id}\n", "\n## Intended use"
    assert stored[stored.index(start) : stored.index(stop)] == generated[generated.index(start) : generated.index(stop)]
    assert faults_of_metadata(stored) == []
    tags = [ModelCard(text).data.tags for text in (generated, stored)]
    assert tags[0] == tags[1]


def test_the_code_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """In its order, as one script, in a folder with what it names."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PHOTOS, "examples/photos")
    shutil.copy(ROOT / "hubconf.py", ".")
    parts = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    exec(compile("\n".join(parts), DOCUMENT.name, "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    differences = [float(line.rpartition(" ")[2]) for line in printed if "differs by" in line]
    assert [difference <= TOLERANCE for difference in differences] == [True, True]
    assert printed[-2:] == ["512 numbers", "torch.Size([3, 512])"]
