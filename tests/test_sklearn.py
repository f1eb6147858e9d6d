"""ExpressionFeatures as scikit-learn uses it, and the warning for photos that are passed for face crops."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conftest import ROOT, drawn_face
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn_runs import PROGRAMS

from fergeneral import DataError, ExpressionExtractor, ExpressionFeatures, ImageError, ModelError
from fergeneral.encoder import EncoderConfig, build_network
from fergeneral.evaluate import probe_datasets
from fergeneral.hub import save_folder
from fergeneral.mtcnn import MTCNNDetector
from fergeneral.types import Detection


@pytest.fixture
def crops(random_folder: Path) -> ExpressionFeatures:
    """For face crops, with an encoder that is quick."""
    return ExpressionFeatures(aligned=True, model=str(random_folder), device="cpu")


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.stack([drawn_face(1.0, generator) for _ in range(6)])


# In one process that has read photos


@pytest.fixture(scope="module")
def outcomes(portraits: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    command = [sys.executable, "tests/sklearn_runs.py", portraits[0].parents[1], tmp_path_factory.mktemp("runs")]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_scikit_learn_runs_after_photos_were_read(program: str, outcomes: dict[str, str]) -> None:
    if program == "skops_file":
        pytest.importorskip("skops")
    assert outcomes[program] == ""


# What X may be


def test_a_column_of_photos_in_any_form_gives_one_row_each(portraits: list[Path]) -> None:
    paths = [str(path) for path in portraits[:2]]
    features = ExpressionFeatures(device="cpu")
    expected = features.transform(paths)
    column = np.array(paths, dtype=object)
    forms = {
        "data frame of pandas": pd.DataFrame({"path": paths}, index=[5, 6]),
        "data frame of polars": pl.DataFrame({"path": paths}),
        "Series of pandas": pd.Series(paths, index=[5, 6]),
        "Series of polars": pl.Series(paths),
        "array of text": np.array(paths),
        "array of objects": column,
        "array (N, 1)": column[:, None],
        "tuple of paths": tuple(portraits[:2]),
        "list of bytes": [path.read_bytes() for path in portraits[:2]],
        "frame of bytes": pl.DataFrame({"image": [path.read_bytes() for path in portraits[:2]]}),
        "list of open files": [io.BytesIO(path.read_bytes()) for path in portraits[:2]],
    }
    for name, form in forms.items():
        rows = features.fit(form).transform(form)
        assert rows.shape == (2, 512), name
        assert abs(rows - expected).max() < 1e-3, name


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_several_columns_are_named(frame: type, crops: ExpressionFeatures) -> None:
    for table in (frame({"path": ["a.png"], "age": [3]}), frame()):
        for method in (crops.fit, crops.transform, crops.has_face):
            with pytest.raises(DataError, match=r"one column.*the columns \[('path', 'age')?\].*ColumnTransformer"):
                method(table)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((96, 96, 3), np.uint8), "got one image"),
        (torch.zeros((3, 96, 96), dtype=torch.uint8), "got one image"),
        (Image.new("RGB", (9, 9)), "got one image"),
        ("photo.jpg", "got one image"),
        (Path("photo.jpg"), "got one image"),
        (b"photo", "got one image"),
        (np.array([["a.png", 1]], dtype=object), "a table"),
        ({"a.png": 1}, "a dict"),
        ({"a.png"}, "no order"),
        (iter(["a.png"]), r"the number of images.*list\(X\)"),
        (3, "got one int"),
    ],
)
@pytest.mark.parametrize("aligned", [False, True])
def test_what_is_not_many_images_is_a_type_error(aligned: bool, images: object, message: str) -> None:
    features = ExpressionFeatures(aligned=aligned)
    for method in (features.fit, features.transform, features.has_face):
        with pytest.raises(TypeError, match=message):
            method(images)  # type: ignore[operator]


def test_no_images_are_no_rows(crops: ExpressionFeatures) -> None:
    for images in ([], np.zeros((0, 48, 48, 3), np.uint8), pd.Series([], dtype=object)):
        assert crops.fit_transform(images).shape == (0, 512)


# Faces that are missing, images that cannot be read


@pytest.mark.parametrize("cached", [False, True])
def test_an_unreadable_crop_is_an_error_or_a_row_of_nan(
    cached: bool, crops: ExpressionFeatures, faces: np.ndarray, tmp_path: Path
) -> None:
    images = [faces[0], tmp_path / "absent.png", faces[1], b"broken", None]
    crops.set_params(cache=tmp_path / "cache" if cached else None)
    with pytest.raises(ImageError, match=r"image 1 \('.*absent.png'\): .*no such file"):
        crops.transform(images)
    crops.set_params(on_missing="nan", batch_size=np.int64(2))
    with pytest.warns(UserWarning, match=r"3 of 5 images could not be read; image 1 .*absent.png") as caught:
        rows = crops.transform(images)
    assert [warning.filename for warning in caught] == [__file__]
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True, True]
    assert abs(rows[[0, 2]] - crops.transform(faces[:2])).max() < 1e-4


@pytest.mark.parametrize("cached", [False, True])
def test_the_message_names_the_photo_without_a_face(cached: bool, photos: Path, tmp_path: Path) -> None:
    features = ExpressionFeatures(device="cpu", cache=tmp_path if cached else None)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=r"no face found in image 1 \('.*coffee.png'\); has_face"):
            features.transform(np.array([str(photos / "astronaut.png"), str(photos / "coffee.png")]))
        with pytest.raises(DataError, match=r"no face found in image 0 \(bytes\)"):
            features.transform([(photos / "coffee.png").read_bytes()])


def test_photos_without_a_face_are_dropped_before_a_pipeline(
    portraits: list[Path], photos: Path, tmp_path: Path
) -> None:
    images = np.array([*portraits, photos / "coffee.png", tmp_path / "absent.png"])
    labels = np.array([path.parent.name for path in images])
    features = ExpressionFeatures(device="cpu", cache=tmp_path / "cache")
    with pytest.warns(UserWarning, match=r"1 of 10 images could not be read; image 9") as caught:
        keep = features.has_face(images)
    assert [warning.filename for warning in caught] == [__file__]
    assert keep.tolist() == [True] * 8 + [False] * 2
    model = make_pipeline(features, LogisticRegression(max_iter=500)).fit(images[keep], labels[keep])
    assert model.score(images[keep], labels[keep]) == 1
    assert ExpressionFeatures(aligned=True, device="cpu").has_face(np.zeros((2, 96, 96, 3), np.uint8)).all()


# The weights of `fit`


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights than `random_folder`'s."""
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    save_folder(folder, build_network("resnet18").state_dict(), EncoderConfig("other", crop_size=64))
    return folder


