"""Who is to be alone is; proven with processes, as the tests' own workers are."""

import subprocess
import sys
from pathlib import Path

from tests.support.guard import HANG_S

ROOT = Path(__file__).parents[1]
# Says when it is in and when it goes, in a file that all share; the line is written at once.
VISITOR = """
import os, sys, time
from pathlib import Path
from tests.support.turns import turn
folder, alone = Path(sys.argv[1]), sys.argv[2] == "alone"
log = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)
for _ in range(20):
    with turn(folder, alone=alone):
        os.write(log, f"in {sys.argv[2]}\\n".encode())
        time.sleep(0.002)
        os.write(log, f"out {sys.argv[2]}\\n".encode())
"""


def test_nobody_is_there_with_who_is_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", VISITOR, str(tmp_path / "turns")]
    visitors = [
        subprocess.Popen([*command, kind, str(log)], cwd=ROOT)
        for kind in ("alone", "one", "two", "three")
    ]
    try:
        assert [visitor.wait(HANG_S) for visitor in visitors] == [0] * 4
    finally:
        for visitor in visitors:
            visitor.kill()
            visitor.wait()

    inside: list[str] = []
    together = 0
    for line in log.read_text().splitlines():
        what, who = line.split()
        inside.append(who) if what == "in" else inside.remove(who)
        together = max(together, len(inside))
        assert inside == ["alone"] or "alone" not in inside
    assert together > 1, "the others may be there together"
