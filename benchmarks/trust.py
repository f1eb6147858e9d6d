"""Whom the package works for and what embeddings give away: the figures of docs/trust.md and docs/privacy.md.

    python benchmarks/trust.py measure DATA OUT [--peers PEERS] [--cache FOLDER] [--only PART ...]
    python benchmarks/trust.py pages [RECORD]

`measure` reads DATA (london/, fairface/, ckplus48/, rafdb/) and writes OUT/trust.json, with reports and figures of each
part beside it. PEERS holds other systems' embeddings, as `benchmarks/identity_peer.py` makes them. `pages` puts the
tables of RECORD (benchmarks/trust.json) and of benchmarks/erasure.json between the marks of both pages; the sentences
around them stay.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from erasure import table as erasure_table

from fergeneral import ExpressionClassifier
from fergeneral.evaluate import evaluate_conditions, evaluate_groups
from fergeneral.evaluate.figures import draw_leakage
from fergeneral.evaluate.group_tables import LEVEL, gap_figure, gap_side
from fergeneral.evaluate.leakage_report import attribute_table, identity_table, leakage
from fergeneral.evaluate.tables import markdown_table

ROOT = Path(__file__).parent.parent
RECORD, ERASURE = ROOT / "benchmarks" / "trust.json", ROOT / "benchmarks" / "erasure.json"
PAGES = (ROOT / "docs" / "trust.md", ROOT / "docs" / "privacy.md")
PARTS = ("conditions", "fairface", "leakage", "london")  # the longest first
FOLDS = 10
NAMES = {"mtcnn": "MTCNN", "yunet": "YuNet"}

Row = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("measure")
    command.add_argument("data", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--peers", type=Path)
    command.add_argument("--cache", type=Path)
    command.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="the others stay as OUT/trust.json has them"
    )
    command.set_defaults(
        run=lambda options: measure(options.data, options.out, options.peers, options.cache, options.only)
    )
    command = commands.add_parser("pages")
    command.add_argument("record", type=Path, nargs="?", default=RECORD)
    command.set_defaults(run=lambda options: write_pages(read_record(options.record)))
    options = parser.parse_args()
    options.run(options)


def measure(data: Path, out: Path, peers: Path | None, cache: Path | None, only: Sequence[str]) -> None:
    """Every part in a process of one thread, two at a time; the record is written after each."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / RECORD.name
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"seconds": {}}
    cores = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes below
    start = time.perf_counter()
    with ProcessPoolExecutor(min(2, cores), mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(measured, name, data, out, peers, cache): name for name in PARTS if name in only}
        for future in as_completed(futures):
            name = futures[future]
            record[name], record["seconds"][name] = future.result()
            record["seconds"]["all"] = round(time.perf_counter() - start)
            record["machine"] = f"{platform.machine()}, {cores} cores"
            record["date"] = time.strftime("%Y-%m-%d")
            file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(name, record["seconds"][name], "s", flush=True)
    print("all", record["seconds"]["all"], "s")
    if "leakage" in record:
        draw_leakage(record["leakage"], out / "leakage.png")


def measured(part: str, data: Path, out: Path, peers: Path | None, cache: Path | None) -> tuple[Row, int]:
    """The record of a part, and the seconds that it took."""
    start = time.perf_counter()
    classifier = ExpressionClassifier.from_pretrained(device="cpu")
    fairface, london = data / "fairface" / "attributes.csv", data / "london" / "people.csv"
    record: Row
    if part == "fairface":
        record = evaluate_groups(classifier, fairface, out / "fairface", detectors=["yunet"])
    elif part == "london":
        record = evaluate_groups(classifier, london, out / "london", detectors=["yunet"], folds=FOLDS)
    elif part == "conditions":
        record = evaluate_conditions(
            classifier, london, data / "rafdb", out / "conditions", pose_photos=fairface, cache=cache
        )
    else:
        encoders, detector = [classifier.extractor.encoder], classifier.extractor.detector
        record = leakage(encoders, data, detector, heads=[classifier.head], peers=peers)
    return record, round(time.perf_counter() - start)


def read_record(file: Path = RECORD) -> Row:
    """What `measure` stored, and what `benchmarks/erasure.py` stored beside it."""
    erasure = json.loads(ERASURE.read_text(encoding="utf-8"))
    return {**json.loads(file.read_text(encoding="utf-8")), "erasure": erasure}


def write_pages(record: Row) -> None:
    """Put the tables between their marks."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), record), encoding="utf-8")


def filled(text: str, record: Row) -> str:
    """The text with the table of each pair of marks, <!-- NAME --> and <!-- end -->, as the record gives it."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{TABLES[match[1]](record)}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def found(record: Row) -> str:
    """Faces found and landmark error in FairFace, of all and each group."""
    report = record["fairface"]
    names = list(report["detectors"])
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in report["detection"]:
        rows.setdefault(_place(row), []).append(row)
    lines = [
        [*place, group[0]["n"], *(_percent(row, "found") for row in group), *(_error(row) for row in group)]
        for place, group in rows.items()
    ]
    header = ["by", "group", "photos", *(f"{name} finds" for name in names), *(f"landmark error, {n}" for n in names)]
    return markdown_table(header, lines)


