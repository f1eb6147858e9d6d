"""evaluate_groups: its intervals and tests against closed forms, errors of landmarks that are known, the command."""

from __future__ import annotations

import json
import math
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression
from tiny import save_tiny, use_tiny_networks

from fergeneral import DataError, Detection, ExpressionClassifier, ExpressionExtractor, Head
from fergeneral.alignment import TEMPLATE
from fergeneral.cli import main
from fergeneral.evaluate import evaluate_groups
from fergeneral.evaluate.gaps import holm, largest_gap, mean_interval, share, wilson
from fergeneral.evaluate.group_measures import StabilitySample
from fergeneral.evaluate.people import NOT_STATED, Column, column_of, read_people
from fergeneral.evaluate.stability import MOVES, landmark_errors
from fergeneral.hub import load_folder

LONDON = ROOT / "examples" / "london"
FILES = {"groups.json", "groups.md", "found.png", "landmarks.png"}


class Fixed:
    """Says that there is a face at one place, whatever it sees."""

    def __init__(self, left: float = 20, top: float = 20, side: float = 60) -> None:
        self.corner, self.side = np.array([left, top]), side

    def detect(self, image: Image.Image) -> list[Detection]:
        box = np.concatenate([self.corner, self.corner + self.side])
        return [
            Detection(box.astype(np.float32), (np.array(TEMPLATE) * self.side + self.corner).astype(np.float32), 1.0)
        ]


class WhiteSquare:
    """Finds the one white square, to a pixel; nothing where there is none."""

    def detect(self, image: Image.Image) -> list[Detection]:
        box = Image.fromarray((np.asarray(image)[:, :, 0] > 127).astype(np.uint8)).getbbox()
        return [] if box is None else Fixed(box[0], box[1], box[2] - box[0]).detect(image)


def grouped(*names: str) -> Column:
    return Column(np.array(names), tuple(dict.fromkeys(names)), None)


def people_of(count: int) -> np.ndarray:
    return np.arange(count).astype(str)


# Intervals and tests


@pytest.mark.parametrize(("count", "n"), [(0, 10), (5, 10), (17, 20), (20, 20)])
def test_wilson_is_its_closed_form(count: int, n: int) -> None:
    z, p = float(stats.norm.ppf(0.975)), count / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    assert wilson(count, n) == pytest.approx(((middle - half) / scale, (middle + half) / scale), abs=1e-9)


def test_holm_is_that_of_statsmodels() -> None:
    """statsmodels.stats.multitest.multipletests([0.01, 0.04, 0.03, 0.005], method="holm")[1]"""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_of_a_share_does_not_narrow_by_second_photos_of_the_same_people() -> None:
    values = np.arange(40) < 25
    once, (low, high) = share(values, people_of(40)) or (0, (0, 0))
    assert (low, high) == wilson(25, 40)
    twice, (low_twice, high_twice) = share(np.repeat(values, 2), np.repeat(people_of(40), 2)) or (0, (0, 0))
    assert once == twice == 25 / 40
    assert high_twice - low_twice == pytest.approx(high - low, rel=0.1)  # Wilson's of 80 is narrower by 0.7
    assert share(np.ones(20, dtype=bool), np.repeat(people_of(10), 2)) == (1.0, wilson(10, 10))
    assert share(np.ones(0, dtype=bool), people_of(0)) is None


def test_the_interval_of_a_mean_is_about_that_of_students_t() -> None:
    values = np.random.default_rng(1).normal(5, 2, 200)
    wanted = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert mean_interval(values, people_of(200)) == pytest.approx(wanted, abs=0.06)


def test_two_groups_are_compared_by_fishers_exact_test() -> None:
    values = np.array([True] * 11 + [False] * 1 + [True] * 6 + [False] * 8)
    gap = largest_gap(values, grouped(*["a"] * 12, *["b"] * 14), people_of(26)) or {}
    assert (gap["low_group"], gap["high_group"], gap["test"]) == ("b", "a", "Fisher")
    assert gap["difference"] == pytest.approx(11 / 12 - 6 / 14)
    chances = stats.hypergeom(26, 17, 12).pmf(np.arange(13))  # of each count among a, the margins being given
    assert gap["p"] == pytest.approx(chances[chances <= chances[11] * (1 + 1e-7)].sum())


