"""Heads fitted on a few labelled faces: against scikit-learn, with few examples, on other people, from photos."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from scipy.special import softmax
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fergeneral import DataError, ExpressionClassifier, ExpressionExtractor, Head
from fergeneral.cli import main
from fergeneral.encoder import Encoder
from fergeneral.heads import FitReport, fit_head
from fergeneral.heads import fit as module
from fergeneral.heads.examples import read_examples

LONDON = ROOT / "examples" / "london"
SIZE = 512


@pytest.fixture(scope="module")
def encoder(extractor: ExpressionExtractor) -> Encoder:
    return extractor.encoder


def blobs(counts: dict[str, int], *, apart: float = 3.0, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Embeddings around a centre for each class; the centre depends on the name alone."""
    generator = np.random.default_rng(seed)
    rows = []
    for name, count in counts.items():
        centre = np.random.default_rng(sum(map(ord, name))).normal(size=SIZE)
        rows.append(5 + apart * centre / np.linalg.norm(centre) * 5 + generator.normal(size=(count, SIZE)))
    labels = [name for name, count in counts.items() for _ in range(count)]
    return np.concatenate(rows).astype(np.float32), labels


def quiet_fit(*arguments: Any, **options: Any) -> tuple[Head, FitReport]:
    """`fit_head` without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return fit_head(*arguments, **options)


@pytest.fixture(scope="module")
def london(extractor: ExpressionExtractor) -> tuple[np.ndarray, list[str], list[str], list[Path]]:
    """Embeddings, labels, people and paths of the 24 photos."""
    with (LONDON / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    paths = [LONDON / row["path"] for row in rows]
    found = [faces[0].embedding for faces in extractor.extract_many(paths)]
    return np.stack(found), [row["label"] for row in rows], [row["subject"] for row in rows], paths


# Against scikit-learn


@pytest.mark.parametrize("counts", [{"a": 40, "b": 25, "c": 12}, {"a": 12, "b": 60}], ids=["three", "two"])
def test_logistic_is_scikit_learns(encoder: Encoder, counts: dict[str, int]) -> None:
    x, y = blobs(counts, apart=0.7)
    others, truth = blobs(dict.fromkeys(counts, 200), apart=0.7, seed=1)
    head, report = quiet_fit(x, y, encoder)
    assert (report.method, report.c) == ("logistic", 0.001)
    linear = LogisticRegression(C=report.c, class_weight="balanced", tol=1e-8, max_iter=5000)
    wanted = make_pipeline(StandardScaler(), linear).fit(x.astype(np.float64), y)
    logits = wanted.decision_function(others)
    logits = np.stack([-logits / 2, logits / 2], axis=1) if logits.ndim == 1 else logits
    assert head.classes == tuple(wanted.classes_)
    assert head.predict_proba(others) == pytest.approx(softmax(logits / report.temperature, axis=1), abs=2e-3)
    assert np.mean(head.predict(others) == wanted.predict(others)) > 0.995
    assert 0.6 < np.mean(head.predict(others) == truth) < 1  # else the comparison would say little


def test_more_weight_is_more_copies(encoder: Encoder) -> None:
    """Balanced weights, independently of scikit-learn: the small class three times over is as large as the other."""
    x, y = blobs({"a": 30, "b": 10}, apart=0.6)
    copied, labels = np.concatenate([x, x[30:], x[30:]]), [*y, *y[30:], *y[30:]]
    (weighted,) = module._logistic(x, np.repeat([0, 1], [30, 10]), 2, [0.001])
    (plain,) = module._logistic(copied, np.array([0 if label == "a" else 1 for label in labels]), 2, [0.001])
    # The standardisation differs, which does not weigh; the answers hardly do.
    others, _ = blobs({"a": 100, "b": 100}, apart=0.6, seed=1)
    assert np.mean(weighted.logits(others).argmax(1) == plain.logits(others).argmax(1)) > 0.95


def test_the_nearest_mean_is_scikit_learns(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the prior of the scales; then with nothing but it, by which no feature is scaled."""
    x, y = blobs({"a": 4, "b": 5, "c": 6}, apart=0.5)
    others, _ = blobs({"a": 100, "b": 100, "c": 100}, apart=0.5, seed=1)
    monkeypatch.setattr(module, "PRIOR_FACES", 0)
    wanted = make_pipeline(StandardScaler(), NearestCentroid()).fit(x, y).predict(others)
    assert quiet_fit(x, y, encoder)[0].predict(others).tolist() == wanted.tolist()
    monkeypatch.setattr(module, "PRIOR_FACES", 10**9)
    wanted = NearestCentroid().fit(x, y).predict(others)
    assert quiet_fit(x, y, encoder)[0].predict(others).tolist() == wanted.tolist()


