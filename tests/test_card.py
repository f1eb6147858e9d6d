"""The model card: its metadata as the Hub's own reader sees them, its numbers against the records, and its gaps."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from fergeneral import DataError
from fergeneral.card import TERMS, license_text, model_card
from fergeneral.datasets import _LANDMARKS
from fergeneral.encoder import EncoderConfig

CONFIG = EncoderConfig(
    "small-model",
    crop_size=96,
    weights_sha256="ab" * 32,
    training_data=("rafdb (train)", "affectnet (train)"),
    license="research only, non-commercial: see the model card",
)


def metrics(accuracy: float, uar: float, recall: dict[str, float], n: int = 3068) -> dict[str, Any]:
    values = {"accuracy": accuracy, "uar": uar, "macro_f1": uar - 0.01}
    intervals = {name: [value - 0.0125, value + 0.0125] for name, value in values.items()}
    return {**values, "recall": recall, "intervals": intervals, "n": n, "labels": list(recall)}


def probe(system: str, data: str, near_duplicates: str, status: str, *values: Any) -> dict[str, Any]:
    cell = {"system": system, "train": data, "test": data, "status": status, "near_duplicates": near_duplicates}
    return {**cell, "c": 0.01, "validation_accuracy": 0.8, **metrics(*values)}


def condition(group: str, severity: str, accuracy: float, uar: float, **more: int) -> dict[str, Any]:
    return {"group": group, "severity": severity, "accuracy": accuracy, "uar": uar, **more}


SEVEN = {"neutral": 0.811, "happiness": 0.931, "disgust": 0.391, "fear": 0.472}
EIGHT = {"neutral": 0.851, "happiness": 0.892, "contempt": 0.123}
REPORT: dict[str, Any] = {
    "model": {"model_id": "small-model", "weights_sha256": "ab" * 32, "crop_size": 96, "embedding_size": 512},
    "environment": {"date": "2026-11-24T12:00:00+00:00"},
    "seed": 7,
    "data": {
        **{name: {"splits": {"train": {"n": 9}, "test": {"n": 9}}} for name in ("rafdb", "ferplus")},
        "ckplus": {"splits": {"all": {"n": 981}}},
    },
    "linear_probe": [
        probe("small-model", "rafdb", "out", "held-out", 0.81234, 0.70351, SEVEN),
        probe("small-model", "rafdb", "in", "held-out", 0.8256, 0.7156, SEVEN),
        probe("small-model", "ferplus", "out", "never seen", 0.7778, 0.5445, EIGHT, 3137),
        probe("mobile|net", "rafdb", "out", "not stated", 0.6612, 0.5323, SEVEN),
    ],
    "cross_dataset": [
        {
            "train": "rafdb",
            "train_status": "in-sample",
            "test": test,
            "status": "never seen",
            "shared": list("abcdefg")[:shared],
            **metrics(0.6521, 0.6122, SEVEN, n),
        }
        for test, shared, n in (("ferplus", 7, 3068), ("ckplus", 6, 927))
    ],
    "subject_folds": [{"data": "ckplus", "status": "never seen", **metrics(0.9012, 0.8511, EIGHT, 981)}],
    "robustness": {
        "data": "rafdb",
        "clean": {"accuracy": 0.81234, "uar": 0.70351},
        "conditions": [
            condition("gaussian blur", "1 px", 0.8012, 0.69),
            condition("gaussian blur", "3 px", 0.6123, 0.51),
            condition("low resolution", "16 px", 0.5432, 0.4321),
            condition("low resolution", "48 px", 0.7891, 0.6712),
            condition("found again", "MTCNN", 0.7913, 0.691, missed=309),
        ],
    },
}
TRAINING: dict[str, Any] = {
    "recipe": {
        "name": "crs-cont-cpu",
        "architecture": "resnet18",
        "crop_size": 96,
        "stages": [{"pixels": 48, "share": 0.3}, {"pixels": 96, "share": 0.7}],
        "objective": "crs-cont",
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "batch_size": 64,
        "temperature": 0.07,
    },
    "command": "python -m fergeneral.train --recipe crs-cont-cpu --data DATA --out OUT",
    "minutes": 85.4,
    "device": "cpu (2 cores)",
    "images": {"rafdb": 12246, "affectnet": 28927},
    "steps": 8320,
    "images_drawn": 532480,
    "torch": "2.15.0",
    "date": "2026-11-23",
    "started_from": None,
}
HEADINGS = [
    *("Intended use", "Misuse", "Training data and terms", "Training", "Results", "Known failure modes", "Citation"),
]


def metadata(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def section(card: str, heading: str) -> str:
    """The text below a heading, up to the next of the same level or a higher one."""
    level = len(heading.split()[0])
    body = card.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"\n#{{1,{level}}} ", body)[0]


def table(text: str) -> list[list[str]]:
    """The rows of the Markdown tables in a text, without headers' lines of dashes."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    return [[cell.strip() for cell in row] for row in rows if row[0].strip() != "---"]


