"""evaluate_head: its figures against scikit-learn's, what it leaves out, faces found and not, the command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from tiny import save_tiny, use_tiny_networks

from fergeneral import DataError, Detection, ExpressionClassifier, ExpressionExtractor, Head
from fergeneral.alignment import TEMPLATE
from fergeneral.cli import main
from fergeneral.datasets import open_dataset
from fergeneral.encoder import Encoder
from fergeneral.evaluate import embed_dataset, evaluate_head, score
from fergeneral.hub import load_folder

LABELS = ("happiness", "neutral", "sadness", "surprise")


class BrightFaces:
    """Finds a face that fills the image, but for its black border, where the image is bright enough."""

    def __init__(self, least: float, border: float = 0.2) -> None:
        self.least, self.border = least, border

    def detect(self, image: Image.Image) -> list[Detection]:
        pixels = np.asarray(image).astype(float)
        inner = round(image.width * self.border / (1 + 2 * self.border))  # robustness.MARGIN around the image
        side = image.width - 2 * inner
        if pixels[inner : inner + side, inner : inner + side].mean() < self.least:
            return []
        box = np.array([inner, inner, inner + side, inner + side], dtype=np.float32)
        return [Detection(box, (np.array(TEMPLATE) * side + inner).astype(np.float32), 1.0)]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    use_tiny_networks(monkeypatch)
    save_tiny(tmp_path / "tiny")
    return load_folder(tmp_path / "tiny")


def head_of(
    encoder: Encoder, folder: Path, classes: tuple[str, ...], extra: str = "", c: float = 1000, **options: Any
) -> Head:
    """Fitted on the train split's images of some classes, and on a class of noise around their mean."""
    train = open_dataset(folder).split("train")
    x, y = embed_dataset(encoder, train), np.array(train.labels)
    x, y = x[np.isin(y, classes)], y[np.isin(y, classes)]
    if extra:
        noise = x.mean(axis=0) + np.random.default_rng(0).normal(size=(30, x.shape[1])) * x.std(axis=0) / 2
        x, y = np.concatenate([x, noise]), np.concatenate([y, [extra] * 30])
    model = LogisticRegression(C=c, max_iter=5000).fit(x, y)
    return Head.from_sklearn(model, encoder, name="drawn", **options)


def test_figures_are_those_of_scikit_learn(encoder: Encoder, faces_folder: Path, tmp_path: Path) -> None:
    head = head_of(encoder, faces_folder, LABELS, c=0.3)
    classifier = ExpressionClassifier(ExpressionExtractor(encoder, BrightFaces(0)), head)
    figures = evaluate_head(classifier, [faces_folder], tmp_path / "out", cache=tmp_path / "cache")
    test = open_dataset(faces_folder).split("test")
    predicted = head.predict(embed_dataset(encoder, test)).astype(str)
    row = figures["faces"]
    assert (row["n"], row["source"], row["status"], row["people"]) == (24, "crops", "not stated", None)
    assert row["accuracy"] == pytest.approx(accuracy_score(test.labels, predicted), abs=1e-4)
    assert 0.3 < row["accuracy"] < 1, "the comparison says something"
    assert row["uar"] == pytest.approx(balanced_accuracy_score(test.labels, predicted), abs=1e-4)
    recalls = recall_score(test.labels, predicted, labels=list(LABELS), average=None)
    assert list(row["recall"].values()) == pytest.approx(recalls.tolist(), abs=1e-4)
    for name in ("accuracy", "uar"):
        low, high = row[f"{name}_interval"]
        assert low < row[name] < high
    assert (row["left_out"], row["shared"], row["with_face"]) == ({}, None, 1.0)
    written = json.loads((tmp_path / "out" / "head.json").read_text())
    assert written["data"] == figures
    assert written["head"]["sha256"] == head.sha256
    text = (tmp_path / "out" / "head.md").read_text()
    assert text.startswith("# The head `drawn` on `tiny`")
    assert f"| faces | crops | not stated | 24 | - | {row['accuracy']:.3f} (" in text


def test_confidence_that_is_right_has_no_calibration_error(
    encoder: Encoder, faces_folder: Path, tmp_path: Path
) -> None:
    """A head of two classes that always says 0.75 for the first, which three of four images have."""
    size = encoder.config.embedding_size
    head = head_of(encoder, faces_folder, LABELS[:2])
    config = dataclasses.replace(head.config, temperature=1.0)
    always = Head(config, np.zeros(size), np.ones(size), np.zeros((2, size)), [np.log(3.0), 0.0])
    for count in range(3, 6):
        (faces_folder / "test" / "neutral" / f"{count}.png").unlink()  # 6 and 3
    (faces_folder / "test" / "neutral" / "2.png").unlink()
    classifier = ExpressionClassifier(ExpressionExtractor(encoder, BrightFaces(0)), always)
    row = evaluate_head(classifier, [faces_folder], cache=tmp_path / "cache")["faces"]
    assert (row["n"], row["accuracy"], row["uar"]) == (8, 0.75, 0.5)
    assert row["ece"] == pytest.approx(0, abs=1e-4)
    assert row["left_out"] == {"surprise": 6, "sadness": 6}


