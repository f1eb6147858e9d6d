"""The record of `evaluate_conditions` as figures and as Markdown; no figure shows a face."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fergeneral.card import title_of
from fergeneral.errors import MissingExtraError
from fergeneral.evaluate.figures import SYSTEM_COLOURS, SYSTEM_MARKERS, save_figure
from fergeneral.evaluate.tables import filled, markdown_table

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise MissingExtraError("the figures of conditions", "matplotlib", "eval") from error

_NAMES = {"mtcnn": "MTCNN", "yunet": "YuNet"}
_BRIGHT_TO_DARK = "gamma"  # the group that has clean in its middle, where the gamma is 1

Row = Mapping[str, Any]


def draw_conditions(record: Row, folder: Path) -> list[str]:
    """Draw what the record has: the photos' figures, the crops' and those by pose.

    Parameters
    ----------
    record : mapping
        What `evaluate_conditions` returns.
    folder : Path
        That is there.

    Returns
    -------
    list of str
        The names of the files.
    """
    drawn = []
    photos, crops, pose = record["photos"], record["crops"], record["pose"]
    names = list(photos["conditions"][0]["detectors"])
    about = f"{photos['n']} photos of {title_of(photos['data'])}"
    for kind, words, title in (
        ("found", "faces found", "Faces found under worse conditions"),
        ("landmark_error", "landmark error", "Landmark error, in distances between the eyes, where the face is found"),
        ("accuracy", "accuracy", "Expression read right, end to end: a face that is not found is wrong"),
    ):
        lines = {_name(name): [_of(row, name, kind) for row in photos["conditions"]] for name in names}
        if kind == "accuracy":
            lines["crop at the clean landmarks"] = [(*_pair(row["aligned"], kind),) for row in photos["conditions"]]
        file = f"photos_{kind}.png"
        intervals = "" if kind == "landmark_error" else ", 95 % intervals (Wilson)"
        _draw(photos["conditions"], lines, f"{title}\n{about}{intervals}", words, folder / file)
        drawn.append(file)
    if crops:
        lines = {
            words: [(row[key], None) for row in crops["conditions"]]
            for key, words in (("accuracy", "accuracy"), ("uar", "UAR"))
        }
        about = f"{crops['n']} test crops of {title_of(crops['data'])}"
        title = f"Linear probe of clean crops, evaluated on worse ones\n{about}"
        _draw(crops["conditions"], lines, title, "", folder / "crops.png")
        drawn.append("crops.png")
    if pose["crops"] or pose["photos"]:
        _draw_pose(record, folder / "pose.png")
        drawn.append("pose.png")
    return drawn


def _pair(row: Row, kind: str) -> tuple[float | None, Sequence[float] | None]:
    return row[kind], row.get(f"{kind}_interval")


def _of(row: Row, name: str, kind: str) -> tuple[float | None, Sequence[float] | None]:
    return _pair(row["detectors"][name], kind)


def _draw(rows: Sequence[Row], lines: Mapping[str, Sequence[Any]], title: str, label: str, target: Path) -> None:
    """A panel for each group of conditions, clean first; a line for each of `lines`, of a value and interval a row."""
    groups = {group: [i for i, row in enumerate(rows) if row["group"] == group] for group in _groups(rows)}
    columns = min(4, len(groups))
    height = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(3.0 * columns, 1.1 + 2.6 * height), layout="constrained")
    axes = figure.subplots(height, columns, sharey=True, squeeze=False)
    for axis, (group, places) in zip(axes.ravel(), groups.items(), strict=False):
        _panel(axis, group, [0, *places], rows, lines)
    for axis in axes.ravel()[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, target)


def _panel(
    axis: Axes, group: str, places: Sequence[int], rows: Sequence[Row], lines: Mapping[str, Sequence[Any]]
) -> None:
    labels = [rows[i]["severity"] or "clean" for i in places]
    order = list(range(len(places)))
    if group == _BRIGHT_TO_DARK:
        order.sort(key=lambda at: 1.0 if at == 0 else float(labels[at]))
        labels[0] = "1 (clean)"
    graded = all(any(letter.isdigit() for letter in label) for label in labels[1:])
    for number, (name, values) in enumerate(lines.items()):
        x = [at + 0.06 * (number - (len(lines) - 1) / 2) for at in range(len(order))]
        y = [values[places[at]][0] for at in order]
        intervals = [values[places[at]][1] for at in order]
        colour, marker = SYSTEM_COLOURS[number % len(SYSTEM_COLOURS)], SYSTEM_MARKERS[number % len(SYSTEM_MARKERS)]
        shown = [math.nan if value is None else value for value in y]
        axis.plot(x, shown, marker, linestyle="-" if graded else "", color=colour, markersize=5, label=name)
        for at, interval in zip(x, intervals, strict=True):
            if interval is not None:
                axis.plot([at, at], interval, color=colour, linewidth=1, alpha=0.6)
    axis.set_title(group, fontsize=10)
    axis.set_xlim(-0.5, len(order) - 0.5)
    axis.set_xticks(
        range(len(order)), [textwrap.fill(labels[at], 8, break_long_words=False) for at in order], fontsize=7
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axis.grid(axis="y", alpha=0.3)


def _draw_pose(record: Row, target: Path) -> None:
    pose = record["pose"]
    panels: list[tuple[str, str, dict[str, Sequence[Row]]]] = []
    if pose["crops"]:
        lines = {f"bins by {_name(name)}": bins for name, bins in pose["crops"].items()}
        panels.append((f"Linear probe on clean crops, {title_of(record['crops']['data'])}", "accuracy", lines))
    if pose["photos"]:
        lines = {f"{_name(row['found_by'])}, of faces of {_name(row['by'])}": row["bins"] for row in pose["photos"]}
        title = f"Faces of one detector that another finds, {title_of(pose['photos'][0]['data'])}"
        panels.append((title, "found", lines))
    figure = Figure(figsize=(5.2 * len(panels), 4.0), layout="constrained")
    for axis, (title, key, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, bins) in enumerate(lines.items()):
            colour, marker = SYSTEM_COLOURS[number % len(SYSTEM_COLOURS)], SYSTEM_MARKERS[number % len(SYSTEM_MARKERS)]
            there = [(at, row) for at, row in enumerate(bins) if row["n"]]
            x = [at + 0.1 * (number - (len(lines) - 1) / 2) for at, _ in there]
            axis.plot(x, [row[key] for _, row in there], marker, color=colour, markersize=6, label=name)
            for at, (_, row) in zip(x, there, strict=True):
                axis.plot([at, at], row[f"{key}_interval"], color=colour, linewidth=1.5, alpha=0.7)
        first = next(iter(lines.values()))
        labels = [
            textwrap.fill(row["bin"], 10) + "\nn = " + ", ".join(str(bins[at]["n"]) for bins in lines.values())
            for at, row in enumerate(first)
        ]
        axis.set_xticks(range(len(first)), labels, fontsize=7)
        axis.set_xlim(-0.5, len(first) - 0.5)
        axis.set_xlabel("nose's offset from the middle of the eyes, in distances between the eyes", fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=8, loc="lower left")
    figure.suptitle("By pose, 95 % intervals (Wilson)", fontsize=11)
    save_figure(figure, target)


def conditions_markdown(record: Row) -> str:
    """The record as Markdown tables.

    Parameters
    ----------
    record : mapping
        What `evaluate_conditions` returns.

    Returns
    -------
    str
    """
    parts = [_head(record), _photos(record)]
    if record["crops"]:
        parts.append(_crops(record))
    if record["pose"]["crops"]:
        parts.append(_crop_pose(record))
    if record["pose"]["photos"]:
        parts.append(_photo_pose(record))
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in record["seconds"].items())
    parts.append(f"Seconds: {seconds}; embeddings that were in the cache took none.")
    blocks = [block for part in parts for block in part.split("\n\n")]
    return "\n\n".join(map(filled, blocks)) + "\n"


def _head(record: Row) -> str:
    settings = "; ".join(
        f"{_name(name)} ({', '.join(f'{key} {value}' for key, value in values.items()) or 'no settings stated'})"
        for name, values in record["detectors"].items()
    )
    remedy = (
        f" Before detection and encoding, every image went through `{record['prepare']}`." if record["prepare"] else ""
    )
    return f"""# Worse conditions

