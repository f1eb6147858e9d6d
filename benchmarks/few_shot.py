"""How to fit a head on few examples a class: what `fergeneral.heads.fit` chooses, and why. Writes few_shot.md.

    python benchmarks/few_shot.py rafdb=DIR ferplus=DIR affectnet8=DIR [--draws 20] [-o benchmarks/few_shot.md]

DIR is a data set of face crops as `fergeneral.datasets` reads it, embedded by the default encoder and kept in the
package's cache; or a .npz of its embeddings, with embedding (N, D), label, split and kept (N,) (False: near-duplicate).

Examples are drawn from train; the rest of train is predicted, or val where there is one. No test split is read, since
the choice is made here. A class gives at most half of its images. Of all classes, and of random pairs of them.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fergeneral import ExpressionExtractor, ModelError
from fergeneral.datasets import class_counts, open_dataset
from fergeneral.encoder import Encoder
from fergeneral.evaluate.arrays import unit_rows
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.metrics import calibrate
from fergeneral.heads import fit

SHOTS = (1, 2, 3, 5, 10, 20, 50)
MOST = 400  # images of a class that are predicted
TEMPERATURES = np.geomspace(0.05, 4, 45)

Logits = Callable[[np.ndarray, np.ndarray, int, np.ndarray], np.ndarray]  # examples, columns, classes, others


class Task(NamedTuple):
    name: str
    x: np.ndarray
    y: np.ndarray
    others: tuple[np.ndarray, np.ndarray] | None  # to be predicted; None: what is left of x


def layer(x: np.ndarray, y: np.ndarray, classes: int, others: np.ndarray, *, of: fit._Fit) -> np.ndarray:
    return of(x, y, classes)[0].logits(others)


def mean(x: np.ndarray, y: np.ndarray, classes: int, others: np.ndarray, *, single_scale: bool) -> np.ndarray:
    """Nearest mean, features standardised each by itself, or all by one number."""
    middle, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    scale = np.sqrt(variance.mean()) if single_scale else np.sqrt(np.where(variance > 0, variance, variance.mean()))
    z, rows = (x - middle) / scale, (others - middle) / scale
    means = np.stack([z[y == number].mean(axis=0) for number in range(classes)])
    return rows @ means.T / len(middle) - (means**2).mean(axis=1) / 2


def unit_mean(x: np.ndarray, y: np.ndarray, classes: int, others: np.ndarray) -> np.ndarray:
    return mean(unit_rows(x), y, classes, unit_rows(others), single_scale=True)


def lda(x: np.ndarray, y: np.ndarray, classes: int, others: np.ndarray) -> np.ndarray:
    priors = np.full(classes, 1 / classes)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors).fit(x.astype(np.float64), y)
    found = model.decision_function(others)
    return found if found.ndim == 2 else np.stack([-found, found], axis=1) / 2


def best_c(x: np.ndarray, y: np.ndarray, classes: int, others: np.ndarray, *, by: str) -> np.ndarray:
    """Logistic regression with the C that is best in the cross-validation of `fit_head`, be it by a hair."""
    folds, _ = fit._folds(y.astype(str), y, None, int(np.bincount(y).min()), 0, [])
    path = functools.partial(fit._logistic, strengths=fit.C_GRID)
    held_out, tested = fit._held_out(x, y, classes, folds, path)
    losses = []
    for logits in held_out[:, tested]:
        loss = calibrate(logits, y[tested], logits, y[tested]).nll_scaled
        losses.append(loss if by == "likelihood" else -uar(logits, y[tested]))
    return path(x, y, classes)[int(np.argmin(losses))].logits(others)


METHODS: dict[str, Logits] = {
    "nearest mean, scales drawn together (`mean`)": functools.partial(layer, of=fit._mean),
    "nearest mean, a scale a feature": functools.partial(mean, single_scale=False),
    "nearest mean, one scale": functools.partial(mean, single_scale=True),
    "nearest mean, unit length, one scale (no head can do it)": unit_mean,
    **{
        f"logistic, C = {c:g}": functools.partial(layer, of=functools.partial(fit._logistic, strengths=[c]))
        for c in (1e-4, 1e-3, 1e-2, 1e-1)
    },
    "logistic, the C of the best cross-validated likelihood": functools.partial(best_c, by="likelihood"),
    "logistic, the C of the best cross-validated UAR": functools.partial(best_c, by="UAR"),
    "shrinkage LDA": lda,
}


def read(text: str, encoder: Encoder) -> Iterator[Task]:
    name, _, place = text.partition("=")
    if place.endswith(".npz"):
        with np.load(place) as stored:
            x, labels, split, kept = (stored[key] for key in ("embedding", "label", "split", "kept"))
    else:
        dataset, left = open_dataset(place, drop_duplicates=False), open_dataset(place)
        x = EmbeddingCache().embed(encoder, dataset).embeddings
        paths = {sample.path for sample in left.samples}
        labels = np.array(dataset.labels)
        split = np.array([sample.split or "train" for sample in dataset.samples])
        kept = np.array([sample.path in paths for sample in dataset.samples])
    classes = list(class_counts(labels.tolist()))
    y = np.array([classes.index(label) for label in labels])
    train, val = (split == "train") & kept, split == "val"
    yield Task(name, x[train], y[train], (x[val], y[val]) if val.any() else None)


def draw(task: Task, classes: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, ...]:
    """Examples and their columns, and others and theirs; the examples of few shots are the first of those of more."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(task.y == number)) for number in classes]
    taken = [order[: min(shots, len(order) // 2)] for order in orders]
    if task.others is None:
        x, rest = task.x, [order[min(max(SHOTS), len(order) // 2) :][:MOST] for order in orders]
    else:
        x, y = task.others
        rest = [generator.permutation(np.flatnonzero(y == number))[:MOST] for number in classes]
    columns = (np.repeat(np.arange(len(classes)), [len(rows) for rows in parts]) for parts in (taken, rest))
    return task.x[np.concatenate(taken)], next(columns), x[np.concatenate(rest)], next(columns)


def uar(logits: np.ndarray, y: np.ndarray) -> float:
    right = logits.argmax(axis=1) == y
    return float(np.mean([right[y == number].mean() for number in np.unique(y)]))


def row(name: str, values: dict[int, list[float]]) -> str:
    cells = []
    for shots in SHOTS:
        drawn = np.array(values.get(shots, []))
        if not len(drawn):
            cells.append("-")
            continue
        half = stats.t.ppf(0.975, len(drawn) - 1) * drawn.std(ddof=1) / len(drawn) ** 0.5
        cells.append(f"{100 * drawn.mean():.1f} ± {100 * half:.1f}")
    return f"| {name} | {' | '.join(cells)} |"


def measure(task: Task, pairs: bool, draws: int, encoder: Encoder) -> Iterator[str]:
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    report: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(draws):
        classes = np.unique(task.y)
        if pairs:
            classes = np.random.default_rng(seed).permutation(classes)[:2]
        for shots in SHOTS:
            x, y, others, truth = draw(task, classes, shots, seed)
            for name, method in METHODS.items():
                least = 2 if method is lda else fit.ENOUGH if getattr(method, "func", None) is best_c else 1
                if shots >= least:
                    found[name][shots].append(uar(method(x, y, len(classes), others), truth))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                head, said = fit.fit_head(x, [f"{number:02}" for number in y], encoder)
            logits = head.logits(others).astype(np.float64)
            true = uar(logits, truth)
            found["**`auto`**"][shots].append(true)
            report["calibration error of `auto`"][shots].append(calibrate(logits, truth, logits, truth).ece)
            report["share where `auto` is not C = 0.001 or the mean"][shots].append(said.c not in (None, fit.USUAL_C))
            if said.tested:
                report["`auto`'s report: UAR less the true one"][shots].append(said.uar - true)
                low, high = said.uar_interval
                report["draws whose interval holds the true UAR"][shots].append(float(low <= true <= high))
    which = "random pairs of its classes" if pairs else f"all {len(np.unique(task.y))} classes"
    yield f"\n### {task.name}, {which}\n"
    yield f"| UAR in %, by examples a class | {' | '.join(map(str, SHOTS))} |\n|---{'|---' * len(SHOTS)}|"
    yield from (row(name, found[name]) for name in sorted(found, key="**`auto`**".__ne__))
    yield from (row(name, values) for name, values in report.items())


def temperatures(tasks: list[Task], draws: int) -> str:
    """By which the likelihood of the nearest mean is best, over all tasks, of all classes and of pairs; a row."""
    found = []
    for shots in SHOTS:
        total = np.zeros(len(TEMPERATURES))
        for task in tasks:
            for seed in range(draws):
                every = np.unique(task.y)
                for classes in (every, np.random.default_rng(seed).permutation(every)[:2]):
                    x, y, others, truth = draw(task, classes, shots, seed)
                    logits, rows = fit._mean(x, y, len(classes))[0].logits(others), np.arange(len(truth))
                    chosen = [log_softmax(logits / t, axis=1)[rows, truth].mean() for t in TEMPERATURES]
                    total -= np.array(chosen) / np.log(len(classes))
        found.append(f"{TEMPERATURES[total.argmin()]:.2f}")
    return f"| nearest mean: best temperature | {' | '.join(found)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("-o", "--output", default="benchmarks/few_shot.md")
    options = parser.parse_args()
    encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
    tasks = [task for text in options.data for task in read(text, encoder)]
    if any(task.x.shape[1] != encoder.config.embedding_size for task in tasks):
        raise ModelError("the embeddings are of another encoder")
    lines = [
        "# Few examples a class",
        "",
        f"By `few_shot.py`, encoder `{encoder.config.model_id}`, {options.draws} draws: mean, and 95 % t interval of "
        "the mean. Drawn from train; predicted is val of FER+, else the rest of train. The encoder was pretrained on "
        "the train splits of RAF-DB and FER+, so that their figures are too good; AffectNet8 was not among its data "
        "as a set.",
        "",
        f"| examples a class | {' | '.join(map(str, SHOTS))} |\n|---{'|---' * len(SHOTS)}|",
        temperatures(tasks, options.draws),
    ]
    for task in tasks:
        for pairs in (False, True):
            lines += measure(task, pairs, options.draws, encoder)
            print("\n".join(lines[-14:]), flush=True)
    Path(options.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
