"""Readers of facial-expression data sets in their official layouts. Nothing is ever downloaded.

A data set is a folder. Its images lie in it unpacked, or in zip archives (`*.zip`) whose member names are the
paths they would unpack to. Four layouts are told apart by what lies in the folder:

- RAF-DB: `EmoLabel/list_patition_label.txt` and `Image/aligned/*_aligned.jpg` (Li et al., CVPR 2017);
- FER+: `fer2013new.csv` and `FER2013Train|Valid|Test/*.png` (Barsoum et al., ICMI 2016);
- a manifest: `manifest.csv` (or the path of any .csv) with the columns path, label and, if wanted, split and subject;
- folders named after labels, below folders named after splits or not; hidden files and folders are ignored, and so are
  those that systems leave (__MACOSX, Thumbs.db).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fergeneral.alignment import TEMPLATE, cut_face, resize_crop
from fergeneral.errors import DataError, ImageError
from fergeneral.images import IMAGE_SUFFIXES, is_leftover, load_image

EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
COARSE_LABELS = ("neutral", "negative", "positive", "surprise")
COARSE_OF = {  # Li et al., IEEE TIP 2022: everything unpleasant is one class
    "neutral": "neutral",
    "happiness": "positive",
    "surprise": "surprise",
    **dict.fromkeys(("sadness", "anger", "disgust", "fear", "contempt"), "negative"),
}
_ALIASES = {
    **{name: name for name in EXPRESSIONS},
    **{"happy": "happiness", "surprised": "surprise", "sad": "sadness", "angry": "anger"},
    **{"disgusted": "disgust", "fearful": "fear", "afraid": "fear", "contemptuous": "contempt"},
}
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_RAFDB_LABELS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # its labels 1..7
_CKPLUS_SUBJECT = re.compile(r"^(S\d{3})_\d{3}_\d{8}$")

_DOUBTED = 0.5  # weight of an image whose two labels differ; a probe taught on RAF-DB sides with the first in 55 %

# Where the five landmarks lie in each set's own images (fractions of width and height), measured as for TEMPLATE
# by benchmarks/landmarks.py. RAF-DB defines the template, so that its crops stay as they are.
_LANDMARKS = {
    "rafdb": TEMPLATE,
    "affectnet": ((0.304, 0.314), (0.704, 0.314), (0.502, 0.547), (0.343, 0.737), (0.667, 0.737)),
    "contempt": ((0.311, 0.343), (0.698, 0.342), (0.500, 0.587), (0.330, 0.748), (0.676, 0.749)),
    "affectnet8": tuple((0.1 + 0.8 * x, 0.1 + 0.8 * y) for x, y in TEMPLATE),  # aligned so; 10 % of margin a side
    "ferplus": ((0.319, 0.392), (0.698, 0.392), (0.508, 0.604), (0.360, 0.781), (0.669, 0.781)),
    "ckplus": ((0.320, 0.404), (0.690, 0.404), (0.505, 0.601), (0.357, 0.791), (0.666, 0.791)),
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes
    ----------
    path : str
        Inside the data set's folder.
    label : str
        Its expression.
    split : str or None
        "train", "val" or "test"; None where the set has no splits.
    subject : str or None
        The person shown, where that is known.
    votes : tuple of float, or None
        The shares of the annotators' votes for EXPRESSIONS (8 numbers, sum 1), where the data set has them.
    weight : float
        Of the image in training, more than 0; less than 1 where the label is in doubt.

    Examples
    --------
    >>> from fergeneral.datasets import Sample
    >>> Sample("train/fear/1.jpg", "fear", split="train").weight
    1.0
    """

    path: str
    label: str
    split: str | None = None
    subject: str | None = None
    votes: tuple[float, ...] | None = None
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of labelled images.

    Attributes
    ----------
    name : str
        Of the data set.
    root : Path
        Its folder.
    samples : tuple of Sample
        Its images.
    landmarks : tuple, shape (5, 2), or None
        Where the five landmarks lie in its images on average, in fractions of width and height, from which its fixed
        crop follows; None where the images are to be taken whole.
    black_background : bool
        The faces are cut out on black, which a training must hide.
    left_out : tuple of (str, int)
        Why and how many images the reader left out.

    Examples
    --------
    >>> from fergeneral.datasets import open_dataset
    >>> dataset = open_dataset("examples/london", labels_as_given=True)
    >>> dataset.name, dataset.samples[0].path
    ('manifest', 'neutral/002.jpg')
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    landmarks: tuple[tuple[float, float], ...] | None = None
    black_background: bool = False
    left_out: tuple[tuple[str, int], ...] = ()

    def split(self, name: str) -> Dataset:
        """The part of one split. A set without splits is returned whole; a split that is not there raises DataError."""
        known = {sample.split for sample in self.samples}
        if known == {None}:
            return self
        chosen = tuple(sample for sample in self.samples if sample.split == name)
        if not chosen:
            names = ", ".join(sorted(str(split) for split in known))
            raise DataError(f"{self.root} has no images in the split {name!r}; it has: {names}")
        return dataclasses.replace(self, samples=chosen)

    @property
    def labels(self) -> list[str]:
        """The label of each sample."""
        return [sample.label for sample in self.samples]

    def align(self, image: Image.Image, size: int, template: Any = TEMPLATE) -> np.ndarray:
        """One of its images as a (size, size, C) crop, the landmarks at `template`; whole where they are not known."""
        if self.landmarks is None or self.landmarks == template:
            return resize_crop(image, size)
        return cut_face(image, np.asarray(self.landmarks) * image.size, size, template)

    def files(self) -> Iterator[bytes]:
        """The file of each image as it is stored, in the order of `samples`. Raises DataError for one not there."""
        files = _Files(self.root)
        return (files.read(sample.path) for sample in self.samples)

    def crops(self, crop: Callable[[Image.Image], np.ndarray]) -> Iterator[np.ndarray]:
        """`crop` of each upright RGB image, in the order of `samples`, decoded in a few threads.

        An image that cannot be read raises DataError with its name. Memory is bounded by 256 images.
        """
        files = _Files(self.root)

        def read(sample: Sample) -> np.ndarray:
            try:
                return crop(load_image(files.read(sample.path)))
            except ImageError as error:
                raise DataError(f"{sample.path} in {self.root}: {error}") from error

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.samples), 256):
                yield from pool.map(read, self.samples[start : start + 256])


