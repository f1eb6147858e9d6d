"""`fergeneral completion`: its scripts in the shells themselves, which are asked what they would offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from conftest import PHOTOS

from fergeneral import list_models
from fergeneral.cli import main
from fergeneral.cli.completion import SHELLS, packaged_names
from fergeneral.heads import list_heads

ASK_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
read -r _ _ _ _ function _ < <(complete -p fergeneral)
"$function" fergeneral "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos in a folder, beside the scripts."""
    shutil.copytree(PHOTOS, tmp_path / "photos")
    return tmp_path


@pytest.fixture
def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", shell]) == 0
    path = folder / f"script.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def offers(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    command = ["bash", "--norc", "-c", ASK_BASH, "bash", str(script), "fergeneral", *words]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=60)
    # compopt can only be told apart while a person completes; the script does without
    assert [line for line in done.stderr.splitlines() if "compopt" not in line] == []
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash"])
def test_bash_offers_commands_options_names_and_files(script: Path) -> None:
    assert {"extract", "predict", "video", "fit", "similar", "completion"} <= set(offers(script, ""))
    assert offers(script, "pre") == ["predict"]
    assert offers(script, "predict", "--min") == ["--min-face-size", "--min-confidence"]
    assert offers(script, "predict", "--detector", "") == ["mtcnn", "yunet"]
    assert offers(script, "completion", "") == list(SHELLS)
    assert offers(script, "predict", "--model", "general") == [
        "general-r18-cycle",
        "general-r18-cycle-int8",
    ]
    assert set(offers(script, "predict", "--model", "")) == {*list_models(), "photos"}  # or a folder of weights
    assert offers(script, "video", "--head", "expr") == ["expressions-7", "expressions-8"]
    assert offers(script, "evaluate", "--head", "ph") == ["photos"]
    assert offers(script, "predict", "photos/as") == ["photos/astronaut.png"]
    assert offers(script, "predict", "photos/chelsea.png", "photos/as") == ["photos/astronaut.png"]
    assert offers(script, "extract", "photos", "-o", "s") == ["script.bash"]
    assert offers(script, "extract", "--draw", "s") == []  # only folders
    assert offers(script, "extract", "--draw", "p") == ["photos"]


def test_the_names_are_those_of_the_package() -> None:
    encoders, heads = packaged_names()
    assert encoders == sorted(list_models())
    assert heads == sorted({head for encoder in encoders for head in list_heads(encoder)})


def test_the_script_is_printed_without_torch() -> None:
    code = "import sys; from fergeneral.cli import main; main(['completion', 'bash']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False"


def test_without_shtab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pip install 'fergeneral[completion]'" in printed.err


@pytest.mark.show
@pytest.mark.parametrize("shell", ["zsh"])
def test_zsh_offers_commands_names_and_files(script: Path) -> None:
    """On a terminal, with the tab key."""
    subprocess.run(["zsh", "-n", str(script)], check=True, timeout=60)
    zsh = pexpect.spawn("zsh", ["-f", "-i"], cwd=str(script.parent), env={**os.environ, "TERM": "dumb"}, timeout=120)
    zsh.sendline(f'PS1="ready"">"; autoload -Uz compinit; compinit -D -u; eval "$(<{script})"')
    for typed, completed in (
        ("fergeneral pre", "predict "),
        ("fergeneral predict --detector yu", "yunet "),
        ("fergeneral predict --model crs", "crs-cont-cpu "),
        ("fergeneral predict --model ph", "photos/"),
        ("fergeneral predict photos/as", "photos/astronaut.png "),
    ):
        zsh.expect_exact("ready>")
        zsh.send(f"{typed}\t")
        zsh.expect_exact(completed.removeprefix(typed.split()[-1]))
        zsh.sendcontrol("c")
    zsh.close(force=True)


@pytest.mark.show
@pytest.mark.parametrize("shell", ["fish"])
def test_fish_offers_commands_names_and_files(script: Path) -> None:
    for line, wanted in (
        ("fergeneral pre", {"predict"}),
        ("fergeneral predict --detector ", {"mtcnn", "yunet"}),
        ("fergeneral predict --model general", {"general-r18-cycle", "general-r18-cycle-int8"}),
        ("fergeneral predict photos/as", {"photos/astronaut.png"}),
    ):
        command = ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(script), line]
        done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=60, check=True)
        assert wanted <= {offer.partition("\t")[0] for offer in done.stdout.splitlines()}, (line, done)


@pytest.mark.show
@pytest.mark.parametrize("shell", ["tcsh"])
def test_tcsh_reads_the_script(script: Path) -> None:
    command = ["tcsh", "-f", "-c", f"source {script}; complete fergeneral"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "(extract predict video probe fit" in done.stdout
    assert "'n/--model/(crs-cont-cpu general-r18-cycle general-r18-cycle-int8)/'" in done.stdout
