from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fergeneral import DataError
from fergeneral.datasets import COARSE_OF, EXPRESSIONS, class_counts, expression_of, open_dataset


def png(value: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def pack(root: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


RAFDB = "train_00001.jpg 5\ntrain_00002.jpg 1\ntest_0001.jpg 7\n"


def rafdb_images() -> dict[str, bytes]:
    return {f"Image/aligned/{stem}_aligned.jpg": png() for stem in ("train_00001", "train_00002", "test_0001")}


@pytest.mark.parametrize("packed", [True, False])
def test_rafdb_packed_and_unpacked(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, {"EmoLabel/list_patition_label.txt": RAFDB})
    if packed:
        pack(tmp_path, rafdb_images())
    else:
        write(tmp_path, rafdb_images())
    dataset = open_dataset(tmp_path)
    assert dataset.labels == ["sadness", "surprise", "neutral"]
    assert [sample.split for sample in dataset.samples] == ["train", "train", "test"]
    assert len(list(dataset.split("train").crops(lambda image: dataset.align(image, 32)))) == 2
    with pytest.raises(DataError, match="no images in the split 'val'; it has: test, train"):
        dataset.split("val")


def test_ferplus_majority_rule(tmp_path: Path) -> None:
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    rows = [
        "Training,a.png,6,1,0,1,1,1,0,0,0,0",  # single votes dropped: 6 of 6
        "Training,b.png,5,5,0,0,0,0,0,0,0,0",  # no majority
        "Training,c.png,0,0,0,0,0,0,0,0,8,2",  # unknown
        "Training,,0,9,1,0,0,0,0,0,0,0",  # no name
        "PublicTest,d.png,9,1,0,0,0,0,0,0,0,0",
        "PublicTest,d.png,0,9,1,0,0,0,0,0,0,0",  # the later row stands
        "PrivateTest,e.png,0,0,0,0,0,0,2,3,0,0",  # 3 of 5
    ]
    images = {f"FER2013{folder}": png() for folder in ("Train/a.png", "Valid/d.png", "Test/e.png")}
    write(tmp_path, {"fer2013new.csv": header + "\n".join(rows), **images})
    dataset = open_dataset(tmp_path)
    found = [(sample.path, sample.label, sample.split) for sample in dataset.samples]
    assert found == [
        ("FER2013Train/a.png", "neutral", "train"),
        ("FER2013Valid/d.png", "happiness", "val"),
        ("FER2013Test/e.png", "contempt", "test"),
    ]
    assert dict(dataset.left_out) == {"no image name": 1, "no majority for an expression": 2}


def test_folders_with_and_without_splits(tmp_path: Path) -> None:
    write(tmp_path, {"a/train/happy/1.png": png(), "a/valid/Sad/2.png": png(), "b/smirk/3.png": png()})
    split = open_dataset(tmp_path / "a")
    assert [(sample.label, sample.split) for sample in split.samples] == [("happiness", "train"), ("sadness", "val")]
    whole = open_dataset(tmp_path / "b")
    assert whole.labels == ["smirk"]
    assert whole.split("train") is whole


def test_manifest(tmp_path: Path) -> None:
    text = "path,label,split,subject\nx/1.png,angry,train,p1\nx/2.png,smirk,,\n"
    write(tmp_path, {"x/1.png": png(), "x/2.png": png(), "manifest.csv": text})
    for place in (tmp_path, tmp_path / "manifest.csv"):
        first, second = open_dataset(place).samples
        assert (first.label, first.split, first.subject) == ("anger", "train", "p1")
        assert (second.label, second.split, second.subject) == ("smirk", None, None)


def test_near_duplicates_are_left_out_of_train_only(tmp_path: Path) -> None:
    names = [f"{split}/happy/{i}.png" for split in ("train", "test") for i in range(6)]
    groups = """group,path,label,split
0,train/happy/0.png,happiness,train
0,test/happy/0.png,happiness,test
1,train/happy/1.png,happiness,train
1,train/happy/2.png,happiness,train
2,train/happy/3.png,happiness,train
2,train/happy/4.png,anger,train
3,test/happy/1.png,happiness,test
3,test/happy/2.png,happiness,test
"""
    write(tmp_path, {**{name: png() for name in names}, "near_duplicates.csv": groups})
    dataset = open_dataset(tmp_path)
    assert [s.path for s in dataset.split("train").samples] == ["train/happy/1.png", "train/happy/5.png"]
    assert len(dataset.split("test").samples) == 6
    assert dict(dataset.left_out) == {
        "near copy in another split": 1,
        "near copy of another train image": 1,
        "near copies with conflicting labels": 2,
    }
    assert len(open_dataset(tmp_path, drop_duplicates=False).samples) == 12


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match="no labelled images"):
        open_dataset(tmp_path)
    write(tmp_path / "r", {"EmoLabel/list_patition_label.txt": RAFDB})
    with pytest.raises(DataError, match=r"lacks 3 of 3 listed images, the first: Image/aligned/train_00001"):
        open_dataset(tmp_path / "r")
    write(tmp_path / "half", {"EmoLabel/list_patition_label.txt": RAFDB})
    pack(tmp_path / "half", dict(list(rafdb_images().items())[:2]))
    with pytest.raises(DataError, match=r"lacks 1 of 3 .*test_0001_aligned.jpg; .*\(there: images.zip; is one missing"):
        open_dataset(tmp_path / "half")
    write(tmp_path / "r", {"EmoLabel/list_patition_label.txt": "train_00001.jpg 9\n"})
    with pytest.raises(DataError, match=r"line 1 of EmoLabel/list_patition_label.txt"):
        open_dataset(tmp_path / "r")
    write(tmp_path / "m", {"manifest.csv": "file,emotion\na.png,happy\n"})
    with pytest.raises(DataError, match=r"line 2 of .* needs the columns path and label"):
        open_dataset(tmp_path / "m")
    write(tmp_path / "z", {"images.zip": b"no zip"})
    with pytest.raises(DataError, match=r"images.zip is not a readable zip"):
        open_dataset(tmp_path / "z")
    write(tmp_path / "f", {"happy/1.png": png(), "happy/2.png": b"broken"})
    with pytest.raises(DataError, match=r"happy/2.png in .* is not an image"):
        list(open_dataset(tmp_path / "f").crops(np.asarray))
    write(tmp_path / "l", {"loose.png": png()})
    with pytest.raises(DataError, match=r"loose.png outside any label folder"):
        open_dataset(tmp_path / "l")


def test_one_vocabulary() -> None:
    assert [expression_of(name) for name in ("Happy", " sad ", "contempt")] == ["happiness", "sadness", "contempt"]
    with pytest.raises(DataError, match="unknown expression label 'smirk'; known: neutral"):
        expression_of("smirk")
    assert set(COARSE_OF) == set(EXPRESSIONS)
    assert class_counts(["x", "sadness", "x", "neutral"]) == {"neutral": 1, "sadness": 1, "x": 2}


# Counts of the official splits: RAF-DB's own 12,271 / 3,068; FER+'s majority rule leaves 3,199 of the validation split
# (Barsoum et al.'s training code prints the same). Left out: what near_duplicates.csv of each set says.
def test_the_real_sets_have_their_known_sizes(data: Path) -> None:
    whole = open_dataset(data / "rafdb", drop_duplicates=False)
    assert [len(whole.split(split).samples) for split in ("train", "test")] == [12_271, 3_068]
    rafdb = open_dataset(data / "rafdb")
    assert [len(rafdb.split(split).samples) for split in ("train", "test")] == [12_246, 3_068]
    assert class_counts(rafdb.split("test").labels) == {
        "neutral": 680,
        "happiness": 1185,
        "surprise": 329,
        "sadness": 478,
        "anger": 162,
        "disgust": 160,
        "fear": 74,
    }
    assert len(open_dataset(data / "ferplus").split("val").samples) == 3_199
    ckplus = open_dataset(data / "ckplus48")
    assert len({sample.subject for sample in ckplus.samples}) == 118
    assert len(ckplus.samples) == 981


def test_affectnet8_is_cut_to_the_template_inside_its_margin(tmp_path: Path) -> None:
    """Its faces are aligned so that the central 80 % is the crop."""
    folder = tmp_path / "affectnet8" / "train" / "fear"
    folder.mkdir(parents=True)
    picture = np.zeros((80, 80, 3), dtype=np.uint8)
    picture[8:72, 8:72] = 255
    Image.fromarray(picture).save(folder / "a.png")
    dataset = open_dataset(tmp_path / "affectnet8")
    (crop,) = dataset.crops(lambda image: dataset.align(image, 64))
    assert crop.min() >= 250
