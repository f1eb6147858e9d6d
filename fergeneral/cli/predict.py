"""Expressions on the command line: `fergeneral predict`, which is `extract` with a head, and the options of a head."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fergeneral.errors import DataError

if TYPE_CHECKING:
    from fergeneral.classifier import ExpressionClassifier

DESCRIPTION = (
    "Find every face in photos and name its expression, with the probability of each class, by a head on the "
    "embeddings. Does all that extract does; tables have the expressions as further columns. Without -o, a table of "
    "expressions is printed. Videos may be given instead of photos: fergeneral video --head has more options for them."
)
DEFAULT = ""  # as --head: the package's default head, whose name is known where torch is loaded
_OF_PHOTOS = ("draw", "save_crops", "list_empty", "column", "shard_rows", "resume", "extend", "retry_errors")


def add_head_options(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """`--head` and `--min-confidence`; where a head is `optional`, `--head` alone asks for the default one."""
    what = "head to use: packaged name, folder or Hub repository"
    if optional:
        parser.add_argument(
            "--head",
            nargs="?",
            const=DEFAULT,
            metavar="NAME",
            help=f"also name the expressions, after the paths: {what} (--head alone: expressions-8)",
        )
    else:
        parser.add_argument("--head", default=DEFAULT, metavar="NAME", help=f"{what} (default: expressions-8)")
    parser.add_argument(
        "--min-confidence",
        type=_probability,
        default=0.0,
        metavar="P",
        help="0..1: an expression of a lower probability is called uncertain (default: 0, none is)",
    )


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def head_name(options: argparse.Namespace) -> str | None:
    """Of the head that was asked for; None where there is to be none."""
    from fergeneral.heads.head import DEFAULT_HEAD

    return None if options.head is None else options.head or DEFAULT_HEAD


def load_classifier(options: argparse.Namespace) -> ExpressionClassifier | None:
    """The head that was asked for with its encoder; None where there is to be none."""
    if options.head is None:
        return None
    from fergeneral.classifier import ExpressionClassifier, load_model

    model = load_model(
        options.model,
        head_name(options),
        revision=options.revision,
        device=options.device,
        detector=options.detector,
        min_face_size=options.min_face_size,
        min_confidence=options.min_confidence,
    )
    assert isinstance(model, ExpressionClassifier)
    return model


def check_video_options(options: argparse.Namespace) -> None:
    """Refuse what `predict` can do with photos only; where an option needs a head, ask for the default one."""
    for name in _OF_PHOTOS:
        if getattr(options, name, None):
            raise DataError(f"--{name.replace('_', '-')} is for photos, and these are videos")
    if getattr(options, "engine", "local") != "local":
        raise DataError(f"--engine {options.engine} is for photos, and these are videos")
    if options.head is None and (options.plot is not None or options.min_confidence):
        options.head = DEFAULT
