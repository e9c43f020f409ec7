"""Which proxy has a state folder and where it serves, for commands and for who else would start.

It is in a file of that folder, which is locked as long as the proxy runs, however it ends.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from proxy.errors import reason_of

log = structlog.get_logger()

RECORD: Final = "serving.json"
# What `/health` is answered with by one of us, whatever its state folder: the process.
PID_HEADER: Final = "X-Moe-Proxy-Pid"
RECORD_BYTES: Final = 4096
# A command that looks at it has its lock for a moment.
LOOKED_AT_S: Final = 1.0


class Taken(Exception):
    """Another proxy has the state folder; the message is for people."""


@dataclass(frozen=True, slots=True)
class Serving:
    """`variables` are what a command needs in its environment to be let in there."""

    url: str
    pid: str
    variables: Mapping[str, str] = field(default_factory=dict)


class Record:
    """A state folder that is ours until `close`, or one that cannot be had."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor  # changes to None in the end

    def say(self, url: str, variables: Mapping[str, str] | None = None) -> None:
        """`url` is "" where it serves on no TCP port; `variables` as in `Serving`. A disk that is
        full or read-only makes commands look where the policies say, no more."""
        told = {"url": url, "pid": os.getpid(), "variables": dict(variables or {})}
        data = json.dumps(told).encode()
        if self._descriptor is not None:
            with suppress(OSError):
                os.truncate(self._descriptor, 0)
                os.pwrite(self._descriptor, data, 0)

    def close(self) -> None:
        """Leave the folder to the next one; may be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.truncate(descriptor, 0)
            os.close(descriptor)


def claim(state: Path) -> Record:
    """Take a state folder for this process. Raises Taken if another proxy has it: two would
    sweep each other's pulls away. Where it cannot be written nobody can pull, and it is shared."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        descriptor = _open_record(state, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        log.debug("state_not_claimed", folder=str(state), reason=reason_of(error))
        return Record(None)
    deadline = time.monotonic() + LOOKED_AT_S
    while not _locked(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            found = _read_record(descriptor)
            os.close(descriptor)
            who = f"process {found.pid}, at {found.url}" if found else "just starting"
            raise Taken(
                f"another moe-proxy ({who}) has the state folder {state}: stop it, or give this "
                "one another with catalog.state"
            )
        time.sleep(LOOKED_AT_S / 10)
    return Record(descriptor)


def serving(state: Path) -> Serving | None:
    """The proxy that has this state folder; None where none is known to run."""
    try:
        descriptor = _open_record(state, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _locked(descriptor, fcntl.LOCK_SH) else _read_record(descriptor)
    finally:
        os.close(descriptor)


def _open_record(state: Path, flags: int) -> int:
    return os.open(state / RECORD, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)


def _locked(descriptor: int, kind: int) -> bool:
    """Whether the lock was to be had, also where there is none on this file system."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("state_not_locked", reason=reason_of(error))
    return True


def _read_record(descriptor: int) -> Serving | None:
    try:
        found = json.loads(os.pread(descriptor, RECORD_BYTES, 0))
        variables = {str(name): str(value) for name, value in found.get("variables", {}).items()}
        return Serving(str(found["url"]), str(found["pid"]), variables)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