def test_the_report_is_scikit_learns_leave_one_out(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs({"a": 6, "b": 7, "c": 8}, apart=0.4)
    monkeypatch.setattr(module, "PRIOR_FACES", 10**9)
    _, report = quiet_fit(x, y, encoder)
    answers = cross_val_predict(NearestCentroid(), x, y, cv=LeaveOneOut())
    assert report.folds == "one face at a time"
    right = answers == np.array(y)
    assert report.accuracy == pytest.approx(right.mean())
    assert 0.2 < right.mean() < 0.9
    assert report.recall == {name: pytest.approx(right[np.array(y) == name].mean()) for name in "abc"}
    assert report.uar == pytest.approx(np.mean(list(report.recall.values())))
    wanted = beta.ppf([0.025, 0.975], right.sum() + 0.5, 21 - right.sum() + 0.5)
    assert report.accuracy_interval == pytest.approx(wanted)


def test_to_sklearn_and_back(encoder: Encoder) -> None:
    x, y = blobs({"a": 5, "b": 3})
    head, _ = fit_head(x, y, encoder)
    pipeline = head.to_sklearn()
    assert pipeline.predict_proba(x) == pytest.approx(head.predict_proba(x), abs=1e-5)
    again = Head.from_sklearn(pipeline, encoder)
    assert again.predict_proba(x) == pytest.approx(head.predict_proba(x), abs=1e-5)


# Few examples


def test_one_example_a_class(encoder: Encoder) -> None:
    x, y = blobs({"a": 1, "b": 1, "c": 1})
    head, report = fit_head(x, y, encoder)
    others, truth = blobs({"a": 50, "b": 50, "c": 50}, seed=1)
    assert head.predict(others).tolist() == truth
    assert (report.method, report.tested, report.accuracy, report.ece) == ("mean", 0, None, None)
    assert report.recall == {"a": None, "b": None, "c": None}
    assert report.temperature == pytest.approx(0.3)
    assert "there is one face a class" in str(report)
    assert head.config.quality == {}
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["accuracy"] is None


def test_a_class_with_a_single_face(encoder: Encoder) -> None:
    x, y = blobs({"a": 4, "b": 1, "c": 4})
    with pytest.warns(UserWarning, match="how well b are recognised is not known"):
        head, report = fit_head(x, y, encoder)
    assert report.recall == {"a": 1, "b": None, "c": 1}
    assert report.tested == 8
    assert head.predict(x).tolist() == y
    with pytest.raises(DataError, match="needs two examples or more of each class; b: one"):
        fit_head(x, y, encoder, method="logistic")


@pytest.mark.parametrize("shots", [2, 3, 5, 10])
@pytest.mark.parametrize("method", ["auto", "logistic", "mean"])
def test_few_right_answers_are_no_certainty(encoder: Encoder, shots: int, method: str) -> None:
    head, report = fit_head(*blobs({"a": shots, "b": shots}, apart=6), encoder, method=method)
    assert report.accuracy == 1
    assert report.accuracy_interval is not None
    assert report.accuracy_interval[0] < 0.95
    assert report.accuracy_interval[1] == pytest.approx(1, abs=0.01)
    others, truth = blobs({"a": 50, "b": 50}, apart=6, seed=1)
    assert head.predict(others).tolist() == truth
    confidence = head.predict_proba(others).max(axis=1).mean()
    assert 0.6 < confidence < 0.9999
    assert report.method == (method if method != "auto" else "logistic" if shots >= 10 else "mean")


def test_another_c_is_taken_where_it_is_clearly_better(encoder: Encoder) -> None:
    """One feature tells the classes apart, far below the noise of the others: the usual C leaves it unlearnt."""
    generator = np.random.default_rng(0)
    y = np.arange(600) % 2
    x = generator.normal(size=(600, SIZE)).astype(np.float32)
    x[:, 0] += 8 * y
    _, report = fit_head(x, y.tolist(), encoder)
    assert report.c is not None
    assert report.c > module.USUAL_C
    assert report.accuracy is not None
    assert report.accuracy > 0.9


def test_the_same_data_give_the_same_head(encoder: Encoder) -> None:
    x, y = blobs({"a": 15, "b": 30}, apart=0.5)
    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    (first, report), (second, again) = (fit_head(x, y, encoder) for _ in range(2))
    assert first.sha256 == second.sha256
    assert report == again
    assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr,index]


