"""`fergeneral similar`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fergeneral import cli
from fergeneral.console import printable, say
from fergeneral.errors import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg")


def add_parser(commands: Any) -> None:
    """Add the command to those of `fergeneral`."""
    parser = commands.add_parser("similar", help="find the faces of a table most like one", description=_run.__doc__)
    parser.add_argument("query", metavar="PHOTO", help="its largest face is looked for")
    parser.add_argument("table", metavar="TABLE", help="folder or table that fergeneral extract -o has written")
    parser.add_argument("-k", type=cli._positive, default=10, metavar="N", help="how many faces (default 10)")
    parser.add_argument("--sheet", metavar="FILE", help="picture to write: the faces side by side (.png or .jpg)")
    cli._add_json_option(parser, "print one JSON object for each face on a line of its own")
    cli._add_overwrite_option(parser)
    cli._add_detector_option(parser)
    cli._add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Find the faces of a table whose embeddings have the highest cosine similarity to that of the largest face in a
    photo, and print them, the most similar first. All are compared. The table must be of the same weights. Similar are
    expressions above all, and to some extent pose, lighting and persons. A photo that is in the table finds itself."""
    from fergeneral.outputs import check_file

    with cli._usage():
        cli._check_inputs(options.query, options.table)
        if options.sheet:
            if Path(options.sheet).suffix.lower() not in _SUFFIXES:
                raise DataError(f"--sheet {options.sheet} must end in one of {', '.join(_SUFFIXES)}")
            check_file(Path(options.sheet), [options.query, options.table], overwrite=options.overwrite)
    from fergeneral.similar import contact_sheet, find_similar, query_face

    extractor = cli._load(options, options.detector)
    face = query_face(options.query, extractor)
    neighbours = find_similar(face, options.table, options.k)
    if options.sheet:  # their photos are read, too
        check_file(Path(options.sheet), [neighbour.path for neighbour in neighbours], overwrite=options.overwrite)
    if options.json:
        for similarity, path, number, found in neighbours:
            row = {"similarity": similarity, "path": path, "face": number, **found.to_dict(embedding=False)}
            print(json.dumps(row, allow_nan=False))
    else:
        print(f"{'similarity':>10} {'face':>4}  photo")
        for similarity, path, number, _ in neighbours:
            print(f"{similarity:>10.4f} {number:>4}  {printable(path, sys.stdout)}")
    if options.sheet:
        cli._save(contact_sheet(neighbours, (options.query, face)), Path(options.sheet))
        say(f"{options.sheet} written")
    return 0
