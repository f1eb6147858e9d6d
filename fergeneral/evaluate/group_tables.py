"""A report by group as Markdown, and its short form for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fergeneral.evaluate.gaps import TABLES
from fergeneral.evaluate.tables import aligned, filled, markdown_table

Report = Mapping[str, Any]
Row = Mapping[str, Any]

LEVEL = 0.05  # of corrected p values, for gaps that are called larger than chance
RATES_NOTE = (
    "The photos have no true expressions, so these are the rates at which each expression is predicted. A difference "
    "between groups is a question, not an error: the groups may differ in the expressions that they show, or in how "
    "the photos were chosen."
)


def groups_table(report: Report) -> str:
    """For a terminal: each group, the share found by each detector, landmark error, and accuracy where it is known."""
    names, rates = list(report["detectors"]), _is_rates(report)
    found = {(row["detector"], row["column"], row["group"]): row for row in report["detection"]}
    cells = [("", "group", "photos", *(f"found, {name}" for name in names), *(f"error, {name}" for name in names))]
    cells = [(*cells[0], *([] if rates else ["accuracy"]))]
    for row in report["expressions"]:
        place = (row["column"], row["group"])
        rows = [found[name, *place] for name in names]
        last = [] if rates else [_percent(row, "accuracy")]
        values = [*(_percent(one, "found") for one in rows), *(_number(one["error_mean"]) for one in rows), *last]
        cells.append((row["column"] or "", row["group"] or "all", str(rows[0]["n"]), *values))
    return aligned(cells)


def gaps_text(report: Report) -> str:
    """How many gaps are larger than chance, and the largest of these, in a sentence or two."""
    gaps = report["gaps"]
    if not gaps:
        return f"No two groups of {report['least_people']} people or more to compare."
    real = sorted((gap for gap in gaps if gap["p_holm"] < LEVEL), key=lambda gap: gap["p_holm"])
    text = (
        f"{len(real)} of {len(gaps)} gaps between groups are larger than chance (p < {LEVEL} after Holm's correction)"
    )
    return text + (
        "." if not real else ": " + "; ".join(map(_gap_text, real[:5])) + ("; ..." if len(real) > 5 else ".")
    )


def groups_markdown(report: Report) -> str:
    """The whole report, with links to its figures."""
    parts = [_introduction(report), _gaps(report), _found(report), _stability(report), _expressions(report)]
    parts += [_folds(report), _notes(report)]
    return "\n\n".join(filled(block) for part in parts if part for block in part.split("\n\n")) + "\n"


def _introduction(report: Report) -> str:
    head, table = report["head"], report["table"]
    people = f" of {table['people']} people" if table["people"] else ""
    unreadable = [f"- could not be read: {row['path']} ({row['error']})" for row in table["unreadable"]]
    left_out = [f"- column left out: {name} ({reason})" for name, reason in table["columns_left_out"].items()]
    binned = [f"- put together by {how}: {name}" for name, how in table["binned"].items()]
    labels = [f"- no class of the head, left out of accuracy: {n} {name}" for name, n in report["left_out"].items()]
    text = f"""# By group: `{head["encoder"]}` and the head `{head["name"]}` on {table["file"]}

