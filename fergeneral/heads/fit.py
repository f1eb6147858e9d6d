"""Fit a head on a few labelled embeddings, and say by cross-validation how good it is. Needs the extra `eval`."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fergeneral.classifier import UNCERTAIN
from fergeneral.datasets import class_counts
from fergeneral.encoder import Encoder, weights_sha256
from fergeneral.errors import DataError, MissingExtraError
from fergeneral.heads.head import Head, HeadConfig

try:
    import sklearn  # noqa: F401
    from scipy import stats
    from scipy.special import log_softmax
except ImportError as error:
    raise MissingExtraError("fitting a head", "scikit-learn", "eval") from error

from fergeneral.evaluate.arrays import columns, labelled
from fergeneral.evaluate.logistic import Standardised
from fergeneral.evaluate.metrics import calibrate, score
from fergeneral.evaluate.probe import group_folds
from fergeneral.heads.examples import EmbeddedExamples, Examples

METHODS = ("auto", "logistic", "mean")
# By benchmarks/few_shot.py, up to the empty line.
ENOUGH = 10  # faces of every class, from which on "auto" is "logistic", and its C is looked for
USUAL_C = 1e-3  # that no other is better than, as a rule
C_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # as scikit-learn's C
PRIOR_FACES = 5  # that the mean variance of all features counts for, beside the variance of each; nearest mean
USUAL_TEMPERATURE = (0.1, 0.2)  # a, b: of n faces a class, a + b / n; nearest mean
PRIOR_HELD_OUT = 40  # held-out faces that the usual temperature counts for

FOLDS = 10
_LEAVE_ONE_OUT = 100  # faces at most
_SAME = 1e-4  # of an embedding's length: what rounding and another batch make of one picture is less
_ALIKE = 0.6  # UAR of two classes, below which they are not told apart; chance is 0.5
_FEWEST_ALIKE = 3  # faces of both, from which that is looked at
_NEVER = 1e6  # below the other logits: that of a class which a fold's training part does not have
_DRAWS = 10_000  # for the interval of the UAR
_LISTED = 5  # names in a message


@dataclasses.dataclass(frozen=True)
class FitReport:
    """How a head was fitted, and how good it is by cross-validation: answers for faces that were held out.

    Attributes
    ----------
    method : str
        "logistic" or "mean".
    c : float or None
        Inverse strength of the L2 penalty of the logistic regression, as scikit-learn's C; None for "mean".
    faces : dict of str to int
        How many faces of each class it was fitted on.
    folds : str
        How the faces were held out.
    tested : int
        How many faces were held out, each once; 0 where nothing could be cross-validated, and all figures are None.
    accuracy, uar : float or None
        Share of right answers, and the mean of the class recalls (UAR); 0..1.
    accuracy_interval, uar_interval : tuple of two floats, or None
        Of 95 %, by Jeffreys' prior (Brown, Cai and DasGupta, 2001), which has a width also where all answers were
        right. Where the person on each face is known, each counts once a class, however many faces of them it has.
    recall : dict of str to float or None
        Share of the faces of a class that were recognised; None for a class that could not be held out.
    confusion : tuple of tuple of int, or None
        Rows are true, columns answered classes, in the order of `faces`.
    ece : float or None
        Expected calibration error of the probabilities of held-out faces, in 15 bins, after the temperature.
    temperature : float
        That the logits are divided by: see `fit_head`.
    no_face : tuple of str
        Photos in which no face was found.
    unreadable : dict of str to str
        Images that could not be read, and why.
    copies : tuple of str
        Faces that were left out since the same picture is there already.

    Examples
    --------
    >>> from fergeneral import ExpressionClassifier
    >>> report = ExpressionClassifier.fit("examples/london", device="cpu").report
    >>> report.faces, report.tested
    ({'neutral': 12, 'smiling': 12}, 24)
    """

    method: str
    c: float | None
    faces: dict[str, int]
    folds: str
    tested: int
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    uar: float | None
    uar_interval: tuple[float, float] | None
    recall: dict[str, float | None]
    confusion: tuple[tuple[int, ...], ...] | None
    ece: float | None
    temperature: float
    no_face: tuple[str, ...] = ()
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    copies: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, strings, lists and dicts, for JSON.

        Returns
        -------
        dict
        """
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @property
    def description(self) -> str:
        """The method in words, such as "logistic regression, C = 0.01"."""
        return "nearest mean" if self.c is None else f"logistic regression, C = {self.c:.3g}"

    def __str__(self) -> str:
        """The report for people, on several lines."""
        total = sum(self.faces.values())
        lines = [f"{self.description}, on {total} faces in {len(self.faces)} classes", f"held out: {self.folds}"]
        if self.tested:
            accuracy, uar = _figure(self.accuracy, self.accuracy_interval), _figure(self.uar, self.uar_interval)
            lines += [
                f"accuracy {accuracy}   UAR {uar}   (95 % intervals)",
                f"calibration error {self.ece:.3f}, temperature {self.temperature:.3g}",
            ]
        width = max(map(len, ("class", *self.faces)))
        lines += ["", f"{'class':<{width}}  faces  recall"]
        for name, count in self.faces.items():
            recall = self.recall[name]
            lines.append(f"{name:<{width}}  {count:>5}  {'-' if recall is None else f'{recall:.3f}':>6}")
        unreadable = [
            reason if reason.startswith(name) else f"{name}: {reason}" for name, reason in self.unreadable.items()
        ]
        for title, names in (
            ("without a face", self.no_face),
            ("could not be read", unreadable),
            ("the same picture again, left out", self.copies),
        ):
            if names:
                lines += ["", f"{len(names)} {title}:", *(f"  {name}" for name in names)]
        return "\n".join(lines)


