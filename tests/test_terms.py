"""The terms and the provenance of what the package carries: the command, the log, the records, the documents."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, random_head

from fergeneral import DataError, Head, ModelError, hub
from fergeneral.card import TERMS, model_card
from fergeneral.cli import main
from fergeneral.datasets import list_sha256, open_dataset
from fergeneral.encoder import EncoderConfig, build_network
from fergeneral.terms import RESEARCH_ONLY_MEANING, terms_of
from fergeneral.train.config import RECIPES
from fergeneral.train.data import load_training_set

WEIGHTS = ROOT / "weights"
PROVENANCE = json.loads((WEIGHTS / "provenance.json").read_text())
FOLDERS = sorted(path.parent for name in ("config.json", "head.json") for path in WEIGHTS.rglob(name))
DOCUMENT = (ROOT / "docs" / "terms.md").read_text()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log of a process that has loaded nothing yet."""
    monkeypatch.setattr(hub, "_logged", {})
    caplog.set_level(logging.INFO, logger="fergeneral")
    return caplog


def research_folder(folder: Path, seed: int = 0, license: str = "research only, non-commercial: see the card") -> Path:
    torch.manual_seed(seed)
    config = EncoderConfig("mine", crop_size=64, license=license)
    hub.save_folder(folder, build_network("resnet18").state_dict(), config)
    return folder


# Lists of images


def test_a_list_hash_is_that_of_sorted_lines() -> None:
    rows = [("b/1.png", "anger", 0.5), ("a/2.png", "fear", 1.0), ("a/10.png", "fear", 1.0)]
    lines = b"a/10.png\tfear\t1\na/2.png\tfear\t1\nb/1.png\tanger\t0.5\n"  # as `LC_ALL=C sort` has them
    assert list_sha256(rows) == list_sha256(reversed(rows)) == hashlib.sha256(lines).hexdigest()
    for changed in (rows[1:], [("b/1.png", "fear", 0.5), *rows[1:]], [("b/1.png", "anger", 1.0), *rows[1:]]):
        assert list_sha256(changed) != list_sha256(rows)


def test_training_records_the_hash_of_what_it_used(faces_folder: Path) -> None:
    (faces_folder / "second_labels.csv").write_text("path,second_label\ntrain/sadness/3.png,anger\n")
    recipe = dataclasses.replace(RECIPES["crs-cont-cpu"], datasets=("faces",))
    images = load_training_set(faces_folder.parent, recipe, show_progress=False)
    samples = open_dataset(faces_folder).split("train").samples
    rows = [(sample.path, sample.label, sample.weight) for sample in samples]
    assert ("train/sadness/3.png", "sadness", 0.5) in rows
    assert images.list_sha256() == {"faces": list_sha256(rows)}


def test_the_stored_hashes_are_those_of_the_data_sets(data: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "list_hashes.py"))
    found = script["provenance"](data)
    assert {**found, "recomputed": PROVENANCE["recomputed"]} == PROVENANCE