{table["photos"]} photos{people}, {len(unreadable)} unreadable. Detectors: {", ".join(report["detectors"])}; the
first finds the faces whose expressions are predicted. Of a photo, the largest face counts. SHA-256 of table and photos
`{table["sha256"][:12]}`, of the head `{head["sha256"][:12]}`, of the encoder's weights
`{head["encoder_sha256"][:12]}`. Written by `fergeneral evaluate --groups` {report["fergeneral"]} on
{report["date"][:10]}, seed {report["seed"]}."""
    notes = "\n".join([*binned, *left_out, *labels, *unreadable])
    return f"{text}\n\n{notes}" if notes else text


def _gaps(report: Report) -> str:
    header = ["figure", "by", "lowest", "highest", "difference", "test", "p", "p, corrected"]
    rows = [
        [
            *(gap_figure(gap), gap["column"], gap_side(gap, "low"), gap_side(gap, "high")),
            _value(gap, gap["difference"]),
            *(gap["test"], _p(gap["p"]), f"**{_p(gap['p_holm'])}**" if gap["p_holm"] < LEVEL else _p(gap["p_holm"])),
        ]
        for gap in sorted(report["gaps"], key=lambda gap: gap["p_holm"])
    ]
    return f"## The largest gaps\n\n{gaps_text(report)}" + (f"\n\n{markdown_table(header, rows)}" if rows else "")


def _found(report: Report) -> str:
    header = ["detector", "by", "group", "photos", "with a face", "with more than one"]
    rows = [
        [row["detector"], *_place(row), _size(row), _percent(row, "found"), _plain_percent(row["several"])]
        for row in report["detection"]
    ]
    text = "## Faces found\n\nThe photos in which no face was found are listed in groups.json, as `without_face`."
    return f"{text}{_pictures(report, 'found')}\n\n{markdown_table(header, rows)}"


def _stability(report: Report) -> str:
    sample = report["stability_photos"]
    drawn = "all photos" if sample is None else f"{sample} photos drawn by chance, and more of small groups"
    text = f"""## How steady the landmarks are

The photo is moved by 1 and 3 pixels (columns on the left and rows at the top are cut off) and scaled by 0.9 and 1.1,
and the face found again. Error: mean distance of the five landmarks from where they were, in % of the distance between
the eyes, over these four; lost: share of the photos in which one of them loses the face. On {drawn}."""
    header = ["detector", "by", "group", "photos", "mean error, %", "median", "90th percentile", "lost"]
    rows = [
        [
            *(row["detector"], *_place(row), row["n_stability"], _error(row), _number(row["error_median"])),
            *(_number(row["error_90"]), _percent(row, "lost")),
        ]
        for row in report["detection"]
    ]
    moves = [
        [
            *(row["detector"], row["move"], row["n"], _number(row["error_mean"]), _number(row["error_median"])),
            *(_number(row["error_90"]), _percent(row, "lost")),
        ]
        for row in report["moves"]
    ]
    of_moves = ["detector", "photo", "photos", "mean error, %", "median", "90th percentile", "lost"]
    return (
        f"{text}{_pictures(report, 'landmarks')}\n\n{markdown_table(header, rows)}\n\n{markdown_table(of_moves, moves)}"
    )


def _expressions(report: Report) -> str:
    rows = report["expressions"]
    if _is_rates(report):
        classes = list(rows[0]["rates"])
        lines = [[*_place(row), _size(row), *(_in(row, "rates", name) for name in classes)] for row in rows]
        text = f"## Expressions that are predicted\n\n{RATES_NOTE}{_pictures(report, 'expressions')}"
        return f"{text}\n\n{markdown_table(['by', 'group', 'faces', *classes], lines)}"
    classes = list(rows[0]["recall"])
    lines = [
        [
            *(*_place(row), _size(row), _percent(row, "accuracy")),
            *(*(_in(row, "recall", name) for name in classes), _number(row["ece"], 3)),
        ]
        for row in rows
    ]
    header = ["by", "group", "faces", "accuracy", *(f"recall of {name}" for name in classes), "ECE"]
    text = """## Expressions

Accuracy among all classes of the head, of the faces that were found. ECE: expected calibration error in 15 bins, which
is too large for few photos: compare groups of about one size."""
    return f"{text}{_pictures(report, 'expressions')}\n\n{markdown_table(header, lines)}"


def _folds(report: Report) -> str:
    found = report["folds"]
    if found is None:
        return ""
    lines = [[*_place(row), _size(row), _percent(row, "accuracy")] for row in found["rows"]]
    text = f"""### A classifier of these photos' own