class _Layer(NamedTuple):
    """The numbers of a head, float64."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale @ self.weight.T + self.bias


# Embeddings (N, D), columns of their classes (N,), number of classes -> a layer, or one for each C.
_Fit = Callable[[np.ndarray, np.ndarray, int], list[_Layer]]


def fit_head(
    embeddings: Any,
    labels: Sequence[Any],
    encoder: Encoder,
    *,
    method: str = "auto",
    groups: Sequence[Any] | None = None,
    files: Sequence[str] | None = None,
    name: str = "custom",
    license: str = "",
    seed: int = 0,
) -> tuple[Head, FitReport]:
    """Fit a head on labelled embeddings, from one example a class up.

    Each class counts the same, however many examples it has. The temperature is the one by which the logits of held-out
    examples fit best, with one more of them taken for wrong, so that a few examples, all right, do not make the head
    certain. That of the nearest mean is drawn to a usual one, measured on other data (0.3 for one example a class, 0.1
    for many), the more so the fewer were held out; with one example a class, where none is, it is the usual one.

    Parameters
    ----------
    embeddings : array_like, shape (N, D)
        Of `encoder`, as `extract` or `encode` gives them; finite.
    labels : sequence of length N
        The class of each, taken as they are, as str. Two classes or more.
    encoder : Encoder
        That gave the embeddings: `extractor.encoder`.
    method : {"auto", "logistic", "mean"}, default "auto"
        "logistic": scikit-learn's StandardScaler and LogisticRegression with class_weight="balanced", by a solver of
        this package, for two examples or more of each class; C is 0.001, unless every class has ten examples or more
        and another C is better by two standard errors in cross-validation. "mean": the class whose mean is nearest,
        the spread of each feature being drawn to that of all. "auto": "logistic" where every class has ten examples or
        more, else "mean".
    groups : sequence of length N or None, default None
        The person of each example: nobody then is in both parts of a fold.
    files : sequence of str of length N or None, default None
        What messages call the examples; None: their number.
    name : str, default "custom"
        What the head is called.
    license : str, default ""
        Terms of use, for its card.
    seed : int, default 0
        Of the folds.

    Returns
    -------
    head : Head
    report : FitReport

    Raises
    ------
    DataError
        For fewer than two classes, arrays of other lengths, values that are not finite, a label that is missing or
        cannot be a class's name ("uncertain" is the answer below `min_confidence`), and a picture in two classes.
    ValueError
        For another `method`.

    Warns
    -----
    UserWarning
        For classes that cannot be held out, having one example or one person; for two classes that held-out examples
        do not tell apart; and for pictures that are there twice.

    Examples
    --------
    >>> from fergeneral import ExpressionExtractor
    >>> from fergeneral.heads import fit_head
    >>> extractor = ExpressionExtractor.from_pretrained(device="cpu")
    >>> names = ("002", "005", "006", "021")
    >>> photos = [f"examples/london/{label}/{name}.jpg" for label in ("neutral", "smiling") for name in names]
    >>> rows = [faces[0].embedding for faces in extractor.extract_many(photos)]
    >>> head, report = fit_head(rows, ["neutral"] * 4 + ["smiling"] * 4, extractor.encoder)
    >>> head.classes, report.method
    (('neutral', 'smiling'), 'mean')
    """
    head, report, messages = fit_with_messages(
        embeddings, labels, encoder, method=method, groups=groups, files=files, name=name, license=license, seed=seed
    )
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=2)
    return head, report


def fit_with_messages(
    embeddings: Any,
    labels: Sequence[Any],
    encoder: Encoder,
    *,
    method: str,
    groups: Sequence[Any] | None,
    files: Sequence[str] | None,
    name: str,
    license: str,
    seed: int,
) -> tuple[Head, FitReport, list[str]]:
    """`fit_head`, whose warnings are given back."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    messages: list[str] = []
    x, y, people, names = _checked(embeddings, labels, encoder, groups, files)
    again = _copies(x, y, names)
    copies = tuple(names[row] for row in again)
    if copies:
        keep = np.delete(np.arange(len(y)), again)
        x, y, people = x[keep], y[keep], None if people is None else people[keep]
        messages.append(f"the same picture as another, and left out: {_listed(copies)}")
    faces = class_counts(y.tolist())
    if len(faces) < 2:
        raise DataError(f"a head needs two classes or more; there is one, {next(iter(faces))!r}")
    classes, fewest = tuple(faces), min(faces.values())
    column = columns(y, classes, "the labels")
    if method == "auto":
        method = "logistic" if fewest >= ENOUGH else "mean"
    if method == "logistic" and fewest < 2:
        single = [label for label, count in faces.items() if count < 2]
        raise DataError(f"method 'logistic' needs two examples or more of each class; {_listed(single)}: one")
    strengths = C_GRID if fewest >= ENOUGH else (USUAL_C,)
    fit: _Fit = _mean if method == "mean" else functools.partial(_logistic, strengths=strengths)

    folds, how = _folds(y, column, people, fewest, seed, messages)
    held_out, tested = _held_out(x, column, len(classes), folds, fit)
    best, temperature = _choice(held_out, column, tested, strengths)
    c = strengths[best] if method == "logistic" else None
    if temperature is None or method == "mean":
        temperature = _mean_temperature(temperature, int(tested.sum()), faces.values())
    scaled = held_out[best, tested] / temperature
    (layer,) = _mean(x, column, len(classes)) if c is None else _logistic(x, column, len(classes), [c])
    answers = held_out[best].argmax(axis=1)
    report = FitReport(
        method=method,
        c=c,
        faces=faces,
        folds=how,
        temperature=temperature,
        ece=calibrate(scaled, column[tested], scaled, column[tested]).ece if len(scaled) else None,
        copies=copies,
        **_figures(column[tested], answers[tested], classes, None if people is None else people[tested], seed),
    )
    messages += _about_classes(report, held_out[best], column, tested)
    config = HeadConfig(
        name=name,
        classes=classes,
        encoder_id=encoder.config.model_id,
        encoder_sha256=weights_sha256(encoder),
        embedding_size=x.shape[1],
        temperature=temperature,
        method=report.description,
        training_data=(_training_data(faces),),
        license=license,
        quality=_quality(report),
    )
    return Head(config, *layer), report, messages