Encoder `{record["encoder"]["name"]}`, head `{record["head"]["name"]}`, detectors {settings}. Seed {record["seed"]},
fergeneral {record["fergeneral"]}, {record["date"][:10]}.{remedy} A min_face_size of None is 40 pixels, or more above
3.7 megapixels."""


def _photos(record: Row) -> str:
    photos = record["photos"]
    names = list(photos["conditions"][0]["detectors"])
    header = ["condition", ""]
    header += [
        f"{_name(name)}: {what}" for name in names for what in ("found", "landmark error", "accuracy", "of found")
    ]
    rows = []
    for row in photos["conditions"]:
        cells = [row["group"], row["severity"]]
        for of in row["detectors"].values():
            cells += [_interval(of, "found"), _number(of["landmark_error"], 1, "%"), _interval(of, "accuracy")]
            cells.append(_number(of["accuracy_found"], 1))
        recall = " / ".join(_number(value, 1) for value in row["aligned"]["recall"].values())
        rows.append([*cells, _interval(row["aligned"], "accuracy"), recall])
    labels = ", ".join(f"{label} {count}" for label, count in photos["labels"].items())
    left_out = ", ".join(f"{_name(name)} {count}" for name, count in photos["left_out"].items())
    return f"""## Photos: {title_of(photos["data"])}

