from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import drawn_face
from PIL import Image

from fergeneral import DataError, ExpressionExtractor
from fergeneral.datasets import open_dataset
from fergeneral.evaluate import embed_dataset, learn_unseen, linear_probe
from fergeneral.evaluate.figures import _is_graded, _middle
from fergeneral.evaluate.inputs import System, open_sets, read_peers
from fergeneral.evaluate.report import evaluate
from fergeneral.evaluate.sections import _identity
from fergeneral.evaluate.tables import main_table, markdown

CURVES = {"happiness": 1.0, "sadness": -1.0, "neutral": 0.0, "surprise": 3.0}


def draw(path: Path, label: str, generator: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn_face(CURVES[label], generator)).save(path)


def split_set(root: Path) -> Path:
    """SPLIT/LABEL/IMAGE, 8 and 3 images a class; the first train image of happiness is a near copy of a test image."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for label in CURVES:
            for i in range(count):
                draw(root / split / label / f"{split}{i}_{label}.png", label, generator)
    with (root / "near_duplicates.csv").open("w", newline="") as file:
        rows = [(0, f"{split}/happiness/{split}0_happiness.png", "happiness", split) for split in ("train", "test")]
        csv.writer(file).writerows([("group", "path", "label", "split"), *rows])
    return root


def people_set(root: Path) -> Path:
    """A manifest without splits: ten people, each with three expressions, two frames each."""
    generator = np.random.default_rng(1)
    rows = [("path", "label", "subject")]
    for person in range(10):
        for label in ("happiness", "sadness", "surprise"):
            for frame in range(2):
                rows.append((f"{person}_{label}_{frame}.png", label, f"p{person}"))
                draw(root / rows[-1][0], label, generator)
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="module")
def model(random_folder: Path) -> ExpressionExtractor:
    return ExpressionExtractor.from_pretrained(random_folder, device="cpu")


@pytest.fixture(scope="module")
def made(model: ExpressionExtractor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report on two small sets, with a peer that has the model's own embeddings and one with gaps."""
    root = tmp_path_factory.mktemp("report")
    data = [split_set(root / "drawn"), people_set(root / "people")]
    drawn = open_sets(data)["drawn"].dataset
    own = embed_dataset(model.encoder, drawn)
    (root / "peers").mkdir()
    paths = np.array([sample.path for sample in drawn.samples])
    np.savez(root / "peers" / "same.npz", path=paths[::-1], embedding=own[::-1])
    gaps = np.random.default_rng(0).normal(size=(len(paths), 8))
    gaps[:5] = np.nan
    names = np.array([Path(path).name for path in paths])
    np.savez(root / "peers" / "gaps.npz", path=names, embedding=gaps.astype(np.float16))
    report = evaluate(model, data, root / "out", peers=root / "peers", cache=root / "cache")
    return root, report


def rows_of(report: dict[str, Any], section: str, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in report[section] if all(row[key] == value for key, value in wanted.items())]


def test_the_linear_probe_is_the_one_computed_by_hand(
    made: tuple[Path, dict[str, Any]], model: ExpressionExtractor
) -> None:
    root, report = made
    for duplicates, n_train in (("out", 31), ("in", 32)):
        dataset = open_dataset(root / "drawn", drop_duplicates=duplicates == "out")
        train, test = dataset.split("train"), dataset.split("test")
        embedded = [embed_dataset(model.encoder, part) for part in (train, test)]
        expected = linear_probe(embedded[0], train.labels, embedded[1], test.labels)
        (row,) = rows_of(report, "linear_probe", system="random", near_duplicates=duplicates)
        assert (row["train"], row["test"], row["n_train"], row["n"]) == ("drawn", "drawn", n_train, 12)
        assert row["confusion"] == expected.confusion.tolist()
        assert (row["accuracy"], row["uar"]) == pytest.approx((expected.accuracy, expected.uar))
        assert row["c"] == pytest.approx(expected.c)


