"""Install what a how-to page needs and run the page: `python scripts/try_doors.py lancedb mteb label-studio`.

Each page gets a virtual environment that sees the packages of this one, so that torch is not installed again. Its
commands and its Python run in a folder with a copy of examples/, without network (by `unshare`, on Linux), and must
print what the page shows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDS = re.compile(r"<!-- needs: (.+) -->\n```python\n(.*?)```", re.DOTALL)
QUIET = {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false"}
TOKEN = "0" * 40  # of a server that is thrown away


def main() -> int:
    names = sys.argv[1:] or [
        page.stem for page in (ROOT / "docs/how-to").glob("*.md") if NEEDS.search(page.read_text())
    ]
    return max([try_page(name) for name in sorted(names)])


def try_page(name: str) -> int:
    """Run a page; 0 where it prints what it shows."""
    text = (ROOT / "docs" / "how-to" / f"{name}.md").read_text()
    needs, code = NEEDS.findall(text)[0]
    (shown,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = environment(folder / "venv", needs.split())
        shutil.copytree(ROOT / "examples", folder / "examples")
        for command in re.findall(r"^\$ fergeneral (.*)$", text, flags=re.MULTILINE):
            run(folder, [python, "-m", "fergeneral", *command.split()])
        printed = run(folder, [python, "-W", "ignore", "-c", code])
        same = printed == shown
        if name == "label-studio":
            same &= imported(folder) == len(json.loads((folder / "tasks.json").read_text()))
    print(f"{printed}{name}: {needs}: {'as' if same else 'NOT as'} the page shows")
    return 0 if same else 1


def environment(folder: Path, packages: list[str]) -> str:
    """Make a virtual environment that also sees this one's packages; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    there = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(there, "this.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    python = str(folder / "bin" / "python")
    alone = ["--ignore-installed", "--no-deps"]  # attrs must be beside the package attr, which has the same module
    subprocess.run([python, "-m", "pip", "install", "--quiet", packages[0]], check=True)
    if packages[1:]:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *alone, *packages[1:]], check=True)
    return python


def run(folder: Path, command: list[str]) -> str:
    variables = {**os.environ, **QUIET, "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    command = ["unshare", "--map-root-user", "--net", *command]
    return subprocess.run(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout


def imported(folder: Path) -> int:
    """Start a server of Label Studio, import tasks.json, and count the tasks whose predictions it took."""
    address = "http://127.0.0.1:8899"
    user = [
        "--username",
        "a@example.com",
        "--password",
        "for a minute",
        "--user-token",
        TOKEN,
        "--enable-legacy-api-token",
    ]
    command = [
        folder / "venv/bin/label-studio",
        "start",
        "--no-browser",
        "--port",
        "8899",
        "--data-dir",
        folder / "data",
    ]
    variables = {**os.environ, **QUIET, "HOME": str(folder)}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen([*command, *user], env=variables, stdout=log, stderr=log)

    def post(path: str, data: object) -> dict[str, int]:
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(address + path, json.dumps(data).encode(), headers)
        return json.load(urllib.request.urlopen(request))

    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(f"{address}/version").close()
                break
            except OSError:
                time.sleep(2)
        project = post("/api/projects", {"title": "faces", "label_config": (folder / "config.xml").read_text()})
        counts = post(f"/api/projects/{project['id']}/import", json.loads((folder / "tasks.json").read_text()))
        return counts["prediction_count"]
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