{photos["n"]} photos ({labels}), one of each person; the face is {photos["face_size"]:.0f} pixels wide, the eyes lie
{photos["eyes_apart"]:.0f} pixels apart (medians). Photos left out since the detector found no face in the clean photo:
{left_out}. Found: a box that overlaps the detector's clean one by more than 0.4 (intersection over union). Landmark
error: mean distance from the detector's own clean landmarks, in % of the distance between the eyes. Accuracy is the
head's; a face that is not found is wrong. Aligned: the crop is cut at the clean landmarks. All in %, with 95 %
intervals (Wilson). Glasses are drawn.

{markdown_table([*header, "aligned: accuracy", f"recall of {' / '.join(photos['labels'])}"], rows)}"""


def _crops(record: Row) -> str:
    crops = record["crops"]
    header = ["condition", "", "accuracy", "UAR", "accuracy lost", "UAR lost"]
    rows = [
        [row["group"], row["severity"], *(_number(row[key], 1) for key in ("accuracy", "uar"))]
        + ["" if row["group"] == "clean" else _interval(row, key) for key in ("drop_accuracy", "drop_uar")]
        for row in crops["conditions"]
    ]
    return f"""## Crops: {title_of(crops["data"])}

A linear probe of {crops["n_train"]} clean train crops, evaluated on {crops["n"]} test crops ({crops["status"]} in the
encoder's pretraining; {crops["side"]:.0f} pixels a side, which is the face's size here). Lost: clean less worse, in
points, with the paired 95 % bootstrap interval. Shadow, bars and glasses lie at the set's average landmarks.

{markdown_table(header, rows)}"""


def _crop_pose(record: Row) -> str:
    rows = [
        [_name(name), row["bin"], row["n"], _interval(row, "accuracy")]
        for name, bins in record["pose"]["crops"].items()
        for row in bins
    ]
    return f"""## Pose: crops of {title_of(record["crops"]["data"])}

Bins of the nose tip's distance from the middle of the eyes along their line, in distances between the eyes: a proxy of
yaw. Accuracy of the linear probe on clean crops, in %, with the Wilson interval.

{markdown_table(["landmarks of", "offset of the nose", "images", "accuracy"], rows)}"""


def _photo_pose(record: Row) -> str:
    rows = [
        [_name(row["by"]), _name(row["found_by"]), part["bin"], part["n"], _interval(part, "found")]
        for row in record["pose"]["photos"]
        for part in row["bins"]
    ]
    first = record["pose"]["photos"][0]
    return f"""## Pose: faces found in {title_of(first["data"])}

Of the largest face that one detector finds, how often another finds it, by the pose that the first one's landmarks say;
{first["n"]} photos, in {first["neither"]} of which neither of the first pair finds a face. A face that no detector
finds is in no row, so that the shares are too high, most of all for poses that are hard for both.

{markdown_table(["landmarks of", "found by", "offset of the nose", "photos", "found"], rows)}"""


def _groups(rows: Sequence[Row]) -> list[str]:
    return [group for group, _ in itertools.groupby(rows[1:], key=lambda row: row["group"])]


def _name(detector: str) -> str:
    return _NAMES.get(detector, detector)


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}{unit and ' ' + unit}"


def _interval(row: Row, key: str) -> str:
    if row[key] is None:
        return "-"
    low, high = row[f"{key}_interval"]
    return f"{100 * row[key]:.1f} ({100 * low:.1f} to {100 * high:.1f})"