def test_a_peer_with_the_same_embeddings_gets_the_same_figures(made: tuple[Path, dict[str, Any]]) -> None:
    _, report = made
    ours, same = (rows_of(report, "linear_probe", system=name)[0] for name in ("random", "same"))
    assert same["confusion"] == ours["confusion"]
    (pair,) = rows_of(report, "paired", b="same")
    assert pair["accuracy"]["difference"] == pair["uar"]["difference"] == 0
    assert pair["accuracy"]["interval"] == [0, 0]
    for section in ("knn", "few_shot"):
        for one, other in zip(
            rows_of(report, section, system="random"), rows_of(report, section, system="same"), strict=True
        ):
            assert one["accuracy"] == other["accuracy"]
    assert {row["missing"] for row in rows_of(report, "linear_probe", system="gaps")} == {5}
    assert not rows_of(report, "structure", system="gaps", data="people")  # it has no embeddings of that set


def test_unseen_classes_are_learnt_as_by_hand(made: tuple[Path, dict[str, Any]], model: ExpressionExtractor) -> None:
    root, report = made
    dataset = open_dataset(root / "drawn")
    parts = [dataset.split(name) for name in ("train", "test")]
    (train, labels), (test, truth) = ((embed_dataset(model.encoder, part), part.labels) for part in parts)
    for row in rows_of(report, "unseen", system="random", data="drawn"):
        if row["class"] is not None:
            result = learn_unseen(train, labels, test, truth, row["class"])[row["shots"]]
            assert row["recall"] == pytest.approx(result.recalls.mean(), abs=1e-4)
            assert row["uar"] == pytest.approx(result.uars.mean(), abs=1e-4)
    found = rows_of(report, "unseen", system="random", data="drawn", shots=5)
    assert [row["class"] for row in found] == ["neutral", "happiness", "surprise", "sadness", None]
    assert found[-1]["recall"] == pytest.approx(np.mean([row["recall"] for row in found[:-1]]), abs=1e-3)
    same = rows_of(report, "unseen", system="same", data="drawn", shots=5)
    assert [row["recall"] for row in same] == [row["recall"] for row in found]
    assert {row["class_status"] for row in report["unseen"]} == {"not stated"}
    assert len(rows_of(report, "unseen", data="people")) == 4 * 4
    assert "unseen.png" in [figure["file"] for figure in report["figures"]]
    text = (root / "out" / "report.md").read_text()
    assert "## Unseen expressions" in text
    older = {name: value for name, value in report.items() if name != "unseen"}
    assert "## Unseen expressions" not in markdown(older)


def test_every_part_is_there_and_says_what_it_read(made: tuple[Path, dict[str, Any]]) -> None:
    root, report = made
    assert json.loads((root / "out" / "report.json").read_text()) == report
    assert report["model"]["model_id"] == "random"
    assert report["data"]["drawn"]["splits"]["train"] == {
        "n": 31,
        "classes": {"neutral": 8, "happiness": 7, "surprise": 8, "sadness": 8},
    }
    assert report["data"]["people"]["splits"]["all"]["n"] == 60
    assert report["data"]["people"]["subjects"] == 10
    assert {row["k"] for row in report["knn"]} >= {10, 20}
    assert {row["shots"] for row in report["few_shot"]} == {1, 2, 4, 8, 16, 32}
    assert [(row["train"], row["test"]) for row in report["cross_dataset"]] == [
        ("drawn", "people"),
        ("people", "drawn"),
    ]
    assert report["cross_dataset"][0]["shared"] == ["happiness", "surprise", "sadness"]
    assert report["cross_dataset"][1]["left_out_test"] == {"neutral": 3}
    (folds,) = report["subject_folds"]
    assert (folds["data"], folds["n"], folds["subjects"]) == ("people", 60, 10)
    assert 0 <= rows_of(report, "structure", data="people")[0]["identity"]["identity_auc"] <= 1
    for row in report["robustness"]["conditions"]:
        assert row["drop_accuracy"] == pytest.approx(report["robustness"]["clean"]["accuracy"] - row["accuracy"])
        assert row["drop_uar_interval"][0] <= row["drop_uar"] <= row["drop_uar_interval"][1]
    assert {row["status"] for section in ("knn", "cross_dataset") for row in report[section]} == {"not stated"}


