"""Random changes of config.json and model.safetensors: an encoder that embeds, or ModelError, and nothing else.

A few hundred cases of each kind run in the suite; FERGENERAL_FUZZ_CASES sets another number. What fails is printed by
hypothesis as a call that repeats it:

    FERGENERAL_FUZZ_CASES=100000 pytest tests/test_fuzz_weights.py --hypothesis-show-statistics
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tiny import embeds, replace_weights, save_tiny, tiny_state, use_tiny_networks

from fergeneral import ModelError
from fergeneral.encoder import EncoderConfig
from fergeneral.hub import CONFIG_FILE, load_folder

CASES = int(os.environ.get("FERGENERAL_FUZZ_CASES", "200"))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize="FERGENERAL_FUZZ_CASES" not in os.environ,  # in the suite always the same cases
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

CONFIG = json.loads(EncoderConfig("tiny", embedding_size=8, crop_size=32, training_data=("rafdb (train)",)).to_json())
WEIGHTS = save(tiny_state())
LENGTH = struct.unpack("<Q", WEIGHTS[:8])[0]
HEADER = json.loads(WEIGHTS[8 : 8 + LENGTH])

words = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["resnet50", "RGB", "BGR", "hf-hub:a/b", "../..", "F16"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def changed_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Some bytes of a good file replaced, put in, taken out or doubled."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8) | st.integers(0, len(data)))
        new = draw(st.binary(max_size=8) | st.just(bytes(data[start : start + length])))
        data[start : start + draw(st.sampled_from([0, len(new), length]))] = new
    return bytes(data)


@st.composite
def changed_config(draw: st.DrawFn) -> str:
    """Some fields with another value: anything, or the right kind of thing with other numbers."""
    config: dict[str, Any] = dict(CONFIG)
    near = {
        "crop_size": st.integers(30, 200),
        "mean": st.lists(st.floats(-0.5, 1.5), min_size=3, max_size=3),
        "std": st.lists(st.floats(0, 2000), min_size=3, max_size=3),
        "template": st.lists(st.lists(st.floats(-1, 2), min_size=2, max_size=2), min_size=5, max_size=5),
    }
    for field in draw(st.lists(st.sampled_from(sorted(CONFIG)), max_size=3)):
        config[field] = draw(near[field] if field in near and draw(st.booleans()) else values)
    if draw(st.booleans()) and isinstance(config["pretrained_cfg"], dict):  # what timm reads agrees with the rest
        same = {name: config[name] for name in ("mean", "std", "license")}
        config["pretrained_cfg"] = {
            **config["pretrained_cfg"],
            **same,
            "input_size": [3, config["crop_size"], config["crop_size"]],
        }
    for field in draw(st.lists(st.sampled_from(sorted(CONFIG)), max_size=1)):
        if draw(st.integers(0, 4)) == 0:
            config.pop(field)
    if draw(st.integers(0, 9)) == 0:
        config[draw(words)] = draw(values)
    return json.dumps(config)


@st.composite
def changed_header(draw: st.DrawFn) -> bytes:
    """Good weights under a header in which some entries say something else."""
    header: dict[str, Any] = json.loads(json.dumps(HEADER))
    data = WEIGHTS[8 + LENGTH :]
    sizes = st.integers(-1, 3000) | st.integers(-(2**70), 2**70)
    others = {
        "dtype": st.sampled_from(
            ["BOOL", "U8", "I64", "F8_E4M3", "F8_E8M0", "F16", "BF16", "F32", "F64", "C64", "F4", "X"]
        ),
        "shape": st.lists(sizes, max_size=5),
        "data_offsets": st.lists(sizes, max_size=3),
    }
    for name in draw(st.lists(st.sampled_from(sorted(header)), min_size=1, max_size=3)):
        field = draw(st.sampled_from(sorted(others)))
        header[name][field] = draw(others[field] | values)
    if draw(st.booleans()):
        header[draw(words)] = draw(st.sampled_from(list(header.values())) | values)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_networks(patch)
        folder = tmp_path_factory.mktemp("fuzz")
        save_tiny(folder)
        yield folder


def check(folder: Path) -> None:
    try:
        encoder = load_folder(folder, "cpu")
    except ModelError as error:
        event("refused")
        assert 0 < len(str(error)) < 2500  # noqa: PT017 - either outcome is right
    else:
        event("loads")
        assert embeds(encoder)


def check_config(folder: Path, data: bytes) -> None:
    save_tiny(folder)
    digest = json.loads((folder / CONFIG_FILE).read_text())["weights_sha256"]
    (folder / CONFIG_FILE).write_bytes(data.replace(b'"weights_sha256": ""', f'"weights_sha256": "{digest}"'.encode()))
    check(folder)


@fuzz
@given(changed_config())
def test_configurations(folder: Path, text: str) -> None:
    check_config(folder, text.encode())


@fuzz
@given(changed_bytes(json.dumps(CONFIG).encode()))
def test_bytes_of_configurations(folder: Path, data: bytes) -> None:
    check_config(folder, data)


@fuzz
@given(values.map(json.dumps) | st.text())
def test_any_json_or_text(folder: Path, text: str) -> None:
    check_config(folder, text.encode("utf-8", "surrogatepass"))


@fuzz
@given(changed_header())
@example(WEIGHTS)
def test_headers_of_weights(folder: Path, data: bytes) -> None:
    save_tiny(folder)
    replace_weights(folder, data)
    check(folder)


@fuzz
@given(changed_bytes(WEIGHTS))
def test_bytes_of_weights(folder: Path, data: bytes) -> None:
    save_tiny(folder)
    replace_weights(folder, data)
    check(folder)