def test_every_file_of_weights_has_its_provenance() -> None:
    rows = {row["folder"]: row for row in PROVENANCE["weights"]}
    assert set(rows) == {folder.relative_to(WEIGHTS).as_posix() for folder in FOLDERS}
    for folder in FOLDERS:
        row = rows[folder.relative_to(WEIGHTS).as_posix()]
        (file,) = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx")]
        assert row["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert row["counts_match"]
        assert sum(PROVENANCE["lists"][name]["images"] for name in row["lists"]) == row["recorded"]


def test_the_counts_are_those_that_the_runs_recorded() -> None:
    for path in WEIGHTS.glob("*/training.json"):
        for name, count in json.loads(path.read_text())["images"].items():
            assert PROVENANCE["lists"][f"{name} (train)"]["images"] == count


# fergeneral info --terms


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(WEIGHTS).as_posix())
def test_packaged_weights_have_all_their_terms(folder: Path) -> None:
    name = folder.relative_to(WEIGHTS).as_posix().removeprefix("heads/")
    terms = terms_of(name)
    assert terms == terms_of(folder)
    assert terms.name == name
    assert (terms.kind, terms.meaning) == ("head" if "/" in name else "encoder", RESEARCH_ONLY_MEANING)
    assert terms.license.startswith("research only, non-commercial")
    assert hashlib.sha256((folder / terms.weights_file).read_bytes()).hexdigest() == terms.weights_sha256
    assert (
        terms.lists == f"recomputed from the data sets on {PROVENANCE['recomputed']}; the counts agree with the record"
    )
    assert terms.data
    for row in terms.data:
        known = TERMS[row.name.partition(" ")[0]]
        assert (row.terms, row.source) == (known.terms, known.source)
        assert row.images == PROVENANCE["lists"][row.name]["images"]
        assert row.list_sha256 == PROVENANCE["lists"][row.name]["sha256"]
    assert bool(terms.run) == (terms.kind == "encoder")
    assert terms.method


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--terms"]) == 0
    default = capsys.readouterr().out
    assert main(["info", "--terms", "general-r18-cycle"]) == 0
    assert capsys.readouterr().out == default
    lines = default.splitlines()
    assert lines[0].split() == ["encoder", "general-r18-cycle"]
    assert lines[1].split(maxsplit=1) == ["licence", "research only, non-commercial: see the model card"]
    assert lines[2].endswith(RESEARCH_ONLY_MEANING)
    config = json.loads((WEIGHTS / "general-r18-cycle" / "config.json").read_text())
    assert config["weights_sha256"] in lines[3]
    assert "- RAF-DB: rafdb (train), 12,246 images" in lines
    assert f"  list SHA-256: {PROVENANCE['lists']['rafdb (train)']['sha256']}" in lines
    assert "  left out of it: 19 near copy of another train image, 6 near copy in another split" in lines
    assert any(line.startswith("command ") and "--recipe general-r18-cycle " in line for line in lines)
    assert any(re.match(r"date +2026-11-26$", line) for line in lines)
    assert any(line.startswith("detector yunet") and "MIT" in line for line in lines)


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--terms", "expressions-8", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read == json.loads(json.dumps(terms_of("general-r18-cycle/expressions-8").to_dict()))
    assert sum(row["images"] for row in read["data"]) == 89054
    assert read["made_from"] == "general-r18-cycle"


def test_wrong_names_and_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nothing", "general-r18-cycle/nothing", "owner/name"):
        with pytest.raises(ModelError, match="neither a packaged encoder or head"):
            terms_of(name)
    with pytest.raises(ModelError, match=r"config\.json"):
        terms_of(tmp_path)
    assert main(["info", "--terms", "nothing"]) == 1
    assert main(["info", "--terms", "--model", "crs-cont-cpu"]) == 2
    assert "takes the name itself" in capsys.readouterr().err


def test_of_weights_of_your_own_nothing_is_invented(tmp_path: Path, random_folder: Path) -> None:
    terms = terms_of(random_folder)
    assert (terms.license, terms.data, terms.run, terms.lists) == ("", (), {}, "not recorded")
    assert "No licence was stated" in terms.meaning
    assert "not recorded" in str(terms)
    config = EncoderConfig("mine", crop_size=64, training_data=("my faces",), license="CC0")
    hub.save_folder(tmp_path, build_network("resnet18").state_dict(), config)
    (row,) = terms_of(tmp_path).data
    assert dataclasses.astuple(row) == ("my faces", "my faces", None, None, {}, "", "")
    assert "fergeneral adds nothing" in terms_of(tmp_path).meaning


def test_what_a_run_recorded_goes_first(tmp_path: Path) -> None:
    config = EncoderConfig("mine", crop_size=64, training_data=("rafdb (train)",))
    hub.save_folder(tmp_path, build_network("resnet18").state_dict(), config)
    recipe = {"name": "tiny", "architecture": "resnet18", "crop_size": 64}
    record: dict[str, Any] = {"recipe": recipe, "images": {"rafdb": 7}, "list_sha256": {"rafdb": "ab" * 32}}

    def written(**changes: Any) -> Path:
        (tmp_path / "training.json").write_text(json.dumps({**record, **changes}))
        return tmp_path

    terms = terms_of(written())
    assert (terms.method, terms.lists) == ("tiny", "recorded by the training run")
    assert [(row.images, row.list_sha256) for row in terms.data] == [(7, "ab" * 32)]
    assert "hashes not known" in terms_of(written(list_sha256={})).lists
    for broken in (
        {"images": [1]},
        {"list_sha256": 3},
        {"recipe": 4},
        {"history": [{}]},
        {"images": {"rafdb": "many"}},
    ):
        with pytest.raises(DataError, match="the training record"):
            terms_of(written(**broken))
    with pytest.raises(DataError, match="other weights"):
        terms_of(written(weights_sha256="cd" * 32))


