from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import random_head
from PIL import Image
from sklearn.metrics import roc_auc_score

from fergeneral import DataError, ExpressionExtractor, Head
from fergeneral.alignment import TEMPLATE
from fergeneral.evaluate import identity
from fergeneral.evaluate.figures import draw_leakage
from fergeneral.evaluate.leakage import attribute, identification, person_metric
from fergeneral.evaluate.leakage_report import leakage, leakage_markdown, open_ckplus, open_fairface, open_london
from fergeneral.types import Detection

TWO = ["neutral", "happiness"]


def people(person: float, expression: float, count: int = 30, seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    """Each person neutral and happy: a direction for the person, one for the expression, and noise."""
    generator = np.random.default_rng(seed)
    who, what = np.repeat(np.arange(count), 2), np.tile([0, 1], count)
    x = person * generator.normal(size=(count, 40))[who] + expression * generator.normal(size=(2, 40))[what]
    return x + generator.normal(size=(2 * count, 40)), [TWO[i] for i in what], [f"p{i:02}" for i in who]


def test_nothing_but_the_person() -> None:
    result = identification(np.eye(5)[np.repeat(np.arange(5), 2)], TWO * 5, [f"p{i // 2}" for i in range(10)])
    assert (result.auc, result.eer, result.tar, result.rank1) == (1.0, 0.0, 1.0, 1.0)
    assert result.intervals == {"auc": (1.0, 1.0), "rank1": (1.0, 1.0)}
    assert (result.people, result.images, result.chance) == (5, 10, 0.2)


def test_nothing_but_the_expression() -> None:
    result = identification(np.eye(2)[[0, 1] * 5], TWO * 5, [f"p{i // 2}" for i in range(10)], gallery="neutral")
    assert result.auc == pytest.approx(0.5)
    assert result.rank1 == pytest.approx(0.2)  # all five tie
    assert result.intervals["auc"] == pytest.approx((0.5, 0.5))


def test_rates_of_pairs_counted_by_hand() -> None:
    # Angles of two images of persons a, b, c; cosine similarity falls with the difference of the angles.
    degrees = {"a": (0, 10), "b": (30, 34), "c": (12, 70)}
    radians = np.deg2rad([angle for pair in degrees.values() for angle in pair])
    x, subjects = np.column_stack([np.cos(radians), np.sin(radians)]), list("aabbcc")
    result = identification(x, TWO * 3, subjects, gallery="neutral")
    one = [10, 4, 58]
    two = [34, 70, abs(30 - 10), 40, abs(12 - 10), abs(12 - 34)]
    truth = np.repeat([1, 0], [3, 6])
    assert result.auc == pytest.approx(roc_auc_score(truth, -np.array(one + two)))
    # Happy a (10) is nearest to neutral c (12) and is missed, b (34) to b (30), c (70) to b (30).
    assert result.rank1 == pytest.approx(1 / 3)
    assert 0 <= result.tar <= 2 / 3


def test_auc_is_that_of_identity_and_lies_in_its_interval() -> None:
    x, labels, subjects = people(0.7, 0.7)
    result = identification(x, labels, subjects)
    assert result.auc == identity(x, labels, subjects)["identity_auc"]
    low, high = result.intervals["auc"]
    assert low < result.auc < high
    assert 0.02 < high - low < 0.3
    assert result == identification(x, labels, subjects)


def test_bootstrap_interval_of_the_auc_by_brute_force() -> None:
    x, labels, subjects = people(0.5, 0.5, count=12)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    generator, areas = np.random.default_rng(7), []
    for _ in range(150):
        drawn = generator.integers(12, size=12)
        pairs = [
            (i == j, unit[2 * a] @ unit[2 * b + 1])
            for i, a in enumerate(drawn)
            for j, b in enumerate(drawn)
            if i == j or a != b
        ]
        truth, similarity = zip(*pairs, strict=True)
        areas.append(roc_auc_score(truth, similarity))
    low, high = identification(x, labels, subjects).intervals["auc"]
    assert (low, high) == pytest.approx(np.percentile(areas, [2.5, 97.5]), abs=0.05)


def test_a_learnt_metric_finds_people_that_cosine_does_not() -> None:
    # Of 40 directions the first 20 are loud and change from image to image, the others are the person's.
    def draw(seed: int) -> tuple[np.ndarray, list[str], list[str]]:
        generator = np.random.default_rng(seed)
        x = np.concatenate(
            [
                10 * generator.normal(size=(120, 20)),
                generator.normal(size=(60, 20)).repeat(2, axis=0) + generator.normal(size=(120, 20)) / 4,
            ],
            axis=1,
        )
        return x, TWO * 60, [f"p{i // 2}" for i in range(120)]

    others, _, names = draw(1)
    metric = person_metric(others, names)
    x, labels, subjects = draw(2)
    assert identification(x, labels, subjects).auc < 0.65
    assert identification(x @ metric, labels, subjects).auc > 0.9


def test_attribute_that_is_there_and_one_that_is_not() -> None:
    generator = np.random.default_rng(0)
    labels = ["old"] * 120 + ["young"] * 80
    x = generator.normal(size=(200, 10))
    nothing = attribute(x, labels)
    assert (nothing.majority, nothing.chance, nothing.people) == (0.6, 0.5, 200)
    assert nothing.metrics.uar == pytest.approx(0.5, abs=0.05)
    x[:120, 3] += 6
    assert attribute(x, labels).metrics.accuracy > 0.95


def test_a_kernel_reads_what_no_line_does() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    labels = ["same" if a * b > 0 else "other" for a, b in x]
    assert attribute(x, labels).metrics.uar < 0.65
    assert attribute(x, labels, learner="rbf").metrics.uar > 0.85


def test_nobody_is_in_train_and_test() -> None:
    # Two equal images of each person, attributes drawn by chance: who has seen a person's other image is always right.
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 200)).repeat(2, axis=0)
    labels = np.repeat(generator.permutation(["f", "m"] * 30), 2).tolist()
    subjects = [f"p{i // 2}" for i in range(120)]
    assert attribute(x, labels).metrics.accuracy > 0.75  # four of five people are in train
    apart = attribute(x, labels, subjects)
    assert apart.metrics.accuracy < 0.7
    assert apart.people == 60
    low, high = apart.metrics.intervals["accuracy"]
    assert high - low > 0.2  # 60 people, not 120 images


