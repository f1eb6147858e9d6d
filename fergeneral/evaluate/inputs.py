"""What a report is made from: labelled sets of face crops, and the embeddings that systems give for them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fergeneral.card import title_of
from fergeneral.datasets import EXPRESSIONS, Dataset, class_counts, open_dataset
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError
from fergeneral.evaluate.cache import EmbeddingCache, data_hash


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledSet:
    """A data set as a report reads it.

    `dataset`: the images of train and test, near-duplicates of test among them; of a set without splits all images.
    `kept` (N,) bool: which of them are left when near-duplicates are out. `unread`: images of other splits.
    """

    name: str
    dataset: Dataset
    kept: np.ndarray
    sha256: str
    unread: dict[str, int]

    @property
    def title(self) -> str:
        """The name as it is written for people."""
        return title_of(self.name)

    @property
    def has_splits(self) -> bool:
        """Whether it has train and test; else it is read whole."""
        return self.dataset.samples[0].split is not None

    @property
    def has_duplicates(self) -> bool:
        """Whether near-duplicates are known, and so left out of train."""
        return not self.kept.all()

    @property
    def people(self) -> int:
        """How many persons are shown, where those on all images are known; else 0."""
        subjects = {sample.subject for sample in self.dataset.samples}
        return len(subjects) if all(subjects) else 0

    def rows(self, split: str, *, duplicates: bool = False) -> np.ndarray:
        """Positions of a split's images, in order; all images where there are no splits."""
        chosen = [sample.split in (split, None) for sample in self.dataset.samples]
        return np.flatnonzero(np.array(chosen) & (self.kept | duplicates))

    def labels(self, rows: np.ndarray) -> list[str]:
        """The labels at these positions."""
        return [self.dataset.samples[row].label for row in rows]

    def subjects(self, rows: np.ndarray) -> list[str]:
        """The person on the images at these positions."""
        return [str(self.dataset.samples[row].subject) for row in rows]


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """Something that gives embeddings: one of our encoders, or another system's stored ones.

    `embeddings`: for each data set it has, (N, D) float32 in the order of the set's samples. `training_data`: as in
    `EncoderConfig`; None where nothing is known of it. `missing`: images of each set without an embedding, whose
    rows are the mean of train.
    """

    name: str
    embeddings: Mapping[str, np.ndarray]
    training_data: tuple[str, ...] | None = None
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def part(self, data: LabelledSet, split: str, *, duplicates: bool = False) -> tuple[np.ndarray, list[str]]:
        """Embeddings and labels of a split."""
        rows = data.rows(split, duplicates=duplicates)
        return self.embeddings[data.name][rows], data.labels(rows)

    def status(self, name: str, split: str | None) -> str:
        """What pretraining had: this split ("in-sample"), only others of the set ("held-out"), or none ("never seen").

        `split`: None for a set read whole, which is in-sample if any part of it was in pretraining.
        """
        return status_of(self.training_data, name, split)


def status_of(training_data: Sequence[str] | None, name: str, split: str | None) -> str:
    """`System.status` for a training on `training_data`, whose entries are "NAME (SPLIT)" or "NAME"."""
    if not training_data:
        return "not stated"
    seen = [entry.partition(" (") for entry in training_data]
    splits = [rest.rstrip(")") for entry, _, rest in seen if entry == name]
    if not splits:
        return "never seen"
    return "in-sample" if "" in splits or split is None or split in splits else "held-out"


def name_of(dataset: Dataset) -> str:
    """A data set's name; of one read from manifest.csv, that of its folder."""
    return dataset.root.resolve().name if dataset.name == "manifest" else dataset.name


def open_sets(folders: Sequence[str | Path]) -> dict[str, LabelledSet]:
    """Read and check the lists of data sets, in any layout of `fergeneral.datasets`; by name.

    Raises DataError that names the set for a label that is not an expression, a split that is empty, a class of train
    with one image, and two sets of one name.
    """
    sets: dict[str, LabelledSet] = {}
    for folder in folders:
        data = _open(folder)
        if data.name in sets:
            raise DataError(
                f"{folder} and {sets[data.name].dataset.root} are both named {data.name!r}; give one of them"
            )
        sets[data.name] = data
    if not sets:
        raise DataError("a report needs at least one data set")
    return sets


def embed_system(encoder: Encoder, sets: Mapping[str, LabelledSet], cache: EmbeddingCache) -> System:
    """One of our encoders on every set; progress bars on a terminal."""
    embeddings = {name: cache.embed(encoder, data.dataset).embeddings for name, data in sets.items()}
    return System(encoder.config.model_id, embeddings, encoder.config.training_data)


