"""A fleet whose first machine is off, and begins again."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from proxy.fleet.cluster.keeper import says_up
from tests.support.guard import LLAMA_S
from tests.support.ray_fleet import SLOW_S, RayFleet, ray_fleet

pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(
        find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
    ),
]
# Ray's own limit, for those that are not told otherwise.
RAY_WAITS_S = 60.0
# Ray refuses to start a head at an address for which others of its processes of this machine are.
BEGIN = """
import ray._private.services as services
services.find_gcs_addresses = lambda *_: set()
from ray.scripts.scripts import main
main()
"""


def test_the_others_go_on_without_it_and_join_again(thorough: bool) -> None:
    if not thorough:
        pytest.skip("it waits for longer than Ray does, over a minute: --thorough")
    with ray_fleet() as fleet:
        fleet.start()
        fleet.join_by_up("b")
        nodes = fleet.until(lambda nodes: "b" in nodes and nodes["b"]["front"], "b is ready")
        record = fleet.home("b") / ".local" / "state" / "moe-proxy" / "fleet" / "ray.json"
        front, head = nodes["b"]["front"], json.loads(record.read_text())["address"]
        for pid in fleet.pids(of="a"):
            os.kill(pid, signal.SIGKILL)

        off_s = time.monotonic()
        while time.monotonic() - off_s < RAY_WAITS_S + 10:
            assert answers(fleet, front, "own-b")
            time.sleep(1)

        with begun_again(fleet, head):
            fleet.fleet("up", "--port", str(fleet.port), "--name", "a", env={"RAY_ADDRESS": head})
            end_s = time.monotonic() + LLAMA_S
            while not answers(fleet, fleet.front, "own-b"):
                assert time.monotonic() < end_s
                time.sleep(1)


def answers(fleet: RayFleet, front: str, model: str) -> bool:
    question = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}
    try:
        return bool(fleet.ask(front, "/v1/chat/completions", question)["choices"])
    except urllib.error.URLError:
        return False


@contextmanager
def begun_again(fleet: RayFleet, head: str) -> Iterator[None]:
    """Ray on the first machine, empty, at its address."""
    host, _, port = head.partition(":")
    where = ("--node-ip-address", host, "--port", port, "--object-store-memory", "100000000")
    log = fleet.folder / "head.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            (
                *(sys.executable, "-c", BEGIN, "start", "--head", "--block", *where),
                *("--include-dashboard", "false", "--resources", '{"moe_proxy": 1}'),
            ),
            env=fleet.env("a"),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        end_s = time.monotonic() + SLOW_S
        while not says_up(log):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end_s
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()
