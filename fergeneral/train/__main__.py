"""python -m fergeneral.train: see `train` in loop.py."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import NoReturn

from fergeneral.errors import DataError, FergeneralError
from fergeneral.train.config import RECIPES, change_recipe, find_recipe
from fergeneral.train.loop import train


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train. Returns the exit code: 130 after Ctrl-C, 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m fergeneral.train",
        description="Pretrain an expression encoder (CRS-CONT).",
        epilog="exit status: 0 success; 1 training failed; 2 wrong usage; 130 interrupted by Ctrl-C",
    )
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", choices=RECIPES, help=f"one of: {', '.join(RECIPES)}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe, as in --set architecture=convnext_tiny --set crop_size=112 --set "
        "'stages=[[96, 0.5], [112, 0.5]]'; start_from names an encoder or a .safetensors file (may be repeated)",
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder that holds the recipe's data sets")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for checkpoint, logs and the encoder")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the best there is)")
    parser.add_argument("--minutes", type=_minutes, help="fit the whole schedule into this much training time")
    parser.add_argument("--stop-after", type=_minutes, metavar="MINUTES", help="end this call then, with a checkpoint")
    parser.add_argument(
        "--checkpoint-minutes",
        type=_minutes,
        default=2.0,
        metavar="MINUTES",
        help="how often one is written (default: 2)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in --out, if there is one; else start"
    )
    options = parser.parse_args(arguments)
    if not os.path.isdir(options.data):
        parser.error(f"argument --data: there is no folder {options.data}")
    try:
        recipe = change_recipe(find_recipe(options.recipe), options.set)
    except DataError as error:
        parser.error(f"argument --set: {error}")
    try:
        done = train(
            recipe,
            options.data,
            options.out,
            device=options.device,
            minutes=options.minutes,
            stop_after=options.stop_after,
            checkpoint_minutes=options.checkpoint_minutes,
            resume=options.resume,
        )
    except FergeneralError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    end = f"wrote the encoder to {done}"
    if done is None:
        end = f"stopped before the end; a checkpoint is in {options.out}: resume with --resume"
    if os.environ.get("RANK", "0") == "0":  # the first process under torchrun, or the only one
        print(end, file=sys.stderr)
    return 0 if done or options.stop_after else 130


def _minutes(text: str) -> float:
    """More than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a number more than 0, got {text!r}")
    return value


def _command() -> NoReturn:
    """Run `main` and end the process with its exit code."""
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    if code and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stderr.flush()
        os._exit(code)  # torchrun must see the end at once, and NCCL's own tidying up may wait for the others for ever
    sys.exit(code)


if __name__ == "__main__":
    _command()
