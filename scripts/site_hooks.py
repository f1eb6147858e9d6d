"""What `mkdocs build` adds to docs/ (mkdocs.yml names this file).

- Files elsewhere in the repository that a page links to, such as cards of models and the changelog, become part of the
  site, under repository/. The pages of docs/ keep the links that work in the repository.
- notebooks/: a page of each notebook of examples/notebooks, with its stored outputs.
- reference/command-line.md: the help of every command.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = ROOT / "examples" / "notebooks"
LINK = re.compile(r"""(\]\(|src=["'])([^)"'#\s]+)""")
START = ("CHANGELOG.md", "SECURITY.md", "benchmarks/README.md", "weights/README.md")  # that the navigation names


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to, and those that these link to."""
    for file in notebook_files(config):
        files.append(file)
    pending = [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    pending += [ROOT / name for name in START]
    for name in START:
        files.append(_added(ROOT / name, config))
    while pending:
        for target in _targets(pending.pop()):
            if not target.is_relative_to(DOCS) and files.get_file_from_path(_uri(target)) is None:
                files.append(_added(target, config))
                pending.append(target)
    files.append(File.generated(config, "reference/command-line.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite links into and out of docs/ to where the files are in the site."""
    if page.file.abs_src_path is None:
        return markdown
    source = Path(page.file.abs_src_path)

    def moved(match: re.Match[str]) -> str:
        target = _resolved(source, match[2])
        if target is None:
            return match[0]
        return match[1] + posixpath.relpath(_uri(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def _targets(page: Path) -> Iterator[Path]:
    """The files that a Markdown file links to."""
    if page.suffix == ".md":
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            target = _resolved(page, match[2])
            if target is not None:
                yield target


def _resolved(page: Path, link: str) -> Path | None:
    """The file of this repository that a relative link leads to."""
    target = Path(os.path.normpath(page.parent / link))
    return target if "://" not in link and target.is_relative_to(ROOT) and target.is_file() else None


def _uri(target: Path) -> str:
    """Where a file of the repository is in the site's sources."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    if target.parent == NOTEBOOKS and target.suffix == ".ipynb":
        return f"notebooks/{target.stem}.md"
    name = target.relative_to(ROOT).as_posix().lstrip(".").replace("/README.md", ".md")  # else it is a folder's index
    return f"repository/{name}" if target.suffix else f"repository/{name}.txt"


def _added(target: Path, config: MkDocsConfig) -> File:
    return File.generated(config, _uri(target), abs_src_path=str(target), inclusion=InclusionLevel.NOT_IN_NAV)


def notebook_files(config: MkDocsConfig) -> Iterator[File]:
    """A page of each notebook, with its stored outputs, and its pictures."""
    from nbconvert import MarkdownExporter

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(path), {"unique_key": path.stem})
        text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text).replace("](../../docs/", "](../")
        text = text.replace(' border="1" class="dataframe"', "")  # tables then look as the theme's
        yield File.generated(config, f"notebooks/{path.stem}.md", content=text)
        for name, data in resources["outputs"].items():
            yield File.generated(config, f"notebooks/{name}", content=data)


def command_line() -> str:
    """The reference of the command line, from its parser."""
    from fergeneral.cli import _parser

    parser = _parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parts = [
        "# Command line, every option",
        "As `fergeneral COMMAND --help` prints it. In short, with examples: [the command line](../command-line.md).",
    ]
    for name, command in commands.choices.items():
        parts += [f"## fergeneral {name}", _plain(command.description or ""), _usage(command)]
        for group in command._action_groups:
            shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            options = [_option(action, command) for action in shown if action.dest != "help"]
            if options:
                parts += [f"**{_plain((group.title or '').capitalize())}**", *options]
    return "\n\n".join(parts) + "\n"


def _usage(command: argparse.ArgumentParser) -> str:
    lines = command.format_usage().removeprefix("usage: ").splitlines()
    return (
        "```text\n"
        + "\n".join(line.strip() if not number else "    " + line.strip() for number, line in enumerate(lines))
        + "\n```"
    )


def _option(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    """A row of a definition list."""
    formatter = command._get_formatter()
    names = formatter._format_action_invocation(action)
    text = formatter._expand_help(action) if action.help else ""
    return f"`{names}`\n:   {_plain(text) or '&nbsp;'}"


def _plain(text: str) -> str:
    """Text on one line in which Markdown finds nothing to format, but what stands between backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_\[\]<>#|])", r"\\\1", part) for part in parts)
