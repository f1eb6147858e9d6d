"""`fergeneral completion`: a script that lets a shell complete the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from fergeneral.errors import MissingExtraError
from fergeneral.storage import weights_folder

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FILES = {"DATA", "FILE", "FILE|DIR/", "PATH", "PHOTO", "TABLE"}  # what the help calls them; folders complete, too
_FOLDERS = {"DIR", "FOLDER"}


def add_parser(commands: Any) -> None:
    """Add the command to those of `fergeneral`."""
    parser = commands.add_parser(
        "completion", help="print a script for completion by a shell", description=_run.__doc__
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell to print it for")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Print a script that makes a shell complete commands, options, files, folders, and the names of the packaged
    encoders and heads. Needs the extra completion. Save it where the shell looks for such scripts, and print it again
    after an upgrade."""
    from fergeneral.cli import _parser

    print(completion_script(_parser(), options.shell))
    return 0


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Write the completion script of a parser and its subcommands.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Gets attributes that shtab reads; use it for nothing else.
    shell : str
        One of `SHELLS`.

    Returns
    -------
    str
        The script, in the shell's language.

    Raises
    ------
    MissingExtraError
        If shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise MissingExtraError("fergeneral completion", "shtab", "completion") from None

    encoders, heads = packaged_names()
    names = {"model": encoders, "against": encoders, "head": heads, "terms": [*encoders, *heads]}
    for action in _actions(parser):
        if action.dest in names:
            action.complete = _names_or_folders(action.dest, names[action.dest])  # type: ignore[attr-defined]
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def packaged_names() -> tuple[list[str], list[str]]:
    """Names of the packaged encoders and heads, in alphabetical order.

    Returns
    -------
    tuple of two lists of str
        By the names of the folders: `list_models` and `list_heads`, which read what is in them, load torch.
    """
    weights = weights_folder()
    if weights is None:
        return [], []
    encoders = sorted(file.parent.name for file in weights.glob("*/config.json"))
    return encoders, sorted({file.parent.name for file in weights.glob("heads/*/*/head.json")})


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of the parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _names_or_folders(kind: str, names: Sequence[str]) -> dict[str, Any]:
    """For shtab: a name or a folder. tcsh completes one or the other, here the names."""
    words = " ".join(names)
    function = f"_fergeneral_{kind}_or_dir"  # shtab's bash script marks results as paths by the "_dir" in it
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "tcsh": f"({words})",
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "{words}" -- "$1"\n  compgen -d -- "$1"\n}}',
            "zsh": f"{function}() {{\n  _alternative 'names:packaged:({words})' 'folders:folder:_files -/'\n}}",
            "fish": f"function {function}\n  printf '%s\\n' {words}\n"
            "  __fish_complete_directories (commandline -ct)\nend",
        },
    }