def test_transform_refuses_other_weights_than_fit_had(
    crops: ExpressionFeatures, other_folder: Path, random_folder: Path, faces: np.ndarray
) -> None:
    model = make_pipeline(crops, LogisticRegression()).fit(faces, list("ababab"))
    digest = json.loads((random_folder / "config.json").read_text())["weights_sha256"]
    assert (crops.model_id_, crops.weights_sha256_) == ("random", digest)
    expected = model.predict_proba(faces)
    again = pickle.loads(pickle.dumps(model))
    assert again.predict_proba(faces) == pytest.approx(expected, abs=1e-4)
    again.set_params(expressionfeatures__model=str(other_folder))
    for use in (again.predict, again[0].has_face, lambda _: again[0].get_feature_names_out()):
        with pytest.raises(ModelError, match=rf"fit had the weights 'random' \(SHA-256 {digest}.*gives 'other' \(SHA"):
            use(faces)
    assert clone(again).fit(faces, list("ababab"))[0].model_id_ == "other"  # neither does a copy have them
    assert again.fit(faces, list("ababab"))[0].model_id_ == "other"
    assert not hasattr(clone(crops), "weights_sha256_")


def test_transform_works_without_fit(crops: ExpressionFeatures, faces: np.ndarray) -> None:
    rows = crops.transform(faces)
    assert not hasattr(crops, "weights_sha256_")
    assert abs(crops.fit(faces).transform(faces) - rows).max() < 1e-5


