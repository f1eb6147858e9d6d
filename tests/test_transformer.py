from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import drawn_face
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fergeneral import DataError, ExpressionExtractor, ExpressionFeatures, ImageError


@pytest.fixture(scope="module")
def crops() -> tuple[np.ndarray, list[str]]:
    generator = np.random.default_rng(0)
    labels = ["happiness", "sadness"] * 10
    images = [drawn_face(1.0 if label == "happiness" else -1.0, generator) for label in labels]
    return np.stack(images), labels


def test_photos_give_the_extractors_embeddings(extractor: ExpressionExtractor, photos: Path) -> None:
    rows = ExpressionFeatures(device="cpu").fit_transform([photos / "astronaut.png", photos / "three_faces.jpg"])
    assert rows.shape == (2, 512)
    assert rows.dtype == np.float32
    for row, photo in zip(rows, ("astronaut.png", "three_faces.jpg"), strict=True):
        assert row == pytest.approx(extractor.extract(photos / photo)[0].embedding, abs=1e-4)


def test_the_best_face_has_the_highest_score(extractor: ExpressionExtractor, photos: Path) -> None:
    faces = extractor.extract(photos / "three_faces.jpg")
    best = max(faces, key=lambda face: face.score)
    (row,) = ExpressionFeatures("best", device="cpu").transform([photos / "three_faces.jpg"])
    assert row == pytest.approx(best.embedding, abs=1e-4)


def test_crops_in_pipeline_grid_search_and_cross_validation(crops: tuple[np.ndarray, list[str]]) -> None:
    images, labels = crops
    pipeline = make_pipeline(
        ExpressionFeatures(aligned=True, device="cpu"), StandardScaler(), LogisticRegression(max_iter=500)
    )
    assert cross_val_score(pipeline, images, labels, cv=3).mean() > 0.8
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=2).fit(list(images), labels)
    assert search.score(images, labels) > 0.8


def test_parameters_clone_and_pickle(crops: tuple[np.ndarray, list[str]]) -> None:
    features = ExpressionFeatures("best", aligned=True, on_missing="nan", device="cpu", batch_size=7)
    assert clone(features).get_params() == features.get_params()
    rows = features.transform(crops[0][:3])
    data = pickle.dumps(features)
    assert len(data) < 2000  # the weights are not in it
    assert pickle.loads(data).transform(crops[0][:3]) == pytest.approx(rows, abs=1e-4)


def test_pandas_output(crops: tuple[np.ndarray, list[str]]) -> None:
    features = ExpressionFeatures(aligned=True, device="cpu").set_output(transform="pandas")
    table = features.fit_transform(crops[0][:2])
    assert list(table.columns) == [f"embedding_{i}" for i in range(512)] == list(features.get_feature_names_out())
    assert table.shape == (2, 512)


def test_a_missing_face_is_an_error_or_a_row_of_nan(photos: Path) -> None:
    images = [photos / "coffee.png", photos / "astronaut.png"]
    with pytest.raises(DataError, match="no face found in image 0"):
        ExpressionFeatures(device="cpu").transform(images)
    rows = ExpressionFeatures(on_missing="nan", device="cpu").transform(images)
    assert np.isnan(rows[0]).all()
    assert np.isfinite(rows[1]).all()


def test_an_unreadable_image_is_an_error_or_a_row_of_nan(photos: Path) -> None:
    images = [photos / "astronaut.png", b"broken"]
    with pytest.raises(ImageError, match="image 1"):
        ExpressionFeatures(device="cpu").transform(images)
    with pytest.warns(UserWarning, match="1 of 2 images could not be read; image 1"):
        rows = ExpressionFeatures(on_missing="nan", device="cpu").transform(images)
    assert np.isnan(rows[1]).all()
    assert np.isfinite(rows[0]).all()


@pytest.mark.parametrize(
    "parameters",
    [{"face": "smallest"}, {"on_missing": "drop"}, {"batch_size": 0}, {"aligned": "yes"}],
)
def test_wrong_parameters_are_named(parameters: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        ExpressionFeatures(**parameters).fit([])


def test_a_single_path_is_not_taken_for_a_list() -> None:
    with pytest.raises(TypeError, match=r"got one image .*put it into a list"):
        ExpressionFeatures().transform("photo.jpg")
