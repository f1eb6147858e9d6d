"""Write the table of licences of what a plain `pip install .` brings with it, from what the packages state.

    pip install pip-licenses
    python scripts/licenses.py docs/licenses.md

To be run in an environment in which fergeneral is installed; pip-licenses may be in another one (--pip-licenses PATH).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

CUDA = ("nvidia-", "cuda-", "triton")  # torch's parts for NVIDIA's GPUs, which other builds of torch do not need
HEAD = """# Licences of the required dependencies

Written by `python scripts/licenses.py docs/licenses.md`, from what each package states of itself (`pip-licenses`): the
required dependencies of fergeneral and theirs, at the versions of one environment (Python {version}, {platform}). The
extras add more. None of these packages is part of fergeneral's wheel; `pip` fetches them.
Weights and pictures: [terms](terms.md).

| package | version | licence |
|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="Markdown file to write")
    parser.add_argument("--pip-licenses", default="pip-licenses", metavar="PATH", help="its command")
    options = parser.parse_args()
    command = [options.pip_licenses, "--python", sys.executable, "--with-system", "--from=mixed", "--format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = {normal(row["Name"]): row for row in json.loads(done.stdout)}
    names = required("fergeneral")
    lines = [
        f"| {found[name]['Name']} | {found[name]['Version']} | {found[name]['License'].replace('; ', ', ')} |"
        for name in sorted(names)
        if not name.startswith(CUDA)
    ]
    cuda = sorted(name for name in names if name.startswith(CUDA))
    python = ".".join(map(str, sys.version_info[:2]))
    text = HEAD.format(version=python, platform=sys.platform) + "\n".join(lines) + "\n"
    if cuda:
        stated = defaultdict(list)
        for name in cuda:
            stated[found[name]["License"].replace("UNKNOWN", "no licence stated")].append(name)
        groups = "\n".join(f"- {license}: {', '.join(of_it)}" for license, of_it in sorted(stated.items()))
        text += f"\nOn Linux, PyPI's torch also brings these {len(cuda)} packages for NVIDIA's GPUs:\n\n{groups}\n"
    options.out.write_text(text, encoding="utf-8")


def required(root: str) -> set[str]:
    """What a distribution needs without its extras, and what that needs, and so on."""
    names: set[str] = set()
    waiting = [(root, frozenset[str]())]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            entries = distribution(name).requires or []
        except PackageNotFoundError:  # not installed here, for instance because of a newer version's needs
            continue
        names.add(normal(name))
        for requirement in map(Requirement, entries):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                further = (normal(requirement.name), frozenset(requirement.extras))
                if further not in seen:
                    seen.add(further)
                    waiting.append(further)
    return names - {root}


def normal(name: str) -> str:
    """By the rule of the package registries (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
