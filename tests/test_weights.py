"""Weights and configurations made to deceive: refused with a ModelError before use, and nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from tiny import SIZE, embeds, replace_weights, save_tiny, tiny_state, use_tiny_networks

from fergeneral import ExpressionExtractor, ModelError
from fergeneral.encoder import EncoderConfig
from fergeneral.hub import CONFIG_FILE, WEIGHTS_FILE, load_folder, write_card
from fergeneral.yunet import MODEL_FILE, YuNetDetector


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_networks(monkeypatch)
    save_tiny(tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)  # where what is run would leave its trace
    return tmp_path / "encoder"


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_folder(folder, "cpu")
    assert not Path("executed").exists()
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def test_the_tiny_encoder_itself_loads(folder: Path) -> None:
    assert embeds(load_folder(folder, "cpu"))


# model.safetensors


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def torch_archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"conv.weight": Evil()}, buffer)
    return buffer.getvalue()


def with_header(header: dict[str, Any] | str, data: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed_header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Good weights whose header says something else."""
    good = save(tiny_state())
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    change(header)
    return with_header(header, good[8 + length :])


def doubled_key() -> bytes:
    """A header that names conv.weight twice."""
    good = save(tiny_state())
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    again = json.dumps({"conv.weight": header["bn.weight"]})
    return with_header(good[8 : 8 + length].decode().rstrip()[:-1] + "," + again[1:], good[8 + length :])


