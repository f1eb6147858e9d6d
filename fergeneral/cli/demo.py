"""`fergeneral demo`."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from fergeneral import cli
from fergeneral.cli import predict


def add_parser(commands: Any) -> None:
    """Add the command to those of `fergeneral`."""
    parser = commands.add_parser("demo", help="try it in the browser", description=_run.__doc__)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, this machine alone; 0.0.0.0: everybody in the network can use it)",
    )
    parser.add_argument("--port", type=_port, default=7860, metavar="N", help="default 7860; 0 takes any free one")
    parser.add_argument(
        "--search",
        metavar="FOLDER",
        help="folder of photos, or of tables by fergeneral extract -o, in which visitors look for similar faces",
    )
    predict.add_head_options(parser)
    cli._add_detector_option(parser)
    cli._add_model_options(parser)
    parser.set_defaults(run=_run)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 65535, got {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    """Serve a page in the browser: expressions in a photo, expressions of your own from a few photos, similar faces,
    and videos. Everything is computed on this machine and nothing is stored. Prints the address; Ctrl-C ends it."""
    with cli._usage():
        cli._check_inputs(options.search)
        from fergeneral.demo.app import launch, listen

        listen(options.host, options.port).close()  # before the weights are loaded
    from fergeneral.demo.settings import DemoSettings

    classifier = predict.load_classifier(options)
    assert classifier is not None
    settings = DemoSettings(classifier=classifier, search=None if options.search is None else Path(options.search))
    launch(settings, host=options.host, port=options.port, announce=functools.partial(print, flush=True))
    return 0
