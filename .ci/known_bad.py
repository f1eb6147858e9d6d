"""Look up resolved versions in known_bad.toml, the list of known vulnerabilities that this repository carries.

    python .ci/known_bad.py VERSIONS.txt     # lists them; status 1 where one lies in a range that is not explained
    python .ci/known_bad.py --explained      # the ids that are explained, one a line

VERSIONS.txt has lines NAME==VERSION, as `uv pip compile` and `pip freeze` write them; other lines are left out.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
import tomllib
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

LIST = Path(__file__).with_name("known_bad.toml")


@dataclasses.dataclass(frozen=True)
class KnownBad:
    """Versions of a package with known vulnerabilities. `explained`: why they may be used nevertheless, or ""."""

    package: str
    versions: SpecifierSet
    ids: tuple[str, ...]
    reason: str
    explained: str


def read_list(path: Path = LIST) -> tuple[datetime.date, list[KnownBad]]:
    """The date of the list, and its entries."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = [
        KnownBad(
            canonicalize_name(entry["package"]),
            SpecifierSet(entry["versions"]),
            tuple(entry["ids"]),
            entry["reason"],
            entry.get("explained", ""),
        )
        for entry in content["known_bad"]
    ]
    return content["date"], entries


def read_versions(text: str) -> dict[str, Version]:
    """The version of each package in lines NAME==VERSION."""
    versions = {}
    for line in text.splitlines():
        try:
            requirement = Requirement(line.split(" #")[0].strip(" \\"))
        except InvalidRequirement:  # an option, a comment, an editable install
            continue
        pins = [pin for pin in requirement.specifier if pin.operator == "=="]
        if len(pins) == 1:
            versions[canonicalize_name(requirement.name)] = Version(pins[0].version)
    return versions


def find_known_bad(versions: dict[str, Version], entries: list[KnownBad]) -> list[KnownBad]:
    """The entries that hold a version of `versions`."""
    return [
        entry
        for entry in entries
        if entry.package in versions and entry.versions.contains(versions[entry.package], prereleases=True)
    ]


def main(arguments: list[str]) -> int:
    """Check the file named on the command line. Returns the exit status."""
    date, entries = read_list()
    if arguments == ["--explained"]:
        print("\n".join(name for entry in entries if entry.explained for name in entry.ids))
        return 0
    if len(arguments) != 1:
        print(__doc__)
        return 2
    versions = read_versions(Path(arguments[0]).read_text(encoding="utf-8"))
    if not versions:
        print(f"AUDIT NOT MADE: {arguments[0]} has no line NAME==VERSION")
        return 1
    print(f"AUDIT BY THE CARRIED LIST ALONE, of {date}: newer vulnerabilities are not known to it")
    print(", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    found = find_known_bad(versions, entries)
    for entry in found:
        kind = "explained" if entry.explained else "KNOWN BAD"
        print(f"{kind}: {entry.package} {versions[entry.package]}: {', '.join(entry.ids)}: {entry.reason}")
    bad = [entry for entry in found if not entry.explained]
    print(f"{len(versions)} packages looked up, {len(bad)} in a known-bad range, {len(found) - len(bad)} explained")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