def fairface_gaps(record: Row) -> str:
    """The largest gaps of detection and landmarks, and those of rates that are larger than chance."""
    gaps = record["fairface"]["gaps"]
    shown = [gap for gap in gaps if gap["detector"] is not None or gap["p_holm"] < LEVEL]
    return _gaps(sorted(shown, key=lambda gap: (gap["detector"] is None, gap["p_holm"], gap["p"])))


def rates(record: Row) -> str:
    """How often each expression is predicted in FairFace."""
    rows = record["fairface"]["expressions"]
    classes = list(rows[0]["rates"])
    lines = [[*_place(row), row["n"], *(f"{100 * row['rates'][name]:.1f}" for name in classes)] for row in rows]
    return markdown_table(["by", "group", "faces", *classes], lines)


def london(record: Row) -> str:
    """Accuracy by group of the packaged head, and of a classifier that was trained on London's other people."""
    report = record["london"]
    own = {_place(row): row for row in report["folds"]["rows"]}
    lines = [
        [
            *(*_place(row), f"{row['people']}", _percent(row, "accuracy")),
            *(f"{100 * row['recall'][name]:.0f}" for name in report["folds"]["classes"]),
            *(f"{row['ece']:.2f}", _percent(own[_place(row)], "accuracy")),
        ]
        for row in report["expressions"]
    ]
    recalls = [f"recall of {name}" for name in report["folds"]["classes"]]
    return markdown_table(["by", "group", "people", "packaged head", *recalls, "ECE", "trained on London"], lines)


def london_gaps(record: Row) -> str:
    """The five with the smallest p."""
    return _gaps(sorted(record["london"]["gaps"], key=lambda gap: gap["p"])[:5])


def conditions(record: Row) -> str:
    """Found and read right on London, and the accuracy lost on RAF-DB."""
    photos, crops = record["conditions"]["photos"], record["conditions"]["crops"]
    lost = {(row["group"], row["severity"]): row for row in crops["conditions"]}
    lines = []
    for row in photos["conditions"]:
        detected = list(row["detectors"].values())
        crop = lost[row["group"], row["severity"]]
        low, high = crop["drop_accuracy_interval"]
        drop = f"{100 * crop['drop_accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(
            [
                *(row["group"], row["severity"], *(f"{100 * one['found']:.0f}" for one in detected)),
                *(_number(one["landmark_error"]) for one in detected),
                *(f"{100 * one['accuracy']:.0f}" for one in detected),
                f"{100 * crop['accuracy']:.1f}" if row["group"] == "clean" else drop,
            ]
        )
    names = [NAMES[name] for name in photos["conditions"][0]["detectors"]]
    header = [f"{figure}, {name}" for figure in ("found", "landmark error", "accuracy") for name in names]
    return markdown_table(["condition", "", *header, "RAF-DB: accuracy, then points lost"], lines)


def pose(record: Row) -> str:
    """Accuracy on RAF-DB by pose, and the share of one detector's faces in FairFace that the other finds."""
    poses = record["conditions"]["pose"]
    by_bin: dict[str, list[str]] = {}
    for rows in poses["crops"].values():
        for row in rows:
            by_bin.setdefault(row["bin"], []).append(f"{_percent(row, 'accuracy')}, n = {row['n']}")
    for part in poses["photos"]:
        for row in part["bins"]:
            by_bin[row["bin"]].append(f"{_percent(row, 'found')}, n = {row['n']}")
    header = [f"accuracy, landmarks of {NAMES[name]}" for name in poses["crops"]]
    header += [f"faces of {NAMES[part['by']]} that {NAMES[part['found_by']]} finds" for part in poses["photos"]]
    return markdown_table(["offset of the nose", *header], [[name, *cells] for name, cells in by_bin.items()])


def seconds(record: Row) -> str:
    """What the measurement took."""
    times = record["seconds"]
    return (
        markdown_table(["part", "seconds"], sorted(times.items(), key=lambda item: item[0] == "all"))
        + f"\n\n{record['machine']}, {record['date']}."
    )


def _gaps(gaps: Sequence[Row]) -> str:
    lines = [
        [
            gap_figure(gap),
            *(gap["column"], gap_side(gap, "low"), gap_side(gap, "high"), f"{gap['p']:.2g}", f"{gap['p_holm']:.2g}"),
        ]
        for gap in gaps
    ]
    return markdown_table(["figure", "by", "lowest", "highest", "p", "p, corrected"], lines)


def _place(row: Row) -> tuple[str, str]:
    return row["column"] or "", row["group"] or "all"


def _percent(row: Row, key: str) -> str:
    low, high = row[f"{key}_interval"]
    return f"{100 * row[key]:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _error(row: Row) -> str:
    return _number(row["error_mean"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _tables() -> Iterator[tuple[str, Callable[[Row], str]]]:
    for table in (found, fairface_gaps, rates, london, london_gaps, conditions, pose, seconds):
        yield table.__name__, table
    yield "identity", lambda record: identity_table(record["leakage"])
    yield "erasure", lambda record: erasure_table(record["erasure"]["maps"])
    yield "attributes", lambda record: attribute_table(record["leakage"])


TABLES = dict(_tables())

if __name__ == "__main__":
    main()
