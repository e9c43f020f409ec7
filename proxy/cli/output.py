"""What every command ends with: its exit status, and text for people or JSON for programs."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from proxy.text import harmless

# Done; refused or not found; used or set up wrongly.
OK, FAILED, MISUSED = 0, 1, 2


def print_result(arguments: Namespace, value: Any, text: Callable[[], str]) -> int:
    """Print `value` as JSON if the command line asks for that, else `text`."""
    print(json.dumps(value, indent=2) if arguments.json else text())
    return OK


def say(text: str) -> None:
    """A line of what is asked for."""
    print(text)


def error(message: object) -> None:
    info(f"moe-proxy: {harmless(str(message))}")


def info(text: str) -> None:
    """Say something beside what is asked for, which standard output is kept for."""
    with suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)
