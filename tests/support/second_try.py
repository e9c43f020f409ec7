"""The few tests that failed in a run get a second try by themselves: what fails beside other tests
on a busy machine, and not alone, is told apart from what fails. They are named either way.

    python -m tests.support.second_try [ARGUMENT OF pytest ...]
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# More are no accident.
MOST: Final = 5
LAST_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")


def main(arguments: Sequence[str]) -> int:
    """The exit status: pytest's of the second try, or 1 without one."""
    failed = [*json.loads(LAST_FAILED.read_text())] if LAST_FAILED.exists() else []
    if not 0 < len(failed) <= MOST:
        return 1
    command = (sys.executable, "-m", "pytest", *arguments, "--last-failed", "--numprocesses", "0")
    status = subprocess.run(command).returncode
    said = "also by itself" if status else "beside other tests, and passed by itself"
    sys.stdout.writelines(f"failed {said}: {name}\n" for name in failed)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