def test_bad_input_is_named() -> None:
    x, labels, subjects = people(1, 1)
    for call, message in (
        (lambda: identification(x, labels, subjects[1:]), "60 images is needed, got 59"),
        (lambda: identification(x[1:], labels, subjects), r"\(59, 40\) and 60 labels"),
        (lambda: identification(x * np.nan, labels, subjects), "not finite"),
        (lambda: identification(x, ["neutral"] * 60, subjects), "got 0 of 30"),
        (lambda: identification(x, labels, subjects, gallery="fear"), "one of them 'fear', are needed; got 0 of 30"),
        (lambda: attribute(x, ["old"] * 60), "two classes"),
        (lambda: attribute(x, labels, subjects, folds=31), "no more than groups"),
        (lambda: person_metric(x[::2], subjects[::2]), "nobody has two images"),
    ):
        with pytest.raises(DataError, match=message):
            call()
    with pytest.raises(ValueError, match="linear, rbf"):
        attribute(x, labels, learner="forest")  # type: ignore[arg-type]


class WholeImage:
    """Takes the whole image for a face; none in an image that is nearly black."""

    def detect(self, image: Image.Image) -> list[Detection]:
        if np.asarray(image).mean() < 5:
            return []
        points = np.array(TEMPLATE) * image.size
        return [Detection(np.array([0, 0, *image.size]), points, 0.9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people in the layouts of London, CK+ and FairFace: each has an own pattern, men are brighter."""
    root, generator = tmp_path_factory.mktemp("people"), np.random.default_rng(0)

    def draw(path: str, pattern: np.ndarray, label: str) -> None:
        pixels = pattern + generator.normal(0, 15, (24, 24, 3))
        pixels[16:, 6:18] += {"happiness": 60, "neutral": 0}.get(label, -60)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / path)

    london, fairface = ["path,label,subject,age,gender,ethnicity"], ["path,age,gender,race"]
    for number in range(24):
        gender = ("female", "male")[number % 2]
        pattern = generator.uniform(60, 120 + 70 * (number % 2), (24, 24, 3))
        for label in TWO:
            draw(f"london/{label}/{number:03}.png", pattern, label)
            age = "NA" if number == 0 else 13 + number
            london.append(f"{label}/{number:03}.png,{label},{number:03},{age},{gender},{'white' if number else 'rare'}")
        for label, sequence in (("happy", 1), ("fear", 2), ("anger", 3)):
            for frame in (7, 8):
                draw(f"ckplus48/{label}/S{number:03}_{sequence:03}_{frame:08}.png", pattern, label)
        draw(f"fairface/images/{number}.png", pattern * (number > 0), "neutral")
        fairface.append(f"images/{number}.png,20-29,{gender.title()},{('Black', 'White')[number // 12]}")
    Image.new("RGB", (24, 24)).save(root / "fairface/images/0.png")
    (root / "london/people.csv").write_text("\n".join(london) + "\n")
    (root / "fairface/attributes.csv").write_text("\n".join(fairface) + "\n")
    return root


def test_readers(folder: Path) -> None:
    london, ckplus = open_london(folder / "london"), open_ckplus(folder / "ckplus48")
    fairface = open_fairface(folder / "fairface")
    assert london.attributes["age"].tolist().count("") == 2  # NA
    assert london.attributes["age"].tolist().count("under 25") == 22  # 14 to 24
    assert set(london.attributes["ethnicity"].tolist()) == {"", "white"}  # of the other group there are two images
    assert len(ckplus.dataset.samples) == 72
    assert all("_00000008" in sample.path for sample in ckplus.dataset.samples)
    assert fairface.subjects is None
    assert fairface.attributes["gender"].tolist() == ["female", "male"] * 12


def test_record_tables_and_figure(folder: Path, random_folder: Path, tmp_path: Path) -> None:
    encoder = ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder
    paths = [f"fairface/images/{number}.png" for number in range(24)]
    (tmp_path / "peers").mkdir()
    vectors = np.random.default_rng(0).normal(size=(24, 6))
    vectors[3] = np.nan
    np.savez(tmp_path / "peers" / "chance.npz", path=np.array(paths), embedding=vectors)
    head = Head.from_pretrained(random_head(random_folder, tmp_path / "head"), encoder=encoder)
    record = leakage([encoder], folder, WholeImage(), heads=[head], peers=tmp_path / "peers")
    assert json.loads(json.dumps(record)) == record
    assert record["data"]["fairface"] == {"images": 24, "with_face": 23}
    identities = {(row["system"], row["data"], row["trained_on"]): row for row in record["identity"]}
    assert set(identities) == {
        (system, data, other)
        for system in ("random", "drawn-0 probabilities", "grey pixels, 32x32")
        for data, other in (("london", None), ("london", "ckplus48"), ("ckplus48", None), ("ckplus48", "ckplus48"))
    }
    assert identities["random", "ckplus48", "ckplus48"]["people"] == 12
    assert identities["grey pixels, 32x32", "london", None]["rank1"] == 1.0  # each has an own pattern
    read = {(row["system"], row["data"], row["attribute"]): row for row in record["attributes"]}
    assert read["grey pixels, 32x32", "fairface", "ethnicity"]["people"] == 23
    assert read["chance", "fairface", "gender"]["people"] == 22
    text = leakage_markdown(record)
    row = next(line for line in text.splitlines() if line.startswith("| FairFace, gender (2)"))
    assert f"{100 * read['random', 'fairface', 'gender']['accuracy']:.1f} (" in row
    assert text.count("\n| London | random |") == 2
    draw_leakage(record, tmp_path / "leakage.png")
    with Image.open(tmp_path / "leakage.png") as image:
        assert image.width > 800


def test_what_a_record_needs(folder: Path, random_folder: Path, tmp_path: Path) -> None:
    encoder = ExpressionExtractor.from_pretrained(random_folder, device="cpu").encoder
    peers = tmp_path / "peers"
    peers.mkdir()
    for arrays, message in (
        ({"path": np.array(["a.png"]), "embedding": np.zeros((1, 3))}, "wanted are paths like"),
        ({"path": np.array(["fairface/images/1.png"]), "embedding": np.zeros((1, 3))}, "lacks 22 of the 23"),
        ({"path": np.array(["a", "a"]), "embedding": np.zeros((2, 3))}, "different paths"),
        ({"embedding": np.zeros((2, 3))}, "no .npz|is not a .npz"),
    ):
        np.savez(peers / "other.npz", **arrays)
        with pytest.raises(DataError, match=message):
            leakage([encoder], folder, WholeImage(), peers=peers)
    with pytest.raises(DataError, match="none of the folders london, ckplus48, fairface"):
        leakage([encoder], tmp_path, WholeImage())
    with pytest.raises(DataError, match="an encoder is needed"):
        leakage([], folder, WholeImage())
    (tmp_path / "attributes.csv").write_text("path,age\n1.png,3\n")
    with pytest.raises(DataError, match="it lacks gender, race"):
        open_fairface(tmp_path)
    with pytest.raises(DataError, match="is not CK\\+"):
        open_ckplus(folder / "london" / "people.csv")
