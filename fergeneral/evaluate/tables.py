"""A report's JSON as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fergeneral.card import title_of
from fergeneral.datasets import EXPRESSIONS

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def markdown(report: Report) -> str:
    """The whole report as Markdown; `report` as report.json holds it. Sections without entries are left out."""
    sections = (_head, _data, _linear_probe, _recalls, _calibration, _cross_dataset, _subject_folds, _few_shot)
    parts = [
        section(report) for section in (*sections, _unseen, _knn, _sgd_probe, _robustness, _structure, _environment)
    ]
    return "\n\n".join(filled(block) for part in parts if part for block in part.split("\n\n")) + "\n"


def main_table(report: Report) -> str:
    """Linear probes, near-duplicates out, and subject-wise folds, as a table for a terminal."""
    cells = [("data set", "system", "status", "accuracy", "UAR")]
    for row in (*(row for row in report["linear_probe"] if row["near_duplicates"] == "out"), *report["subject_folds"]):
        name = _title(report, row["data"]) + (", subject-wise folds" if "subjects" in row else "")
        cells.append((name, row["system"], row["status"], _value(row, "accuracy"), _value(row, "uar")))
    return aligned(cells)


def head_table(figures: Mapping[str, Row]) -> str:
    """What `evaluate_head` returns, as a table for a terminal."""
    cells = [("data set", "status", "images", "accuracy", "UAR", "ECE", "with a face")]
    for name, row in figures.items():
        cells.append((title_of(name), row["status"], str(row["n"]), *_head_values(row), _number(row["with_face"], 3)))
    return aligned(cells)


def head_markdown(report: Report) -> str:
    """A head's figures as Markdown; `report` as head.json of `fergeneral evaluate --head` holds it."""
    head, figures = report["head"], report["data"]
    parts = [
        f"""# The head `{head["name"]}` on `{head["encoder"]}`

Classes: {", ".join(head["classes"])}. Trained on: {", ".join(head["training_data"]) or "not stated"}. Its hash is
{_hash(head["sha256"])}, that of the encoder's weights {_hash(head["encoder_sha256"])}. Written by `fergeneral evaluate
--head` {report["fergeneral"]} on {report["date"][:10]}.

Intervals in brackets are 95 % bootstrap intervals over the images, or over people where they are known, seed
{report["seed"]}. UAR is the mean of the class recalls, ECE the expected calibration error in 15 bins. Status says what
the training of encoder or head had of the images that were read: *in-sample*, these very images; *held-out*, other
images of the same data set; *never seen*, none of the set. Of photos, the detector ({head["detector"]}) found the
face; face crops were cut to the encoder's template as they are. All classes of the head may be named, also those that
the set does not have.""",
        _head_rows(figures),
    ]
    parts += [_head_recalls(head["classes"], figures), _head_found(figures), _head_shared(figures)]
    return "\n\n".join(filled(block) for part in parts if part for block in part.split("\n\n")) + "\n"


def _head_rows(figures: Mapping[str, Row]) -> str:
    rows = [
        [
            *(title_of(name), row["source"], row["status"], row["n"], row["people"] or "-"),
            *(*_head_values(row), _number(row["with_face"], 3)),
        ]
        for name, row in figures.items()
    ]
    header = ["data set", "of", "status", "images", "people", "accuracy", "UAR", "ECE", "share with a face"]
    notes = [
        f"- {title_of(name)}: left out, since the head cannot name them: "
        + ", ".join(f"{label} ({count})" for label, count in row["left_out"].items())
        for name, row in figures.items()
        if row["left_out"]
    ]
    return "\n\n".join([markdown_table(header, rows), *notes])


def _head_recalls(classes: Sequence[str], figures: Mapping[str, Row]) -> str:
    rows = [
        [title_of(name), *(_number(row["recall"].get(label), 3) for label in classes)] for name, row in figures.items()
    ]
    return f"## Recall of each class\n\n{markdown_table(['data set', *classes], rows)}"


def _head_found(figures: Mapping[str, Row]) -> str:
    rows = [
        [title_of(name), row["end_to_end"]["n"], _number(row["with_face"], 3), *_head_values(row["end_to_end"])]
        for name, row in figures.items()
        if row["end_to_end"]
    ]
    text = """## End to end

The detector finds the face in each image with 20 % of black around it, as in a photo, and the crop is aligned to its
landmarks. Figures are of the images in which it found one."""
    header = ["data set", "images with a face", "share", "accuracy", "UAR", "ECE"]
    return f"{text}\n\n{markdown_table(header, rows)}" if rows else ""