def fit_on_examples(
    examples: Examples, embedded: EmbeddedExamples, encoder: Encoder, *, method: str, name: str, license: str, seed: int
) -> tuple[Head, FitReport, list[str]]:
    """`fit_with_messages` on those examples that gave an embedding; the report names the others."""
    left_out = {*embedded.no_face, *embedded.unreadable}
    kept = [row for row in range(len(examples.names)) if row not in left_out]
    _check_left([str(label) for label in examples.labels], kept, embedded)
    head, report, messages = fit_with_messages(
        embedded.rows[kept],
        [examples.labels[row] for row in kept],
        encoder,
        method=method,
        groups=None if examples.groups is None else [examples.groups[row] for row in kept],
        files=[examples.names[row] for row in kept],
        name=name,
        license=license,
        seed=seed,
    )
    if left_out:
        without, unread = len(embedded.no_face), len(embedded.unreadable)
        messages.insert(
            0,
            f"{len(left_out)} of {len(examples.names)} images are left out, {without} without a face and {unread} "
            f"unreadable, the first: {examples.names[min(left_out)]}; the report names them",
        )
    report = dataclasses.replace(
        report,
        no_face=tuple(examples.names[row] for row in embedded.no_face),
        unreadable={examples.names[row]: reason for row, reason in embedded.unreadable.items()},
    )
    return head, report, messages


