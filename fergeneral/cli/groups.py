"""`fergeneral evaluate --groups`: its options, and the call."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fergeneral.console import say
from fergeneral.errors import DataError

if TYPE_CHECKING:
    from fergeneral.classifier import ExpressionClassifier


def add_group_options(parser: argparse.ArgumentParser) -> None:
    """To the parser of `evaluate`."""
    group = parser.add_argument_group("by group, on photos of people of your own")
    group.add_argument(
        "--groups",
        metavar="FILE",
        help="table (.csv) of photos: path and columns of groups such as age; label and subject if known",
    )
    group.add_argument(
        "--columns", metavar="NAMES", help="with --groups: the columns of groups that are wanted, with commas between"
    )
    group.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="N",
        help="with --groups: also cross-validate a classifier of these photos' own, in N folds of people (10, say)",
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuse what does not go together."""
    if options.groups is None:
        if options.columns or options.folds:
            raise DataError("--columns and --folds go with --groups")
        return
    if options.data or options.photos or options.against or options.peers or options.no_robustness or options.cache:
        raise DataError(
            "--groups takes its photos from the table: DATA, --photos, --against, --peers, --no-robustness and --cache "
            "do not go with it"
        )
    if options.folds < 0 or options.folds == 1:
        raise DataError(f"--folds must be 2 or more, got {options.folds}")
    if options.second_detector == options.detector:
        raise DataError(f"--detector and --second-detector are both {options.detector}: name two")


def evaluate(options: argparse.Namespace, classifier: ExpressionClassifier) -> int:
    """Measure by group, print a short table; 1 where photos could not be read."""
    from fergeneral.detection import make_detector
    from fergeneral.evaluate.group_tables import gaps_text, groups_table
    from fergeneral.evaluate.groups import GROUPS_MARKDOWN_FILE, evaluate_groups

    second, size = options.second_detector, options.min_face_size
    report = evaluate_groups(
        classifier,
        options.groups,
        options.output,
        groups=[] if options.columns is None else [name.strip() for name in options.columns.split(",")],
        detectors=[make_detector(second, min_face_size=size)] if second else (),
        folds=options.folds,
    )
    print(groups_table(report))
    print(gaps_text(report))
    for label, count in report["left_out"].items():
        say(f"left out of accuracy: {count} photos labelled {label!r}, which is no class of {report['head']['name']}")
    unreadable = report["table"]["unreadable"]
    for photo in unreadable:
        say(f"skipped: {photo['path']}: {photo['error']}")
    say(f"the report is in {Path(options.output) / GROUPS_MARKDOWN_FILE}")
    return 1 if unreadable else 0