def _head_shared(figures: Mapping[str, Row]) -> str:
    rows = [
        [title_of(name), ", ".join(row["shared"]["classes"]), row["shared"]["n"], *_head_values(row["shared"])]
        for name, row in figures.items()
        if row["shared"]
    ]
    text = """## Among shared classes

Sets that lack some of the head's classes: its probabilities renormalised over those that both have."""
    return (
        f"{text}\n\n{markdown_table(['data set', 'classes', 'images', 'accuracy', 'UAR', 'ECE'], rows)}" if rows else ""
    )


def _head_values(row: Row) -> tuple[str, str, str]:
    accuracy, uar = (
        f"{row[key]:.3f} ({row[f'{key}_interval'][0]:.3f}-{row[f'{key}_interval'][1]:.3f})"
        for key in ("accuracy", "uar")
    )
    return accuracy, uar, f"{row['ece']:.3f}"


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns of text, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _head(report: Report) -> str:
    model, environment = report["model"], report["environment"]
    seen = ", ".join(model["training_data"]) or "not stated"
    return f"""# Expression embeddings of `{model["model_id"]}`

Weights {_hash(model["weights_sha256"])}, {model["architecture"]}, crops of {model["crop_size"]} px,
{model["embedding_size"]} dimensions. In pretraining: {seen}. Written by `fergeneral evaluate`
{environment["packages"]["fergeneral"]} on {environment["date"][:10]}; `report.json` holds every figure, the hashes in
full and the versions.

Intervals in brackets are 95 % bootstrap intervals over test images, seed {report["seed"]}. UAR is the mean of the class
recalls. Status says what pretraining had of the images that were read: *in-sample*, these very images; *held-out*,
other images of the same data set; *never seen*, none of the set; *not stated* for other systems. No choice was made on
a test set; the one column that breaks this rule says so."""


def _data(report: Report) -> str:
    labels = [name for name in EXPRESSIONS if any(name in row["classes"] for _, _, row in _splits(report))]
    header = ["data set", "split", "images", *labels, "SHA-256"]
    rows = []
    for name, split, row in _splits(report):
        counts = [row["classes"].get(label, "-") for label in labels]
        rows.append([_title(report, name), split, row["n"], *counts, _hash(report["data"][name]["sha256"])])
    notes = [_data_note(described) for described in report["data"].values()]
    return f"## Data\n\n{markdown_table(header, rows)}\n\n" + "\n".join(note for note in notes if note)


def _data_note(data: Row) -> str:
    parts = [f"{reason}: {count}" for reason, count in data["left_out"].items()]
    text = f"- {data['title']}: left out: {', '.join(parts)}." if parts else f"- {data['title']}: nothing left out."
    if data["subjects"]:
        text += f" {data['subjects']} people."
    return text + "".join(f" Split {split!r} ({n} images) not read." for split, n in data["not_read"].items())


def _linear_probe(report: Report) -> str:
    if not report["linear_probe"]:
        return ""
    text = """## Linear probe

L2 logistic regression on frozen, standardised embeddings. C is chosen on a stratified 15 % of train, then the probe is
fitted on all of train and the test split is read once. Near-duplicates are left out of train; the column that says so
has them in. The difference is that of the first system to each other on the same test images, with its
paired bootstrap interval."""
    for name, data in report["data"].items():
        rows = [row for row in report["linear_probe"] if row["data"] == name]
        if rows:
            text += f"\n\n### {data['title']}\n\n{_linear_table(report, rows)}{_missing(rows)}"
            text += _pictures(report, "systems", name) + _pictures(report, "confusion", name)
    return text


def _linear_table(report: Report, rows: Sequence[Row]) -> str:
    twice = {row["system"]: row for row in rows if row["near_duplicates"] == "in"}
    against = {(row["b"], row["data"]): row for row in report["paired"]}
    header = ["embeddings of", "status", "C", "accuracy", "UAR", "macro-F1"]
    header += ["accuracy / UAR with near-duplicates"] if twice else []
    header += ["difference in accuracy", "in UAR"] if len({row["system"] for row in rows}) > 1 else []
    lines = []
    for row in rows:
        if row["near_duplicates"] == "out":
            name = row["system"]
            line = [_system(report, name), row["status"], f"{row['c']:.2g}", *_values(row)]
            line += [" / ".join(_two(twice[name]))] if twice else []
            pair = against.get((name, row["data"]))
            line += [_difference(pair[key]) for key in ("accuracy", "uar")] if pair else []
            lines.append(line)
    return markdown_table(header, lines)