def _check_left(labels: list[str], kept: list[int], embedded: EmbeddedExamples) -> None:
    """Raise DataError for a class that has no embedding left."""
    lost = [label for label in class_counts(labels) if label not in {labels[row] for row in kept}]
    if not lost:
        return
    without = sum(labels[row] in lost for row in embedded.no_face)
    reasons = [f"{without} without a face"] if without else []
    unread = [reason for row, reason in embedded.unreadable.items() if labels[row] in lost]
    reasons += [f"{len(unread)} unreadable ({unread[0]})"] if unread else []
    hint = "; if these images are face crops, say so by aligned=True (--crops)" if without else ""
    raise DataError(f"no image of {_listed(lost)} gives an embedding: {', '.join(reasons)}{hint}")


# The methods


def _mean(x: np.ndarray, column: np.ndarray, classes: int) -> list[_Layer]:
    """The logit of a class is minus half the mean squared distance to its mean over the features, but for what is the
    same for all classes: a linear layer."""
    mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    variance = (len(x) * variance + PRIOR_FACES * variance.mean()) / (len(x) + PRIOR_FACES)
    scale = np.sqrt(variance) if variance.any() else np.ones(x.shape[1])
    z = (x - mean) / scale
    means = np.stack([z[column == number].mean(axis=0) for number in range(classes)])
    return [_Layer(mean, scale, means / x.shape[1], -(means**2).mean(axis=1) / 2)]


def _logistic(x: np.ndarray, column: np.ndarray, classes: int, strengths: Sequence[float]) -> list[_Layer]:
    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 1e-6 * (1e-12 + np.abs(mean)), spread, 1.0)
    balanced = (len(x) / (classes * np.bincount(column, minlength=classes)))[column]
    # The penalty of two columns for two classes is half of that of one, which scikit-learn has there.
    solutions = Standardised(x, column, classes, balanced).fit([c / 2 if classes == 2 else c for c in strengths])
    return [_Layer(mean, scale, weights.T * scale, bias + mean @ weights) for weights, bias in solutions]


# Cross-validation


def _folds(
    y: np.ndarray, column: np.ndarray, people: np.ndarray | None, fewest: int, seed: int, messages: list[str]
) -> tuple[np.ndarray, str]:
    """The fold in which each example is held out, -1 for none; and how that was done, in words."""
    few = fewest < ENOUGH and len(y) <= _LEAVE_ONE_OUT
    if people is not None:
        different, person = np.unique(people, return_inverse=True)
        if len(different) > 1:
            if few or len(different) <= FOLDS:
                return person, f"one person of {len(different)} at a time; nobody is in both parts"
            folds = np.full(len(y), -1)
            parts = group_folds(y, people, min(FOLDS, int(np.bincount(column).max())), seed)
            for number, (_, test) in enumerate(parts):
                folds[test] = number
            return folds, f"{len(parts)} folds of {len(different)} people; nobody is in both parts"
        messages.append(f"all faces show one person ({different[0]}): the figures say nothing of other people")
    count = len(y) if few else FOLDS
    folds, start = np.full(len(y), -1), 0
    generator = np.random.default_rng(seed)
    for number in range(column.max() + 1):
        rows = generator.permutation(np.flatnonzero(column == number))
        if len(rows) > 1:  # a single example is never held out
            folds[rows] = (start + np.arange(len(rows))) % count
            start += len(rows)
    if start == 0:
        return folds, "none; there is one face a class"
    return folds, "one face at a time" if few else f"{FOLDS} folds, classes spread evenly"


