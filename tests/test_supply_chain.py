"""docs/supply-chain.md against the code, and the list of known vulnerabilities in .ci."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import facenet_pytorch
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import fergeneral
from fergeneral import hub, yunet
from fergeneral.heads import head

ROOT = Path(__file__).parent.parent
PACKAGE = Path(fergeneral.__file__).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENT = (ROOT / "docs" / "supply-chain.md").read_text()
DOWNLOADS = [line for line in DOCUMENT.splitlines() if line.startswith("| ") and line.count("|") == 6][1:]

# What reaches the network, by the names under which it is imported.
NETWORK = {"aiohttp", "ftplib", "fsspec", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket", "ssl"}
NETWORK |= {"urllib.request", "urllib3", "xmlrpc"}


def row(start: str) -> str:
    (found,) = [line for line in DOWNLOADS if line.startswith(f"| {start}")]
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def network_imports(source: str) -> set[str]:
    """What of NETWORK a module's source imports: packages, and NAME for `from huggingface_hub... import NAME`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if any(name == package or name.startswith(f"{package}.") for package in NETWORK):
                found.add(name)
    return found


def test_the_table_has_the_hashes_of_the_code_and_of_the_files(yunet_model: Path) -> None:
    assert row("YuNet").count(yunet.MODEL_SHA256) == 1
    assert yunet.MODEL_FILE in row("YuNet")
    assert sha256(yunet_model) == yunet.MODEL_SHA256
    assert f"in facenet-pytorch {version('facenet-pytorch')}:" in DOCUMENT
    data = Path(facenet_pytorch.__file__).parent / "data"
    for name in ("pnet.pt", "rnet.pt", "onet.pt"):
        assert name in row("MTCNN")
        assert f"| `{name}` | `{sha256(data / name)}` |" in DOCUMENT


def test_the_table_names_the_files_that_are_fetched() -> None:
    for name in (hub.CONFIG_FILE, hub.WEIGHTS_FILE, hub.INT8_FILE):
        assert f"`{name}`" in row("an encoder of the Hub")
    for name in (head.HEAD_CONFIG_FILE, head.HEAD_FILE):
        assert f"`{name}`" in row("a head of the Hub")
    for name in (hub.CONFIG_FILE, head.HEAD_CONFIG_FILE):
        assert f"`{name}`" in row("packaged encoders and heads")


def test_the_table_names_places_that_there_are() -> None:
    assert len(DOWNLOADS) == 9
    for line in DOWNLOADS:
        places = re.findall(r"`([^`]+)`", line.split("|")[5])
        assert places
        for place in places:
            assert (ROOT / place).is_file(), place


def test_no_other_module_reaches_the_network() -> None:
    """Only hub.py downloads and uploads. Beside it: the records of a model card, whether a Ray cluster answers
    (distributed.py), this machine's name (jobs.py), and the demo, which listens and calls nobody (demo/app.py)."""
    seen = {
        str(path.relative_to(PACKAGE)): found
        for path in PACKAGE.rglob("*.py")
        if (found := network_imports(path.read_text(encoding="utf-8")))
    }
    assert "huggingface_hub.hf_hub_download" in seen.pop("hub.py")
    card = {"huggingface_hub", "huggingface_hub.ModelCardData"}
    assert seen.pop("card.py") == card | {"huggingface_hub.EvalResult"}
    assert seen.pop(str(Path("heads", "card.py"))) == card
    demo = str(Path("demo", "app.py"))
    assert seen == {"distributed.py": {"socket"}, "jobs.py": {"socket"}, demo: {"socket"}}
    assert ".connect(" not in (PACKAGE / demo).read_text()
    assert set(re.findall(r"socket\.(\w+)", (PACKAGE / "jobs.py").read_text())) == {"gethostname"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import urllib.request", {"urllib.request"}),
        ("def f():\n    from urllib.request import urlopen", {"urllib.request", "urllib.request.urlopen"}),
        ("from urllib import request", {"urllib.request"}),
        ("import requests.sessions as s", {"requests.sessions"}),
        ("from urllib.parse import quote\nfrom .http import x", set()),
    ],
)
def test_network_imports_are_seen(source: str, found: set[str]) -> None:
    assert network_imports(source) == found


def test_what_builds_a_release_is_pinned() -> None:
    (requirement,) = PYPROJECT["build-system"]["requires"]
    assert re.fullmatch(r"hatchling==\d+\.\d+\.\d+", requirement)


# The list of known vulnerabilities