def test_more_groups_are_compared_by_chi_square() -> None:
    counts = {"a": (30, 70), "b": (45, 55), "c": (38, 62)}
    values = np.concatenate([[True] * yes + [False] * no for yes, no in counts.values()])
    gap = largest_gap(values, grouped(*np.repeat(list(counts), 100).tolist()), people_of(300)) or {}
    assert (gap["low_group"], gap["high_group"], gap["test"]) == ("a", "b", "chi-square")
    assert gap["p"] == pytest.approx(stats.chi2_contingency(np.array(list(counts.values()))).pvalue, abs=0.015)
    everyone = largest_gap(values | True, grouped(*np.repeat(list(counts), 100).tolist()), people_of(300)) or {}
    assert (everyone["difference"], everyone["p"]) == (0, 1)


def test_means_and_people_of_several_photos_are_compared_by_kruskal_wallis() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0, 1, 15), generator.normal(1, 1, 12)
    gap = largest_gap(np.concatenate([a, b]), grouped(*["a"] * 15, *["b"] * 12), people_of(27)) or {}
    assert (gap["test"], gap["low"]) == ("Kruskal-Wallis", pytest.approx(a.mean()))
    assert gap["p"] == pytest.approx(stats.kruskal(a, b).pvalue)
    values = generator.random(54) < np.repeat([0.9, 0.5], [30, 24])
    twice = largest_gap(values, grouped(*["a"] * 30, *["b"] * 24), np.repeat(people_of(27), 2)) or {}
    means = values.reshape(27, 2).mean(axis=1)
    assert (twice["test"], twice["p"]) == (
        "Kruskal-Wallis",
        pytest.approx(stats.kruskal(means[:15], means[15:]).pvalue),
    )


def test_small_groups_and_what_is_not_stated_are_not_compared() -> None:
    names = ["a"] * 10 + ["b"] * 9 + [NOT_STATED] * 12
    assert largest_gap(np.arange(31) < 10, grouped(*names), people_of(31)) is None
    gap = largest_gap(np.arange(41) < 10, grouped(*names, *["c"] * 10), people_of(41)) or {}
    assert gap["groups"] == ["a", "c"]


# Landmarks


def test_errors_of_landmarks_that_stay_where_they_are_while_the_photo_moves() -> None:
    detector, image = Fixed(), Image.new("RGB", (200, 100))
    (face,) = detector.detect(image)
    eyes = (TEMPLATE[1][0] - TEMPLATE[0][0]) * 60
    far = float(np.linalg.norm(np.array(TEMPLATE) * 60 + 20, axis=1).mean())  # mean distance from the corner
    wanted = [math.sqrt(2), 3 * math.sqrt(2), far * (1 / 0.9 - 1), far * (1 - 1 / 1.1)]
    assert landmark_errors(detector, image, face) == pytest.approx([100 * w / eyes for w in wanted], rel=1e-4)


def test_errors_of_a_detector_that_follows_the_face() -> None:
    image = Image.new("RGB", (160, 120))
    image.paste((255, 255, 255), (30, 20, 90, 80))
    (face,) = WhiteSquare().detect(image)
    errors = landmark_errors(WhiteSquare(), image, face)
    assert errors[:2] == pytest.approx([0, 0], abs=1e-4)
    assert (errors[2:] < 100 * 1 / 28).all()  # a pixel, where the eyes are 28 apart


def test_another_face_is_not_taken_for_the_same() -> None:
    class Elsewhere(Fixed):
        def detect(self, image: Image.Image) -> list[Detection]:
            return Fixed(*(self.corner if image.width == 200 else self.corner + 60)).detect(image)

    detector, image = Elsewhere(), Image.new("RGB", (200, 160))
    assert np.isnan(landmark_errors(detector, image, detector.detect(image)[0])).all()


def test_a_sample_for_stability_has_enough_of_small_groups() -> None:
    members = np.arange(1000) % 20 == 0  # 50
    few = np.arange(1000) < 700
    sample = StabilitySample(1000, 100, seed=3)
    assert (sample.of(members) <= members).all()
    assert sample.of(members).sum() == 50, "all, since there are fewer than 60"
    assert sample.of(~members).sum() == 100 - members[np.random.default_rng(3).permutation(1000)[:100]].sum()
    assert sample.of(few).sum() >= 60
    column = grouped(*np.where(members, "few", "many").tolist())
    assert (sample.of_any([column]) == sample.of(members) | sample.of(~members)).all()
    assert StabilitySample(1000, None, seed=3).of(members).sum() == 50
    with pytest.raises(ValueError, match="positive integer"):
        StabilitySample(10, 0, seed=0)


# Tables