Logistic regression on the embeddings of the table's other people, in {found["folds"]} folds by person, between
{", ".join(found["classes"])} alone: what a head that is fitted on such photos could do. It names fewer classes than the
packaged head, so its accuracy is no comparison of the two."""
    return f"{text}\n\n{markdown_table(['by', 'group', 'faces', 'accuracy'], lines)}"


def _notes(report: Report) -> str:
    people = report["table"]["people"]
    tests = f"""Intervals in brackets are 95 %. Of shares they are Wilson's, and the test is Fisher's exact test for two
groups, or chi-square for more, with p by {TABLES:,} random tables of the same margins (Hope 1968). Of landmark errors
they are bootstrap intervals, and the test is that of Kruskal and Wallis, which compares ranks: a few photos with a
large error move a mean, but not the test."""
    tests += (
        """ Where people have several photos, intervals are bootstrap intervals over people (if all values are the same,
Wilson's for the number of people), and the Kruskal-Wallis test compares the people's means."""
        if people
        else " The table does not say who is shown, so each photo is taken for another person."
    )
    return f"""## How to read this

{tests}

Each test asks whether all groups of a column are alike, not only the two farthest apart; p is corrected by Holm's
method (1979) for the {len(report["gaps"])} tests of this report. Groups of fewer than {report["least_people"]}
{"people" if people else "photos"} are shown, but not compared, and neither is what is not stated. That a gap is not
larger than chance does not say that there is none: look at how wide the intervals are. The groups are those of the
table, and differ in more than their names, for instance in age, pose or light."""


def _is_rates(report: Report) -> bool:
    return "rates" in report["expressions"][0]


def gap_figure(gap: Row) -> str:
    """The figure of a gap, and its detector."""
    return gap["measure"] + (f", {gap['detector']}" if gap["detector"] else "")


def _gap_text(gap: Row) -> str:
    sides = f"{gap['low_group']} {_value(gap, gap['low'])}, {gap['high_group']} {_value(gap, gap['high'])}"
    return f"{gap_figure(gap)} by {gap['column']} ({sides}; p = {_p(gap['p_holm'])})"


def gap_side(gap: Row, which: str) -> str:
    """The group on one side of a gap, "low" or "high", and its value."""
    group = gap[f"{which}_group"] if gap["difference"] else "all"
    return f"{group} {_value(gap, gap[which])}"


def _value(gap: Row, value: float) -> str:
    """Landmark errors are in % already."""
    return f"{value:.2f} %" if gap["measure"] == "landmark error" else f"{100 * value:.1f} %"


def _p(value: float) -> str:
    return f"{value:.2g}"


def _place(row: Row) -> tuple[str, str]:
    return row["column"] or "", row["group"] or "all"


def _size(row: Row) -> str:
    if not row["people"]:
        return str(row["n"])
    return f"{row['n']} ({row['people']} {'person' if row['people'] == 1 else 'people'})"


def _interval(values: Sequence[float], scale: float, digits: int) -> str:
    return " to ".join(f"{scale * value:.{digits}f}" for value in values)


def _percent(row: Row, key: str) -> str:
    return "-" if row[key] is None else f"{100 * row[key]:.1f} % ({_interval(row[f'{key}_interval'], 100, 1)})"


def _plain_percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _in(row: Row, key: str, name: str) -> str:
    """A figure of one class."""
    return _percent({name: row[key][name], f"{name}_interval": row[f"{key}_interval"][name]}, name)


def _error(row: Row) -> str:
    if row["error_mean"] is None or row["error_mean_interval"] is None:
        return _number(row["error_mean"])
    return f"{row['error_mean']:.2f} ({_interval(row['error_mean_interval'], 1, 2)})"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _pictures(report: Report, kind: str) -> str:
    figures: Iterable[Row] = (row for row in report.get("figures", ()) if row["kind"] == kind)
    return "".join(f"\n\n![{row['title']}]({row['file']})" for row in figures)