def open_dataset(folder: str | Path, *, drop_duplicates: bool = True, labels_as_given: bool = False) -> Dataset:
    """Read the list of a data set's images; the images themselves are read by `Dataset.crops`.

    Images to which `second_labels.csv` (columns path, second_label), where there is one, gives another label have half
    the weight.

    Parameters
    ----------
    folder : path
        A folder that holds LABEL/IMAGE or SPLIT/LABEL/IMAGE, or a manifest.csv with the columns path and label (also
        split and subject); or a manifest; or a known data set as it is handed out: see docs/training.md.
    drop_duplicates : bool, default True
        The groups in `near_duplicates.csv` (columns group, path, label, split), where there is one, lose these *train*
        images: those with a near copy in another split, those in a group with conflicting labels, and all but the first
        of the rest. Other splits stay whole.
    labels_as_given : bool, default False
        Otherwise labels of a manifest and names of folders that mean one of EXPRESSIONS ("happy") become that name
        ("happiness").

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        Where nothing fits, a listed image is missing, or a row is broken.

    Examples
    --------
    >>> from fergeneral.datasets import open_dataset
    >>> dataset = open_dataset("examples/london", labels_as_given=True)
    >>> len(dataset.samples), sorted(set(dataset.labels))
    (24, ['neutral', 'smiling'])
    """
    root = Path(folder)
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if root.is_file():
        if root.suffix.lower() != ".csv":
            raise DataError(f"{root} is neither a folder nor a .csv manifest")
        manifest, root = root, root.parent
    else:
        manifest = root / "manifest.csv"
    files = _Files(root)
    name_of = str.strip if labels_as_given else _standard
    if manifest.is_file():
        dataset = Dataset(manifest.stem, root, tuple(_read_manifest(manifest, name_of)))
    elif files.has("EmoLabel/list_patition_label.txt"):
        dataset = Dataset("rafdb", root, tuple(_read_rafdb(files)), _LANDMARKS["rafdb"])
    elif files.has("fer2013new.csv"):
        samples, left_out = _read_ferplus(files)
        dataset = Dataset("ferplus", root, samples, _LANDMARKS["ferplus"], left_out=left_out)
    else:
        dataset = _read_folders(root, files, name_of)
    missing = [sample.path for sample in dataset.samples if not files.has(sample.path)]
    if missing:
        archives = ", ".join(path.name for path in sorted(root.glob("*.zip"))) or "none"
        raise DataError(
            f"{root} lacks {len(missing)} of {len(dataset.samples)} listed images, the first: {missing[0]}; "
            f"unpacked, or in a zip archive (there: {archives}; is one missing?)"
        )
    if not dataset.samples:
        reasons = "".join(f"; {count} files left out: {reason}" for reason, count in dataset.left_out if count)
        raise DataError(f"{root} has no labelled images{reasons}")
    if files.has("second_labels.csv"):
        dataset = _with_weights(dataset, files)
    if drop_duplicates and files.has("near_duplicates.csv"):
        dataset = _without_duplicates(dataset, files)
    return dataset


