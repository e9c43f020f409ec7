"""The few tests that failed in a run get a second try by themselves: what fails beside other tests
on a busy machine, and not alone, is told apart from what fails. They are named either way. Of a
file whose tests are steps of one story (marked `story`), all are run again.

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
STORY: Final = "pytest.mark.story"
LAST_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")


def main(arguments: Sequence[str]) -> int:
    """The exit status: pytest's of the second try, or 1 without one."""
    failed = _failed()
    if not 0 < len(failed) <= MOST:
        return 1
    tries = sorted({_to_try(name) for name in failed})
    command = (sys.executable, "-m", "pytest", *arguments, "--numprocesses", "0", *tries)
    status = subprocess.run(command).returncode
    again = _failed()
    for name in failed:
        said = "also by itself" if name in again else "beside other tests, and passed by itself"
        sys.stdout.write(f"failed {said}: {name}\n")
    return status


def _failed() -> list[str]:
    return [*json.loads(LAST_FAILED.read_text())] if LAST_FAILED.exists() else []


def _to_try(name: str) -> str:
    file = name.partition("::")[0]
    return file if STORY in Path(file).read_text() else name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