def test_classes_that_one_side_lacks(encoder: Encoder, faces_folder: Path, tmp_path: Path) -> None:
    classes = ("happiness", "neutral", "sadness")
    head = head_of(encoder, faces_folder, classes, extra="fear")
    classifier = ExpressionClassifier(ExpressionExtractor(encoder, BrightFaces(0)), head)
    row = evaluate_head(classifier, [faces_folder], cache=tmp_path / "cache", end_to_end=False)["faces"]
    test = open_dataset(faces_folder).split("test")
    truth = np.array(test.labels)
    known = np.isin(truth, classes)
    probabilities = head.predict_proba(embed_dataset(encoder, test))[known]
    all_classes = np.array(head.classes)[probabilities.argmax(axis=1)]
    of_set = [head.classes.index(name) for name in classes]
    among = np.array(classes)[probabilities[:, of_set].argmax(axis=1)]
    assert (all_classes == "fear").any(), "the noise is named somewhere, or nothing is tried here"
    assert row["left_out"] == {"surprise": 6}
    assert row["n"] == row["shared"]["n"] == 18
    assert row["accuracy"] == pytest.approx((all_classes == truth[known]).mean(), abs=1e-4)
    assert list(row["recall"]) == [name for name in head.classes if name in classes]
    assert row["shared"]["classes"] == list(row["recall"])
    assert row["shared"]["accuracy"] == pytest.approx((among == truth[known]).mean(), abs=1e-4)
    assert row["shared"]["accuracy"] > row["accuracy"]
    assert (row["with_face"], row["end_to_end"]) == (None, None)


def test_faces_that_are_not_found_count_in_the_share_alone(
    encoder: Encoder, faces_folder: Path, tmp_path: Path
) -> None:
    head = head_of(encoder, faces_folder, LABELS, c=0.3)
    test = open_dataset(faces_folder).split("test")
    brightness = np.array([np.asarray(Image.open(faces_folder / s.path)).mean() for s in test.samples])
    least = float(np.median(brightness))
    found = brightness >= least
    classifier = ExpressionClassifier(ExpressionExtractor(encoder, BrightFaces(least)), head)
    row = evaluate_head(classifier, [faces_folder], cache=tmp_path / "cache")["faces"]
    assert row["with_face"] == pytest.approx(found.mean(), abs=1e-4)
    assert row["end_to_end"]["n"] == found.sum() < 24
    assert row["n"] == 24
    right = []
    for sample in test.samples:  # as a user would: a photo with black around the face
        faces = classifier.predict(ImageOps.expand(Image.open(faces_folder / sample.path), round(0.2 * 48)))
        right += [face.expression == sample.label for face in faces]
    assert row["end_to_end"]["accuracy"] == pytest.approx(np.mean(right), abs=1e-4)
    assert len(right) == found.sum()


def test_photos_are_read_through_the_detector(extractor: ExpressionExtractor, tmp_path: Path) -> None:
    """The face of a real photo, and one photo without any."""
    photos = tmp_path / "set"
    for label, number in (("happiness", 0), ("neutral", 0), ("neutral", 1)):
        (photos / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTOS / "astronaut.png", photos / label / f"{number}.png")
    Image.new("RGB", (200, 200), "white").save(photos / "happiness" / "none.png")
    size = extractor.config.embedding_size
    (face,) = extractor.extract(PHOTOS / "astronaut.png")
    two = LogisticRegression().fit(np.stack([face.embedding, -face.embedding]), ["happiness", "neutral"])
    head = Head.from_sklearn(two, extractor.encoder, training_data=["other"])
    assert head.config.embedding_size == size
    row = evaluate_head(ExpressionClassifier(extractor, head), photos=[photos], cache=tmp_path / "cache")["set"]
    assert (row["source"], row["status"], row["n"], row["with_face"]) == ("photos", "never seen", 3, 0.75)
    assert row["recall"] == {"happiness": 1.0, "neutral": 0.0}
    assert row["end_to_end"] is None
    with pytest.warns(UserWarning, match="whole photos"):  # 512 pixels a side, and given as crops
        evaluate_head(ExpressionClassifier(extractor, head), [photos], cache=tmp_path / "cache", end_to_end=False)