def _held_out(
    x: np.ndarray, column: np.ndarray, classes: int, folds: np.ndarray, fit: _Fit
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (candidates, N, classes) of each example by layers fitted on the other folds, and which have some (N,):
    not those of a class that the other folds lack."""
    logits, tested = np.zeros((len(C_GRID), len(x), classes)), np.zeros(len(x), dtype=bool)
    candidates = 1
    for fold in range(folds.max() + 1):
        train = folds != fold
        present, inside = np.unique(column[train], return_inverse=True)
        test = np.flatnonzero(~train & np.isin(column, present))
        if len(present) < 2 or len(test) == 0:
            continue
        layers = fit(x[train], inside, len(present))
        candidates = len(layers)
        for candidate, layer in enumerate(layers):
            found = layer.logits(x[test])
            rows = np.repeat(found.min(axis=1, keepdims=True) - _NEVER, classes, axis=1)
            rows[:, present] = found
            logits[candidate, test] = rows
        tested[test] = True
    return logits[:candidates], tested


def _choice(
    logits: np.ndarray, column: np.ndarray, tested: np.ndarray, strengths: Sequence[float]
) -> tuple[int, float | None]:
    """The candidate to take, and the temperature for it (None without held-out examples): the one of the least negative
    log-likelihood, if that is better than the usual one's by two standard errors."""
    if not tested.any():
        return 0, None
    losses, temperatures = [], []
    true = column[tested]
    for rows in logits[:, tested]:
        ranks = np.argsort(rows, axis=1, kind="stable")
        gap = np.take_along_axis(rows, ranks[:, -1:], 1) - np.take_along_axis(rows, ranks[:, -2:-1], 1)
        middle = int(np.argsort(gap[:, 0], kind="stable")[len(gap) // 2])
        # One example more, as sure as the middle one, taken for wrong: Laplace's rule of succession.
        more, wrong = np.concatenate([rows, rows[[middle]]]), np.append(true, ranks[middle, -2])
        temperature = calibrate(more, wrong, rows, true).temperature
        temperatures.append(temperature)
        losses.append(-log_softmax(rows / temperature, axis=1)[np.arange(len(true)), true])
    best = int(np.mean(losses, axis=1).argmin())
    usual = strengths.index(USUAL_C) if len(losses) > 1 else 0
    gain = losses[usual] - losses[best]
    chosen = best if gain.mean() > 2 * gain.std() / len(gain) ** 0.5 else usual
    return chosen, temperatures[chosen]


def _mean_temperature(fitted: float | None, tested: int, counts: Iterable[int]) -> float:
    """That of the nearest mean: the fitted one, drawn to the usual one, since few held-out faces tell little."""
    a, b = USUAL_TEMPERATURE
    usual = a + b * float(np.mean([1 / count for count in counts]))
    if fitted is None:
        return usual
    share = tested / (tested + PRIOR_HELD_OUT)
    return float(fitted**share * usual ** (1 - share))


def _figures(
    true: np.ndarray, answers: np.ndarray, classes: tuple[str, ...], people: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """The fields of a FitReport that held-out examples give."""
    if not len(true):
        nothing = dict.fromkeys(("accuracy", "accuracy_interval", "uar", "uar_interval", "confusion"))
        return {"tested": 0, "recall": dict.fromkeys(classes), **nothing}
    names = np.array(classes)
    metrics = score(names[true], names[answers], classes, draws=1)
    who = np.arange(len(true)) if people is None else np.unique([people, names[true]], axis=1, return_inverse=True)[1]
    right = answers == true
    generator = np.random.default_rng(seed)
    drawn = [
        generator.beta(*_posterior(right[true == number], who[true == number]), _DRAWS) for number in np.unique(true)
    ]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return {
        "tested": len(true),
        "accuracy": metrics.accuracy,
        "accuracy_interval": tuple(map(float, stats.beta.ppf([0.025, 0.975], *_posterior(right, who)))),
        "uar": metrics.uar,
        "uar_interval": (float(low), float(high)),
        "recall": {label: metrics.recall.get(label) for label in classes},
        "confusion": tuple(tuple(row) for row in metrics.confusion.tolist()),
    }


def _posterior(right: np.ndarray, who: np.ndarray) -> tuple[float, float]:
    """Parameters of the beta distribution of a share by Jeffreys' prior, each person being one trial."""
    trials = len(np.unique(who))
    share = float(right.mean())
    return share * trials + 0.5, (1 - share) * trials + 0.5


# Messages


def _about_classes(report: FitReport, logits: np.ndarray, column: np.ndarray, tested: np.ndarray) -> Iterator[str]:
    """What to warn of: classes that could not be held out, and two that held-out examples do not tell apart."""
    unknown = [name for name, recall in report.recall.items() if recall is None]
    if unknown and report.tested:
        yield f"one face, or one person, cannot be held out: how well {_listed(unknown)} are recognised is not known"
    names = list(report.faces)
    for first, second in zip(*np.triu_indices(len(names), 1), strict=True):
        recalls = []
        for own, other in ((first, second), (second, first)):
            rows = logits[tested & (column == own)]
            if len(rows) >= _FEWEST_ALIKE:
                recalls.append(float((rows[:, own] > rows[:, other]).mean()))
        if len(recalls) == 2 and sum(recalls) / 2 < _ALIKE:
            yield (
                f"held-out faces of {names[first]!r} and {names[second]!r} are not told apart: {sum(recalls) / 2:.0%} "
                f"right, where guessing has 50 %; do their photos show two expressions?"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _figure(value: float | None, interval: tuple[float, float] | None) -> str:
    return "-" if value is None or interval is None else f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def _training_data(faces: dict[str, int]) -> str:
    text = f"{sum(faces.values())} faces in {len(faces)} classes: "
    text += ", ".join(f"{name} {count}" for name, count in faces.items())
    return text if len(text) <= 1000 else text[:996] + " ..."


def _quality(report: FitReport) -> dict[str, Any]:
    """What of the report goes into head.json: no names of files."""
    if not report.tested:
        return {}
    fields = report.to_dict()
    names = ("accuracy", "accuracy_interval", "uar", "uar_interval", "recall", "confusion", "ece", "folds")
    return {"cross-validation": {"n": report.tested, **{name: fields[name] for name in names}}}


# Checks


def _checked(
    embeddings: Any,
    labels: Sequence[Any],
    encoder: Encoder,
    groups: Sequence[Any] | None,
    files: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    """Embeddings (N, D), labels (N,), people (N,) or None, and what messages call them. Raises DataError."""
    names = [f"example {number}" for number in range(len(labels))] if files is None else list(files)
    texts = [_label(label, names[number]) for number, label in enumerate(labels)]
    x, y = labelled(embeddings, texts, "fitting a head")
    people = None if groups is None else np.asarray([str(group) for group in groups], dtype=str)
    for what, given in (("groups", people), ("files", names)):
        if given is not None and len(given) != len(y):
            raise DataError(f"{what} must be as many as the {len(y)} embeddings, got {len(given)}")
    size = encoder.config.embedding_size
    if x.shape[1] != size:
        raise DataError(f"embeddings have {x.shape[1]} numbers, those of {encoder.config.model_id} have {size}")
    return x, y, people, names


def _label(label: Any, name: str) -> str:
    if label is None or label != label:  # NaN, as pandas has for what is missing
        raise DataError(f"{name} has no label ({label!r})")
    text = str(label)
    if not (0 < len(text) <= 200 and text.isprintable() and text.strip()):
        raise DataError(f"{name}: a class's name is 1 to 200 printable characters, got {text!r}")
    if text == UNCERTAIN:
        raise DataError(
            f"no class can be named {UNCERTAIN!r}, which is the answer below min_confidence: give it another name"
        )
    return text


def _copies(x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> list[int]:
    """Rows that are an earlier one again. Raises DataError where these are of two classes."""
    rows = x.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    place = rows.mean(axis=1)  # of what is nearly the same, it is nearly the same
    order = np.argsort(place, kind="stable")
    again: set[int] = set()
    for step in range(1, len(order)):
        first, second = order[:-step], order[step:]
        near = np.flatnonzero(place[second] - place[first] <= _SAME * lengths[first])
        if not len(near):
            break
        for a, b in zip(first[near], second[near], strict=True):
            if np.linalg.norm(rows[a] - rows[b]) <= _SAME * lengths[a]:
                if y[a] != y[b]:
                    raise DataError(
                        f"{names[a]} ({y[a]}) and {names[b]} ({y[b]}) are the same picture in two classes: remove one"
                    )
                again.add(int(max(a, b)))
    return sorted(again)
