"""Other builds of llama.cpp than the pinned one, for real: only with --thorough, as each is
compiled once (tests/support/llama_builds.py), for some ten minutes on two cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.engine.types import CPU
from tests.support.hosted import hosted
from tests.support.llama import OTHER_BUILD, Client, rpc_server
from tests.support.llama_builds import DYNAMIC, LlamaBuild
from tests.support.models import model

ROOT = Path(__file__).parents[2]
MOST_S = 3600.0  # of which compiling takes most
LIVE_MOVES = (
    *("tests/worker/test_live.py", "tests/worker/test_dense.py", "tests/worker/test_sleep.py"),
    *("tests/worker/test_soak.py", "tests/test_every_split.py", "tests/test_splits.py"),
    *("tests/test_dense.py", "tests/test_memory_pressure.py"),
)
BUILDS = {
    "0.3.24": LlamaBuild("0.3.24"),  # the first one with its server as a library
    "0.3.30": LlamaBuild("0.3.30"),
    "0.3.35": LlamaBuild("0.3.35"),
    "dynamic backends": LlamaBuild(flags=DYNAMIC),
}
pytestmark = [pytest.mark.llama, pytest.mark.timeout(2 * MOST_S)]


@pytest.fixture(scope="module", autouse=True)
def _only_thoroughly(thorough: bool) -> None:
    if not thorough:
        pytest.skip(
            "it compiles llama.cpp four times, once, for some ten minutes each on two cores, and "
            "tests each for four: --thorough"
        )


@pytest.mark.parametrize("name", BUILDS)
def test_it_passes_the_tests_of_live_moves(name: str) -> None:
    """They are run as they are, with workers and llama-server of that build."""
    folder = BUILDS[name].made()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *LIVE_MOVES),
        cwd=ROOT,
        env=env | {OTHER_BUILD: str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MOST_S,
    )

    assert ended.returncode == 0, ended.stdout[-6000:]
    assert " skipped" not in ended.stdout.splitlines()[-1]


async def test_of_several_backends_for_the_cpu_one_is_used() -> None:
    """The folder is as one of llama.cpp's release archives, and nothing else of llama.cpp's is."""
    folder = BUILDS["dynamic backends"].made()
    assert len([*folder.glob("libggml-cpu-*.so")]) > 4
    assert not (folder / "libggml-cpu.so").exists()

    async with (
        rpc_server() as rpc,
        hosted(model(layers=4), [rpc], libdir=folder) as engine,
        Client(engine.address) as client,
    ):
        moved = await engine.place(dict.fromkeys(range(4), "RPC0"))
        assert (moved.layers, engine.live_moves) == (4, True)
        assert await client.text("the quick", 2)
        await engine.place(dict.fromkeys(range(4), CPU))
        maps = Path(f"/proc/{engine.pid}/maps").read_text().splitlines()
    mapped = {Path(line.split()[-1]) for line in maps if ".so" in line}
    of_llama_cpp = [x for x in mapped if x.name.startswith(("libggml", "libllama", "libmtmd"))]
    assert {file.parent for file in of_llama_cpp} == {folder}
    assert len([x for x in of_llama_cpp if x.name.startswith("libggml-cpu-")]) == 1