def test_ten_classes_of_a_hundred_faces(encoder: Encoder) -> None:
    x, y = blobs(dict.fromkeys("abcdefghij", 100), apart=0.5)
    head, report = quiet_fit(x, y, encoder)
    assert (report.method, report.tested) == ("logistic", 1000)
    assert list(report.faces.values()) == [100] * 10
    fresh, truth = blobs(dict.fromkeys("abcdefghij", 100), apart=0.5, seed=1)
    assert report.accuracy is not None
    assert report.accuracy < 0.95
    assert np.mean(head.predict(fresh) == np.array(truth)) == pytest.approx(report.accuracy, abs=0.05)


# Other people


def test_nobody_is_in_both_parts(encoder: Encoder) -> None:
    """Where the embedding says the person alone, and each has one expression, other people are guessed at."""
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 10)
    y = np.array(["a", "b"])[people % 2]
    x = (5 + 3 * generator.normal(size=(20, SIZE))[people] + generator.normal(size=(200, SIZE))).astype(np.float32)
    _, report = fit_head(x, y.tolist(), encoder)
    assert report.accuracy == 1
    _, apart = quiet_fit(x, y.tolist(), encoder, groups=people.tolist())
    assert apart.accuracy is not None
    assert apart.accuracy < 0.8
    assert apart.folds == "10 folds of 20 people; nobody is in both parts"
    low, high = apart.accuracy_interval or (0, 0)
    assert high - low > 0.3  # of 20 people, not 200 faces


def test_the_folds_keep_people_together() -> None:
    generator = np.random.default_rng(0)
    for people_count in (3, 12, 40):
        people = generator.integers(0, people_count, 300).astype(str)
        column = generator.integers(0, 3, 300)
        folds, _ = module._folds(column.astype(str), column, people, int(np.bincount(column).min()), 0, [])
        assert folds.min() == 0
        assert folds.max() == min(people_count, 10) - 1
        assert all(len(set(folds[people == person].tolist())) == 1 for person in set(people.tolist()))


def test_a_class_that_one_person_shows(encoder: Encoder) -> None:
    x, y = blobs({"a": 12, "b": 12, "c": 12})
    people = [*"111122223333" * 2, *"111111111111"]
    with pytest.warns(UserWarning, match="how well c are recognised is not known"):
        _, report = fit_head(x, y, encoder, groups=people)
    assert report.recall == {"a": 1, "b": 1, "c": None}
    with pytest.warns(UserWarning, match="all faces show one person"):
        _, report = fit_head(x, y, encoder, groups=["me"] * 36)
    assert report.tested == 36


