"""Worse conditions of a face against formulas and counts; the record with detectors whose behaviour is known."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import drawn_face
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from tiny import save_tiny, use_tiny_networks

from fergeneral import DataError, Detection, ExpressionClassifier, ExpressionExtractor, Head, ImageError
from fergeneral.alignment import TEMPLATE
from fergeneral.datasets import Dataset, Sample, open_dataset
from fergeneral.encoder import Encoder
from fergeneral.evaluate import embed_dataset, fit_probe
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.condition_measures import crop_conditions, wilson_share
from fergeneral.evaluate.conditions_report import evaluate_conditions, one_a_person
from fergeneral.evaluate.face_conditions import FACE_CONDITIONS, FacePlace, at_resolution
from fergeneral.evaluate.pose import crop_pose, nose_offset, photo_pose
from fergeneral.hub import load_folder

FACE = FacePlace(60 + 80 * np.array(TEMPLATE), 80.0)  # in 200 x 200 pixels; eyes 37.3 pixels apart
LABELS = ("happiness", "neutral")


def picture(size: int = 200) -> Image.Image:
    pixels = np.random.default_rng(0).uniform(0, 255, (size, size, 3))
    smooth = gaussian_filter(pixels, (3, 3, 0), mode="nearest")
    return Image.fromarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8))


def under(group: str, severity: str, image: Image.Image, number: int = 0, face: FacePlace = FACE) -> np.ndarray:
    return np.asarray(dict(FACE_CONDITIONS[group])[severity](image, face, number)).astype(float)


def white(size: int = 200) -> Image.Image:
    return Image.new("RGB", (size, size), (255, 255, 255))


def test_every_condition_changes_the_image_and_leaves_the_given_one() -> None:
    image = picture()
    before = np.asarray(image).astype(float)
    for group, severities in FACE_CONDITIONS.items():
        for severity, change in severities:
            worse = change(image, FACE._replace(size=150.0), 0)
            assert worse.mode == "RGB"
            same = worse.size == image.size
            assert not same or abs(np.asarray(worse) - before).mean() > 0.1, (group, severity)
            assert same == (group != "resolution")
    assert (np.asarray(image) == before).all()


@pytest.mark.parametrize("pixels", [64, 40, 16])
def test_resolution_is_that_of_the_face(pixels: int) -> None:
    worse = at_resolution(pixels)(picture(), FACE, 0)
    assert worse.size == (round(200 * pixels / 80),) * 2
    wide = at_resolution(pixels)(picture().resize((300, 150)), FACE, 0)
    assert wide.size == (round(300 * pixels / 80), round(150 * pixels / 80))


def test_resolution_never_enlarges_and_averages() -> None:
    image = picture()
    assert at_resolution(112)(image, FACE, 0) is image
    wanted = np.asarray(image).astype(float).reshape(100, 2, 100, 2, 3).mean(axis=(1, 3))
    assert abs(np.asarray(at_resolution(40)(image, FACE, 0)) - wanted).max() < 1.01


@pytest.mark.parametrize("gamma", ["0.25", "0.5", "2", "4"])
def test_gamma_is_the_formula(gamma: str) -> None:
    image = picture()
    wanted = 255 * (np.asarray(image) / 255) ** float(gamma)
    assert abs(under("gamma", gamma, image) - wanted).max() < 0.5001


@pytest.mark.parametrize(("number", "dark"), [(0, "left"), (1, "right"), (2, "left")])
def test_shadow_leaves_the_other_half(number: int, dark: str) -> None:
    image = picture()
    before, middle, edge = np.asarray(image).astype(float), 100, 0.2 * FACE.eyes_apart
    worse = under("shadow on half", "25% of light", image, number)
    left, right = np.s_[:, : int(middle - edge)], np.s_[:, int(middle + edge) + 1 :]
    in_dark, in_light = (left, right) if dark == "left" else (right, left)
    assert (worse[in_light] == before[in_light]).all()
    assert abs(worse[in_dark] - before[in_dark] * 0.25).max() < 0.5001
    row = under("shadow on half", "25% of light", white(), number)[0, :, 0]
    steps = np.diff(row if dark == "left" else row[::-1])
    assert (steps >= 0).all()
    assert steps.max() < 20, "the edge is soft"


def test_shadow_follows_the_midline_of_a_turned_face() -> None:
    turned = FacePlace((FACE.landmarks - 100) @ np.array([[0, 1], [-1, 0]]) + 100, 80.0)  # up is to the right
    worse = under("shadow on half", "10% of light", white(), 0, turned)[..., 0]
    assert len(np.unique(worse, axis=1).T) == 1, "it does not change from left to right"
    assert sorted({worse[0, 0], worse[-1, 0]}) == pytest.approx([25.5, 255], abs=0.5)


def covered(worse: np.ndarray) -> np.ndarray:
    return worse[..., 0] < 250


def test_bars_cover_their_landmarks_alone() -> None:
    x, y = FACE.landmarks.astype(int).T
    assert covered(under("occlusion", "eyes", white()))[y, x].tolist() == [True, True, False, False, False]
    assert covered(under("occlusion", "mouth", white()))[y, x].tolist() == [False, False, False, True, True]


def test_sunglasses_cover_the_eyes_alone_and_a_frame_goes_around_them() -> None:
    x, y = FACE.landmarks.astype(int).T
    dark, frame = (covered(under("glasses (drawn)", name, white())) for name in ("sunglasses", "frame"))
    assert dark[y, x].tolist() == [True, True, False, False, False]
    assert not frame[y, x].any()
    assert (dark | ~frame).all(), "the frame is a part of both"
    unit = FACE.eyes_apart
    lens = 4 * 0.40 * 0.29 * unit**2 * 0.883  # a superellipse of exponent 3 fills 0.883 of its box (gamma functions)
    assert dark.sum() - frame.sum() == pytest.approx(2 * lens, rel=0.3)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert np.ptp(rows) / unit == pytest.approx(0.63, abs=0.06), "lens and rim"
    assert np.ptp(columns) / unit == pytest.approx(2.27, abs=0.06), "from temple to temple"


def test_glasses_turn_with_the_eyes() -> None:
    quarter = np.array([[0, 1], [-1, 0]])
    turned = FacePlace((FACE.landmarks - 100) @ quarter + 100, 80.0)
    upright = under("glasses (drawn)", "frame", white())
    assert abs(under("glasses (drawn)", "frame", white(), 0, turned) - np.rot90(upright, -1)).mean() < 2


def test_jpeg_and_blur_are_the_stated_ones() -> None:
    image, data = picture(), io.BytesIO()
    image.save(data, "JPEG", quality=10)
    assert (under("JPEG", "quality 10", image) == np.asarray(Image.open(data))).all()
    sigma = 0.1 * FACE.eyes_apart
    wanted = gaussian_filter(np.asarray(image).astype(float), (sigma, sigma, 0), mode="nearest")
    assert abs(under("blur", "10% of eyes", image) - wanted)[20:-20, 20:-20].max() < 8  # boxes in place of the bell


class OfThePhoto:
    """Finds the face where the photos have it, if it has so many pixels; landmarks are off in photos made smaller."""

    def __init__(self, least: float = 0, off: float = 0.0, blind_to_bright: bool = False) -> None:
        self.least, self.off, self.blind = least, off, blind_to_bright

    def detect(self, image: Image.Image) -> list[Detection]:
        scale = image.width / 200
        if 80 * scale < self.least or (self.blind and np.asarray(image).mean() > 200):
            return []
        box = np.array([60, 60, 140, 140]) * scale
        shift = self.off * FACE.eyes_apart * scale if scale < 1 else 0.0
        small = Detection(np.array([0, 0, 20, 20]) * scale, FACE.landmarks / 10 * scale, 1.0)
        return [small, Detection(box, FACE.landmarks * scale + (shift, 0), 1.0)]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    use_tiny_networks(monkeypatch)
    save_tiny(tmp_path / "tiny")
    return load_folder(tmp_path / "tiny")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve people, each with two drawn expressions, in the middle of a photo."""
    generator, lines = np.random.default_rng(0), ["path,label,subject"]
    folder = tmp_path / "people-of-photos"
    folder.mkdir()
    for person in range(12):
        for label, curve in zip(LABELS, (1.0, 0.0), strict=True):
            photo = Image.new("RGB", (200, 200), (120, 120, 120))
            photo.paste(Image.fromarray(drawn_face(curve, generator)).resize((80, 80)), (60, 60))
            photo.save(folder / f"{label}-{person}.png")
            lines.append(f"{label}-{person}.png,{label},{person:02}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


@pytest.fixture
def classifier(encoder: Encoder, faces_folder: Path) -> ExpressionClassifier:
    train = open_dataset(faces_folder).split("train")
    chosen = np.isin(train.labels, LABELS)
    model = LogisticRegression(C=100, max_iter=5000)
    model.fit(embed_dataset(encoder, train)[chosen], np.array(train.labels)[chosen])
    return ExpressionClassifier(
        ExpressionExtractor(encoder, OfThePhoto()), Head.from_sklearn(model, encoder, name="drawn")
    )


def test_detectors_of_known_behaviour(classifier: ExpressionClassifier, photos: Path, tmp_path: Path) -> None:
    detectors = {"always": OfThePhoto(), "large": OfThePhoto(30), "off": OfThePhoto(0, 0.1)}
    record = evaluate_conditions(classifier, photos, detectors=detectors, photo_count=8, cache=tmp_path / "cache")
    found = record["photos"]
    assert (found["data"], found["n"], found["labels"]) == ("people-of-photos", 8, {"neutral": 4, "happiness": 4})
    assert (found["face_size"], found["left_out"]) == (80.0, dict.fromkeys(detectors, 0))
    assert found["eyes_apart"] == pytest.approx(37.3, abs=0.05)
    assert record["crops"] is None
    rows = {(row["group"], row["severity"]): row for row in found["conditions"]}
    assert len(rows) == 1 + sum(map(len, FACE_CONDITIONS.values()))
    assert next(iter(rows)) == ("clean", "")
    for row in rows.values():
        always = row["detectors"]["always"]
        assert (always["found"], always["landmark_error"], always["n_found"]) == (1.0, 0.0, 8)
        assert always["accuracy"] == always["accuracy_found"] == row["aligned"]["accuracy"], "the same crop"
        assert np.mean(list(always["recall"].values())) == pytest.approx(always["accuracy"]), "as many of each"
    assert 0.5 <= rows["clean", ""]["aligned"]["accuracy"] <= 1
    assert len({row["aligned"]["accuracy"] for row in rows.values()}) > 1, "conditions matter"
    for pixels in (64, 48, 32, 24, 16):
        row = rows["resolution", f"{pixels} px"]["detectors"]
        assert row["large"]["found"] == (pixels >= 30)
        if pixels < 30:
            assert (row["large"]["accuracy"], row["large"]["accuracy_found"]) == (0.0, None)
            assert row["large"]["landmark_error"] is None
        assert row["off"]["landmark_error"] == pytest.approx(0.1, abs=2e-3)
    json.dumps(record, allow_nan=False)


def test_accuracy_is_that_of_the_classifier_on_the_worse_photos(
    classifier: ExpressionClassifier, photos: Path, tmp_path: Path
) -> None:
    record = evaluate_conditions(classifier, photos, detectors={"one": OfThePhoto()}, cache=tmp_path / "cache")
    chosen = one_a_person(open_dataset(photos), 100)
    assert record["photos"]["n"] == 12
    for group, severity in (("gamma", "4"), ("occlusion", "mouth"), ("blur", "40% of eyes")):
        right = []
        for number, sample in enumerate(chosen.samples):
            worse = dict(FACE_CONDITIONS[group])[severity](Image.open(photos.parent / sample.path), FACE, number)
            right.append(classifier.predict(worse)[0].expression == sample.label)
        row = next(r for r in record["photos"]["conditions"] if (r["group"], r["severity"]) == (group, severity))
        assert row["detectors"]["one"]["accuracy"] == pytest.approx(np.mean(right), abs=1e-4)


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


def test_what_is_done_before_detection_is_measured(
    classifier: ExpressionClassifier, photos: Path, tmp_path: Path
) -> None:
    detectors = {"large": OfThePhoto(50)}
    record = evaluate_conditions(
        classifier, photos, detectors=detectors, prepare=halved, photo_count=2, cache=tmp_path / "cache"
    )
    assert record["prepare"] == "halved"
    assert {row["detectors"]["large"]["found"] for row in record["photos"]["conditions"]} == {0.0}
    assert record["photos"]["left_out"] == {"large": 0}, "the clean photo is looked at as it is"


def test_photos_without_a_clean_face_are_left_out(
    classifier: ExpressionClassifier, photos: Path, tmp_path: Path
) -> None:
    bright = sorted(photos.parent.glob("*-03.png")) or sorted(photos.parent.glob("*-3.png"))
    for path in bright:
        white().save(path)
    detectors = {"one": OfThePhoto(), "two": OfThePhoto(blind_to_bright=True)}
    found = evaluate_conditions(classifier, photos, detectors=detectors, cache=tmp_path / "cache")["photos"]
    assert (found["n"], found["left_out"]) == (11, {"one": 0, "two": 1})


def test_crops_are_those_of_the_formula(encoder: Encoder, faces_folder: Path, tmp_path: Path) -> None:
    folder = open_dataset(faces_folder)
    train, test = folder.split("train"), folder.split("test")
    probe = fit_probe(embed_dataset(encoder, train), train.labels)
    found = crop_conditions(encoder, probe, test, EmbeddingCache(tmp_path / "cache"))
    assert (found["n"], found["side"], found["n_train"], found["status"]) == (24, 48.0, 64, "not stated")
    rows = {(row["group"], row["severity"]): row for row in found["conditions"]}
    clean = probe.read(embed_dataset(encoder, test), test.labels)
    assert rows["clean", ""]["accuracy"] == pytest.approx(clean.accuracy, abs=1e-4)
    assert rows["resolution", "64 px"]["accuracy"] == rows["clean", ""]["accuracy"], "no image is enlarged"
    images = [np.asarray(Image.open(faces_folder / sample.path)) for sample in test.samples]
    dark = np.stack([np.rint(255 * (image / 255) ** 4).astype(np.uint8) for image in images])
    worse = probe.read(encoder.encode(dark, show_progress=False), test.labels)
    row = rows["gamma", "4"]
    assert (row["accuracy"], row["uar"]) == pytest.approx((worse.accuracy, worse.uar), abs=1e-4)
    assert row["drop_accuracy"] == pytest.approx(clean.accuracy - worse.accuracy, abs=2e-4)
    low, high = row["drop_accuracy_interval"]
    assert low <= row["drop_accuracy"] <= high


def head_turned(yaw: float, depth: float = 0.45) -> np.ndarray:
    """Landmarks of a head of two eyes one unit apart, turned about its vertical axis, seen from far."""
    points = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.45, depth], [-0.4, 0.9, 0.1], [0.4, 0.9, 0.1]])
    angle = np.deg2rad(yaw)
    return np.column_stack([points[:, 0] * np.cos(angle) + points[:, 2] * np.sin(angle), points[:, 1]])


