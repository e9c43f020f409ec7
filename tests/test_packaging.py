"""What the files around the package promise: pins, commands, units."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from functools import cache
from importlib.metadata import files, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][0-9a-z.+!]*)")
UNITS = sorted((ROOT / "deploy").glob("*.service"))


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(pins), "a line that is not name==version, such as an address or a range"
    return {pin[1]: pin[2] for pin in pins if pin}


def requirements() -> list[Requirement]:
    """Everything that pyproject.toml asks for on this machine."""
    texts = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
        *PROJECT["project"]["optional-dependencies"]["fuzz"],
        *PROJECT["build-system"]["requires"],
    ]
    parsed = [Requirement(text) for text in texts]
    return [one for one in parsed if one.marker is None or one.marker.evaluate()]


def unit(path: Path) -> RawConfigParser:
    # A key may come several times in a unit; here the last one is enough.
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return parser


def test_every_requirement_is_pinned_to_a_version_it_allows() -> None:
    pins = constraints()

    unmet = [
        str(one)
        for one in requirements()
        if pins.get(canonicalize_name(one.name), "") not in one.specifier
    ]

    assert unmet == []


def imported(*folders: str) -> set[str]:
    """The distributions whose modules the Python files of `folders` import, as pip names them."""
    statements = [
        node
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    names = {one.name for node in statements if isinstance(node, ast.Import) for one in node.names}
    names |= {
        f"{node.module or ''}.{one.name}"
        for node in statements
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    }
    whose = packages_distributions()
    return {
        canonicalize_name(owner)
        for name in names
        if name.partition(".")[0] != "proxy"
        for owner in owners(name, [*dict.fromkeys(whose.get(name.partition(".")[0], []))])
    }


@cache
def has(distribution: str) -> set[str]:
    """Its files."""
    return {str(file) for file in files(distribution) or ()}


def owners(name: str, several: list[str]) -> list[str]:
    """Of those that share the first part of a module's name, the one whose the module is."""
    if len(several) < 2:
        return several
    path = name.replace(".", "/")
    while "/" in path:
        at = {f"{path}.py", f"{path}/__init__.py"}
        if found := [one for one in several if at & has(one)]:
            return found
        path = path.rpartition("/")[0]
    return several


def test_the_package_imports_only_what_it_asks_for() -> None:
    asked = {canonicalize_name(Requirement(one).name) for one in PROJECT["project"]["dependencies"]}
    # Drawing a curve is an extra, and so are traces; who asks for them without is told.
    extras = PROJECT["project"]["optional-dependencies"]
    asked_for = (*extras["plot"], *extras["otel"])
    extra = {canonicalize_name(Requirement(one).name) for one in asked_for}
    # Ray is not to be had for every machine, so whose it is, is not known on every one.
    fleet = {canonicalize_name(Requirement(one).name) for one in extras["fleet"]}

    assert imported("proxy") - asked - fleet == extra


def test_tests_and_measurements_import_only_what_is_asked_for() -> None:
    asked = {canonicalize_name(one.name) for one in requirements()}

    # Where Ray is not, tests of a fleet are skipped.
    assert imported("tests", "bench", "deploy") - asked - {"ray", "grpcio"} == set()


def test_what_a_fleet_needs_is_pinned_too() -> None:
    needs = [Requirement(one) for one in PROJECT["project"]["optional-dependencies"]["fleet"]]

    assert all(constraints()[one.name] in one.specifier for one in needs)


def test_constraints_name_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text()

    assert not re.search(r"://|--|@|\.(com|org|net|io)\b", text)


def test_llama_cpp_python_is_pinned_where_it_is_asked_for() -> None:
    asked = next(one for one in requirements() if one.name == "llama-cpp-python")

    assert str(asked.specifier) == f"=={constraints()['llama-cpp-python']}"


def test_the_command_is_the_packages_own() -> None:
    assert PROJECT["project"]["scripts"] == {"moe-proxy": "proxy.cli.main:main"}


def test_ci_runs_the_tests_and_nothing_else() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    commands = [line for line in script.splitlines() if line and not line.startswith("#")]

    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert commands[0] == "set -euo pipefail"
    assert [line for line in commands if "make" in line] == [commands[-1]]
    assert re.fullmatch(r"make (--\S+ )*test </dev/null", commands[-1])


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_the_real_command_and_waits_longer_than_the_drain(path: Path) -> None:
    service = unit(path)["Service"]
    program, command, *_ = service["ExecStart"].split()

    assert Path(program).name == "moe-proxy"
    assert command == "serve"
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"  # SIGTERM to a worker would cut its answers
    assert int(service["TimeoutStopSec"]) > 30 + 30  # the default of server.drain, and the workers


def test_there_is_a_unit_for_the_machine_and_one_for_a_user() -> None:
    assert [path.name for path in UNITS] == ["moe-proxy.service", "moe-proxy.user.service"]


def test_an_installed_copy_has_the_units(tmp_path: Path) -> None:
    """They are links here; a copy for a service knows nothing of this folder."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    build = ["build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command + build, cwd=ROOT, check=True, capture_output=True)

    found = sorted((tmp_path / "lib" / "proxy" / "service" / "units").iterdir())

    assert [path.name for path in found if not path.is_symlink()] == [
        "moe-proxy.service",
        "moe-proxy.socket",
        "moe-proxy.user.service",
        "moe-proxy.user.socket",
    ]
    assert [path.read_text() for path in found] == [
        (ROOT / "deploy" / path.name).read_text() for path in found
    ]


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_policies_of_users_are_theirs(tmp_path: Path) -> None:
    """Only the reference is committed; README has users write their own beside it."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    names = ["policies/default.toml", "policies/keys.txt", "policies/mine.toml"]

    asked = subprocess.run(
        ["git", "check-ignore", *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert asked.stdout.split() == names[1:]