def test_people_of_london_who_were_not_seen(
    london: tuple[np.ndarray, list[str], list[str], list[Path]], extractor: ExpressionExtractor
) -> None:
    _, labels, people, paths = london
    first = sorted(set(people))[:8]
    train = [row for row, person in enumerate(people) if person in first]
    test = [row for row, person in enumerate(people) if person not in first]
    classifier = ExpressionClassifier.fit(
        [paths[row] for row in train],
        [labels[row] for row in train],
        groups=[people[row] for row in train],
        encoder=extractor,
    )
    report = classifier.report
    assert report is not None
    assert report.faces == {"neutral": 8, "smiling": 8}
    assert "one person of 8" in report.folds
    right = sum(classifier.predict(paths[row])[0].expression == labels[row] for row in test)
    assert len(test) == 8
    assert right >= 6


# What is warned of


def test_two_classes_that_are_one(encoder: Encoder) -> None:
    x, _ = blobs({"a": 200})
    y = ["glad", "happy"] * 100
    other, others = blobs({"sad": 20})
    with pytest.warns(UserWarning, match="'glad' and 'happy' are not told apart") as caught:
        fit_head(np.concatenate([x, other]), [*y, *others], encoder)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_picture_in_two_classes(encoder: Encoder) -> None:
    x, y = blobs({"a": 5, "b": 5})
    x[7] = x[2] * (1 + 1e-6)  # as another batch may give it
    with pytest.raises(DataError, match=r"a2\.png \(a\) and b7\.png \(b\) are the same picture in two classes"):
        fit_head(x, y, encoder, files=[f"{label}{row}.png" for row, label in enumerate(y)])


def test_a_picture_twice_in_a_class_counts_once(encoder: Encoder) -> None:
    x, y = blobs({"a": 4, "b": 4})
    head, _ = fit_head(x, y, encoder)
    with pytest.warns(UserWarning, match="the same picture as another, and left out: example 8, example 9"):
        again, report = fit_head(np.concatenate([x, x[:2]]), [*y, "a", "a"], encoder)
    assert report.copies == ("example 8", "example 9")
    assert again.predict_proba(x) == pytest.approx(head.predict_proba(x), abs=1e-6)


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"] * 8}, "two classes or more"),
        ({"labels": ["a"] * 7}, "8.*7 labels"),
        ({"labels": ["a"] * 4 + ["uncertain"] * 4}, "no class can be named 'uncertain'"),
        ({"labels": ["a"] * 4 + [None] * 4}, "example 4 has no label"),
        ({"labels": ["a"] * 4 + [float("nan")] * 4}, "example 4 has no label"),
        ({"labels": ["a"] * 4 + ["two\nlines"] * 4}, "printable characters"),
        ({"labels": ["a"] * 4 + [" "] * 4}, "printable characters"),
        ({"embeddings": np.zeros((8, 3))}, "embeddings have 3 numbers"),
        ({"embeddings": np.zeros((8, 512, 1))}, r"\(N, D\)"),
        ({"groups": ["x"] * 7}, "groups must be as many"),
        ({"files": ["x"] * 9}, "files must be as many|files"),
        ({"embeddings": np.zeros((0, SIZE)), "labels": []}, "N > 0"),
    ],
)
def test_what_is_refused(encoder: Encoder, change: dict[str, Any], message: str) -> None:
    x, y = blobs({"a": 4, "b": 4})
    with pytest.raises(DataError, match=message):
        fit_head(**{"embeddings": x, "labels": y, "encoder": encoder, **change})


def test_rows_of_nan_and_other_methods_are_refused(encoder: Encoder) -> None:
    x, y = blobs({"a": 4, "b": 4})
    with pytest.raises(ValueError, match="method must be one of auto, logistic, mean"):
        fit_head(x, y, encoder, method="svm")
    x[3, 5] = np.nan
    with pytest.raises(DataError, match="1 rows with values that are not finite"):
        fit_head(x, y, encoder)