def _missing(rows: Sequence[Row]) -> str:
    gaps = {row["system"]: row["missing"] for row in rows if row["missing"]}
    notes = [f"{name} gave no embedding for {n} images, which got the mean of train." for name, n in gaps.items()]
    return "\n\n" + " ".join(notes) if notes else ""


def _recalls(report: Report) -> str:
    rows = [row for row in report["linear_probe"] if row["near_duplicates"] == "out"]
    labels = [name for name in EXPRESSIONS if any(name in row["recall"] for row in rows)]
    lines = [
        _who(report, row) + [f"{row['recall'][label]:.3f}" if label in row["recall"] else "-" for label in labels]
        for row in rows
    ]
    return f"### Recall of each class\n\n{markdown_table(['read on', 'embeddings of', *labels], lines)}" if rows else ""


def _calibration(report: Report) -> str:
    rows = [row for row in report["linear_probe"] if row["near_duplicates"] == "out"]
    header = ["read on", "embeddings of", "ECE", "ECE scaled", "NLL", "NLL scaled", "temperature"]
    lines = []
    for row in rows:
        found = row["calibration"]
        values = [f"{found[key]:.3f}" for key in ("ece", "ece_scaled", "nll", "nll_scaled", "temperature")]
        lines.append(_who(report, row) + values)
    text = """### Calibration

Expected calibration error (15 bins) and negative log-likelihood on test, before and after temperature scaling; the
temperature is fitted on the part of train that chose C."""
    return f"{text}\n\n{markdown_table(header, lines)}" if rows else ""


def _cross_dataset(report: Report) -> str:
    rows = report["cross_dataset"]
    header = ["embeddings of", "probe fitted on", "its images", "read on", "status", "classes", "images"]
    header += ["accuracy", "UAR", "macro-F1"]
    lines = []
    for row in rows:
        fitted = [_title(report, row["train"]), row["train_status"]]
        read = [_title(report, row["test"]), row["status"], len(row["shared"]), row["n"]]
        lines.append([_system(report, row["system"]), *fitted, *read, *_values(row)])
    text = """## From one data set to another

The linear probe, fitted on one set with the classes that both have and read on the other; a set without splits is taken
whole. "Its images": what pretraining had of the probe's own train images."""
    maps = "\n".join(dict.fromkeys(_class_map(report, row) for row in rows))
    return f"{text}\n\n{markdown_table(header, lines)}\n\n{maps}" if rows else ""