def expression_of(label: str) -> str:
    """The standard name of an expression ("happy" -> "happiness"). Raises DataError for one that is not known."""
    try:
        return _ALIASES[label.strip().lower()]
    except KeyError:
        raise DataError(f"unknown expression label {label!r}; known: {', '.join(EXPRESSIONS)}") from None


class _Files:
    """The files of a folder and of the zip archives in it, by their path inside it. Safe between threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._archives: dict[str, zipfile.ZipFile] = {}
        self._lock = threading.Lock()
        for path in sorted(root.glob("*.zip")):
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(f"{path} is not a readable zip archive: {error}") from error
            self._archives.update((name, archive) for name in archive.namelist() if not name.endswith("/"))

    def has(self, name: str) -> bool:
        return name in self._archives or (self.root / name).is_file()

    def names(self) -> list[str]:
        unpacked = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted({*self._archives, *unpacked})

    def read(self, name: str) -> bytes:
        try:
            if name in self._archives:
                with self._lock:
                    return self._archives[name].read(name)
            return (self.root / name).read_bytes()
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{name} in {self.root} cannot be read: {error}") from error

    def rows(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.read(name).decode("utf-8-sig"))))


def _read_rafdb(files: _Files) -> Iterable[Sample]:
    lines = files.read("EmoLabel/list_patition_label.txt").decode().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        stem, split = Path(name).stem, name.partition("_")[0]
        if label not in set("1234567") or split not in ("train", "test"):
            raise DataError(f"line {number} of EmoLabel/list_patition_label.txt is not 'NAME LABEL(1-7)': {line!r}")
        yield Sample(f"Image/aligned/{stem}_aligned.jpg", _RAFDB_LABELS[int(label) - 1], split)


def _read_ferplus(files: _Files) -> tuple[tuple[Sample, ...], tuple[tuple[str, int], ...]]:
    """The majority rule: single votes are dropped, then one of the eight classes needs more than half of the rest."""
    folders = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
    splits = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
    columns = (*EXPRESSIONS, "unknown", "NF")
    samples: dict[str, Sample | None] = {}
    nameless = 0
    for number, row in enumerate(files.rows("fer2013new.csv"), start=2):
        try:
            votes = np.array([int(row[column]) for column in columns])
            usage, name = row["Usage"], row["Image name"].strip()
            path, split = f"{folders[usage]}/{name}", splits[usage]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"line {number} of fer2013new.csv is broken ({error}): {row}") from error
        if not name:
            nameless += 1
            continue
        votes[votes <= 1] = 0
        winner = int(votes.argmax())
        samples[path] = None  # a later row replaces an earlier
        if winner < len(EXPRESSIONS) and votes[winner] > 0.5 * votes.sum():
            counts = votes[: len(EXPRESSIONS)]
            samples[path] = Sample(path, EXPRESSIONS[winner], split, votes=tuple((counts / counts.sum()).tolist()))
    kept = tuple(sample for sample in samples.values() if sample is not None)
    return kept, (("no image name", nameless), ("no majority for an expression", len(samples) - len(kept)))


def read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and the rows of a table with a header. Raises DataError for what is no UTF-8 .csv file."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        return list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 .csv file: {error}") from error


def _read_manifest(path: Path, name_of: Callable[[str], str]) -> Iterable[Sample]:
    _, rows = read_csv(path)
    for number, row in enumerate(rows, start=2):
        if not row.get("path") or not row.get("label"):
            raise DataError(f"line {number} of {path} needs the columns path and label, got {row}")
        yield Sample(row["path"], name_of(row["label"]), row.get("split") or None, row.get("subject") or None)


def _read_folders(root: Path, files: _Files, name_of: Callable[[str], str]) -> Dataset:
    samples, skipped = [], 0
    for name in files.names():
        *parents, file = name.split("/")
        if is_leftover(name):
            continue
        if Path(file).suffix.lower() not in IMAGE_SUFFIXES:
            skipped += len(parents) > 0  # what lies beside the labels' folders is no sample that was meant
            continue
        if not parents:
            raise DataError(f"{root} holds {file} outside any label folder; wanted: LABEL/IMAGE or SPLIT/LABEL/IMAGE")
        split = next((_SPLITS[parent.lower()] for parent in parents[:-1] if parent.lower() in _SPLITS), None)
        subject = _CKPLUS_SUBJECT.match(Path(file).stem)
        samples.append(Sample(name, name_of(parents[-1]), split, subject[1] if subject else None))
    name = root.resolve().name
    if samples and all(sample.subject for sample in samples):
        name = "ckplus"
    # Of the known sets of this layout, one shows faces on black; its archives carry its name.
    left_out = (("not an image by its suffix", skipped),) if skipped else ()
    black = name == "affectnet"
    return Dataset(name, root, tuple(samples), _LANDMARKS.get(name), black_background=black, left_out=left_out)


def _standard(label: str) -> str:
    return _ALIASES.get(label.strip().lower(), label.strip())


def _with_weights(dataset: Dataset, files: _Files) -> Dataset:
    second = {row["path"]: _standard(row["second_label"]) for row in files.rows("second_labels.csv")}
    samples = tuple(
        dataclasses.replace(sample, weight=_DOUBTED)
        if second.get(sample.path, "") not in ("", sample.label)
        else sample
        for sample in dataset.samples
    )
    return dataclasses.replace(dataset, samples=samples)


def _without_duplicates(dataset: Dataset, files: _Files) -> Dataset:
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in files.rows("near_duplicates.csv"):
        groups[row["group"]].append(row)
    drop: dict[str, str] = {}
    for rows in groups.values():
        train = [row["path"] for row in rows if row["split"] == "train"]
        if len(train) < len(rows):
            drop.update(dict.fromkeys(train, "near copy in another split"))
        elif len({_standard(row["label"]) for row in rows}) > 1:
            drop.update(dict.fromkeys(train, "near copies with conflicting labels"))
        else:
            drop.update(dict.fromkeys(train[1:], "near copy of another train image"))
    gone = [drop[sample.path] for sample in dataset.samples if sample.path in drop]
    kept = tuple(sample for sample in dataset.samples if sample.path not in drop)
    counts = tuple((reason, gone.count(reason)) for reason in dict.fromkeys(gone))
    return dataclasses.replace(dataset, samples=kept, left_out=dataset.left_out + counts)


def class_counts(labels: Sequence[str]) -> dict[str, int]:
    """How often each label occurs, known expressions first, in the order of EXPRESSIONS."""
    known = [name for name in EXPRESSIONS if name in labels]
    others = sorted(set(labels) - set(known))
    return {name: list(labels).count(name) for name in (*known, *others)}


def list_sha256(rows: Iterable[tuple[str, str, float]]) -> str:
    """A hash by which two lists of images can be compared, such as those of two training runs.

    Parameters
    ----------
    rows : iterable of (str, str, float)
        Path inside the data set's folder, label, and weight in training of each image, in any order.

    Returns
    -------
    str
        SHA-256, hexadecimal, of the UTF-8 lines `path<TAB>label<TAB>weight`, sorted by code point, each with a newline
        at its end; the weight is printed as by `%g`. The images' pixels are not in it.

    Examples
    --------
    >>> from fergeneral.datasets import list_sha256
    >>> list_sha256([("b.png", "anger", 0.5), ("a.png", "fear", 1.0)])[:16]
    '184eb61bd66d7db2'
    """
    lines = sorted(f"{path}\t{label}\t{weight:g}\n" for path, label, weight in rows)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