def test_the_markdown_has_whole_tables_and_the_figures(made: tuple[Path, dict[str, Any]]) -> None:
    root, report = made
    text = (root / "out" / "report.md").read_text()
    (row,) = rows_of(report, "linear_probe", system="random", near_duplicates="out")
    low, high = row["intervals"]["accuracy"]
    assert f"| **random** | not stated | {row['c']:.2g} | {row['accuracy']:.3f} ({low:.3f}-{high:.3f}) |" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 10
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1, block[0]
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    assert sorted(pictures) == sorted(row["file"] for row in report["figures"])
    for name in pictures:
        with Image.open(root / "out" / name) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) >= 200
        assert (pixels != 255).any(axis=2).mean() > 0.01  # something is drawn
    assert {"systems_drawn.png", "confusion_drawn.png", "confusion_people.png"} <= set(pictures)
    assert {"few_shot.png", "robustness.png", "projection_drawn.png", "projection_people.png"} <= set(pictures)


def test_a_second_run_gives_the_same_from_the_cache(
    made: tuple[Path, dict[str, Any]], model: ExpressionExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, report = made
    monkeypatch.setattr(type(model.encoder), "encode", None)  # whoever embeds anything now fails
    again = evaluate(model, [root / "drawn"], tmp_path / "out", cache=root / "cache")
    for section in ("linear_probe", "sgd_probe", "knn", "few_shot", "structure"):
        assert rows_of(again, section) == rows_of(report, section, system="random", data="drawn")
    assert again["robustness"] == report["robustness"]
    assert again["data"] == {"drawn": report["data"]["drawn"]}


def test_a_set_without_splits_alone(
    made: tuple[Path, dict[str, Any]], model: ExpressionExtractor, tmp_path: Path
) -> None:
    root, report = made
    alone = evaluate(model, [root / "people"], tmp_path, cache=root / "cache")
    assert alone["subject_folds"] == report["subject_folds"]
    assert alone["robustness"] is None
    assert not alone["linear_probe"]
    assert "people, subject-wise folds  random" in main_table(alone)
    assert "## Linear probe" not in (tmp_path / "report.md").read_text()


def test_identity_needs_something_to_compare(tmp_path: Path) -> None:
    root = people_set(tmp_path / "people")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)

    def found(person_of: Callable[[str, str], str]) -> dict[str, float] | None:
        lines = (root / "manifest.csv").read_text().splitlines()
        rows = [line.split(",")[:2] for line in lines[1:]]
        text = "".join(f"{path},{label},{person_of(path[0], label)}\n" for path, label in rows)
        (root / "manifest.csv").write_text(lines[0] + "\n" + text)
        data = open_sets([root])["people"]
        return _identity(data, x, data.dataset.labels, 0)

    assert found(lambda person, label: person) is not None
    assert found(lambda person, label: person + label) is None  # nobody with two expressions
    assert found(lambda person, label: label) is None
    assert found(lambda person, label: "") is None  # people not known


@pytest.mark.parametrize(
    ("name", "split", "status"),
    [
        ("rafdb", "train", "in-sample"),
        ("rafdb", "test", "held-out"),
        ("rafdb", None, "in-sample"),
        ("affectnet", "test", "in-sample"),
        ("raf", "test", "never seen"),
        ("ferplus", "test", "never seen"),
    ],
)
def test_status(name: str, split: str | None, status: str) -> None:
    assert System("ours", {}, ("rafdb (train)", "affectnet")).status(name, split) == status
    assert System("peer", {}).status(name, split) == "not stated"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/happy": 2, "train/smirk": 2, "test/happy": 1}, r"set has unknown expression labels \['smirk'\]"),
        ({"train/happy": 2, "train/sad": 1, "test/happy": 1}, r"set cannot be probed.*'sadness': 1"),
        ({"train/happy": 2, "test/happy": 1}, r"set cannot be probed: it needs two classes"),
        ({"train/happy": 2, "train/sad": 2}, r"set has no images in the split 'test'; it has: train"),
        ({"val/happy": 2, "test/sad": 2}, r"set has no images in the split 'train'"),
        ({"train/happy": 2, "train/sad": 2, "test/fear": 1}, r"labels \['fear'\] in test, which train does not have"),
        ({}, "no labelled images"),
    ],
)
def test_sets_at_fault_are_named(tmp_path: Path, photos: Path, files: dict[str, int], message: str) -> None:
    (tmp_path / "set").mkdir()
    for folder, count in files.items():
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(count):
            shutil.copy(photos / "coffee.png", tmp_path / "set" / folder / f"{i}.png")
    with pytest.raises(DataError, match=message):
        open_sets([tmp_path / "set"])