def _class_map(report: Report, row: Row) -> str:
    def left(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{label} ({n})" for label, n in counts.items()) or "nothing"

    pair = f"{_title(report, row['train'])} to {_title(report, row['test'])}"
    return (
        f"- {pair}: {', '.join(row['shared'])}; left out of train: {left(row['left_out_train'])}, "
        f"of test: {left(row['left_out_test'])}."
    )


def _subject_folds(report: Report) -> str:
    rows = report["subject_folds"]
    header = ["data set", "embeddings of", "status", "images", "people", "accuracy", "UAR", "macro-F1", "of folds"]
    lines = []
    for row in rows:
        range_of_folds = f"{min(row['fold_accuracies']):.3f} to {max(row['fold_accuracies']):.3f}"
        lines.append([*_who(report, row), row["status"], row["n"], row["subjects"], *_values(row), range_of_folds])
    text = """## Subject-wise folds

Cross-validation in which nobody is in train and test at once, over the predictions of all folds. The intervals draw
single images; those of one person are alike, so they are too narrow."""
    pictures = "".join(_pictures(report, "confusion", name) for name in dict.fromkeys(row["data"] for row in rows))
    return f"{text}\n\n{markdown_table(header, lines)}{pictures}" if rows else ""


def _few_shot(report: Report) -> str:
    rows = report["few_shot"]
    shots = sorted({row["shots"] for row in rows})
    lines = []
    for (name, system), found in _grouped(rows).items():
        of = {row["shots"]: row for row in found}
        cells = [_mean(of[shot]) if shot in of else "-" for shot in shots]
        lines.append([_title(report, name), _system(report, system), *cells])
    text = f"""## Few images a class

Logistic regression on so many images of each class, drawn {len(rows[0]["accuracies"]) if rows else 0} times: mean
accuracy and its 95 % interval over draws / mean UAR; always on the whole test split."""
    table = markdown_table(["data set", "embeddings of", *map(str, shots)], lines)
    return f"{text}\n\n{table}{_pictures(report, 'few_shot')}" if rows else ""


def _unseen(report: Report) -> str:
    rows = report.get("unseen", [])  # reports before 0.3 do not have it
    shots = sorted({row["shots"] for row in rows})
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["class"] in (None, "contempt"):
            groups.setdefault((row["data"], row["class"] or "each in turn", row["system"]), []).append(row)
    lines = []
    for (name, held_out, system), found in sorted(groups.items(), key=lambda item: item[0][:2]):
        of = {row["shots"]: row for row in found}
        cells = [_learnt(of[shot]) if shot in of else "-" for shot in shots]
        before = f"{found[-1]['others_before']:.3f} / {found[-1]['others']:.3f}"
        lines.append(
            [_title(report, name), held_out, _system(report, system), found[0]["class_status"], *cells, before]
        )
    draws = rows[0]["draws"] if rows else 0
    text = f"""## Unseen expressions

A class is held out of the classifier, then learnt from a few of its train images, drawn {draws} times; of a set without
splits, from one half of the people, the other half being read. Nearest class mean by cosine, standardised by the other
classes' train images. In each column: recall of the new class with the 95 % interval of its mean over draws / UAR over
all classes / AUC of the new class against the rest; by chance, UAR would be one over the number of classes, recall the
same or a little less, AUC 0.5. In pretraining: whether the encoder's pretraining had labels of that class. The last
column is the mean recall of the other classes, before the new one was there / with it, after most examples. In the
figure, a line is dashed where pretraining had no labels of the class, and one over the number of classes is dotted."""
    header = ["data set", "held out", "embeddings of", "in pretraining", *map(str, shots), "others"]
    return f"{text}\n\n{markdown_table(header, lines)}{_pictures(report, 'unseen')}" if rows else ""


def _learnt(row: Row) -> str:
    half = (row["recall_interval"][1] - row["recall_interval"][0]) / 2
    given = "" if row["given"] == row["shots"] else f" ({row['given']} given)"
    return f"{row['recall']:.3f} ± {half:.3f} / {row['uar']:.3f} / {row['auc']:.3f}{given}"


def _knn(report: Report) -> str:
    rows = report["knn"]
    ks = sorted({row["k"] for row in rows})
    lines = []
    for (name, system), found in _grouped(rows).items():
        of = {row["k"]: " / ".join(_two(row)) for row in found}
        lines.append([_title(report, name), _system(report, system), *(of.get(k, "-") for k in ks)])
    text = """## Nearest neighbours

Votes of the k nearest train images by cosine similarity, each weighted by exp(similarity / 0.07): accuracy / UAR."""
    return (
        f"{text}\n\n{markdown_table(['data set', 'embeddings of', *(f'k = {k}' for k in ks)], lines)}" if rows else ""
    )


def _sgd_probe(report: Report) -> str:
    rows = report["sgd_probe"]
    lines = []
    for row in rows:
        form = "unit length" if row["unit_length"] else "as they are"
        lines.append([*_who(report, row), form, *_values(row), f"{row['best_on_test_accuracy']:.3f}"])
    header = ["data set", "embeddings of", "embeddings", "accuracy", "UAR", "macro-F1", "best epoch on test (leaks)"]
    text = """## The paper's SGD probe

One linear layer, SGD with learning rate 4 for 100 epochs, read after the last. The paper reports the best epoch on the
test set, which looks at the answers: that figure stands in the last column, and nowhere else. So high a rate does not
settle on long embeddings; those scaled to unit length, which the paper does not do, show what the probe can."""
    return f"{text}\n\n{markdown_table(header, lines)}" if rows else ""


def _robustness(report: Report) -> str:
    found = report["robustness"]
    if not found:
        return ""
    clean = found["clean"]
    lines = [("clean", "", *_two(clean), "", "", "")]
    lines += [
        (row["group"], row["severity"], *_two(row), _points(row, "accuracy"), _points(row, "uar"), row["missed"] or "")
        for row in found["conditions"]
    ]
    header = ["condition", "", "accuracy", "UAR", "accuracy lost", "UAR lost", "no face found"]
    text = f"""## Worse conditions

The linear probe of clean {_title(report, found["data"])} train, read on its {clean["n"]} test images under conditions
that it was not fitted for. Lost: clean less worse, in points, with the paired bootstrap interval. Scale, shift and
rotation are of the face in its crop; random jitter draws all three, evenly up to what it states. Found again: the
detector finds the face in the image with 20 % of black around it, and the crop is aligned to its landmarks; where it
finds none, the clean crop was read."""
    return f"{text}{_pictures(report, 'robustness')}\n\n{markdown_table(header, lines)}"


def _structure(report: Report) -> str:
    rows = report["structure"]
    keys = ("silhouette", "fisher_ratio", "participation_ratio", "components_95")
    header = ["data set", "embeddings of", "silhouette", "Fisher ratio", "participation ratio", "components for 95 %"]
    lines = [
        _who(report, row) + [_number(row[key], digits) for key, digits in zip(keys, (3, 3, 1, 0), strict=True)]
        for row in rows
    ]
    text = f"""## What else the embeddings hold

Of test images: how far the classes lie apart (silhouette by cosine distance, -1 to 1; Fisher's ratio of scatter between
classes to that within), and how many dimensions are in use (participation ratio of the covariance's eigenvalues;
principal components that hold 95 % of the variance).

{markdown_table(header, lines)}"""
    return text + _identity(report) + _pictures(report, "projection")


def _identity(report: Report) -> str:
    rows = [row for row in report["structure"] if row.get("identity")]
    if not rows:
        return ""
    keys = list(rows[0]["identity"])
    lines = [_who(report, row) + [_number(row["identity"][key], 3) for key in keys] for row in rows]
    header = ["data set", "embeddings of", *(key.replace("_", " ").replace("auc", "AUC") for key in keys)]
    return f"""

### Identity

How well the cosine similarity of two images tells whether they show the same person (identity AUC, among pairs of
different expressions) and whether they show the same expression (expression AUC, among pairs of different people): 0.5
is chance, 1 is always. An embedding of expressions should have little of the first and much of the second. Then the
mean similarity of each kind of pair.

{markdown_table(header, lines)}"""


def _environment(report: Report) -> str:
    environment = report["environment"]
    packages = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    seconds = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in report["seconds"].items())
    return f"""## Where and when

{environment["date"]}, Python {environment["python"]} on {environment["platform"]}, {environment["cores"]} cores,
{environment["threads"]} threads, device {environment["device"]}. {packages}.

Seconds: {seconds}; {sum(report["seconds"].values()):.0f} in all. Embeddings that were in the cache took none."""


