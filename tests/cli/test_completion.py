"""Scripts for shells: bash's is used, as by who presses Tab."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.main import main
from tests.support.guard import HANG_S

NAMES = ["qwen3:30b", "qwen3:8b", "my model", "$(touch ran)"]
# What bash does when Tab is pressed at the end of a line.
TAB = """
source "$SCRIPT"
COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}; COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_moe_proxy
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str) -> str:
    made = subprocess.run(
        (sys.executable, "-m", "proxy.cli.main", "completion", shell),
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )
    assert made.stderr == ""
    return made.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script, and a `moe-proxy` that knows these models."""
    folder = tmp_path_factory.mktemp("bash")
    (folder / "script").write_text(script("bash"))
    (folder / "names").write_text("".join(f"{name}\n" for name in NAMES))
    program = folder / "moe-proxy"
    program.write_text(f'#!/bin/sh\n[ "$*" = "models --names" ] && cat {folder}/names\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not there")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("moe-proxy unl", ["unload"]),
        ("moe-proxy serve --log-f", ["--log-format"]),
        ("moe-proxy serve --log-format ", ["console", "json"]),
        ("moe-proxy completion z", ["zsh"]),
        ("moe-proxy load qw", ["qwen3:30b", "qwen3:8b"]),
        ("moe-proxy load qwen3:3", ["30b"]),  # readline has what is before the colon
        ("moe-proxy stop my", ["my\\ model"]),
        ("moe-proxy plan '", []),
        ("moe-proxy load $", ["\\$\\(touch\\ ran\\)"]),
        ("moe-proxy rm qwen3:8b qwen3:3", ["30b"]),
    ],
)
def test_bash_completes(shell: Path, line: str, completed: list[str]) -> None:
    told = subprocess.run(
        ("bash", "--norc", "-c", TAB, "tab", line),
        cwd=shell,
        env=os.environ | {"PATH": f"{shell}:{os.environ['PATH']}", "SCRIPT": "script"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )

    assert told.stderr == ""
    assert sorted(filter(None, told.stdout.splitlines())) == completed
    assert not (shell / "ran").exists(), "a name is no command"


@pytest.mark.parametrize(("shell_name", "begins"), [("zsh", "#compdef moe-proxy"), ("fish", "")])
def test_others_have_theirs(shell_name: str, begins: str) -> None:
    """Read by the shell, where it is there."""
    made = script(shell_name)

    assert made.startswith(begins)
    assert "moe-proxy models --names" in made
    if program := shutil.which(shell_name):
        subprocess.run((program, "-n"), input=made, text=True, check=True, timeout=HANG_S)


def test_what_is_no_shell(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "csh"])

    assert "invalid choice: 'csh'" in capsys.readouterr().err