def test_two_sets_of_one_name_and_none(tmp_path: Path) -> None:
    data = split_set(tmp_path / "a" / "set")
    shutil.copytree(data, tmp_path / "b" / "set")
    with pytest.raises(DataError, match="are both named 'set'"):
        open_sets([data, tmp_path / "b" / "set"])
    with pytest.raises(DataError, match="at least one data set"):
        open_sets([])


def test_peers_at_fault_are_named(tmp_path: Path) -> None:
    sets = open_sets([split_set(tmp_path / "drawn")])
    paths = np.array([sample.path for sample in sets["drawn"].dataset.samples])
    x = np.ones((44, 3), np.float32)
    (tmp_path / "peers").mkdir()
    file = tmp_path / "peers" / "them.npz"

    def fails(message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_peers(tmp_path / "peers", sets)

    fails("has no .npz files")
    file.write_bytes(b"nothing")
    fails("them.npz is not a .npz with the arrays path and embedding")
    for arrays, message in (
        ({"path": paths}, "them.npz is not a .npz with the arrays path and embedding: .*embedding"),
        ({"path": paths, "embedding": x[1:]}, r"them.npz needs N paths.*44 and \(43, 3\)"),
        ({"path": paths[[0, 0]], "embedding": x[:2]}, "them.npz has 1 paths twice"),
        ({"path": paths[1:], "embedding": x[1:]}, f"them.npz lacks 1 of the 44 images of drawn, the first: {paths[0]}"),
        (
            {"path": np.array(["else.png"]), "embedding": x[:1]},
            "of none of the data sets drawn; its first path: .'else.png",
        ),
        ({"path": paths, "embedding": x * np.nan}, "them.npz has no finite embedding in train of drawn"),
    ):
        np.savez(file, **arrays)
        fails(message)


def test_gaps_of_a_peer_get_the_mean_of_train(tmp_path: Path) -> None:
    data = open_sets([split_set(tmp_path / "drawn")])["drawn"]
    x = np.random.default_rng(0).normal(size=(44, 4)).astype(np.float32)
    x[[3, 40]] = np.nan
    (tmp_path / "peers").mkdir()
    paths = np.array([sample.path for sample in data.dataset.samples])
    np.savez(tmp_path / "peers" / "them.npz", path=paths, embedding=x)
    (peer,) = read_peers(tmp_path / "peers", {"drawn": data})
    train = [i for i, s in enumerate(data.dataset.samples) if s.split == "train" and "train0_happiness" not in s.path]
    mean = np.nanmean(x[train], axis=0)
    assert peer.missing == {"drawn": 2}
    assert peer.embeddings["drawn"][[3, 40]] == pytest.approx(np.stack([mean, mean]), abs=1e-6)
    others = np.delete(np.arange(44), [3, 40])
    assert (peer.embeddings["drawn"][others] == x[others]).all()


def test_a_folder_that_cannot_be_made(tmp_path: Path, model: ExpressionExtractor) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/out cannot be made"):
        evaluate(model, [tmp_path], tmp_path / "file" / "out")


def test_lines_are_drawn_only_between_grades() -> None:
    assert _is_graded(["64 px", "32 px", "16 px"])
    assert _is_graded(["-15", "+15"])
    assert not _is_graded(["eyes", "mouth"])
    assert not _is_graded(["10 % left", "10 % right"])
    assert not _is_graded(["16 px"])
    assert _middle(["-15 deg", "-7 deg", "+7 deg", "+15 deg"]) == 2  # clean comes after two
    assert _middle(["64 px", "32 px"]) == _middle(["-1 left", "2", "-3"]) == 0