@pytest.mark.parametrize("yaw", [-40, -15, 0, 10, 30, 50])
def test_the_nose_s_offset_is_its_depth_times_the_tangent(yaw: float) -> None:
    landmarks = head_turned(yaw)
    assert nose_offset(landmarks) == pytest.approx(0.45 * np.tan(np.deg2rad(yaw)))
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert nose_offset(33 * landmarks @ turn + (5, -7)) == pytest.approx(nose_offset(landmarks))


@pytest.mark.parametrize("landmarks", [np.zeros((5, 2)), np.zeros((4, 2)), np.full((5, 2), np.nan)])
def test_landmarks_that_have_no_pose(landmarks: np.ndarray) -> None:
    with pytest.raises(ImageError, match="landmarks"):
        nose_offset(landmarks)


class ByBrightness:
    """The yaw is the image's brightness less 100, in degrees; images outside a range of brightness have no face."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def detect(self, image: Image.Image) -> list[Detection]:
        value = float(np.asarray(image)[image.height // 2, image.width // 2, 0])
        if not self.low <= value <= self.high:
            return []
        return [Detection(np.array([10.0, 10, 50, 50]), 20 * head_turned(value - 100) + 30, 1.0)]


@pytest.fixture
def greys(tmp_path: Path) -> Dataset:
    """Images of brightness 100, 102 ... 158: yaw 0 to 58 degrees."""
    folder = tmp_path / "greys"
    folder.mkdir()
    for value in range(100, 160, 2):
        Image.new("RGB", (60, 60), (value,) * 3).save(folder / f"{value}.png")
    samples = tuple(Sample(f"{value}.png", "fear" if value % 4 else "neutral") for value in range(100, 160, 2))
    return Dataset("greys", folder, samples)


def bins_of(yaws: range) -> list[int]:
    places = np.digitize([0.45 * np.tan(np.deg2rad(yaw)) for yaw in yaws], (0.1, 0.2, 0.3))
    return np.bincount(places, minlength=4).tolist()


def test_faces_found_by_pose_both_ways(greys: Dataset) -> None:
    one, other = photo_pose(greys, {"a": ByBrightness(0, 140), "b": ByBrightness(110, 255)})
    assert (one["by"], one["found_by"], other["by"], other["found_by"]) == ("a", "b", "b", "a")
    assert [row["n"] for row in one["bins"]] == bins_of(range(0, 42, 2))
    assert [row["n"] for row in other["bins"]] == bins_of(range(10, 60, 2))
    both = bins_of(range(10, 42, 2))
    for rows in (one["bins"], other["bins"]):
        assert [round(row["found"] * row["n"]) for row in rows] == both
    assert (one["n"], one["neither"]) == (30, 0)


def test_accuracy_by_pose_has_a_row_for_no_landmarks(greys: Dataset, encoder: Encoder, tmp_path: Path) -> None:
    x = embed_dataset(encoder, greys)
    probe = fit_probe(x, greys.labels)
    right = probe.read(x, greys.labels).predicted == np.array(greys.labels)
    detectors = {"a": ByBrightness(0, 140)}
    (rows,) = crop_pose(encoder, probe, greys, detectors, EmbeddingCache(tmp_path / "cache")).values()
    assert [row["n"] for row in rows] == [*bins_of(range(0, 42, 2)), 9]
    assert rows[-1]["bin"] == "no landmarks"
    assert rows[-1]["accuracy"] == pytest.approx(right[-9:].mean(), abs=1e-4)
    assert sum(row["accuracy"] * row["n"] for row in rows) == pytest.approx(right.sum(), abs=0.02)


def test_interval_is_wilson_s_formula() -> None:
    n, p, z = 20, 0.85, 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    share = wilson_share(np.arange(20) < 17, "found")
    assert share["found"] == 0.85
    assert share["found_interval"] == pytest.approx([middle - half, middle + half], abs=1e-4)
    assert wilson_share(np.zeros(0, dtype=bool), "found") == {"found": None, "found_interval": None}


def test_one_photo_a_person_with_labels_in_turn(photos: Path) -> None:
    chosen = one_a_person(open_dataset(photos), 7)
    assert [sample.subject for sample in chosen.samples] == [f"{person:02}" for person in range(7)]
    assert chosen.labels == ["neutral", "happiness"] * 3 + ["neutral"]
    unknown = Dataset("x", Path("."), tuple(dataclasses.replace(s, subject=None) for s in open_dataset(photos).samples))
    part = one_a_person(unknown, 8, seed=3)
    assert sorted(part.labels) == ["happiness"] * 4 + ["neutral"] * 4
    assert part.samples == one_a_person(unknown, 8, seed=3).samples != one_a_person(unknown, 8, seed=4).samples


def test_record_tables_and_figures_are_written(
    classifier: ExpressionClassifier, photos: Path, faces_folder: Path, tmp_path: Path
) -> None:
    record = evaluate_conditions(
        classifier,
        photos,
        faces_folder,
        tmp_path / "out",
        pose_photos=photos,
        detectors={"one": OfThePhoto(), "two": OfThePhoto(30)},
        photo_count=3,
        crop_count=12,
        pose_count=10,
        cache=tmp_path / "cache",
    )
    out = tmp_path / "out"
    assert json.loads((out / "conditions.json").read_text()) == record
    assert set(record["seconds"]) == {"photos", "probe", "crops", "pose of crops", "pose of photos"}
    assert (record["crops"]["n"], record["crops"]["labels"]) == (12, dict.fromkeys(record["crops"]["labels"], 3))
    text = (out / "conditions.md").read_text()
    row = next(row for row in record["photos"]["conditions"] if row["severity"] == "24 px")
    assert f"| resolution | 24 px | {100 * row['detectors']['one']['found']:.1f} (" in text
    row = next(row for row in record["crops"]["conditions"] if row["severity"] == "4")
    assert f"| gamma | 4 | {100 * row['accuracy']:.1f} | {100 * row['uar']:.1f} | " in text
    assert max(map(len, (line for line in text.splitlines() if not line.startswith("|")))) <= 120
    names = {"photos_found", "photos_landmark_error", "photos_accuracy", "crops", "pose"}
    assert {path.stem for path in out.glob("*.png")} == names
    for path in out.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[1] > 600
        assert 0.005 < (pixels < 128).mean() < 0.3, path.name


def test_errors_say_what_is_wrong(
    classifier: ExpressionClassifier, photos: Path, faces_folder: Path, tmp_path: Path
) -> None:
    one = {"one": OfThePhoto()}
    with pytest.raises(DataError, match="one detector or more"):
        evaluate_conditions(classifier, photos, detectors={}, cache=tmp_path)
    with pytest.raises(DataError, match=r"labels \['sadness', 'surprise'\].*does not have"):
        evaluate_conditions(classifier, faces_folder, detectors=one, cache=tmp_path)
    with pytest.raises(DataError, match="needs a train and a test split"):
        evaluate_conditions(classifier, photos, photos, detectors=one, cache=tmp_path)
    with pytest.raises(DataError, match="in none of the 12 photos"):
        evaluate_conditions(classifier, photos, detectors={"blind": OfThePhoto(1000)}, cache=tmp_path)
    with pytest.raises(ValueError, match="photo_count must be a positive integer"):
        evaluate_conditions(classifier, photos, detectors=one, photo_count=0, cache=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        evaluate_conditions(classifier, tmp_path / "nowhere", detectors=one, cache=tmp_path)
    (tmp_path / "list.csv").write_text("name\na.png\n")
    with pytest.raises(DataError, match="column path"):
        evaluate_conditions(classifier, photos, pose_photos=tmp_path / "list.csv", detectors=one, cache=tmp_path)
