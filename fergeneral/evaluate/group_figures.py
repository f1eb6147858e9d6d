"""The figures of a report by group, as PNG files; none shows a face."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fergeneral.evaluate.figures import SYSTEM_COLOURS, SYSTEM_MARKERS, grid, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = Mapping[str, Any]
Row = Mapping[str, Any]
Figures = Mapping[str, Sequence[Row]]  # series -> rows with column, group, n and the figure that is drawn
Value = tuple[float | None, Sequence[float] | None]  # and its interval

_ROW = 0.27  # inches for a group


def draw_groups(report: Report, folder: Path) -> list[dict[str, str]]:
    """Draw faces found, landmark errors and expressions by group: a list of kind, title and file."""
    detectors = {name: [row for row in report["detection"] if row["detector"] == name] for name in report["detectors"]}
    drawn = [
        {"kind": "found", "title": "Share of photos with a face", "file": "found.png"},
        {"kind": "landmarks", "title": "Landmark error, % of the distance between the eyes", "file": "landmarks.png"},
    ]
    _draw(detectors, "found", drawn[0]["title"], folder / "found.png", share=True)
    _draw(detectors, "error_mean", drawn[1]["title"], folder / "landmarks.png", share=False)
    rows = report["expressions"]
    if "rates" not in rows[0]:
        drawn.append({"kind": "expressions", "title": "Accuracy", "file": "accuracy.png"})
        series = {f"head {report['head']['name']}": rows}
        if report["folds"]:
            series["cross-validated on these photos' other people"] = report["folds"]["rows"]
        _draw(series, "accuracy", "Accuracy", folder / "accuracy.png", share=True)
        return drawn
    for column in dict.fromkeys(row["column"] for row in rows if row["column"]):
        file = "rates_" + re.sub(r"[^\w.-]", "_", column) + ".png"
        title = f"Predicted expressions by {column} (a difference is a question, not an error)"
        drawn.append({"kind": "expressions", "title": title, "file": file})
        _draw_rates([row for row in rows if row["column"] in (column, None)], title, folder / file)
    return drawn


def _draw(series: Figures, key: str, title: str, target: Path, *, share: bool) -> None:
    """A panel for each column of groups, a point with its interval for each group and series."""
    first = next(iter(series.values()))
    columns = list(dict.fromkeys(row["column"] for row in first if row["column"]))
    sizes = [1 + sum(row["column"] == column for row in first) for column in columns]
    height = 1.3 + _ROW * max(sizes) * max(1.0, 0.75 * len(series))
    figure, axes = grid(1, len(columns), (1.2 + 3.4 * len(columns), height), sharex=True)
    for axis, column in zip(axes, columns, strict=True):
        for i, (name, rows) in enumerate(series.items()):
            chosen = [row for row in rows if row["column"] in (column, None)]
            _points(axis, [(row[key], row[f"{key}_interval"]) for row in chosen], i, len(series), name)
        _name_groups(axis, [row for row in first if row["column"] in (column, None)])
        axis.set_title(f"by {column}", fontsize=10)
        if share:
            _mark_percent(axis)
    if len(series) > 1:
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9)
    figure.suptitle(f"{title}, with 95 % intervals", fontsize=11)
    save_figure(figure, target)


def _draw_rates(rows: Sequence[Row], title: str, target: Path) -> None:
    """A panel for each expression."""
    classes = list(rows[0]["rates"])
    across = min(4, len(classes))
    down = -(-len(classes) // across)
    figure, axes = grid(down, across, (1.2 + 2.6 * across, 0.8 + down * (0.6 + _ROW * len(rows))), sharey=True)
    for axis, name in zip(axes, classes, strict=False):
        _points(axis, [(row["rates"][name], row["rates_interval"][name]) for row in rows], 0, 1, name)
        _name_groups(axis, rows)
        axis.set_title(name, fontsize=10)
        axis.set_xlim(left=0)
        _mark_percent(axis)
    for axis in axes[len(classes) :]:
        axis.set_visible(False)
    figure.suptitle(f"{title}, with 95 % intervals", fontsize=11)
    save_figure(figure, target)


def _points(axis: Axes, values: Sequence[Value], place: int, count: int, label: str) -> None:
    """The `place`-th of `count` series, side by side, a value for each group, the first being all."""
    offset = 0.0 if count == 1 else 0.36 * (place / (count - 1) - 0.5)
    known = [(y + offset, x, ends or (x, x)) for y, (x, ends) in enumerate(values) if x is not None]
    if known:
        y, x, ends = (np.array(part, dtype=float) for part in zip(*known, strict=True))
        sides = np.maximum(0, [x - ends[:, 0], ends[:, 1] - x])
        colour, marker = SYSTEM_COLOURS[place % 7], SYSTEM_MARKERS[place % 7]
        axis.errorbar(x, y, xerr=sides, fmt=marker, color=colour, markersize=5, linewidth=1.5, capsize=2, label=label)
    if place == 0:
        axis.axhline(0.5, color="#777777", linewidth=0.8)


def _name_groups(axis: Axes, rows: Sequence[Row]) -> None:
    axis.set_yticks(range(len(rows)), [f"{row['group'] or 'all'} ({row['n']})" for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.3)


def _mark_percent(axis: Axes) -> None:
    """A few ticks, with as many decimals as tell them apart."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda value, place: f"{100 * value:.3g} %")