def test_columns_of_groups() -> None:
    ages = column_of([*map(str, range(18, 60, 3)), "NA", "", "7"])
    assert (ages.names, ages.binned) == (("0-9", "10-19", "20-29", "30-39", "40-49", "50-59", NOT_STATED), "decades")
    assert (ages.of[0], ages.of[-1], ages.of[-2]) == ("10-19", "0-9", NOT_STATED)
    few = column_of(["3", "10", "3", "1"])
    assert (few.names, few.binned) == (("1", "3", "10"), None)
    assert column_of(["more than 70", "0-2", "10-19", "3-9"]).names == ("0-2", "3-9", "10-19", "more than 70")
    assert column_of(["b", "a", "nan"]).names == ("a", "b", NOT_STATED)


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("a", "b", "c"):
        Image.new("RGB", (32, 32)).save(folder / f"{name}.png")
    (folder / "people.csv").write_text(text)
    return folder / "people.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,sex\na.png,f\n", "needs a column path"),
        ("path,sex,sex\na.png,f,m\n", "no two columns of one name"),
        ("path,sex\n", "lists no photos"),
        ("path,sex\na.png,f,3\n", "row 2 .* another number of cells"),
        ("path,sex\na.png,f\nb.png\n", "row 3 .* another number of cells"),
        ("path,sex\n,f\n", "row 2 .* has no path"),
        ("path,sex\na.png,f\na.png,m\n", "more than once, the first: a.png"),
        ("path,sex\na.png,f\nz.png,m\n", "not there: z.png"),
        ("path,sex\na.png,f\nb.png,f\n", "no column of groups.*sex: fewer than two"),
        ("path,label,expression,sex\na.png,x,x,f\nb.png,x,x,m\n", "label and expression"),
        ("path,subject,sex\na.png,1,f\nb.png,,m\n", "1 rows without a subject"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_people(written(tmp_path, text))


def test_columns_that_are_asked_for(tmp_path: Path) -> None:
    rows = [f"{number}.png,{'fm'[number % 2]},name {number},left" for number in range(40)]
    table = written(tmp_path, "\n".join(["path,sex,name,side", *rows]) + "\n")
    for number in range(40):
        shutil.copy(tmp_path / "a.png", tmp_path / f"{number}.png")
    people = read_people(table)
    assert list(people.columns) == ["sex"]
    assert people.left_out == {"name": "40 different values, more than 30", "side": "fewer than two different values"}
    with pytest.raises(DataError, match=r"'name' .* holds no groups: 40 different values"):
        read_people(table, ["name"])
    with pytest.raises(DataError, match="no column 'age'; its columns are path, sex, name, side"):
        read_people(table, ["age"])
    with pytest.raises(DataError, match=r"not a \.csv file"):
        read_people(tmp_path)


# The whole


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExpressionClassifier:
    """A tiny random encoder, and a head that tells squares by their brightness."""
    use_tiny_networks(monkeypatch)
    save_tiny(tmp_path / "tiny")
    extractor = ExpressionExtractor(load_folder(tmp_path / "tiny"), WhiteSquare())
    photos = [picture(number) for number in range(60)]
    rows = np.stack([extractor.extract(photo)[0].embedding for photo in photos])
    labels = np.array([("neutral", "happiness")[number % 2] for number in range(60)])
    model = LogisticRegression(C=1e4, max_iter=5000).fit(rows, labels)
    return ExpressionClassifier(extractor, Head.from_sklearn(model, extractor.encoder, name="drawn"))


def picture(number: int) -> Image.Image:
    """A white square on black; odd ones have a grey half, the label's sign; some are hard to tell."""
    generator = np.random.default_rng(number)
    pixels = np.zeros((96, 96, 3), dtype=np.uint8)
    left, top = generator.integers(8, 30, 2)
    pixels[top : top + 50, left : left + 50] = generator.integers(190, 256, (50, 50, 1))
    if number % 2:
        pixels[top + 20 : top + 50, left : left + 50] -= generator.integers(10, 60, dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def population(tmp_path: Path) -> Path:
    """48 photos of 24 people, packed, in two groups; three without a face, one that is no image, one elsewhere."""
    folder = tmp_path / "population"
    folder.mkdir()
    lines = ["path,label,subject,group,age"]
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number in range(48):
            name = f"in/{number}.png"
            if number == 47:
                name = str(tmp_path / "elsewhere.png")
                picture(147).save(name)
            elif number == 40:
                archive.writestr(name, b"no image")
            else:
                image = Image.new("RGB", (96, 96)) if number in (0, 4, 41) else picture(100 + number)
                image.save(tmp_path / "one.png")
                archive.write(tmp_path / "one.png", name)
            label = ("Neutral", "happy", "boredom")[2 if number == 7 else number % 2]
            lines.append(f"{name},{label},p{number // 2},{'ab'[number >= 22]},{18 + number // 2}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    return folder / "people.csv"


def test_figures_by_group(classifier: ExpressionClassifier, population: Path, tmp_path: Path) -> None:
    report = evaluate_groups(classifier, population, tmp_path / "out", detectors=[Fixed()])
    assert json.loads((tmp_path / "out" / "groups.json").read_text()) == report
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*FILES, "accuracy.png"}
    assert [row["path"] for row in report["table"]["unreadable"]] == ["in/40.png"]
    assert (report["table"]["photos"], report["table"]["people"]) == (48, 24)
    assert report["without_face"] == {"WhiteSquare": ["in/0.png", "in/4.png", "in/41.png"], "Fixed": []}
    assert report["table"]["binned"] == {"age": "decades"}
    assert report["left_out"] == {"boredom": 1}
    found = {(row["detector"], row["group"]): row for row in report["detection"]}
    assert list(report["detectors"]) == ["WhiteSquare", "Fixed"]
    assert (found["WhiteSquare", None]["n"], found["WhiteSquare", None]["found"]) == (47, round(44 / 47, 4))
    assert (found["WhiteSquare", "a"]["n"], found["WhiteSquare", "a"]["found"]) == (22, round(20 / 22, 4))
    assert found["WhiteSquare", "b"]["found"] == round(24 / 25, 4)
    assert (found["Fixed", "b"]["found"], found["Fixed", "b"]["people"]) == (1, 13)
    assert found["Fixed", "b"]["found_interval"] == pytest.approx(wilson(13, 13), abs=1e-4)
    eyes = 100 / ((TEMPLATE[1][0] - TEMPLATE[0][0]) * 60)
    of_moves = {row["move"]: row for row in report["moves"] if row["detector"] == "Fixed"}
    assert list(of_moves) == list(MOVES)
    assert of_moves["moved by 3 px"]["error_mean"] == pytest.approx(3 * math.sqrt(2) * eyes, abs=1e-3)
    text = (tmp_path / "out" / "groups.md").read_text()
    for words in (
        "# By group",
        "![Accuracy](accuracy.png)",
        "- could not be read: in/40.png",
        "left out of accuracy: 1",
    ):
        assert words in text


def test_accuracy_is_that_of_predict(classifier: ExpressionClassifier, population: Path) -> None:
    population.write_text(population.read_text().replace("boredom", "happy"))
    report = evaluate_groups(classifier, population, groups=["group"], folds=4)
    right: dict[str, list[bool]] = {"a": [], "b": []}
    for number in set(range(48)) - {0, 4, 40, 41}:
        (face,) = classifier.predict(picture(100 + number))
        right["ab"[number >= 22]].append(face.expression == ("neutral", "happiness")[number % 2])
    rows = {row["group"]: row for row in report["expressions"]}
    assert set(rows) == {None, "a", "b"}
    for name, values in right.items():
        assert rows[name]["n"] == len(values)
        assert rows[name]["accuracy"] == pytest.approx(np.mean(values), abs=1e-4)
    assert 0.5 < rows[None]["accuracy"] <= 1, "the head knows something"
    assert (report["folds"]["folds"], report["folds"]["classes"]) == (4, {"Neutral": 21, "happy": 23})
    rows = {row["group"]: row for row in report["folds"]["rows"]}
    assert (rows["a"]["n"], rows["b"]["n"], rows["b"]["people"]) == (20, 24, 12)
    assert rows[None]["accuracy"] > 0.6, "half of the people tell something of the others"
    gaps = {gap["measure"]: gap for gap in report["gaps"]}
    assert {"share found", "landmark error", "accuracy", "recall of happiness"} <= set(gaps)
    assert gaps["accuracy"]["groups"] == ["a", "b"]
    assert all(gap["p_holm"] >= gap["p"] for gap in report["gaps"])


def test_without_labels_rates_are_a_question(
    classifier: ExpressionClassifier, population: Path, tmp_path: Path
) -> None:
    lines = [line.split(",") for line in population.read_text().splitlines()]
    population.write_text("\n".join(f"{path},{group}" for path, _, _, group, _ in lines) + "\n")
    report = evaluate_groups(classifier, population, tmp_path / "out", stability_photos=5)
    for row in report["expressions"]:
        assert sum(row["rates"].values()) == pytest.approx(1, abs=1e-3)
    low, high = report["expressions"][0]["rates_interval"]["neutral"]
    count = round(report["expressions"][0]["rates"]["neutral"] * 44)
    assert (low, high) == pytest.approx(wilson(count, 44), abs=1e-4)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*FILES, "rates_group.png"}
    assert "question, not an error" in (tmp_path / "out" / "groups.md").read_text().replace("\n", " ")
    assert report["detection"][0]["n_stability"] <= 5
    with pytest.raises(DataError, match="folds need the columns label and subject"):
        evaluate_groups(classifier, population, folds=3)


def test_labels_and_faces_that_are_not_there(
    classifier: ExpressionClassifier, population: Path, tmp_path: Path
) -> None:
    text = population.read_text()
    population.write_text(text.replace("Neutral", "bored").replace("happy", "bored"))
    with pytest.raises(DataError, match="none of the classes of the head 'drawn' \\(happiness, neutral\\)"):
        evaluate_groups(classifier, population)
    table = written(tmp_path / "black", "path,sex\na.png,f\nb.png,m\n")
    with pytest.raises(DataError, match="WhiteSquare found no face in the 2 photos"):
        evaluate_groups(classifier, table)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        evaluate_groups(classifier, population, tmp_path / "file")


# The command


@pytest.fixture
def londoners(tmp_path: Path) -> Path:
    """Twelve real photos of six people, and one that is no image."""
    shutil.copytree(LONDON, tmp_path / "london")
    lines = (tmp_path / "london" / "manifest.csv").read_text().replace("smiling,", "happy,").splitlines()
    wanted = [line for line in lines[1:] if line.split(",")[2] <= "025"]
    (tmp_path / "london" / "broken.jpg").write_bytes(b"no image")
    table = tmp_path / "london" / "people.csv"
    table.write_text("\n".join([lines[0], *wanted, "broken.jpg,neutral,999,30,male,white"]) + "\n")
    return table


def test_the_command(londoners: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", "--groups", str(londoners), "-o", str(out), "--device", "cpu", "--columns", "gender"]
    assert main([*arguments, "--second-detector", "yunet", "--min-face-size", "60"]) == 1, "one photo cannot be read"
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    header = ["group", "photos", "found, MTCNN", "found, YuNet", "error, MTCNN", "error, YuNet", "accuracy"]
    assert re.split(r"\s{2,}", lines[0].strip()) == header
    assert [line.split()[0] for line in lines[1:4]] == ["all", "gender", "gender"]
    assert "No two groups of 10 people or more" in printed.out
    assert "skipped: broken.jpg" in printed.err
    assert f"the report is in {out / 'groups.md'}" in printed.err
    report = json.loads((out / "groups.json").read_text())
    assert report["detectors"]["YuNet"]["min_face_size"] == report["detectors"]["MTCNN"]["min_face_size"] == 60
    assert [row["found"] for row in report["detection"]] == [1.0] * 6
    assert all(0 < row["error_mean"] < 10 for row in report["detection"])
    assert report["expressions"][0]["n"] == 12
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err


def test_the_command_says_which_labels_it_left_out(
    londoners: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    londoners.write_text(londoners.read_text().replace("happy,", "grinning,"))
    arguments = ["evaluate", "--groups", str(londoners), "-o", str(tmp_path / "out"), "--columns", "gender"]
    assert main([*arguments, "--device", "cpu"]) == 1
    expected = "left out of accuracy: 6 photos labelled 'grinning', which is no class of expressions-8"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DATA", "--groups", "TABLE"], "takes its photos from the table"),
        (["--groups", "TABLE", "--folds", "1"], "--folds must be 2 or more"),
        (["--groups", "TABLE", "--detector", "yunet", "--second-detector", "yunet"], "are both yunet"),
        (["DATA", "--folds", "3"], "go with --groups"),
        (["--groups", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_commands_that_are_refused(
    londoners: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    there = {"TABLE": str(londoners), "DATA": str(londoners.parent)}
    assert main(["evaluate", *(there.get(word, word) for word in arguments), "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_python_of_the_document(
    londoners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(londoners.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "groups.md").read_text(), flags=re.DOTALL)
    exec(compile(code, "groups.md", "exec"), {})
    assert (londoners.parent / "by-group" / "groups.md").is_file()
    assert capsys.readouterr().out == "", "six people are too few for a gap"
