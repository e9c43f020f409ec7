"""The front as a program: how it is told who the nodes are, and what it does not start with."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.fleet.member import Member
from proxy.node.names import KEY_FILE_VARIABLE
from tests.support.fleet import FRONT, front, key_file
from tests.support.guard import HANG_S, until


def run(folder: Path, *arguments: str, stdin: Path | None = None) -> tuple[int, str]:
    key = folder / "fleet-key"
    known = os.environ | {KEY_FILE_VARIABLE: str(key)}
    with open(stdin or os.devnull, "rb") as told:
        ended = subprocess.run(
            (*FRONT, *arguments),
            stdin=told,
            stderr=subprocess.PIPE,
            env=known,
            text=True,
            timeout=HANG_S,
        )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("kind", ["nothing", "file"])
def test_it_ends_with_its_input_whatever_that_is(tmp_path: Path, kind: str) -> None:
    key_file(tmp_path)
    file = tmp_path / "members"
    file.write_text('{"nodes": []}\n')

    status, said = run(tmp_path, "--port", "0", stdin=file if kind == "file" else None)

    assert status == 0
    assert "told to end" in said
    assert "Traceback" not in said


def test_what_it_cannot_start_with_is_said(tmp_path: Path) -> None:
    status, said = run(tmp_path, "--port", "0")
    assert status == 2
    assert "fleet-key" in said

    key_file(tmp_path)
    status, said = run(tmp_path, "--fd", "77")
    assert status == 2
    assert said.startswith("moe-proxy:")


async def test_a_line_that_makes_no_sense_changes_nothing(tmp_path: Path) -> None:
    async with front(tmp_path) as one:
        assert one.process.stdin is not None
        for line in (b"{\n", b'{"nodes": 5}\n', b'{"nodes": [{"name": "A b", "url": "x"}]}\n'):
            one.process.stdin.write(line)
        await one.tell(Member("n1", "http://127.0.0.1:1"))
        await until(lambda: any("node_joined" in line for line in one.serving.lines), "it is told")
        assert sum("members_not_understood" in line for line in one.serving.lines) == 3


async def test_it_may_have_many_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # as it is where nobody has raised it
    try:
        async with front(tmp_path) as one:
            allowed, _ = resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert allowed >= min(hard, 65536) if hard != resource.RLIM_INFINITY else allowed >= 65536


def test_it_runs_without_ray() -> None:
    code = "import sys, proxy.fleet.front.__main__; sys.exit('ray' in sys.modules)"

    assert subprocess.run((sys.executable, "-c", code), check=False).returncode == 0
