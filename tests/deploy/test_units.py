"""The units that systemd is given, held against systemd's own tools, which need no running systemd,
and a real proxy within the filters that they put on it."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.service.units import SERVICE, SOCKET, TEMPLATES, unit
from tests.support import sandbox
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies
from tests.support.systemd import service

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAM = Path(sys.executable).with_name("moe-proxy")
analyzed = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="there is no systemd-analyze (apt install systemd)",
)
filtered = pytest.mark.skipif(
    not shutil.which("systemd-analyze") or platform.machine() != "x86_64",
    reason="it needs systemd-analyze (apt install systemd) and x86-64",
)
BOTH = pytest.mark.parametrize("name", [SERVICE, SOCKET])


def installed(folder: Path, *, user: bool) -> Path:
    """A folder with the units as they are installed from here."""
    for name in (SERVICE, SOCKET):
        (folder / name).write_text(unit(name, PROGRAM, user=user))
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A tool for files; of a user's manager it wants a folder that it could run in."""
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def score(said: subprocess.CompletedProcess[str]) -> float:
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", said.stdout)
    assert found, said.stderr
    return float(found[1])


def names_of(text: str) -> set[str]:
    """The directives that a unit sets."""
    return set(re.findall(r"^(\w+)=", text, re.MULTILINE))


# --- what systemd's tools say ---


@analyzed
@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
@BOTH
def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path: Path, name: str, user: bool) -> None:
    whose = ("--user",) if user else ()

    said = analyze(tmp_path, *whose, "verify", str(installed(tmp_path, user=user) / name))

    assert (said.returncode, said.stderr) == (0, "")


@analyzed
def test_systemd_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = installed(tmp_path, user=False) / SERVICE
    wrong.write_text(wrong.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))

    assert "ProtectClocks" in analyze(tmp_path, "verify", str(wrong)).stderr


@analyzed
@BOTH
def test_what_the_system_runs_is_exposed_by_less_than_two(tmp_path: Path, name: str) -> None:
    path = installed(tmp_path, user=False) / name

    said = analyze(tmp_path, "security", "--offline=true", "--threshold=20", str(path))

    assert said.returncode == 0, said.stdout
    assert score(said) < 2.0


@analyzed
def test_a_users_unit_has_the_score_that_it_names(tmp_path: Path) -> None:
    """Most of what the score counts is only for the system's manager; its comment says why."""
    path = installed(tmp_path, user=True) / SERVICE

    said = analyze(tmp_path, "--user", "security", "--offline=true", str(path))

    assert f"So its score is {score(said)}" in path.read_text()


# --- what llama.cpp and GPUs need ---


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_nothing_is_forbidden_that_gpus_need(user: bool) -> None:
    text = unit(SERVICE, PROGRAM, user=user)
    directives = names_of(text)

    # Kernels are compiled at run time; devices are files, owned by groups; /proc/meminfo is read.
    assert not directives & {"MemoryDenyWriteExecute", "PrivateDevices", "PrivateUsers"}
    assert not directives & {"ProcSubset", "PrivateNetwork", "IPAddressDeny", "SystemCallLog"}
    assert "LimitMEMLOCK=infinity" in text  # --mlock, and pinned memory of some drivers
    assert "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK" in text


def test_where_devices_are_closed_those_of_gpus_are_open() -> None:
    text = unit(SERVICE, PROGRAM, user=False)

    assert "DevicePolicy=closed" in text
    open_ones = re.findall(r"^DeviceAllow=(\S+) rw$", text, re.MULTILINE)
    assert set(open_ones) >= {"char-nvidia", "char-nvidia-uvm", "char-drm", "/dev/kfd"}
    assert re.search(r"^SupplementaryGroups=render video$", text, re.MULTILINE)


def test_a_user_unit_sets_nothing_that_only_the_system_can() -> None:
    """Their starts would fail, with an exit status that says little."""
    only_the_systems = re.compile(
        r"User|Group|SupplementaryGroups|DynamicUser|CapabilityBoundingSet|AmbientCapabilities"
        r"|Protect\w+|Private\w+|ReadWritePaths|Device\w+"
    )

    set_there = names_of(unit(SERVICE, PROGRAM, user=True))

    assert [name for name in set_there if only_the_systems.fullmatch(name)] == []


@filtered
@pytest.mark.llama
async def test_a_model_is_loaded_and_answers_within_the_filters(tmp_path: Path) -> None:
    """The units' system calls and address families, put on the proxy and so on its workers."""
    path = installed(tmp_path, user=False) / SERVICE
    file = tmp_path / "p.toml"
    file.write_text(policies({"m": {"path": model(layers=4), "ctx": 512}}))
    arguments = ("--port", "0", "--policies", str(file))
    within = (sys.executable, "-m", "tests.support.sandbox", str(path))
    body = {"model": "m", "prompt": "hi", "max_tokens": 4, "ignore_eos": True}

    async with service(tmp_path, *arguments, within=within) as proxy:
        url = (await proxy.until("serving"))["url"]
        timeout = aiohttp.ClientTimeout(HANG_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                assert (answer.status, (await answer.json())["usage"]["completion_tokens"]) == (
                    200,
                    4,
                )
        proxy.process.terminate()
        assert await proxy.ended() == 0


@filtered
@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ("import os; os.chown('.', -1, -1)", "Operation not permitted"),
        ("import socket; socket.socket(socket.AF_PACKET)", "not supported"),
        ("from socket import *; socket(), socket(AF_NETLINK, SOCK_RAW); print('fine')", "fine"),
    ],
)
def test_the_filters_are_in_force_there(tmp_path: Path, tried: str, said: str) -> None:
    path = installed(tmp_path, user=False) / SERVICE
    command = [sys.executable, "-m", "tests.support.sandbox", str(path), sys.executable, "-c"]

    done = subprocess.run([*command, tried], capture_output=True, text=True, check=False, cwd=ROOT)

    assert said in done.stdout + done.stderr


def test_what_a_process_confines_itself_by_is_allowed() -> None:
    """Some systemds have Landlock in no set of theirs."""
    for path in (DEPLOY / "moe-proxy.service", DEPLOY / "moe-proxy.user.service"):
        for value in sandbox.settings(path, "SystemCallFilter")[:1]:
            assert {"landlock_create_ruleset", "landlock_restrict_self", "seccomp"} <= {
                *value.split()
            }


# --- what is installed ---


def test_the_package_has_the_units_of_this_folder() -> None:
    ours = {path.name: path.read_text() for path in DEPLOY.glob("*.service")}
    ours |= {path.name: path.read_text() for path in DEPLOY.glob("*.socket")}

    assert {path.name: path.read_text() for path in TEMPLATES.iterdir()} == ours
    assert len(ours) == 4
