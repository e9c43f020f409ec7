"""Outlives the proxy by a moment, to end what it left. Run by its path, without our package.

Reads orders on its standard input, one a line; a path is the rest of its line, as JSON writes it:

    + 4711            the process group 4711 is to be killed when the proxy is gone
    - 4711            it has ended
    +/ "/run/..."     so is this folder to be removed
    -/ "/run/..."     it is gone

The end of that input is the end of the proxy, in whatever way it came. Counterpart: guardian.py.
"""

import json
import os
import shutil
import signal
import sys
import time

TRIES, BETWEEN_S = 100, 0.1


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the proxy, whose end it waits for
    groups: set[int] = set()
    folders: set[str] = set()
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
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass  # it has ended, or is not ours any more
    # Who is killed may still put something there while it is.
    for _ in range(TRIES):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        if not any(map(os.path.lexists, folders)):
            break
        time.sleep(BETWEEN_S)


if __name__ == "__main__":
    main()
