"""The figures of a report, as PNG files; none shows a face."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fergeneral.datasets import EXPRESSIONS, class_counts
from fergeneral.errors import MissingExtraError
from fergeneral.evaluate.inputs import LabelledSet
from fergeneral.evaluate.leakage_report import TITLES
from fergeneral.evaluate.sections import Run
from fergeneral.storage import whole_file

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise MissingExtraError("the report's figures", "matplotlib", "eval") from error

# Okabe and Ito's palette, which stays apart for colour-blind eyes (jfly.uni-koeln.de/color, 2008), with grey in the
# place of its yellow, too light for dots on white. Each class also has a marker of its own.
_COLOURS = ("#999999", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
_MARKERS = "o^svDPX*"
SYSTEM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
SYSTEM_MARKERS = "osD^vPX"
_DPI = 150
_MAX_POINTS = 2000  # of a projection: more would hide each other, and t-SNE takes its time


def draw_all(report: Mapping[str, Any], run: Run, folder: Path) -> list[dict[str, str]]:
    """Draw every figure that the report has entries for: a list of kind, data set if it shows one, title and file."""
    titles = {name: data.title for name, data in run.sets.items()}
    drawn = [figure for data in run.sets.values() for figure in _draw_set(report, run, data, folder)]
    if report["few_shot"]:
        drawn.append({"kind": "few_shot", "title": "Few images a class", "file": "few_shot.png"})
        draw_few_shot(report["few_shot"], titles, folder / "few_shot.png")
    if report["unseen"]:
        drawn.append({"kind": "unseen", "title": "Unseen expressions", "file": "unseen.png"})
        draw_unseen(report["unseen"], titles, folder / "unseen.png")
    if report["robustness"]:
        drawn.append({"kind": "robustness", "title": "Worse conditions", "file": "robustness.png"})
        title = titles[report["robustness"]["data"]]
        draw_robustness(report["robustness"], title, folder / "robustness.png")
    return drawn


def _draw_set(report: Mapping[str, Any], run: Run, data: LabelledSet, folder: Path) -> Iterator[dict[str, str]]:
    first, safe_name = run.systems[0], re.sub(r"[^\w.-]", "_", data.name)

    def place(kind: str, title: str) -> dict[str, str]:
        return {"kind": kind, "data": data.name, "title": f"{title}, {data.title}", "file": f"{kind}_{safe_name}.png"}

    probes = [row for row in report["linear_probe"] if row["data"] == data.name and row["near_duplicates"] == "out"]
    if len(probes) > 1:
        yield (figure := place("systems", "Linear probe of every system"))
        draw_systems(sorted(probes, key=lambda row: -row["accuracy"]), first.name, data.title, folder / figure["file"])
    folds = [row for row in report["subject_folds"] if row["data"] == data.name]
    for row in [*probes, *folds]:
        if row["system"] == first.name:
            yield (figure := place("confusion", "Confusion"))
            title = f"{data.title}, {'subject-wise folds' if folds else 'linear probe'}"
            draw_confusion(row, title, folder / figure["file"])
    yield (figure := place("projection", "Embeddings in two dimensions"))
    train = first.part(data, "train") if data.has_splits else None
    draw_projection(train, first.part(data, "test"), data.title, folder / figure["file"], seed=run.seed)


def draw_systems(entries: Sequence[Mapping[str, Any]], first: str, title: str, target: Path) -> None:
    """Accuracy and UAR of every system on one set, with intervals; `entries`: linear probes; `first` stands out."""
    figure, axes = grid(1, 2, (8.5, 1.3 + 0.36 * len(entries)), sharey=True)
    places = np.arange(len(entries))
    for axis, name, words in zip(axes, ("accuracy", "uar"), ("accuracy", "UAR (mean recall)"), strict=True):
        for place, entry in zip(places, entries, strict=True):
            colour = SYSTEM_COLOURS[0] if entry["system"] == first else "#777777"
            axis.plot(entry["intervals"][name], [place, place], color=colour, linewidth=2)
            axis.plot(entry[name], place, "o", color=colour, markersize=7)
            label = f"{100 * entry[name]:.1f}"
            axis.annotate(label, (entry[name], place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axis.set_title(words, fontsize=10)
        axis.set(ylim=(len(entries) - 0.4, -0.7), yticks=places)
        axis.set_yticklabels([entry["system"] for entry in entries])
        axis.xaxis.set_major_formatter(_percent())
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(f"Linear probe on {title}, with 95 % intervals", fontsize=11)
    save_figure(figure, target)


def draw_confusion(entry: Mapping[str, Any], title: str, target: Path) -> None:
    """A confusion matrix: shares of each true class, and counts; `entry`: `Metrics.to_dict()`."""
    counts = np.array(entry["confusion"])
    there = counts.sum(axis=1) > 0
    counts, rows = counts[there], [label for label, use in zip(entry["labels"], there, strict=True) if use]
    shares = counts / counts.sum(axis=1, keepdims=True)
    side = 1.9 + 0.62 * len(entry["labels"])
    figure = Figure(figsize=(side + 0.6, side * (0.45 + 0.55 * len(rows) / len(entry["labels"]))), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        if not share:
            continue
        ink = "white" if share > 0.55 else "black"
        axis.text(j, i - 0.12, f"{100 * share:.0f} %", ha="center", va="center", color=ink, fontsize=9)
        axis.text(j, i + 0.22, f"{counts[i, j]}", ha="center", va="center", color=ink, fontsize=7, alpha=0.75)
    axis.set_xticks(range(len(entry["labels"])), entry["labels"], rotation=35, ha="right")
    axis.set_yticks(range(len(rows)), [f"{label} ({n})" for label, n in zip(rows, counts.sum(axis=1), strict=True)])
    axis.set(xlabel="predicted", ylabel="true (images)")
    axis.set_title(f"{title}\naccuracy {entry['accuracy']:.3f}, UAR {entry['uar']:.3f}", fontsize=10)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    bar.ax.yaxis.set_major_formatter(_percent())
    save_figure(figure, target)


def draw_few_shot(entries: Sequence[Mapping[str, Any]], titles: Mapping[str, str], target: Path) -> None:
    """Accuracy and UAR against images a class; a row of panels for each data set, a line for each system."""
    words = {"accuracy": "accuracy", "uar": "UAR"}
    _draw_shots([(titles[entry["data"]], entry) for entry in entries], words, "training images a class", target)


def draw_unseen(entries: Sequence[Mapping[str, Any]], titles: Mapping[str, str], target: Path) -> None:
    """Recall of a class that was held out, and UAR, against its examples.

    A row of panels for contempt of each data set that has it, then for the mean over classes held out in turn. A line
    is dashed where the encoder's pretraining had no labels of the class; one over the number of classes is dotted.
    """
    chosen = [entry for held_out in ("contempt", None) for entry in entries if entry["class"] == held_out]
    named = [(f"{titles[entry['data']]}, {entry['class'] or 'each class in turn'}", entry) for entry in chosen]
    words = {"recall": "recall of the new class", "uar": "UAR"}
    _draw_shots(named, words, "examples of the new class", target)


def _draw_shots(
    entries: Sequence[tuple[str, Mapping[str, Any]]], words: Mapping[str, str], label: str, target: Path
) -> None:
    """Figures, by their names in `words`, against shots: a row of panels for each title, a line for each system."""
    titles = list(dict.fromkeys(title for title, _ in entries))
    systems = list(dict.fromkeys(entry["system"] for _, entry in entries))
    shots = sorted({entry["shots"] for _, entry in entries})
    figure, axes = grid(len(titles), len(words), (9, 0.6 + 3.1 * len(titles)), sharex=True)
    panels = [(title, name) for title in titles for name in words]
    for number, (axis, (title, name)) in enumerate(zip(axes, panels, strict=True)):
        for system in systems:
            lines = [entry for of, entry in entries if (of, entry["system"]) == (title, system)]
            if lines:
                _few_shot_line(axis, lines, name, systems.index(system))
        share = [1 / entry["classes"] for of, entry in entries if of == title and "classes" in entry]
        if share:
            axis.axhline(share[0], color="#555555", linestyle=":", linewidth=1)
            axis.set_ylim(0, 1)
        axis.set_title(f"{title}: {words[name]}", fontsize=10)
        axis.set_xscale("log")
        axis.set_xticks(shots, [str(shot) for shot in shots])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(_percent())
        axis.grid(alpha=0.3)
        if number >= len(axes) - len(words):
            axis.set_xlabel(label)
    found = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = {system: found[system] for system in systems}
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=min(3, len(legend)), fontsize=9)
    save_figure(figure, target)


def _few_shot_line(axis: Axes, entries: Sequence[Mapping[str, Any]], name: str, number: int) -> None:
    colour = SYSTEM_COLOURS[number % len(SYSTEM_COLOURS)]
    shots = [entry["shots"] for entry in entries]
    low, high = np.array([entry[f"{name}_interval"] for entry in entries]).T
    axis.fill_between(shots, low, high, color=colour, alpha=0.18, linewidth=0)
    marker = SYSTEM_MARKERS[number % len(SYSTEM_MARKERS)]
    values = [entry[name] for entry in entries]
    width, style = 2.2 if number == 0 else 1.2, "--" if entries[0].get("class_status") == "unseen" else "-"
    label = entries[0]["system"]
    axis.plot(shots, values, style, color=colour, marker=marker, markersize=5, linewidth=width, label=label)


def draw_robustness(robustness: Mapping[str, Any], title: str, target: Path) -> None:
    """Accuracy and UAR under each group of conditions, beside those of clean crops."""
    groups = _panels(robustness["conditions"])
    columns = min(4, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure, axes = grid(rows, columns, (2.9 * columns, 0.9 + 2.6 * rows), sharey=True)
    for axis, (group, entries) in zip(axes, groups.items(), strict=False):
        _robustness_panel(axis, group, entries, robustness["clean"])
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"Linear probe of clean crops, read on worse ones ({title} test)", fontsize=11)
    save_figure(figure, target)


def _panels(conditions: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Conditions by group; groups of one share the last panel, where their names stand for the severities."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in conditions:
        groups.setdefault(entry["group"], []).append(entry)
    panels = {group: entries for group, entries in groups.items() if len(entries) > 1}
    if len(panels) < len(groups):
        panels["others"] = [{**found[0], "severity": group} for group, found in groups.items() if len(found) == 1]
    return panels


def _robustness_panel(axis: Axes, group: str, entries: Sequence[Mapping[str, Any]], clean: Mapping[str, float]) -> None:
    labels = [entry["severity"] for entry in entries]
    middle = _middle(labels)
    if middle:  # severities to both sides: clean lies between
        labels, entries = [*labels[:middle], "0", *labels[middle:]], [*entries[:middle], clean, *entries[middle:]]
    line = "-" if _is_graded(labels) else ""
    for name, words, colour, marker in (("accuracy", "accuracy", "#0072B2", "o"), ("uar", "UAR", "#D55E00", "s")):
        axis.axhline(clean[name], color=colour, linestyle="--", linewidth=1, alpha=0.7, label=f"{words}, clean crops")
        values = [entry[name] for entry in entries]
        axis.plot(values, color=colour, marker=marker, markersize=5, linestyle=line, label=words)
    axis.set_title(group, fontsize=10)
    axis.set_xlim(-0.5, len(labels) - 0.5)
    axis.set_xticks(range(len(labels)), [textwrap.fill(label, 8) for label in labels], fontsize=8)
    axis.yaxis.set_major_formatter(_percent())
    axis.grid(axis="y", alpha=0.3)


def _is_graded(labels: Sequence[str]) -> bool:
    """Whether severities are numbers that rise or fall, so that a line between them means something."""
    numbers = _numbers(labels)
    steps = np.sign(np.diff(numbers))
    return len(numbers) == len(labels) > 1 and abs(steps.sum()) == len(steps)


def _middle(labels: Sequence[str]) -> int:
    """Of rising severities below and above zero, how many lie below; 0 for all others."""
    numbers = _numbers(labels)
    return sum(number < 0 for number in numbers) if _is_graded(labels) and numbers[0] < 0 < numbers[-1] else 0


def _numbers(labels: Sequence[str]) -> list[float]:
    found = (re.search(r"[+-]?\d+(\.\d+)?", label) for label in labels)
    return [float(match[0]) for match in found if match]


def draw_projection(
    train: tuple[np.ndarray, Sequence[str]] | None,
    test: tuple[np.ndarray, Sequence[str]],
    title: str,
    target: Path,
    *,
    seed: int = 0,
) -> None:
    """Test embeddings in two dimensions: t-SNE, which knows no labels, and linear discriminants fitted on train.

    `train`, `test`: (N, D) embeddings and N labels; at most 2,000 test images are drawn, by `seed`. Without `train` the
    discriminants are fitted on the test images themselves, and the figure says so.
    """
    x, labels = np.asarray(test[0]), np.asarray(test[1])
    if len(x) > _MAX_POINTS:
        chosen = np.random.default_rng(seed).choice(len(x), _MAX_POINTS, replace=False)
        x, labels = x[chosen], labels[chosen]
    figure, axes = grid(1, 2, (10, 5.4))
    _scatter(axes[0], _tsne(x, seed), labels, "t-SNE (labels not used)")
    fitted = "train" if train else "these very images"
    _scatter(axes[1], _discriminants(train or test, x), labels, f"first two linear discriminants (fitted on {fitted})")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), markerscale=2.5, fontsize=9)
    figure.suptitle(f"{title}: embeddings by expression", fontsize=11)
    save_figure(figure, target)


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = min(50, *x.shape)
    reduced = PCA(components, random_state=seed).fit_transform(x)
    perplexity = min(30.0, (len(x) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def _discriminants(train: tuple[np.ndarray, Sequence[str]], x: np.ndarray) -> np.ndarray:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    # With shrinkage (Ledoit and Wolf) the scatter is invertible also with fewer images than dimensions.
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(*train)
    projected = model.transform(x)[:, :2]
    return projected if projected.shape[1] == 2 else np.column_stack([projected[:, 0], np.zeros(len(x))])


def _scatter(axis: Axes, points: np.ndarray, labels: np.ndarray, title: str) -> None:
    names = list(class_counts(labels.tolist()))
    order = np.random.default_rng(0).permutation(len(points))  # so that no class lies on top of all others
    looks = {name: EXPRESSIONS.index(name) if name in EXPRESSIONS else i for i, name in enumerate(names)}
    for step, rows in enumerate(np.array_split(order, 8)):
        for name in names:
            chosen = rows[labels[rows] == name]
            colour, marker = _COLOURS[looks[name] % 8], _MARKERS[looks[name] % 8]
            label = name if step == 0 else None
            x, y = points[chosen].T
            axis.scatter(x, y, s=11, c=colour, marker=marker, alpha=0.75, linewidths=0, label=label, zorder=step)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def grid(
    rows: int, columns: int, size: tuple[float, float], *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure and its rows x columns axes, in reading order; size in inches."""
    figure = Figure(figsize=size, layout="constrained")  # without pyplot: no window system, safe between threads
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, list(axes.ravel())


