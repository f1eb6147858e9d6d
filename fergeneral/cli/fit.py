"""`fergeneral fit`: from a folder of labelled photos to a head."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from fergeneral.cli import (
    _add_detector_option,
    _add_json_option,
    _add_model_options,
    _add_overwrite_option,
    _load,
    _usage,
)
from fergeneral.console import printable, say
from fergeneral.errors import DataError

DESCRIPTION = (
    "Learn expressions of your own from labelled photos, from one of each up, and write a head for fergeneral predict "
    "--head. Prints how good it is on faces that were held out. A photo without a face, or that cannot be read, is "
    "left out and named; the exit status is 1 where one could not be read."
)


def add_fit_parser(commands: Any) -> None:
    """Add the command to the subparsers of `fergeneral`."""
    fit = commands.add_parser("fit", help="learn expressions of your own from photos", description=DESCRIPTION)
    fit.add_argument(
        "data",
        metavar="DATA",
        help="folder LABEL/PHOTO, or a manifest (.csv) with the columns path and label and, if wanted, subject (the "
        "person; nobody is then held out and learnt from at once)",
    )
    fit.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the head")
    kind = fit.add_mutually_exclusive_group()
    kind.add_argument("--photos", action="store_true", help="of each photo, the largest face counts (the default)")
    kind.add_argument("--crops", action="store_true", help="the images are face crops already")
    fit.add_argument("--name", help="what the head is called (default: the folder's name)")
    fit.add_argument(
        "--method",
        choices=("auto", "logistic", "mean"),
        default="auto",
        help="auto (the default) is logistic regression where every class has ten faces or more, else the nearest mean",
    )
    _add_json_option(fit, "print the report as one JSON object")
    _add_overwrite_option(fit)
    _add_detector_option(fit)
    _add_model_options(fit)
    fit.set_defaults(run=_fit)


def _fit(options: argparse.Namespace) -> int:
    """Check, fit, write, print."""
    with _usage():
        _check(options)
    from fergeneral.classifier import ExpressionClassifier

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        classifier = ExpressionClassifier.fit(
            options.data,
            encoder=_load(options, options.detector),
            method=options.method,
            aligned=options.crops,
            name=options.name or Path(os.path.abspath(options.output)).name,
        )
    for warning in caught:
        say(f"warning: {warning.message}")
    report = classifier.report
    assert report is not None
    classifier.save_pretrained(options.output)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join(printable(line, sys.stdout) for line in str(report).splitlines()))
    say(f"the head is in {options.output}: fergeneral predict PHOTOS --head {options.output}")
    return 1 if report.unreadable else 0


def _check(options: argparse.Namespace) -> None:
    """Refuse data that are not there, and an output that they are in or that holds anything but a head."""
    from fergeneral.heads.head import HEAD_CONFIG_FILE, HEAD_FILE
    from fergeneral.hub import CARD_FILE
    from fergeneral.outputs import check_apart, check_folder, check_no_input_in
    from fergeneral.sources import check_paths

    check_paths([options.data])
    folder = Path(options.output)
    check_folder(folder)
    check_apart(folder, [options.data], recursive=True)
    check_no_input_in(folder, [options.data])
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    others = [name for name in there if name not in (HEAD_FILE, HEAD_CONFIG_FILE, CARD_FILE)]
    if others or (there and HEAD_CONFIG_FILE not in there):
        raise DataError(f"{folder} holds {(others or there)[0]}, which is no part of a head: name another folder")
    if there and not options.overwrite:
        raise DataError(f"{folder} holds a head already: add --overwrite to replace it, or name another folder")