@pytest.fixture(scope="module")
def known_bad() -> ModuleType:
    spec = importlib.util.spec_from_file_location("known_bad", ROOT / ".ci" / "known_bad.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["known_bad"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_carried_list_can_be_read(known_bad: ModuleType) -> None:
    date, entries = known_bad.read_list()
    assert date.year >= 2026
    ids = [name for entry in entries for name in entry.ids]
    assert len(ids) == len(set(ids)) > 20
    assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}|PYSEC-\d{4}-\d+|GHSA(-[0-9a-z]{4}){3}", name) for name in ids)
    assert all(entry.reason for entry in entries)


def test_versions_are_read_from_what_uv_and_pip_write(known_bad: ModuleType) -> None:
    text = (
        "--index-url https://example.org/simple\n# a comment\nTorch==2.6.0+cpu\n    # via x\n"
        "huggingface_hub==0.26.0 ; sys_platform == 'linux'\n-e git+https://example.org/a#egg=a\n"
        "fergeneral @ file:///work\nnumpy>=1.26\npillow==13.0.0 \\\n    --hash=sha256:00\nray==2.58.0  # via y\n"
    )
    versions = {name: str(found) for name, found in known_bad.read_versions(text).items()}
    assert versions == {"torch": "2.6.0+cpu", "huggingface-hub": "0.26.0", "pillow": "13.0.0", "ray": "2.58.0"}


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ("pillow==12.2.0", {"PYSEC-2026-2253"}),
        ("pillow==12.3.0", set()),  # explained
        ("Pillow==13.0.0", set()),
        ("torch==2.5.1+cpu", {"CVE-2025-32434"}),
        ("onnx==1.20.1", {"CVE-2026-27489", "CVE-2026-34445", "CVE-2026-34446", "CVE-2026-34447"}),
        ("onnx==1.21.0", set()),
        ("pyarrow==14.0.0", {"CVE-2023-47248"}),
    ],
)
def test_a_version_in_a_known_bad_range_is_found(known_bad: ModuleType, line: str, ids: set[str]) -> None:
    _, entries = known_bad.read_list()
    found = known_bad.find_known_bad(known_bad.read_versions(line), entries)
    assert {name for entry in found if not entry.explained for name in entry.ids} == ids


def test_a_range_without_bounds_and_a_prerelease(known_bad: ModuleType) -> None:
    entries = [
        known_bad.KnownBad("ray", SpecifierSet(""), ("a",), "", ""),
        known_bad.KnownBad("onnx", SpecifierSet("<1.21"), ("b",), "", ""),
    ]
    versions = {"ray": Version("99.0rc1"), "onnx": Version("1.20.0rc1"), "numpy": Version("1.0")}
    assert known_bad.find_known_bad(versions, entries) == entries


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("pillow==13.0.0\nnumpy==2.0.0\n", 0, "2 packages looked up, 0 in a known-bad range, 0 explained"),
        ("pillow==12.2.0\n", 1, "KNOWN BAD: pillow 12.2.0: PYSEC-2026-2253"),
        ("ray==2.60.0\n", 0, "explained: ray 2.60.0: CVE-2023-48022"),
        ("# nothing\n", 1, "AUDIT NOT MADE"),
    ],
)
def test_the_program_says_what_it_is_and_fails_on_a_planted_version(
    tmp_path: Path, text: str, status: int, said: str
) -> None:
    file = tmp_path / "versions.txt"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "known_bad.py", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert said in done.stdout
    assert ("AUDIT BY THE CARRIED LIST ALONE, of 20" in done.stdout) == ("NOT MADE" not in done.stdout)


def test_the_explained_ids_are_given_to_pip_audit(known_bad: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert known_bad.main(["--explained"]) == 0
    printed = capsys.readouterr().out.split()
    assert {"CVE-2026-24747", "CVE-2023-48022"} <= set(printed)
    assert "CVE-2025-32434" not in printed
    assert "known_bad.py --explained" in (ROOT / ".ci" / "audit").read_text()


def test_the_lower_bounds_leave_out_what_is_known_bad(known_bad: ModuleType) -> None:
    """Without a network: the lowest version that pyproject.toml allows of each direct dependency."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    lowest: dict[str, Version] = {}
    for requirement in map(Requirement, lines):
        bounds = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
        if bounds:
            lowest[known_bad.canonicalize_name(requirement.name)] = bounds[0]
    assert {"torch", "pillow", "onnx", "ray", "pyarrow"} <= set(lowest)
    _, entries = known_bad.read_list()
    assert [entry for entry in known_bad.find_known_bad(lowest, entries) if not entry.explained] == []