def test_embeddings_without_variance(encoder: Encoder) -> None:
    """All the same picture, but one: nothing may divide by zero."""
    x = np.ones((3, SIZE), dtype=np.float32)
    x[2, :10] = 2
    head, _ = fit_head(x[1:], ["a", "b"], encoder)
    assert head.predict(x).tolist() == ["a", "a", "b"]


# From photos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight of London's photos as LABEL/PHOTO, labels by names of their own."""
    for label, name in (("neutral", "happy"), ("smiling", "Sad Face")):
        (tmp_path / "people" / name).mkdir(parents=True)
        for photo in sorted((LONDON / label).iterdir())[:4]:
            shutil.copy(photo, tmp_path / "people" / name / photo.name)
    return tmp_path / "people"


def test_from_a_folder(folder: Path, extractor: ExpressionExtractor) -> None:
    shutil.copy(ROOT / "examples" / "photos" / "coffee.png", folder / "happy")
    (folder / "happy" / "broken.jpg").write_bytes(b"no photo")
    with pytest.warns(UserWarning, match="2 of 10 images are left out, 1 without a face and 1 unreadable") as caught:
        classifier = ExpressionClassifier.fit(folder, encoder=extractor)
    assert caught[0].filename == __file__
    assert classifier.classes == ("Sad Face", "happy")  # as given: not "happiness"
    report = classifier.report
    assert isinstance(report, FitReport)
    assert report.faces == {"Sad Face": 4, "happy": 4}
    assert report.no_face == (str(folder / "happy" / "coffee.png"),)
    assert list(report.unreadable) == [str(folder / "happy" / "broken.jpg")]
    assert "1 without a face" in str(report)
    assert f"\n  {folder / 'happy' / 'broken.jpg'} is not an image" in str(report)
    assert classifier.head.config.training_data == ("8 faces in 2 classes: Sad Face 4, happy 4",)
    assert classifier.head.config.quality["cross-validation"]["accuracy"] == report.accuracy
    assert "broken" not in classifier.head.config.to_json()


def test_photos_give_what_their_faces_give(
    london: tuple[np.ndarray, list[str], list[str], list[Path]], extractor: ExpressionExtractor
) -> None:
    x, labels, people, _ = london
    head, report = fit_head(x, labels, extractor.encoder, groups=people, files=None)
    classifier = ExpressionClassifier.fit(LONDON, encoder=extractor)  # by its manifest, which has the people
    assert classifier.head.predict_proba(x) == pytest.approx(head.predict_proba(x), abs=1e-3)
    assert classifier.report is not None
    assert classifier.report.folds == report.folds == "10 folds of 12 people; nobody is in both parts"


