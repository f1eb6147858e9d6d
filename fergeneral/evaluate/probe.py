"""The linear probe: logistic regression on frozen embeddings, its strength chosen without the test set."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fergeneral.datasets import Dataset, class_counts, open_dataset
from fergeneral.encoder import Encoder
from fergeneral.errors import DataError

C_GRID = tuple(10.0**k for k in np.arange(-5, 1.01, 0.5))  # inverse strength of the L2 penalty
VALIDATION_SHARE = 0.15  # of train, stratified, for choosing C
_ITERATIONS = 2000


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a linear probe reads from a test set.

    `accuracy`; `uar`, the unweighted average of the class recalls; `recall` of each class that the test set has;
    `confusion` (C, C): rows are true, columns predicted classes, in the order of `labels`; `c`: the chosen inverse
    strength; `validation_accuracy`: on the split of train it was chosen on; `n_train`, `n_test`: images.
    """

    accuracy: float
    uar: float
    recall: dict[str, float]
    confusion: np.ndarray
    labels: tuple[str, ...]
    c: float
    validation_accuracy: float
    n_train: int
    n_test: int

    def __str__(self) -> str:
        width = max(map(len, self.labels))
        lines = [
            f"accuracy {self.accuracy:.4f}  UAR {self.uar:.4f}  ({self.n_test} test, {self.n_train} train images)",
            f"C = {self.c:.3g}, chosen on {VALIDATION_SHARE:.0%} of train (accuracy {self.validation_accuracy:.4f})",
            "",
            "recall, and confusion (rows true, columns predicted):",
            " " * (width + 8) + " ".join(f"{label:>{width}}" for label in self.labels),
        ]
        for label, row in zip(self.labels, self.confusion, strict=True):
            recall = f"{self.recall[label]:6.3f}" if label in self.recall else "     -"
            lines.append(f"{label:<{width}}  {recall}" + "".join(f" {count:>{width}}" for count in row))
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A fitted linear probe; `read` applies it to a test set."""

    classifier: Pipeline
    labels: tuple[str, ...]
    c: float
    validation_accuracy: float
    n_train: int

    def read(self, test: np.ndarray, test_labels: Sequence[str]) -> ProbeResult:
        """Predict `test` (M, D) once. Raises DataError for a label that train did not have."""
        x, y = _checked(test, test_labels, "test")
        if x.shape[1] != self.classifier.n_features_in_:
            raise DataError(
                f"train has {self.classifier.n_features_in_} features, test has {x.shape[1]}; "
                f"they must come from one encoder"
            )
        unknown = sorted(set(y.tolist()) - set(self.labels))
        if unknown:
            raise DataError(f"test has the labels {unknown}, which train does not have; train has {self.labels}")
        predicted = self.classifier.predict(x)
        confusion = confusion_matrix(y, predicted, labels=self.labels)
        recall = {
            label: float(row[i] / row.sum())
            for i, (label, row) in enumerate(zip(self.labels, confusion, strict=True))
            if row.sum()
        }
        return ProbeResult(
            accuracy=float(accuracy_score(y, predicted)),
            uar=float(np.mean(list(recall.values()))),
            recall=recall,
            confusion=confusion,
            labels=self.labels,
            c=self.c,
            validation_accuracy=self.validation_accuracy,
            n_train=self.n_train,
            n_test=len(y),
        )


def fit_probe(train: np.ndarray, train_labels: Sequence[str], *, seed: int = 0) -> Probe:
    """Fit L2 logistic regression on standardised features, `train` (N, D) embeddings of any system.

    C is chosen by accuracy from C_GRID on a stratified split of train, then the classifier is fitted on all of it.
    Raises DataError for shapes that do not fit, values that are not finite, or a class with one example.
    """
    x, y = _checked(train, train_labels, "train")
    counts = Counter(y.tolist())
    if len(counts) < 2 or min(counts.values()) < 2:
        raise DataError(f"train needs two classes or more, with two examples or more each; it has {dict(counts)}")
    size = max(len(counts), round(VALIDATION_SHARE * len(y)))
    try:
        fit_x, val_x, fit_y, val_y = train_test_split(x, y, test_size=size, stratify=y, random_state=seed)
    except ValueError as error:
        raise DataError(f"train is too small to split for choosing C: {error}") from error
    scores = [float(_classifier(c).fit(fit_x, fit_y).score(val_x, val_y)) for c in C_GRID]
    best = int(np.argmax(scores))
    labels = tuple(class_counts(y.tolist()))
    return Probe(_classifier(C_GRID[best]).fit(x, y), labels, C_GRID[best], scores[best], len(y))


def linear_probe(
    train: np.ndarray, train_labels: Sequence[str], test: np.ndarray, test_labels: Sequence[str], *, seed: int = 0
) -> ProbeResult:
    """`fit_probe` on train, then `Probe.read` on test; their errors are this function's."""
    return fit_probe(train, train_labels, seed=seed).read(test, test_labels)


def embed_dataset(encoder: Encoder, dataset: Dataset, *, show_progress: bool | None = None) -> np.ndarray:
    """(N, D) float32 embeddings of a data set's images, in the order of its samples, cut to the encoder's template."""
    size, template = encoder.config.crop_size, encoder.config.template
    crops = np.empty((len(dataset.samples), size, size, 3), dtype=np.uint8)
    for i, crop in enumerate(dataset.crops(lambda image: dataset.align(image, size, template))):
        crops[i] = crop
    return encoder.encode(crops, batch_size=128, show_progress=show_progress)


def probe_datasets(
    encoder: Encoder, train: str | Path, test: str | Path, *, show_progress: bool | None = None
) -> ProbeResult:
    """The linear probe from folders in any layout of `fergeneral.datasets`: train's train split, test's test split.

    Near-duplicates listed with the data are left out of train. A folder without splits is taken whole; the images
    must be face crops. Raises DataError where train and test share images.
    """
    train_set, test_set = open_dataset(train).split("train"), open_dataset(test).split("test")
    if train_set.root.resolve() == test_set.root.resolve():
        shared = {sample.path for sample in train_set.samples} & {sample.path for sample in test_set.samples}
        if shared:
            raise DataError(f"train and test share {len(shared)} images of {train_set.root}, which has no splits")
    embedded = [embed_dataset(encoder, dataset, show_progress=show_progress) for dataset in (train_set, test_set)]
    return linear_probe(embedded[0], train_set.labels, embedded[1], test_set.labels)


def _checked(features: np.ndarray, labels: Sequence[str], name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(features, dtype=np.float32), np.asarray(labels, dtype=str)
    if x.ndim != 2 or len(x) != len(y) or len(y) == 0:
        raise DataError(f"{name} needs (N, D) embeddings and N labels, N > 0; got {x.shape} and {len(y)} labels")
    broken = int((~np.isfinite(x).all(axis=1)).sum())
    if broken:
        raise DataError(f"{name} has {broken} rows with values that are not finite; leave those images out")
    return x, y


def _classifier(c: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=_ITERATIONS))
