"""Short forms of all benches, each in a process of its own: five minutes on two quiet cores.

    python -m bench.all [--only NAME ...] [--write] [--json FOLDER] [--limit-s 180]

What one prints is shown as it comes. One that fails or takes too long keeps no other from running;
it is named at the end, and the exit status is 1. `--write` writes docs/performance.md anew from its
marker line on.
"""

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench._page import Ran, rewritten
from bench._report import ROOT, circumstances

PAGE = ROOT / "docs" / "performance.md"
END_S = 20.0


@dataclass(frozen=True, slots=True)
class Script:
    """One of bench/, what it is about, and the options with which it is soon done."""

    name: str
    title: str
    options: str
    json: bool = True  # whether it takes --json FILE


SCRIPTS = (
    Script(
        "passthrough",
        "Passing through",
        "--rounds 60 --rate-rounds 5 --short-rounds 5 --requests 64 --tokens 24",
    ),
    Script("cold", "Cold start", "--rounds 5"),
    Script("resplit", "Another split", "--rounds 5 --words 100 --size small medium large"),
    Script("alternate", "Two models in turn", "--changes 6"),
    Script("second_model", "A second model", "--rounds 3"),
    Script("moves", "Moves", "--rounds 5 --layer-mb 4"),
    Script("edits", "Edits of the policies", "--rounds 5"),
    Script("pressure", "Memory that others take", "--rounds 8"),
    Script(
        "generation",
        "Speed of the worker",
        "--layers 4 --step 4 --rounds 5 --quants Q8_0",
    ),
    Script("catalogue", "Many models", "--rounds 5 --cold 1"),
    Script("idle", "While nobody asks", "--seconds 4 --rounds 2 --starts 2 --who 0", json=False),
    Script("open_pages", "Open pages", "--seconds 5 --rounds 5"),
    Script("fleet_growth", "A fleet that grows", ""),
    Script("fleet", "Through a front", "--rounds 60 --rate-rounds 5 --tokens 48"),
    Script("fleet_rpc", "A device that another node lends", "--rounds 5 --tokens 100"),
    Script("fleet_choice", "A fleet's choices", "--nodes 200 --models 2000 --requests 10000"),
)


class Killer:
    """Ends a bench that takes too long: as Ctrl-C would, so that it ends what it has started, and
    then for good."""

    def __init__(self, process: "subprocess.Popen[str]", limit_s: float) -> None:
        self.late = False
        self._process = process
        self._timers = [
            threading.Timer(limit_s, self._interrupt),
            threading.Timer(limit_s + END_S, process.kill),
        ]
        for timer in self._timers:
            timer.start()

    def _interrupt(self) -> None:
        self.late = True
        self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        for timer in self._timers:
            timer.cancel()


def run(script: Script, *, limit_s: float, folder: Path | None = None) -> Ran:
    """Run it, and show what it prints as it comes."""
    command = f"python -m bench.{script.name} {script.options}".strip()
    arguments = ["-m", f"bench.{script.name}", *script.options.split()]
    if folder is not None and script.json:
        arguments += ["--json", str(folder / f"{script.name}.json")]
    print(f"\n== {command}", flush=True)
    started = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        killer = Killer(process, limit_s)
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
            status = process.wait()
        finally:
            killer.end()
    why = f"it took more than {limit_s:g} s" if killer.late else f"exit status {status}"
    seconds = time.monotonic() - started
    failed = why if status or killer.late else None
    return Ran(script.title, command, "".join(lines), seconds, failed)


def told(ran: Sequence[Ran]) -> tuple[str, int]:
    """What is said at the end, and the exit status."""
    failed = [f"{each.command}: {each.failed}" for each in ran if each.failed]
    took = f"{len(ran)} benches in {sum(each.seconds for each in ran):.0f} s"
    return "\n".join([took, *(f"failed: {each}" for each in failed)]), int(bool(failed))


def main() -> int:
    names = [script.name for script in SCRIPTS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", default=names)
    parser.add_argument("--limit-s", type=float, default=180.0, help="of each")
    parser.add_argument("--write", action="store_true", help=f"the end of {PAGE.name}")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="a file of each")
    options = parser.parse_args()
    if options.json is not None:
        options.json.mkdir(parents=True, exist_ok=True)
    where = circumstances()
    chosen = [script for script in SCRIPTS if script.name in options.only]
    ran = [run(script, limit_s=options.limit_s, folder=options.json) for script in chosen]
    if options.write:
        PAGE.write_text(rewritten(PAGE.read_text(), ran, where))
    words, status = told(ran)
    print(f"\n{words}")
    return status


if __name__ == "__main__":
    sys.exit(main())