# The cache


class CountingDetector:
    """MTCNN, and how often it was asked; the count is none of its attributes."""

    asked = 0

    def detect(self, image: Image.Image) -> list[Detection]:
        CountingDetector.asked += 1
        return DETECTOR.detect(image)


DETECTOR = MTCNNDetector()


def test_with_a_cache_a_grid_search_embeds_each_photo_once(portraits: list[Path], tmp_path: Path) -> None:
    labels = [path.parent.name for path in portraits]
    scores = []
    for cache in (None, tmp_path / "new" / "cache"):
        CountingDetector.asked = 0
        features = ExpressionFeatures(device="cpu", detector=CountingDetector(), cache=cache)
        model = make_pipeline(features, LogisticRegression(max_iter=500))
        search = GridSearchCV(model, {"logisticregression__C": [0.01, 1.0]}, cv=2).fit(portraits, labels)
        scores.append(search.cv_results_["mean_test_score"].tolist())
        if cache:
            assert CountingDetector.asked == len(portraits)
        else:
            assert CountingDetector.asked == 5 * len(portraits)
    assert scores[0] == scores[1]


@pytest.mark.filterwarnings("ignore:aligned=True")  # of a photo, as it is meant
def test_the_cache_knows_content_weights_and_how_a_row_was_made(
    random_folder: Path, other_folder: Path, portraits: list[Path], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    shutil.copy(portraits[0], photo)

    def rows(images: list[object], **parameters: object) -> tuple[np.ndarray, int]:
        """And how many rows were not in the cache."""
        before = set(tmp_path.glob("cache/*/*"))
        features = ExpressionFeatures(**{"model": str(random_folder), "device": "cpu", **parameters})
        found = features.set_params(cache=str(tmp_path / "cache")).transform(images)
        assert abs(found - features.set_params(cache=None).transform(images)).max() < 1e-4
        return found, len(set(tmp_path.glob("cache/*/*")) - before)

    first, new = rows([photo])
    assert new == 1
    again, new = rows([str(photo), photo.read_bytes(), portraits[0]])
    assert new == 0
    assert (again == first).all()  # bit for bit: taken from the cache
    assert rows([Image.open(photo), np.array(Image.open(photo)), io.BytesIO(photo.read_bytes())][:2])[1] == 1  # pixels
    for other in (
        {"model": str(other_folder)},
        {"face": "best"},
        {"aligned": True},
        {"detector": MTCNNDetector(min_face_size=60)},
        {"detector": MTCNNDetector(min_face_size=61)},
    ):
        assert rows([photo], **other)[1] == 1, other
        assert rows([photo], **other, batch_size=1, on_missing="nan")[1] == 0, other
    shutil.copy(portraits[1], photo)  # another photo under the same name
    assert rows([photo])[1] == 1


def test_a_corrupt_cache_file_is_computed_again(crops: ExpressionFeatures, faces: np.ndarray, tmp_path: Path) -> None:
    images = list(faces[:3])
    expected = crops.set_params(cache=tmp_path).transform(images)
    stored = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(stored) == 3
    whole = [path.read_bytes() for path in stored]
    damages = [b"", whole[0][:-4], whole[0][:40] + bytes([whole[0][40] ^ 1]) + whole[0][41:], pickle.dumps(print)]
    for damage in [*damages, whole[1]]:  # the last: another image's row
        stored[0].write_bytes(damage)
        assert abs(crops.transform(images) - expected).max() < 1e-4
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == stored  # nor anything left behind


def test_a_cache_that_cannot_be_used_is_one_clear_error(
    crops: ExpressionFeatures, faces: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"the cache folder .*file cannot be written: Not a directory"):
        crops.set_params(cache=tmp_path / "file").transform(faces)
    with pytest.raises(TypeError, match="cache must be the path of a folder, or None; got True"):
        crops.set_params(cache=True).transform(faces)

    class Local:
        def detect(self, image: Image.Image) -> list[Detection]:
            return []

    with pytest.raises(ValueError, match="cache needs a detector that can be pickled"):
        crops.set_params(cache=tmp_path, aligned=False, detector=Local()).transform(faces)


# Photos that are passed for face crops


@pytest.fixture(scope="module")
def cut_faces(photos: Path, extractor: ExpressionExtractor) -> list[np.ndarray]:
    """Face crops of 224 pixels, as another program would cut them: less and more tightly than ours."""
    (face,) = extractor.extract(photos / "astronaut.png")
    left, top, right, bottom = face.box.tolist()
    picture = Image.open(photos / "astronaut.png").convert("RGB")
    margins = np.linspace(0, 0.25, 8) * (right - left)
    boxes = [(left - margin, top - margin, right + margin, bottom + margin) for margin in margins]
    return [np.asarray(picture.resize((224, 224), box=box)) for box in boxes]


def test_photos_passed_for_crops_are_warned_of_once(
    extractor: ExpressionExtractor, photos: Path, portraits: list[Path]
) -> None:
    features = ExpressionFeatures(aligned=True, device="cpu")
    small = np.stack([np.asarray(Image.open(photos / "astronaut.png").convert("RGB").resize((96, 96)))] * 48)
    for many in ([photos / "astronaut.png"], [*portraits, photos / "coffee.png"], small):
        with pytest.warns(UserWarning, match=r"encode takes face crops.*photos.*use extract") as caught:
            extractor.encode(many, show_progress=False)
        assert [warning.filename for warning in caught] == [__file__]
        with pytest.warns(UserWarning, match=r"aligned=True says.*photos.*leave it out") as caught:
            features.transform(many)
        assert [warning.filename for warning in caught] == [__file__]


def test_face_crops_and_what_shows_no_face_are_not_warned_of(
    extractor: ExpressionExtractor, photos: Path, cut_faces: list[np.ndarray], faces: np.ndarray
) -> None:
    no_face = [photos / "coffee.png", photos / "rocket.jpg", np.zeros((300, 1, 3), np.uint8)]
    (face,) = extractor.extract(photos / "astronaut.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (cut_faces, cut_faces[:1], np.stack(cut_faces * 6)[:, ::2, ::2], faces, no_face, []):
            extractor.encode(images, show_progress=False)
        assert len(extractor.extract(photos / "three_faces.jpg")) == 3
        ExpressionFeatures(device="cpu").transform([photos / "astronaut.png"])
    assert np.isfinite(face.embedding).all()


def test_looking_uses_nothing_up(extractor: ExpressionExtractor, cut_faces: list[np.ndarray]) -> None:
    def opened() -> list[io.BytesIO]:
        files = [io.BytesIO() for _ in cut_faces]
        for file, crop in zip(files, cut_faces, strict=True):
            Image.fromarray(crop).save(file, "PNG")
            file.seek(0)
        return files

    expected = extractor.encode(cut_faces)
    assert abs(extractor.encode(opened()) - expected).max() < 1e-4
    assert abs(extractor.encode(iter(cut_faces)) - expected).max() < 1e-4
    pictures = [Image.fromarray(crop) for crop in cut_faces]
    assert abs(extractor.encode(pictures) - expected).max() < 1e-4
    assert {picture.size for picture in pictures} == {(224, 224)}


def test_a_probe_on_photos_is_warned_of_once(
    extractor: ExpressionExtractor, portraits: list[Path], faces_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        for photo in portraits:
            folder = tmp_path / "photos" / split / photo.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder)
    with pytest.warns(UserWarning, match=r"a probe takes face crops, as .*photos should.*ExpressionFeatures") as caught:
        probe_datasets(extractor.encoder, tmp_path / "photos", tmp_path / "photos", show_progress=False)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe_datasets(extractor.encoder, faces_folder, faces_folder, show_progress=False)


@pytest.mark.parametrize("name", ["rafdb", "ferplus", "ckplus48", "affectnet8", "affectnet", "contempt", "london"])
def test_of_the_data_sets_the_photos_alone_are_warned_of(name: str, extractor: ExpressionExtractor, data: Path) -> None:
    with ZipFile(sorted((data / name).glob("*.zip"))[0]) as archive:
        members = [member for member in archive.namelist() if not member.endswith("/")]
        images = [archive.read(member) for member in members[:: len(members) // 48][:48]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        extractor.encode(images, show_progress=False)
    assert len(caught) == (name == "london")


# scikit-learn's own checks

CHECKED = Path(tempfile.gettempdir()) / f"fergeneral-checks-{os.getpid()}"  # the checks are listed before fixtures run


class RowsAsImages(ExpressionFeatures):
    """Takes the checks' tables of numbers: each row becomes a small grey image, as if it were a face crop."""

    def __init__(self, *, aligned: bool = True, model: str = str(CHECKED), device: str = "cpu") -> None:
        super().__init__(aligned=aligned, model=model, device=device)

    def fit(self, X: object, y: object = None) -> RowsAsImages:  # noqa: N803
        super().fit(pictures(X))
        return self

    def transform(self, X: object) -> np.ndarray:  # noqa: N803
        return super().transform(pictures(X))

    def __sklearn_tags__(self) -> object:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.no_validation = False
        return tags

    def _more_tags(self) -> dict[str, object]:  # scikit-learn before 1.6
        return {"requires_fit": False, "stateless": True, "preserves_dtype": []}


def pictures(table: object) -> list[np.ndarray]:
    numbers = np.asarray(table, dtype=np.float64)
    return [np.tile(np.clip(128 + 20 * row, 0, 255).astype(np.uint8), (8, 1)) for row in numbers]


@pytest.fixture(scope="module")
def checked() -> Iterator[None]:
    torch.manual_seed(0)
    save_folder(CHECKED, build_network("resnet18").state_dict(), EncoderConfig("checked", crop_size=32))
    yield
    shutil.rmtree(CHECKED)


# By its tags, ExpressionFeatures takes no tables and does not validate them; RowsAsImages claims the opposite, so that
# scikit-learn yields all of its checks. These ask for what has no meaning for images:
LEFT_OUT = {
    **dict.fromkeys(
        ("check_n_features_in", "check_n_features_in_after_fitting"),
        "images have no number of features, and may differ in size",
    ),
    **dict.fromkeys(
        ("check_complex_data", "check_estimators_nan_inf"),
        "X is no table of numbers: RowsAsImages, not ExpressionFeatures, would refuse these",
    ),
    **dict.fromkeys(
        ("check_estimator_sparse_tag", "check_estimator_sparse_array", "check_estimator_sparse_matrix"),
        "X is no table, dense or sparse: RowsAsImages, not ExpressionFeatures, would say so",
    ),
    **dict.fromkeys(
        ("check_fit1d", "check_fit2d_predict1d"), "a list of images has one dimension, and is what is wanted"
    ),
    "check_estimators_empty_data_messages": "no images give no rows, as an empty batch may come",
}


@pytest.mark.usefixtures("checked")
@pytest.mark.filterwarnings("default")
@parametrize_with_checks([RowsAsImages()])
def test_scikit_learns_checks(estimator: RowsAsImages, check: object) -> None:
    name = getattr(check, "func", check).__name__
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    check(estimator)  # type: ignore[operator]