def read_peers(folder: str | Path, sets: Mapping[str, LabelledSet]) -> list[System]:
    """Other systems' embeddings: every .npz in a folder, by name, with `path` (P,) str and `embedding` (P, D).

    `path` is that of an image inside its data set, or the file's name alone. A system takes part in the sets that it
    has rows for; a row of NaN says that it gave none for that image. Raises DataError that names the file for anything
    else.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise DataError(f"{folder} has no .npz files with other systems' embeddings")
    return [_read_peer(path, sets) for path in files]


def _open(folder: str | Path) -> LabelledSet:
    whole, kept = open_dataset(folder, drop_duplicates=False), open_dataset(folder)
    name = name_of(whole)
    unread: Counter[str] = Counter()
    if any(sample.split is not None for sample in whole.samples):
        for split in ("train", "test"):
            kept.split(split)  # raises for an empty one
        unread.update(str(sample.split) for sample in whole.samples if sample.split not in ("train", "test"))
        used = tuple(sample for sample in whole.samples if sample.split in ("train", "test"))
        whole = dataclasses.replace(whole, samples=used)
    paths = {sample.path for sample in kept.samples}
    mask = np.array([sample.path in paths for sample in whole.samples])
    whole = dataclasses.replace(whole, name=name, left_out=kept.left_out)
    data = LabelledSet(name, whole, mask, data_hash(whole), dict(unread))
    _check_labels(data)
    return data


def _check_labels(data: LabelledSet) -> None:
    unknown = sorted(set(data.dataset.labels) - set(EXPRESSIONS))
    if unknown:
        raise DataError(f"{data.dataset.root} has unknown expression labels {unknown}; known: {', '.join(EXPRESSIONS)}")
    counts = class_counts(data.labels(data.rows("train")))
    single = [label for label, count in counts.items() if count < 2]
    if single or len(counts) < 2:
        raise DataError(
            f"{data.dataset.root} cannot be probed: it needs two classes or more in train, with two images or more "
            f"each, and has {counts}"
        )
    unlearnt = sorted(set(data.labels(data.rows("test"))) - set(counts))
    if unlearnt:
        raise DataError(f"{data.dataset.root} has the labels {unlearnt} in test, which train does not have")


def _read_peer(path: Path, sets: Mapping[str, LabelledSet]) -> System:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            paths, embeddings = stored["path"].astype(str).tolist(), stored["embedding"].astype(np.float32)
    except Exception as error:  # numpy and zipfile raise errors of many kinds for a file that is no such table
        raise DataError(f"{path} is not a .npz with the arrays path and embedding: {error}") from error
    if embeddings.ndim != 2 or len(embeddings) != len(paths):
        raise DataError(f"{path} needs N paths and (N, D) embeddings, got {len(paths)} and {embeddings.shape}")
    row_of = {name: row for row, name in enumerate(paths)}
    if len(row_of) < len(paths):
        raise DataError(f"{path} has {len(paths) - len(row_of)} paths twice")
    found, missing = {}, {}
    for name, data in sets.items():
        rows = _peer_rows(path, data, row_of)
        if rows is not None:
            found[name], missing[name] = _filled(path, data, embeddings[rows])
    if not found:
        raise DataError(
            f"{path} has embeddings of none of the data sets {', '.join(sets)}; its first path: {paths[:1]}"
        )
    return System(path.stem, found, None, missing)


def _peer_rows(path: Path, data: LabelledSet, row_of: Mapping[str, int]) -> list[int] | None:
    """The peer's row for each image; None where it has none of the set."""
    wanted = [sample.path for sample in data.dataset.samples]
    names = [Path(name).name for name in wanted]
    if len(set(names)) == len(names) and not set(wanted) & set(row_of):
        wanted = names
    there = [name for name in wanted if name in row_of]
    if not there:
        return None
    if len(there) < len(wanted):
        first = next(name for name in wanted if name not in row_of)
        raise DataError(
            f"{path} lacks {len(wanted) - len(there)} of the {len(wanted)} images of {data.name}, the first: {first}; "
            f"an image without an embedding needs a row of NaN"
        )
    return [row_of[name] for name in wanted]


def _filled(path: Path, data: LabelledSet, embeddings: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows that are not finite set to the mean of train's others, and how many there were."""
    finite = np.isfinite(embeddings).all(axis=1)
    train = data.rows("train")
    usable = train[finite[train]]
    if not len(usable):
        raise DataError(f"{path} has no finite embedding in train of {data.name}")
    mean = embeddings[usable].mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.where(finite[:, None], embeddings, mean), int((~finite).sum())