@pytest.fixture(scope="module")
def card() -> str:
    return model_card(CONFIG, report=REPORT, training=TRAINING, notes="### Sunglasses\n\n![worse](a.png)")


def test_the_hubs_own_reader_finds_the_metadata_and_the_results(card: str) -> None:
    data = ModelCard(card).data
    assert (data.license, data.license_name, data.license_link) == ("other", "research-only", "LICENSE.md")
    assert (data.library_name, data.pipeline_tag) == ("fergeneral", "image-feature-extraction")
    assert data.datasets == ["rafdb", "affectnet"]
    assert data.metrics == ["accuracy", "recall", "f1"]
    assert data.model_name == "small-model"
    found = {(result.dataset_type, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {
        ("rafdb", "accuracy"): 0.8123,
        ("rafdb", "recall"): 0.7035,
        ("rafdb", "f1"): 0.6935,
        ("ferplus", "accuracy"): 0.7778,
        ("ferplus", "recall"): 0.5445,
        ("ferplus", "f1"): 0.5345,
    }
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_the_metadata_are_plain_yaml_of_the_hubs_schema(card: str) -> None:
    (index,) = metadata(card)["model-index"]
    assert index["name"] == "small-model"
    assert [result["dataset"]["name"] for result in index["results"]] == ["RAF-DB", "FER+"]
    for result in index["results"]:
        assert result["task"]["type"] == "image-classification"
        assert [metric["type"] for metric in result["metrics"]] == ["accuracy", "recall", "f1"]
        assert all(type(metric["value"]) is float for metric in result["metrics"])


def test_sections_stand_in_their_order(card: str) -> None:
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == HEADINGS
    assert card.index("## Known failure modes") < card.index("### Sunglasses\n\n![worse](a.png)")
    assert re.findall(r"[ \t]$|\n\n\n", card, re.MULTILINE) == []


def test_probe_rows_carry_intervals_and_the_figure_with_near_duplicates(card: str) -> None:
    header, *rows = table(section(card, "### Linear probe"))
    assert header[-1] == "with near-duplicates: accuracy / UAR"
    first = ["RAF-DB train", "RAF-DB test", "3,068", "held-out", "0.812 (0.800-0.825)", "0.704 (0.691-0.716)"]
    assert rows[0] == [*first, "0.694 (0.681-0.706)", "0.826 / 0.716"]
    assert rows[1][:4] == ["FER+ train", "FER+ test", "3,137", "never seen"]
    assert rows[1][-1] == "-"
    assert len(rows) == 2


def test_other_tables_hold_the_numbers_of_the_report(card: str) -> None:
    assert [row[:5] for row in table(section(card, "### Other data, other persons"))[1:]] == [
        ["RAF-DB train", "in-sample", "FER+ test, 7 shared classes", "never seen", "3,068"],
        ["RAF-DB train", "in-sample", "CK+, whole, 6 shared classes", "never seen", "927"],
        ["CK+, other persons", "never seen", "CK+, fold by fold", "never seen", "981"],
    ]
    assert table(section(card, "### Recall of each class")) == [
        ["class", "RAF-DB", "FER+"],
        ["neutral", "0.811", "0.851"],
        ["happiness", "0.931", "0.892"],
        ["disgust", "0.391", "-"],
        ["fear", "0.472", "-"],
        ["contempt", "-", "0.123"],
    ]
    assert [row[0] for row in table(section(card, "### Beside other systems"))] == [
        "system",
        "small-model",
        "mobile\\|net",
    ]
    assert table(section(card, "### Resolution"))[1:] == [
        ["16 px", "0.543", "0.432"],
        ["48 px", "0.789", "0.671"],
        ["unchanged", "0.812", "0.704"],
    ]
    assert table(section(card, "### Other changes of the image"))[1:] == [
        ["gaussian blur", "1 px: 0.801, 3 px: 0.612", "20.0"],
        ["found again", "MTCNN: 0.791 (no face found in 309)", "2.1"],
    ]


def test_weak_points_are_read_from_the_report(card: str) -> None:
    text = section(card, "## Known failure modes")
    assert "RAF-DB test: the class with the lowest recall is disgust (0.391)" in text
    assert "FER+ test: the class with the lowest recall is contempt (0.123)" in text
    assert "low resolution, 16 px: accuracy 0.543 in place of 0.812" in text


def test_earlier_runs_are_listed() -> None:
    run = {"name": "first", "minutes": 90.0, "device": "cpu (2 threads)", "images_drawn": 1234567, "date": "2026-11-20"}
    second = {**run, "name": "second", "started_from": "first", "minutes": 7.5, "device": "NVIDIA H200"}
    history = [{**run, "started_from": None}, second]
    text = section(model_card(CONFIG, training={**TRAINING, "history": history}), "## Training")
    assert "| `first` | random weights | 2026-11-20 | 90 minutes on cpu (2 threads), no GPU | 1,234,567 |" in text
    assert "| `second` | first | 2026-11-20 | 8 GPU-minutes (7.5 minutes on NVIDIA H200) | 1,234,567 |" in text
    assert "Runs before it" not in model_card(CONFIG, training={**TRAINING, "history": []})


def test_the_training_record_is_told(card: str) -> None:
    text = section(card, "## Training")
    assert f"```sh\n{TRAINING['command']}\n```" in text
    assert "85 minutes on cpu (2 cores), no GPU" in text
    assert "41,173; 532,480 were drawn in 8,320 steps (12.9 epochs)" in text  # 532480 / 41173 = 12.93
    assert "random weights" in text
    assert "48 px for 30%, 96 px for 70%" in text
    assert yaml.safe_load(text.split("```json\n")[1].split("```")[0]) == TRAINING["recipe"]  # JSON is YAML too
    data = section(card, "## Training data and terms")
    assert "**RAF-DB** (train), 12,246 images" in data
    assert "**AffectNet-part** (train), 28,927 images" in data


@pytest.mark.parametrize(
    ("minutes", "device", "text"),
    [
        (28.4, "NVIDIA H200", "28 GPU-minutes (28 minutes on NVIDIA H200)"),
        (15, "4 x NVIDIA H100", "60 GPU-minutes (15 minutes on 4 x NVIDIA H100)"),
        (0.25, "cpu", "0.2 minutes on cpu, no GPU"),
    ],
)
def test_cost_in_gpu_minutes(minutes: float, device: str, text: str) -> None:
    record = {**TRAINING, "minutes": minutes, "device": device}
    assert text in section(model_card(CONFIG, training=record), "## Training")


def test_hashes_of_lists_are_told_where_the_run_recorded_them(card: str) -> None:
    record = {**TRAINING, "list_sha256": {"rafdb": "ab" * 32, "affectnet": "cd" * 32}}
    data = section(model_card(CONFIG, training=record), "## Training data and terms")
    assert f"- RAF-DB: `{'ab' * 32}`\n- AffectNet-part: `{'cd' * 32}`\n" in data
    assert "SHA-256" not in section(card, "## Training data and terms")
    assert "fergeneral info --terms" in section(card, "## Training data and terms")


def test_without_records_nothing_is_claimed() -> None:
    card = model_card(CONFIG)
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == HEADINGS
    assert "Not measured" in section(card, "## Results")
    assert "No record" in section(card, "## Training")
    assert not {"model-index", "metrics", "model_name", "eval_results"} & set(metadata(card))
    # Figures with a decimal point would be results; the paper's DOI is the only other one.
    assert re.findall(r"\b0\.\d+", card) == []
    assert not re.search(r"\b(None|nan)\b", card)


def test_parts_that_the_report_lacks_are_left_out_or_said_to_be_missing() -> None:
    report = {**REPORT, "robustness": None, "cross_dataset": [], "subject_folds": [], "linear_probe": []}
    results = section(model_card(CONFIG, report=report), "## Results")
    assert "linear probe was not measured" in results
    assert "### Resolution\n\nNot measured." in results
    assert "Other" not in results
    assert "model-index" not in metadata(model_card(CONFIG, report=report))


def without(record: dict[str, Any], *path: Any) -> dict[str, Any]:
    changed = copy.deepcopy(record)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


@pytest.mark.parametrize("path", [("model",), ("seed",), ("linear_probe", 0, "uar"), ("cross_dataset", 0, "shared")])
def test_a_field_that_a_report_lacks_is_named(path: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match=f"the report lacks the field '{path[-1]}'"):
        model_card(CONFIG, report=without(REPORT, *path))


@pytest.mark.parametrize("path", [("command",), ("images",), ("recipe", "stages"), ("recipe", "crop_size")])
def test_a_field_that_a_training_record_lacks_is_named(path: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match=f"the training record lacks the field '{path[-1]}'"):
        model_card(CONFIG, training=without(TRAINING, *path))


def test_fields_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(DataError, match="the report holds a field of the wrong kind"):
        model_card(CONFIG, report={**REPORT, "linear_probe": "none"})
    for record in ({**TRAINING, "images": [1]}, {**TRAINING, "images": {}}, {**TRAINING, "minutes": "long"}):
        with pytest.raises(DataError, match="the training record holds a field of the wrong kind"):
            model_card(CONFIG, training=record)


def test_records_of_other_weights_are_refused() -> None:
    other = {**REPORT, "model": {"model_id": "other", "weights_sha256": "cd" * 32}}
    with pytest.raises(DataError, match="the report is of other"):
        model_card(CONFIG, report=other)
    with pytest.raises(DataError, match="other weights: its recipe has the crop_size 112"):
        model_card(CONFIG, training={**TRAINING, "recipe": {**TRAINING["recipe"], "crop_size": 112}})
    with pytest.raises(DataError, match="other weights: SHA-256"):
        model_card(CONFIG, training={**TRAINING, "weights_sha256": "cd" * 32})


def test_every_known_data_set_has_its_terms() -> None:
    names = ("rafdb", "affectnet", "affectnet8", "ferplus", "contempt", "ckplus")
    assert tuple(TERMS) == names
    text = license_text(EncoderConfig("m", training_data=names))
    assert text.count("\n- **") == 6
    assert text.count("non-commercial research, after an agreement") == 5
    assert "labels are under the MIT licence, the photos under no open licence" in text
    assert "**Research only, non-commercial.**" in text


def test_the_terms_of_unknown_data_are_not_invented() -> None:
    card = model_card(EncoderConfig("m", training_data=("mine",), license="CC0"))
    assert metadata(card)["license_name"] == "see-license-file"
    assert "**CC0.**" in card
    assert "**mine**: fergeneral does not know its source and terms" in card
    bare = model_card(EncoderConfig("m"))
    assert "datasets" not in metadata(bare)
    assert "no licence was stated" in bare.lower()
    assert "does not say what they were trained on" in bare


def test_the_readers_know_the_same_data_sets() -> None:
    assert set(TERMS) == set(_LANDMARKS)