def test_from_crops(faces_folder: Path, extractor: ExpressionExtractor) -> None:
    classifier = ExpressionClassifier.fit(faces_folder, encoder=extractor, aligned=True)  # the train split alone
    assert classifier.report is not None
    assert classifier.report.faces == dict.fromkeys(("neutral", "happiness", "surprise", "sadness"), 16)
    test = sorted((faces_folder / "test").glob("*/*.png"))
    found = classifier.predict_crops(test).argmax(axis=1)
    assert np.mean([classifier.classes[k] == path.parent.name for k, path in zip(found, test, strict=True)]) > 0.8
    photos = [np.asarray(Image.open(path)) for path in sorted(LONDON.glob("*/0*.jpg"))]
    with pytest.warns(UserWarning, match="look like whole photos"):
        ExpressionClassifier.fit(photos, ["a", "b"] * (len(photos) // 2), encoder=extractor, aligned=True)


def test_a_class_that_loses_all_its_photos(extractor: ExpressionExtractor, photos: Path) -> None:
    paths = [photos / "astronaut.png", photos / "coffee.png", photos / "rocket.jpg"]
    with pytest.raises(DataError, match=r"no image of drink gives an embedding: 1 without a face; .*aligned=True"):
        ExpressionClassifier.fit(paths[:2], ["person", "drink"], encoder=extractor)
    with pytest.raises(DataError, match="no image of person gives an embedding: 1 unreadable"):
        ExpressionClassifier.fit([b"", paths[0]], ["person", "x"], encoder=extractor)


def test_what_fit_takes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="needs labels"):
        ExpressionClassifier.fit([folder / "a.png"])
    with pytest.raises(TypeError, match="go with a list"):
        ExpressionClassifier.fit(folder, ["a"])
    with pytest.raises(DataError, match="labels must be as many as the 1 images, got 2"):
        ExpressionClassifier.fit(["a.png"], ["a", "b"])
    with pytest.raises(DataError, match="no such folder"):
        ExpressionClassifier.fit(folder / "nothing")
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label,subject\npeople/happy/002.jpg,happy,1\npeople/happy/005.jpg,sad,\n")
    with pytest.raises(DataError, match="no subject for 1 of 2 images"):
        ExpressionClassifier.fit(manifest)
    manifest.write_text("path,label,split\npeople/happy/002.jpg,happy,train\npeople/happy/005.jpg,sad,test\n")
    assert read_examples(manifest, None, None).labels == ("happy",)


# The command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        status = main([*map(str, arguments), "--device", "cpu"])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


def test_the_command(run: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path) -> None:
    head = tmp_path / "my-head"
    status, out, err = run("fit", folder, "-o", f"{head}/", "--photos")
    assert status == 0
    assert "nearest mean, on 8 faces in 2 classes" in out
    assert "fergeneral predict PHOTOS --head" in err
    classifier = ExpressionClassifier.from_pretrained(head, device="cpu")
    assert classifier.head.name == "my-head"
    assert classifier.predict(folder / "happy" / "002.jpg")[0].expression == "happy"

    status, _, err = run("fit", folder, "-o", head)
    assert status == 2
    assert "holds a head already: add --overwrite" in err
    (folder / "happy" / "broken.jpg").write_bytes(b"no photo")
    status, out, err = run("fit", folder, "-o", head, "--overwrite", "--json", "--name", "mine", "--method", "mean")
    assert status == 1  # a photo could not be read
    assert json.loads(out)["faces"] == {"Sad Face": 4, "happy": 4}
    assert "warning: 1 of 9 images are left out" in err
    assert Head.from_pretrained(head).name == "mine"


def test_the_command_never_writes_over_anything_else(
    run: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "list.csv").write_text("path,label\npeople/happy/002.jpg,happy\n")
    for data, target, message in (
        (folder, tmp_path / "notes", "no part of a head"),
        (folder, tmp_path / "file", "is not a folder"),
        (folder, folder, "reads"),
        (folder, folder / "head", "inside"),
        (tmp_path / "list.csv", tmp_path, "reads"),
        (tmp_path / "nothing", tmp_path / "head", "no such file or folder"),
    ):
        status, _, err = run("fit", data, "-o", target, "--overwrite")
        assert status == 2, target
        assert message in err
    assert (tmp_path / "notes" / "README.md").read_text() == "mine"


def test_the_command_tells_crops_from_photos(
    run: Callable[..., tuple[int, str, str]], faces_folder: Path, folder: Path, tmp_path: Path
) -> None:
    status, out, _ = run("fit", faces_folder, "-o", tmp_path / "crops", "--crops")
    assert status == 0
    assert "64 faces in 4 classes" in out
    status, _, err = run("fit", faces_folder, "-o", tmp_path / "photos")
    assert status == 1
    assert "say so by aligned=True (--crops)" in err
    status, _, err = run("fit", folder, "-o", tmp_path / "crops2", "--crops")
    assert status == 0
    assert "warning: aligned=True (--crops) says that these are face crops" in err