def _splits(report: Report) -> list[tuple[str, str, Row]]:
    return [(name, split, row) for name, data in report["data"].items() for split, row in data["splits"].items()]


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["system"]), []).append(row)
    return groups


def _title(report: Report, name: str) -> str:
    return str(report["data"][name]["title"])


def _who(report: Report, row: Row) -> list[Any]:
    return [_title(report, row["data"]), _system(report, row["system"])]


def _system(report: Report, name: str) -> str:
    return f"**{name}**" if name == report["model"]["model_id"] else name


def _hash(digest: str) -> str:
    return f"`{digest[:12]}`"


def _value(row: Row, key: str) -> str:
    low, high = row["intervals"][key]
    return f"{row[key]:.3f} ({low:.3f}-{high:.3f})"


def _values(row: Row) -> list[str]:
    return [_value(row, key) for key in ("accuracy", "uar", "macro_f1")]


def _two(row: Row) -> tuple[str, str]:
    return f"{row['accuracy']:.3f}", f"{row['uar']:.3f}"


def _mean(row: Row) -> str:
    half = (row["accuracy_interval"][1] - row["accuracy_interval"][0]) / 2
    return f"{row['accuracy']:.3f} ± {half:.3f} / {row['uar']:.3f}"


def _difference(row: Row) -> str:
    low, high = row["interval"]
    p = "p < 0.002" if row["p"] < 0.002 else f"p = {row['p']:.3f}"
    return f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f}), {p}"


def _points(row: Row, key: str) -> str:
    low, high = row[f"drop_{key}_interval"]
    return f"{100 * row[f'drop_{key}']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _pictures(report: Report, kind: str, data: str | None = None) -> str:
    """The figures of a kind, of one data set or of all."""
    figures = [row for row in report["figures"] if row["kind"] == kind and data in (None, row.get("data"))]
    return "".join(f"\n\n![{row['title']}]({row['file']})" for row in figures)


def filled(block: str) -> str:
    """Prose as lines of at most 120 characters; tables, lists, headings and pictures as they are."""
    if block.startswith(("|", "-", "#", "!")):
        return block
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown; short rows are filled up with empty cells."""
    lines = [header, ["---"] * len(header), *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