@pytest.mark.parametrize(
    ("of_encoder", "of_head", "status"),
    [
        (("faces (train)",), ("faces (train)",), "held-out"),
        (("other",), ("faces (train)",), "held-out"),
        (("faces (test)",), ("other",), "in-sample"),
        (("other",), ("faces",), "in-sample"),
        (("other",), ("another (train)",), "never seen"),
        ((), ("other",), "not stated"),
    ],
)
def test_the_status_is_the_worse_of_encoder_and_head(
    encoder: Encoder,
    faces_folder: Path,
    tmp_path: Path,
    of_encoder: tuple[str, ...],
    of_head: tuple[str, ...],
    status: str,
) -> None:
    encoder.config = dataclasses.replace(encoder.config, training_data=of_encoder)
    head = head_of(encoder, faces_folder, LABELS, training_data=of_head)
    classifier = ExpressionClassifier(ExpressionExtractor(encoder, BrightFaces(0)), head)
    row = evaluate_head(classifier, [faces_folder], cache=tmp_path / "cache", end_to_end=False)["faces"]
    assert row["status"] == status


def test_what_cannot_be_judged_is_refused(encoder: Encoder, faces_folder: Path, tmp_path: Path) -> None:
    head = head_of(encoder, faces_folder, LABELS)
    nothing_found = ExpressionClassifier(ExpressionExtractor(encoder, BrightFaces(1000)), head)
    with pytest.raises(DataError, match="at least one data set"):
        evaluate_head(nothing_found, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="both named 'faces'"):
        evaluate_head(nothing_found, [faces_folder], photos=[faces_folder], cache=tmp_path / "cache")
    with pytest.raises(DataError, match="no face was found"):
        evaluate_head(nothing_found, photos=[faces_folder], cache=tmp_path / "cache")
    row = evaluate_head(nothing_found, [faces_folder], cache=tmp_path / "cache")["faces"]
    assert (row["with_face"], row["end_to_end"]) == (0.0, None)
    for label in ("awe", "boredom"):
        (tmp_path / "others" / label).mkdir(parents=True)
        shutil.copy(faces_folder / "test" / "neutral" / "0.png", tmp_path / "others" / label / "0.png")
    with pytest.raises(DataError, match=r"none of the classes of the head 'drawn'.*its labels are awe, boredom"):
        evaluate_head(nothing_found, [tmp_path / "others"], cache=tmp_path / "cache")


def test_intervals_over_people_agree_with_drawing_people_one_by_one() -> None:
    """Of 40 people, each is named right on all of ten images or on none."""
    people = np.repeat(np.arange(40).astype(str), 10)
    true = np.tile(["fear", "anger"], 200)
    right = np.repeat(np.random.default_rng(0).random(40) < 0.6, 10)
    predicted = np.where(right, true, np.where(true == "fear", "anger", "fear"))
    result = score(true, predicted, ("fear", "anger"), groups=people.tolist(), draws=4000)
    alone = score(true, predicted, ("fear", "anger"), draws=4000)
    generator = np.random.default_rng(1)
    drawn = [right.reshape(40, 10)[generator.integers(0, 40, 40)].mean() for _ in range(4000)]
    assert result.intervals["accuracy"] == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.011)
    assert np.ptp(result.intervals["accuracy"]) > 2.5 * np.ptp(alone.intervals["accuracy"])
    assert result.accuracy == alone.accuracy
    with pytest.raises(DataError, match="group of each of the 400 images"):
        score(true, predicted, ("fear", "anger"), groups=["a"])


def test_the_command(encoder: Encoder, faces_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head_of(encoder, faces_folder, LABELS).save_pretrained(tmp_path / "head")
    arguments = ["evaluate", str(faces_folder), "-o", str(tmp_path / "out"), "--head", str(tmp_path / "head")]
    arguments += ["--model", str(tmp_path / "tiny"), "--device", "cpu", "--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--no-robustness"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["data", "set", "status", "images", "accuracy", "UAR", "ECE", "with", "a", "face"]
    written = json.loads((tmp_path / "out" / "head.json").read_text())["data"]["faces"]
    assert row.split()[:5] == ["faces", "not", "stated", "24", f"{written['accuracy']:.3f}"]
    assert (tmp_path / "out" / "head.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["SET", "--photos", "SET"], "--photos goes with --head"),
        (["SET", "--head", "x", "--peers", "SET"], "do not go with --head"),
        (["--head", "x"], "no data set given"),
        (["SET", "--head", "x", "--photos", "/no/such/set"], "no such file or folder: /no/such/set"),
    ],
)
def test_wrong_usage_of_the_command(
    faces_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    given = [str(faces_folder) if text == "SET" else text for text in arguments]
    assert main(["evaluate", *given, "-o", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
