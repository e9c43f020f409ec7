"""Outlives the proxy by a moment, to end what it left. Run by its path, without our package.

Reads orders on its standard input, one a line; the rest of it is as JSON writes it:

    + 4711            the process group 4711 is to be killed when the proxy is gone
    - 4711            it has ended
    +/ "/run/..."     so is this folder to be removed
    -/ "/run/..."     it is gone
    +! [1, "a", {}]   so is this program to be run, with this environment; the number is its own
    -! [1, "a", {}]   it was

The end of that input is the end of the proxy, in whatever way it came. Its one argument is what all
have in their environment that the proxy has started. Counterpart: guardian.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TRIES, BETWEEN_S = 100, 0.1
# As long as a stop command has while we live.
COMMANDS_S = 15.0
NOTHING = subprocess.DEVNULL


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the proxy, whose end it waits for
    groups: set[int] = set()
    folders: set[str] = set()
    commands: set[str] = set()
    for line in sys.stdin.buffer:
        order, _, rest = line.decode().partition(" ")
        match order:
            case "+":
                groups.add(int(rest))
            case "-":
                groups.discard(int(rest))
            case "+/":
                folders.add(json.loads(rest))
            case "-/":
                folders.discard(json.loads(rest))
            case "+!":
                commands.add(rest)
            case "-!":
                commands.discard(rest)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass  # it has ended, or is not ours any more
    kill_marked(sys.argv[1].encode())
    run(map(json.loads, commands))
    # Who is killed may still put something there while it is.
    for _ in range(TRIES):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        if not any(map(os.path.lexists, folders)):
            break
        time.sleep(BETWEEN_S)
        kill_marked(sys.argv[1].encode())


def kill_marked(mark: bytes) -> None:
    """Also who was started in the very moment of the proxy's end, and so was never named."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)
        except OSError:
            pass  # somebody else's, or gone


def run(commands: Iterable[list[Any]]) -> None:
    """All at once; whatever is not done in time is killed with all that it started."""
    running = []
    for _, *argv, env in commands:
        try:
            running.append(
                subprocess.Popen(
                    argv,
                    env=env,
                    stdin=NOTHING,
                    stdout=NOTHING,
                    stderr=NOTHING,
                    start_new_session=True,
                )
            )
        except OSError:
            pass  # nobody is left to tell
    end_s = time.monotonic() + COMMANDS_S
    for process in running:
        try:
            process.wait(max(end_s - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
