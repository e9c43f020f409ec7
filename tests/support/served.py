"""A proxy as a process of its own, for clients that block while they wait for it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxy.engine.guardian import forget_group, keep_group
from tests.support.guard import HANG_S


class Served(str):
    """Where it listens, which process it is, and what it has said."""

    pid: int
    log: Path

    def said(self, *events: str) -> list[dict[str, Any]]:
        """The lines of its log that tell of these events."""
        whole, _, _ = self.log.read_bytes().rpartition(b"\n")  # one may be half written
        lines = [json.loads(line) for line in whole.splitlines() if line[:1] == b"{"]
        return [line for line in lines if line.get("event") in events]


@contextlib.contextmanager
def served(folder: Path, policies: str) -> Iterator[Served]:
    """Where it listens. `policies` is TOML, kept in `folder`/policies.toml."""
    file = folder / "policies.toml"
    file.write_text(policies)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            (
                *(sys.executable, "-m", "proxy.cli.main", "serve", "--port", "0"),
                *("--policies", str(file), "--log-format", "json"),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
            start_new_session=True,
        )
        keep_group(process.pid)
        try:
            address = Served(_address(process, folder / "log"))
            address.pid, address.log = process.pid, folder / "log"
            yield address
        finally:
            process.terminate()
            try:
                process.wait(HANG_S)
            finally:
                process.kill()
                forget_group(process.pid)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_bytes().splitlines():
            if line.startswith(b"{") and json.loads(line).get("event") == "serving":
                return str(json.loads(line)["url"])
        time.sleep(0.05)
    raise AssertionError(log.read_text())
