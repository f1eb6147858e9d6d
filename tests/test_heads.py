"""Heads: the numbers against scikit-learn, files that are refused, the classifier on real photos."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS, ROOT
from safetensors.numpy import load, save
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from tiny import SIZE, save_tiny, use_tiny_networks

import fergeneral
from fergeneral import (
    ClassifiedFace,
    DataError,
    ExpressionClassifier,
    ExpressionExtractor,
    Face,
    Head,
    ModelError,
    TrackedFace,
    classify,
    list_heads,
)
from fergeneral.encoder import Encoder
from fergeneral.hub import load_folder, packaged_models

LONDON = ROOT / "examples" / "london"


def rows(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(20 * classes, SIZE) embeddings around a centre a class, and labels."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, SIZE)) * 2
    y = np.arange(20 * classes) % classes
    x = centres[y] + generator.normal(size=(len(y), SIZE)) + 3
    return x.astype(np.float32), np.array(["anger", "joy", "awe", "calm"])[y]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    use_tiny_networks(monkeypatch)
    save_tiny(tmp_path / "encoder")
    return load_folder(tmp_path / "encoder")


@pytest.fixture
def head(encoder: Encoder) -> Head:
    x, y = rows(3)
    return Head.from_sklearn(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y), encoder, name="mine")


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1)),
        LogisticRegression(),
        make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
    ],
)
def test_a_head_has_the_numbers_of_scikit_learn(encoder: Encoder, estimator: Any, classes: int) -> None:
    x, y = rows(classes)
    estimator.fit(x.astype(np.float64), y)
    head = Head.from_sklearn(estimator, encoder)
    fresh, _ = rows(classes, seed=1)
    wanted = estimator.predict_proba(fresh.astype(np.float64))
    assert head.classes == tuple(estimator.classes_)
    np.testing.assert_allclose(head.predict_proba(fresh), wanted, atol=2e-5)
    np.testing.assert_array_equal(head.predict(fresh), estimator.predict(fresh.astype(np.float64)))
    back = head.to_sklearn()
    np.testing.assert_allclose(back.predict_proba(fresh.astype(np.float64)), wanted, atol=2e-5)
    np.testing.assert_array_equal(back.predict(fresh.astype(np.float64)), head.predict(fresh))


def test_temperature_divides_the_logits(encoder: Encoder) -> None:
    x, y = rows(3)
    estimator = LogisticRegression().fit(x, y)
    head = Head.from_sklearn(estimator, encoder, temperature=2.5)
    logits = estimator.decision_function(x) / 2.5
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(x), wanted, atol=2e-5)
    np.testing.assert_allclose(head.to_sklearn().predict_proba(x.astype(np.float64)), wanted, atol=2e-5)


def test_an_estimator_that_is_no_head_is_refused(encoder: Encoder) -> None:
    x, y = rows(3)
    refused = {
        "StandardScaler before": make_pipeline(MinMaxScaler(), LogisticRegression()).fit(x, y),
        "got LinearSVC": LinearSVC().fit(x, y),
        "not fitted": LogisticRegression(),
        "fitted on 5 features": LogisticRegression().fit(x[:, :5], y),
    }
    for message, estimator in refused.items():
        with pytest.raises(DataError, match=message):
            Head.from_sklearn(estimator, encoder)


def test_saved_and_loaded(head: Head, tmp_path: Path) -> None:
    x, _ = rows(3)
    head.save_pretrained(tmp_path / "head")
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["README.md", "head.json", "head.safetensors"]
    there = Head.from_pretrained(tmp_path / "head")
    assert dataclasses.replace(there.config, weights_sha256="") == head.config
    np.testing.assert_array_equal(there.predict_proba(x), head.predict_proba(x))
    assert there.sha256 == head.sha256
    copied = pickle.loads(pickle.dumps(there))
    np.testing.assert_array_equal(copied.predict_proba(x), head.predict_proba(x))
    card = (tmp_path / "head" / "README.md").read_text(encoding="utf-8")
    assert "# mine" in card
    assert "`tiny` alone" in card
    assert "anger, awe, joy" in card


def change(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.__setitem__(name, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("format_version", 2), "pip install --upgrade fergeneral"),
        (change("format_version", 0), "format_version"),
        (change("classes", ["anger"]), "classes"),
        (change("classes", ["anger", "anger", "joy"]), "names that differ"),
        (change("classes", ["anger", "joy", "a\nb"]), "classes"),
        (change("classes", ["anger", "joy"]), "weight has the shape"),
        (change("classes", "anger"), "classes"),
        (change("temperature", 0), "temperature"),
        (change("temperature", True), "temperature"),
        (change("temperature", "1"), "temperature"),
        (change("embedding_size", SIZE + 1), "mean has the shape"),
        (change("embedding_size", -1), "embedding_size"),
        (change("encoder_sha256", ""), "encoder_sha256"),
        (change("quality", []), "quality"),
        (change("name", None), "name"),
        (change("extra", 1), "unknown ones: .*extra"),
        (lambda values: values.pop("license"), "lacks the fields .*license"),
        (change("weights_sha256", "0" * 64), "corrupt or was changed"),
    ],
)
def test_a_changed_head_json_is_refused(
    head: Head, tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    head.save_pretrained(tmp_path)
    path = tmp_path / "head.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message):
        Head.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "{" * 5000, '{"temperature": NaN}', "\ud800"])
def test_a_head_json_that_is_none_is_refused(head: Head, tmp_path: Path, text: str) -> None:
    head.save_pretrained(tmp_path)
    (tmp_path / "head.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError):
        Head.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda arrays: arrays.__setitem__("bias", np.full(3, np.nan, np.float32)), "bias holds values .* not finite"),
        (lambda arrays: arrays.__setitem__("mean", np.full(SIZE, np.inf, np.float32)), "mean holds values"),
        (lambda arrays: arrays.__setitem__("scale", np.zeros(SIZE, np.float32)), "scale must be positive"),
        (lambda arrays: arrays.__setitem__("scale", np.full(SIZE, 1e-38, np.float32)), "too large"),
        (lambda arrays: arrays.__setitem__("weight", arrays["weight"].T.copy()), "weight has the shape"),
        (lambda arrays: arrays.__setitem__("weight", arrays["weight"].astype(np.float64)), "float32"),
        (lambda arrays: arrays.__setitem__("more", np.zeros(1, np.float32)), "must hold mean, scale"),
        (lambda arrays: arrays.pop("mean"), "must hold mean, scale"),
    ],
)
def test_changed_numbers_are_refused(
    head: Head, tmp_path: Path, edit: Callable[[dict[str, np.ndarray]], None], message: str
) -> None:
    head.save_pretrained(tmp_path)
    path = tmp_path / "head.safetensors"
    arrays = load(path.read_bytes())
    edit(arrays)
    replace(tmp_path, save(arrays))
    with pytest.raises(ModelError, match=message):
        Head.from_pretrained(tmp_path)


def test_a_pickle_in_place_of_the_numbers_is_refused(head: Head, tmp_path: Path) -> None:
    head.save_pretrained(tmp_path)
    replace(tmp_path, pickle.dumps(load((tmp_path / "head.safetensors").read_bytes())))
    with pytest.raises(ModelError, match="not a safetensors file"):
        Head.from_pretrained(tmp_path)


def replace(folder: Path, data: bytes) -> None:
    """Other numbers under a right SHA-256, so that the checks after it are reached."""
    (folder / "head.safetensors").write_bytes(data)
    values = json.loads((folder / "head.json").read_text())
    values["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "head.json").write_text(json.dumps(values))


def test_another_encoder_is_refused(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_networks(monkeypatch)
    save_tiny(tmp_path / "other", seed=1)
    other = ExpressionExtractor(load_folder(tmp_path / "other"), NoFace())
    with pytest.raises(ModelError, match="'mine' belongs to the encoder 'tiny'"):
        ExpressionClassifier(other, head)
    with pytest.raises(ModelError, match="not among the packaged weights"):
        ExpressionClassifier.from_pretrained(head)
    with pytest.raises(ModelError, match="neither a folder, nor one of the packaged heads"):
        ExpressionClassifier.from_pretrained("nonsense")
    with pytest.raises(ModelError, match="has no packaged head 'expressions-8'"):
        ExpressionClassifier.from_pretrained(encoder=other)


class NoFace:
    def detect(self, image: Any) -> list[Any]:
        return []


def test_shapes_of_embeddings(head: Head) -> None:
    assert head.predict_proba(np.zeros((0, SIZE))).shape == (0, 3)
    for wrong in (np.zeros(SIZE), np.zeros((2, SIZE + 1)), np.zeros((1, 2, SIZE))):
        with pytest.raises(ValueError, match=f"must be \\(N, {SIZE}\\)"):
            head.predict_proba(wrong)
    assert np.isnan(head.predict_proba(np.full((1, SIZE), np.nan))).all()
    with pytest.raises(ValueError, match="not finite"):
        head.predict(np.full((1, SIZE), np.nan))


def test_min_confidence(head: Head, encoder: Encoder) -> None:
    extractor = ExpressionExtractor(encoder, NoFace())
    faces = [Face(np.zeros(4), np.zeros((5, 2)), 1.0, row, "tiny") for row in rows(3)[0][:30]]
    plain = ExpressionClassifier(extractor, head).classify_faces(faces)
    strict = ExpressionClassifier(extractor, head, min_confidence=0.9).classify_faces(faces)
    sure = [face.confidence >= 0.9 for face in plain]
    assert any(sure)
    assert not all(sure)
    for face, other, is_sure in zip(plain, strict, sure, strict=True):
        assert face.expression == max(face.probabilities, key=face.probabilities.__getitem__)
        assert other.expression == (face.expression if is_sure else "uncertain")
        assert other.probabilities == face.probabilities
        assert other.confidence == face.confidence
        assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-6)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="min_confidence"):
            ExpressionClassifier(extractor, head, min_confidence=wrong)


def test_faces_of_a_video_keep_time_and_track(head: Head, encoder: Encoder) -> None:
    classifier = ExpressionClassifier(ExpressionExtractor(encoder, NoFace()), head)
    tracked = TrackedFace(np.zeros(4), np.zeros((5, 2)), 1.0, rows(3)[0][0], "tiny", time=1.5, track=2)
    (face,) = classifier.classify_faces([tracked])
    assert isinstance(face, ClassifiedFace)
    assert isinstance(face, TrackedFace)
    described = face.to_dict(embedding=False)
    assert (described["time"], described["track"], described["expression"]) == (1.5, 2, face.expression)
    assert list(described["probabilities"]) == list(head.classes)
    json.dumps(face.to_dict(), allow_nan=False)


def test_an_extractor_that_is_loaded_has_its_own_detector(head: Head, encoder: Encoder) -> None:
    extractor = ExpressionExtractor(encoder, NoFace())
    classifier = ExpressionClassifier.from_pretrained(head, encoder=extractor)
    assert classifier.extractor is extractor
    assert classifier.predict(PHOTOS / "astronaut.png") == []
    with pytest.raises(ValueError, match="device, detector"):
        ExpressionClassifier.from_pretrained(head, encoder=extractor, detector="mtcnn")


# The packaged heads


@pytest.fixture(scope="module")
def packaged() -> ExpressionClassifier:
    return ExpressionClassifier.from_pretrained(device="cpu")


def test_packaged_heads() -> None:
    assert list_heads() == ["expressions-8", "expressions-7"]
    for model in fergeneral.list_models():
        for name in list_heads(model):
            config = Head.from_pretrained(name, encoder=encoder_config(model)).config
            assert config.encoder_id == model
            assert config.classes == fergeneral.datasets.EXPRESSIONS[: len(config.classes)]
            assert config.quality
            assert config.training_data
            assert "research" in config.license


def encoder_config(model: str) -> Any:
    return next(config for config in packaged_models() if config.model_id == model)


def test_classify_real_photos(packaged: ExpressionClassifier) -> None:
    assert packaged.classes == fergeneral.datasets.EXPRESSIONS
    (face,) = packaged.predict(PHOTOS / "astronaut.png")
    assert face.expression == "happiness"
    assert face.confidence > 0.5
    assert packaged.predict(PHOTOS / "coffee.png") == []
    (same,) = classify(PHOTOS / "astronaut.png")
    assert same.expression == face.expression
    many = list(packaged.predict_many([PHOTOS / "astronaut.png", PHOTOS / "coffee.png"]))
    assert [[f.expression for f in faces] for faces in many] == [["happiness"], []]
    crop = packaged.extractor.align(PHOTOS / "astronaut.png", face.landmarks)
    np.testing.assert_allclose(packaged.predict_crops([crop])[0], list(face.probabilities.values()), atol=1e-4)


def test_most_london_faces_are_read_right(packaged: ExpressionClassifier) -> None:
    """Twelve people, neutral and smiling, whom nothing was trained on."""
    photos = sorted(LONDON.glob("*/*.jpg"))
    assert len(photos) == 24
    found = [faces[0] for faces in packaged.predict_many(photos)]
    wanted = ["happiness" if path.parent.name == "smiling" else "neutral" for path in photos]
    odds = [face.probabilities["happiness"] > face.probabilities["neutral"] for face in found]
    assert np.mean([is_happy == (label == "happiness") for is_happy, label in zip(odds, wanted, strict=True)]) >= 0.75


def test_a_head_embeds_nothing_by_itself(packaged: ExpressionClassifier) -> None:
    """The faces of `predict` carry the embeddings of `extract`, and the head's answer for these."""
    faces = packaged.extractor.extract(PHOTOS / "three_faces.jpg")
    classified = packaged.predict(PHOTOS / "three_faces.jpg")
    assert len(classified) == 3
    for face, other in zip(faces, classified, strict=True):
        np.testing.assert_array_equal(face.embedding, other.embedding)
        wanted = packaged.head.to_sklearn().predict_proba(face.embedding[None].astype(np.float64))[0]
        np.testing.assert_allclose(list(other.probabilities.values()), wanted, atol=1e-5)


def test_golden_predictions(packaged: ExpressionClassifier) -> None:
    """Stored when the head was made: other numbers mean that weights, detector or crops have changed."""
    golden = json.loads((Path(__file__).parent / "data" / "golden_predictions.json").read_text())
    assert golden["head_sha256"] == packaged.head.sha256
    photos = [ROOT / "examples" / name for name in golden["probabilities"]]
    found = packaged.predict_many(photos)
    for wanted, faces in zip(golden["probabilities"].values(), found, strict=True):
        np.testing.assert_allclose(list(faces[0].probabilities.values()), wanted, atol=0.02)