FILES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "seven bytes": lambda: b"\x00" * 7,
    "a pickle": lambda: pickle.dumps(Evil()),
    "an old pickle": lambda: pickle.dumps(Evil(), protocol=0),
    "an archive of torch.save": torch_archive,
    "cut by half": lambda: save(tiny_state())[:400],
    "one byte too many": lambda: save(tiny_state()) + b"x",
    "a header of 2**63 bytes": lambda: struct.pack("<Q", 2**63) + b"{}",
    "a header of 4 GB": lambda: struct.pack("<Q", 2**32) + b"{}",
    "a header longer than the file": lambda: struct.pack("<Q", 100) + b"{}",
    "no JSON in the header": lambda: with_header("{not json"),
    "a header that is a list": lambda: with_header("[]"),
    "brackets within brackets": lambda: with_header("[" * 100_000),
    "no tensors": lambda: with_header({}),
    "overlapping tensors": lambda: changed_header(
        lambda h: h["bn.bias"].update(data_offsets=h["bn.weight"]["data_offsets"])
    ),
    "offsets backwards": lambda: changed_header(lambda h: h["bn.bias"]["data_offsets"].reverse()),
    "offsets past the end": lambda: changed_header(lambda h: h["bn.bias"].update(data_offsets=[10**6, 10**6 + 32])),
    "offsets of 2**64": lambda: changed_header(lambda h: h["bn.bias"].update(data_offsets=[2**64, 2**64 + 32])),
    "a negative offset": lambda: changed_header(lambda h: h["bn.bias"].update(data_offsets=[-32, 0])),
    "a negative side": lambda: changed_header(lambda h: h["bn.bias"].update(shape=[-8])),
    "sides that overflow": lambda: changed_header(lambda h: h["bn.bias"].update(shape=[2**62, 2**62])),
    "a side that is a float": lambda: changed_header(lambda h: h["bn.bias"].update(shape=[8.0])),
    "an empty tensor of huge sides": lambda: with_header(
        {"conv.weight": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}
    ),
    "an unknown type": lambda: changed_header(lambda h: h["bn.bias"].update(dtype="PY_OBJECT")),
    "a type that torch lacks": lambda: with_header(
        {"conv.weight": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, b"\x00"
    ),
    "a key twice": doubled_key,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_it_says_is_refused(folder: Path, name: str) -> None:
    replace_weights(folder, FILES[name]())
    assert WEIGHTS_FILE in refusal(folder)


def filled(name: str, value: float) -> dict[str, torch.Tensor]:
    state = tiny_state()
    return {**state, name: torch.full_like(state[name], value)}


def typed(name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    state = tiny_state()
    return {**state, name: state[name].to(dtype)}


TENSORS: dict[str, tuple[Callable[[], dict[str, torch.Tensor]], str]] = {
    "one missing": (lambda: {k: v for k, v in tiny_state().items() if k != "bn.weight"}, "bn.weight"),
    "one too many": (lambda: {**tiny_state(), "head.weight": torch.zeros(1)}, "head.weight"),
    "a name that is a path": (lambda: {**tiny_state(), "../../conv.weight": torch.zeros(1)}, "does not fit"),
    "another shape": (lambda: {**tiny_state(), "bn.bias": torch.zeros(SIZE + 1)}, "bn.bias"),
    "one axis more": (lambda: {**tiny_state(), "bn.bias": torch.zeros(SIZE, 1)}, "bn.bias"),
    "no elements": (lambda: {**tiny_state(), "bn.bias": torch.zeros(0)}, WEIGHTS_FILE),
    "NaN": (lambda: filled("conv.weight", float("nan")), "not finite, in conv.weight"),
    "infinity": (lambda: filled("bn.running_mean", float("inf")), "not finite, in bn.running_mean"),
    "minus infinity": (lambda: filled("bn.bias", float("-inf")), "not finite, in bn.bias"),
    "a negative variance": (lambda: filled("bn.running_var", -1.0), "not finite numbers"),
    "an overflow": (
        lambda: {**filled("conv.weight", 1e30), "bn.weight": torch.full((SIZE,), 1e30)},
        "not finite numbers",
    ),
    "whole numbers": (lambda: typed("conv.weight", torch.int8), "conv.weight has the type torch.int8"),
    "truth values": (lambda: typed("bn.bias", torch.bool), "bn.bias has the type torch.bool"),
    "a count that is a fraction": (lambda: typed("bn.num_batches_tracked", torch.float32), "num_batches_tracked"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit_are_refused(folder: Path, name: str) -> None:
    make, message = TENSORS[name]
    replace_weights(folder, make())
    assert message in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_each_floating_point_type_is_read(folder: Path, dtype: torch.dtype) -> None:
    replace_weights(folder, {k: v.to(dtype) if v.is_floating_point() else v for k, v in tiny_state().items()})
    assert embeds(load_folder(folder, "cpu"))


# config.json

DEEP = "[" * 600 + "]" * 600
CONFIGURATIONS = [
    ("format_version", "3"),
    ("format_version", "0"),
    ("format_version", "true"),
    ("format_version", "1.0"),
    ("format_version", '"1"'),
    ("format_version", "null"),
    ("architecture", '"hf-hub:owner/resnet18"'),
    ("architecture", '"hf_hub:owner/resnet18"'),
    ("architecture", '"local-dir:/tmp/evil"'),
    ("architecture", '"resnet18.a1_in1k"'),
    ("architecture", '"/etc/passwd"'),
    ("architecture", '["resnet18"]'),
    ("architecture", '{"resnet18": 1}'),
    ("crop_size", "1000000000"),
    ("crop_size", "1" + "0" * 400),
    ("crop_size", "64.0"),
    ("crop_size", "NaN"),
    ("crop_size", "-64"),
    ("embedding_size", "0"),
    ("embedding_size", "1e3"),
    ("mean", '["0.5", "0.5", "0.5"]'),
    ("mean", "[true, false, true]"),
    ("mean", "[NaN, 0.5, 0.5]"),
    ("mean", "[1" + "0" * 400 + ", 0.5, 0.5]"),
    ("mean", "[127.5, 127.5, 127.5]"),
    ("mean", "0.5"),
    ("mean", '{"0": 0.5, "1": 0.5, "2": 0.5}'),
    ("std", "[1e-320, 1, 1]"),
    ("std", "[Infinity, 1, 1]"),
    ("std", "[-1, 1, 1]"),
    ("template", "[[1e300, 0], [0, 1], [0.5, 0.5], [0, 1], [1, 1]]"),
    ("template", "[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]"),
    ("template", "[[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]"),
    ("template", DEEP),
    ("channel_order", "null"),
    ("model_id", '""'),
    ("model_id", '"a\\nb"'),
    ("model_id", '"\\u001b[2J"'),
    ("model_id", '"\\ud800"'),
    ("model_id", f'"{"a" * 5000}"'),
    ("license", "[]"),
    ("license", '"\\u0000"'),
    ("training_data", "[1]"),
    ("training_data", '[["rafdb"]]'),
    ("training_data", DEEP),
    ("weights_sha256", "null"),
    ("weights_sha256", '"../model.safetensors"'),
    ("num_classes", "1000"),
    ("num_classes", "null"),
    ("num_features", "9"),
    ("num_features", "8.0"),
    ("num_features", "true"),
    ("num_features", "1" + "0" * 400),
    ("dtype", '"float16"'),
    ("dtype", DEEP),
    ("pretrained_cfg", "null"),
    ("pretrained_cfg", "{}"),
    ("pretrained_cfg", "[1]"),
    ("pretrained_cfg", DEEP),
]


@pytest.mark.parametrize(("field", "value"), CONFIGURATIONS, ids=lambda text: text[:30])
def test_each_value_that_is_not_one_is_refused(folder: Path, field: str, value: str) -> None:
    values = json.loads((folder / CONFIG_FILE).read_text())
    parts = [f"{json.dumps(name)}: {value if name == field else json.dumps(values[name])}" for name in values]
    (folder / CONFIG_FILE).write_text("{" + ", ".join(parts) + "}")
    message = refusal(folder)
    assert field in message or "SHA-256" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", [0.5, 0.5, 0.5]),
        ("mean", 0.5),
        ("mean", None),
        ("std", [0.229, 0.224, float("nan")]),
        ("input_size", [3, 224, 224]),
        ("input_size", [1, 32, 32]),
        ("input_size", 32),
        ("crop_pct", 0.875),
        ("crop_mode", "center"),
        ("interpolation", "bicubic"),
        ("num_classes", 1000),
        ("license", "CC0"),
        ("fixed_input_size", "no"),
        ("first_conv", 5),
        ("classifier", ["fc", {}]),
        ("file", "/etc/passwd"),
        ("url", "https://example.org/model.bin"),
        ("hf_hub_id", "owner/other"),
        ("custom_load", True),
    ],
)
def test_what_timm_would_read_cannot_contradict_the_rest_or_name_another_file(
    folder: Path, field: str, value: object
) -> None:
    values = json.loads((folder / CONFIG_FILE).read_text())
    values["pretrained_cfg"][field] = value
    (folder / CONFIG_FILE).write_text(json.dumps(values))
    message = refusal(folder)
    assert "pretrained_cfg" in message
    assert field in message


def test_each_field_for_timm_has_to_be_there(folder: Path) -> None:
    good = json.loads((folder / CONFIG_FILE).read_text())
    for field in ("num_classes", "num_features", "dtype", "pretrained_cfg"):
        left = {name: value for name, value in good.items() if name != field}
        (folder / CONFIG_FILE).write_text(json.dumps(left))
        assert f"lacks the fields ['{field}']" in refusal(folder)
    for field in good["pretrained_cfg"]:
        left = {name: value for name, value in good["pretrained_cfg"].items() if name != field}
        (folder / CONFIG_FILE).write_text(json.dumps({**good, "pretrained_cfg": left}))
        assert field in refusal(folder)


def test_a_configuration_of_format_1_is_read_and_written_as_format_2(folder: Path) -> None:
    """Folders and repositories of versions up to 0.5.0 lack the fields for timm."""
    new = (folder / CONFIG_FILE).read_text()
    old = json.loads(new)
    for field in ("num_classes", "num_features", "dtype", "pretrained_cfg"):
        del old[field]
    (folder / CONFIG_FILE).write_text(json.dumps({**json.loads(new), "format_version": 1}))
    assert "unknown ones: ['dtype', 'num_classes', 'num_features', 'pretrained_cfg']" in refusal(folder)
    (folder / CONFIG_FILE).write_text(json.dumps({**old, "format_version": 1}))
    encoder = load_folder(folder, "cpu")
    assert embeds(encoder)
    assert encoder.config == EncoderConfig.from_json(new)
    assert encoder.config.to_json() == new


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),  # a byte order mark, which JSON does not have
        (b"[" * 200_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b'{"format_version": 1, "format_version": 1}', "twice"),
        (b'{"format_version": {"a": 1, "a": 1}}', "twice"),
        (b'{"format_version": 99, "surprise": [1, 2]}', "pip install --upgrade fergeneral"),
        (b" " * (2**20 + 1), "wanted at most 1048576"),
        (b"cos\nsystem\n(S'mkdir executed'\ntR.", "not valid JSON"),  # a pickle
        (b"!!python/object/apply:os.mkdir [executed]", "not valid JSON"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_text_that_is_no_configuration_is_refused(folder: Path, data: bytes, message: str) -> None:
    (folder / CONFIG_FILE).write_bytes(data)
    assert message in refusal(folder)


def test_a_refused_configuration_is_named_with_its_folder(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("{")
    assert str(folder) in refusal(folder)


# Links, devices and pipes


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_link_to_a_file_is_followed(folder: Path, tmp_path: Path, name: str) -> None:
    """The Hub's cache is made of links; what they lead to has its SHA-256 looked at like any other file."""
    blob = tmp_path / "blob"
    (folder / name).rename(blob)
    (folder / name).symlink_to(blob)
    assert embeds(load_folder(folder, "cpu"))
    with blob.open("ab") as file:
        file.write(b"x")
    assert "SHA-256" in refusal(folder) or "not valid JSON" in refusal(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("target", ["nowhere", "itself", ".", "/dev/zero", "pipe"])
def test_a_link_to_anything_else_is_refused(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / "pipe")
    (folder / name).symlink_to(name if target == "itself" else target)
    assert "cannot be read" in refusal(folder)


def test_a_file_too_large_is_not_read(folder: Path) -> None:
    with (folder / WEIGHTS_FILE).open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    assert "wanted at most" in refusal(folder)


def test_the_same_holds_for_yunets_file(tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="it is not a file"):
        YuNetDetector(tmp_path / MODEL_FILE)
    (tmp_path / "large.onnx").write_bytes(bytes(2**20 + 1))
    with pytest.raises(ModelError, match="wanted at most"):
        YuNetDetector(tmp_path / "large.onnx")


def test_a_card_is_not_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    """A folder from elsewhere may hold links to files of one's own."""
    (tmp_path / "mine").write_bytes(b"mine")
    for name in ("README.md", "LICENSE.md", "picture.png"):
        (folder / name).symlink_to(tmp_path / "mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.md").write_text("![a](picture.png)")
    (tmp_path / "notes" / "picture.png").write_bytes(b"a picture")
    write_card(folder, notes=tmp_path / "notes" / "notes.md")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert (folder / "picture.png").read_bytes() == b"a picture"


# Names


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../b", "a/..", "./a", "a/b\n", "a/b\0", "a/b?x", "a\\b", "a/b/../c", "ä/b", "a--b/c", "", 5, 0, b"a/b"],
)
def test_what_is_no_name_of_a_repository_is_refused(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing of such a name lies beside
    with pytest.raises(ModelError, match="neither a folder"):
        ExpressionExtractor.from_pretrained(name, device="cpu")


@pytest.mark.parametrize(
    "revision", ["../../x", "/etc", "a/../../b", "a\0b", "a b", "", "a//b", "a\\..\\b", "a" * 300, 5]
)
def test_what_is_no_name_of_a_revision_is_refused(revision: Any) -> None:
    with pytest.raises(ModelError, match="revision"):
        ExpressionExtractor.from_pretrained("owner/name", revision=revision, local_files_only=True)
