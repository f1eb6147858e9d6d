"""docs/trust.md and docs/privacy.md against the records that benchmarks/trust.py and benchmarks/erasure.py stored."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from fergeneral.hub import DEFAULT_MODEL, packaged_models

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trust() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("trust")


def test_the_tables_of_the_pages_are_those_of_the_records(trust: ModuleType) -> None:
    record = trust.read_record()
    names = []
    for page in trust.PAGES:
        text = page.read_text(encoding="utf-8")
        assert trust.filled(text, record) == text, f"run: python benchmarks/trust.py pages ({page.name} differs)"
        names += re.findall(r"<!-- (\w+) -->", text)
    assert sorted(name for name in names if name != "end") == sorted(trust.TABLES)  # each once, none left out


def test_a_number_that_was_changed_by_hand_is_noticed(trust: ModuleType) -> None:
    text, record = trust.PAGES[0].read_text(encoding="utf-8"), trust.read_record()
    start = text.index("<!-- found -->")
    place = start + re.search(r"\d\d\.\d \(", text[start:]).start()  # type: ignore[union-attr]
    forged = text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :]
    assert trust.filled(forged, record) == text


def test_the_records_are_of_the_default_encoder(trust: ModuleType) -> None:
    record = trust.read_record()
    weights = packaged_models()[0].weights_sha256
    assert record["fairface"]["head"]["encoder_sha256"] == record["london"]["head"]["encoder_sha256"] == weights
    assert record["conditions"]["encoder"]["sha256"] == weights
    assert record["erasure"]["model"] == DEFAULT_MODEL
    assert record["leakage"]["weights"] == {DEFAULT_MODEL: weights}


def test_counts_that_the_sentences_name_are_those_of_the_records(trust: ModuleType) -> None:
    text, record = " ".join(trust.PAGES[0].read_text(encoding="utf-8").split()), trust.read_record()
    fairface, conditions = record["fairface"], record["conditions"]
    missed = fairface["without_face"]
    assert f"Of the {len(missed['MTCNN'])} photos in which MTCNN finds no face, YuNet finds one in " in text
    both = len(set(missed["MTCNN"]) & set(missed["YuNet"]))
    assert f"YuNet finds one in {len(missed['MTCNN']) - both}." in text
    assert fairface["table"]["photos"] == 2772
    assert "2,772 photos of 160 x 160 pixels, balanced" in text
    assert f"smallest p values of {len(record['london']['gaps'])} tests" in text
    assert f"{conditions['photos']['n']} photos, one of each person" in text
    assert conditions["crops"]["n"] == 300
    assert conditions["crops"]["n_train"] == 4000
    detection = [gap for gap in fairface["gaps"] if gap["detector"]]
    assert min(gap["p_holm"] for gap in detection) > trust.LEVEL  # "no gap in detection or landmarks ..."
    assert min(gap["p_holm"] for gap in record["london"]["gaps"]) > trust.LEVEL