def _percent() -> PercentFormatter:
    return PercentFormatter(1, decimals=0, symbol=" %")


def save_figure(figure: Figure, target: Path) -> None:
    """Write a PNG file, whole or not at all."""
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def draw_leakage(record: Mapping[str, Any], target: Path) -> None:
    """What embeddings give away, with 95 % intervals; `record`: of `leakage`. A dot for each system, chance dotted.

    First the panels of identity, by cosine similarity and, hollow, by a metric learnt on other people; then attributes.
    """
    systems = list(dict.fromkeys(row["system"] for row in [*record["identity"], *record["attributes"]]))
    sets = list(dict.fromkeys(row["data"] for row in record["identity"]))
    named = [(f"{TITLES[name]}: {words}", name, key) for key, words in _IDENTITY_WORDS.items() for name in sets]
    found = dict.fromkeys((row["data"], row["attribute"]) for row in record["attributes"])
    columns = 3
    rows = math.ceil((len(named) + len(found)) / columns)
    size = (3.6 * columns + 1.2, rows * (0.8 + 0.24 * len(systems)) + 0.4)
    figure, axes = grid(rows, columns, size, sharey=True)
    places = {system: place for place, system in enumerate(systems)}
    for axis, (title, data, key) in zip(axes, named, strict=False):
        lines = [row for row in record["identity"] if row["data"] == data]
        for row in lines:
            _interval_dot(axis, places[row["system"]], row[key], row["intervals"][key], hollow=bool(row["trained_on"]))
        _finish(axis, title, 0.5 if key == "auc" else lines[0]["chance"], places)
    for axis, (data, name) in zip(axes[len(named) :], found, strict=False):
        lines = [row for row in record["attributes"] if (row["data"], row["attribute"]) == (data, name)]
        for row in lines:
            _interval_dot(axis, places[row["system"]], row["uar"], row["intervals"]["uar"], hollow=False)
        _finish(axis, f"{TITLES[data]}: {name} ({len(lines[0]['recall'])}), UAR", lines[0]["chance"], places)
    for axis in axes[len(named) + len(found) :]:
        axis.set_visible(False)
    words = "filled: as they are; hollow: by a metric learnt on other people; dotted: chance"
    figure.supxlabel(words, fontsize=9)
    save_figure(figure, target)


_IDENTITY_WORDS = {"auc": "same person?, AUC", "rank1": "which person?, rank-1"}


def _interval_dot(axis: Axes, place: float, value: float, interval: Sequence[float], *, hollow: bool) -> None:
    colour, height = SYSTEM_COLOURS[int(place) % len(SYSTEM_COLOURS)], place + (0.18 if hollow else -0.18)
    axis.plot(interval, [height, height], color=colour, linewidth=2, alpha=0.6)
    axis.plot(value, height, "o", color=colour, markerfacecolor="white" if hollow else colour, markersize=6)


def _finish(axis: Axes, title: str, chance: float, places: Mapping[str, int]) -> None:
    axis.axvline(chance, color="#555555", linestyle=":", linewidth=1)
    axis.set_title(title, fontsize=10)
    axis.set(xlim=(-0.03, 1.03), ylim=(len(places) - 0.5, -0.5))
    axis.set_yticks(list(places.values()), list(places), fontsize=9)
    axis.xaxis.set_major_formatter(_percent())
    axis.grid(axis="x", alpha=0.3)
