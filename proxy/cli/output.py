"""What every command ends with: its exit status, and text for people or JSON for programs."""

import errno
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from proxy.text import harmless

# Done; refused or not found; used or set up wrongly.
OK, FAILED, MISUSED = 0, 1, 2
# Why a file or disk takes no more.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class ClientError(Exception):
    """What to tell the person, in one line."""


def have_streams() -> None:
    """Where a shell has closed one (`<&-`), there is one that leads nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def say_no_more() -> None:
    """What is still to be written, at the end at the latest, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