# The log


def test_research_only_weights_say_so_once(log: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    folder = research_folder(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: hub.load_folder(folder, "cpu"), range(4)))
    (record,) = log.records
    assert (record.name, record.levelname) == ("fergeneral", "INFO")
    assert record.getMessage().startswith("mine: research only, non-commercial; `fergeneral info --terms`")
    hub.load_folder(research_folder(tmp_path / "other", seed=1), "cpu")
    assert len(log.records) == 2


def test_other_weights_say_nothing(log: pytest.LogCaptureFixture, random_folder: Path, tmp_path: Path) -> None:
    hub.load_folder(random_folder, "cpu")
    hub.load_folder(research_folder(tmp_path / "free", license="CC0"), "cpu")
    Head.from_pretrained(random_head(random_folder, tmp_path / "head"))
    assert log.records == []


def test_a_head_says_so_once(log: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        Head.from_pretrained("expressions-7")
    assert [record.getMessage().partition(":")[0] for record in log.records] == ["general-r18-cycle/expressions-7"]


def test_nothing_is_printed_by_default() -> None:
    code = "from fergeneral import Head, hub; Head.from_pretrained(); hub.load_encoder(None, device='cpu')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The documents


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*/config.json")), ids=lambda path: path.parent.name)
def test_the_cards_parts_on_data_and_training_are_what_is_generated(path: Path) -> None:
    """The other parts come from a report, which is not kept here."""
    record = path.with_name("training.json")
    training = json.loads(record.read_text()) if record.is_file() else None
    generated = model_card(EncoderConfig.from_json(path.read_text()), training=training)
    parts = [
        re.split(r"^(?=## )", card, flags=re.MULTILINE) for card in (generated, path.with_name("README.md").read_text())
    ]
    for title in ("## Training data and terms\n", "## Training\n"):
        wanted, found = (next(part for part in of_card if part.startswith(title)) for of_card in parts)
        assert found == wanted


def tracked(*suffixes: str) -> Iterator[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return (name for name in done.stdout.splitlines() if name.lower().endswith(suffixes))


def test_the_document_names_every_file_of_weights_and_every_data_set() -> None:
    for folder in FOLDERS:
        assert f"`weights/{folder.relative_to(WEIGHTS).as_posix()}`" in DOCUMENT
    for path in WEIGHTS.glob("*/training.json"):
        for name in json.loads(path.read_text())["images"]:
            assert f"| `{name}` | {TERMS[name].title} |" in DOCUMENT
    for row in PROVENANCE["weights"]:
        assert row["weights_sha256"] in DOCUMENT
    for name in {name for row in PROVENANCE["weights"] for name in row["lists"]}:
        assert PROVENANCE["lists"][name]["sha256"] in DOCUMENT


def test_every_picture_has_its_licence() -> None:
    """In the table of pictures: the file, or a folder that it lies in."""
    part = DOCUMENT.partition("## Pictures")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
    for picture in tracked(".png", ".jpg", ".jpeg", ".webp", ".gif"):
        assert any(picture == name or (name.endswith("/") and picture.startswith(name)) for name in named), picture


def test_the_document_has_the_detectors_files() -> None:
    import facenet_pytorch

    mtcnn = Path(facenet_pytorch.__file__).parent / "data"
    yunet = ROOT / "fergeneral" / "_detectors" / "face_detection_yunet_2023mar.onnx"
    for path in (*sorted(mtcnn.glob("*net.pt")), yunet):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in DOCUMENT


def test_the_notices_hold_each_licence_text() -> None:
    notices = " ".join((ROOT / "THIRD_PARTY_NOTICES.md").read_text().split())
    for owner in ("2019 Timothy Esler", "2016 David Sandberg", "2016 Kaipeng Zhang", "2020 Shiqi Yu"):
        assert f"Copyright (c) {owner}" in notices
    yunet = (ROOT / "fergeneral" / "_detectors" / "LICENSE").read_text().split("\n\n", 2)[2]
    assert " ".join(yunet.split()) in notices


def test_the_table_of_licences_has_every_required_dependency() -> None:
    import tomllib

    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    text = (ROOT / "docs" / "licenses.md").read_text()
    for name in (re.split(r"[<>=\[]", entry)[0] for entry in required):
        assert re.search(rf"^\| {name} \| [^|]+ \| (?!UNKNOWN)[^|]+ \|", text, re.MULTILINE), name
