"""What a unit forbids by seccomp, put on a program without systemd: its system calls and its
address families. What mounts and namespaces do for a unit cannot be had this way.

    python -m tests.support.sandbox UNIT COMMAND...
"""

import ctypes
import os
import re
import socket
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

# linux/prctl.h, linux/seccomp.h, linux/filter.h, linux/audit.h
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT = 0, 4, 16
X86_64 = 0xC000003E
EPERM, EAFNOSUPPORT = 1, 97


def settings(unit: Path, key: str) -> list[str]:
    """The values of a key, in their order."""
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def allowed_calls(unit: Path) -> set[str]:
    """Names of system calls, as systemd makes them of SystemCallFilter=."""
    allowed: set[str] = set()
    for value in settings(unit, "SystemCallFilter"):
        named = set().union(*map(calls_of, value.removeprefix("~").split()))
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


@cache
def calls_of(name: str) -> frozenset[str]:
    """The calls of a set such as @system-service, which may be made of other sets."""
    if not name.startswith("@"):
        return frozenset({name})
    command = ["systemd-analyze", "--no-pager", "syscall-filter", name]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = [line.strip() for line in said.splitlines()[1:]]
    found = [calls_of(word) for word in words if word and not word.startswith("#")]
    return frozenset().union(*found)


def numbers() -> dict[str, int]:
    """The numbers of system calls here, from the C compiler's headers."""
    command = ["c++", "-E", "-dM", "-x", "c", "-include", "sys/syscall.h", "/dev/null"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)$", said, re.M)}


def program(calls: set[str], families: list[str]) -> bytes:
    """A filter: instructions of an operation, two ways to go on and a value."""
    known = numbers()
    steps = [
        (LOAD, 0, 0, AT_ARCHITECTURE),
        (EQUAL, 1, 0, X86_64),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, AT_NUMBER),
        # Another call than socket() goes past what is asked of its first argument.
        (EQUAL, 0, 2 * len(families) + 2, known["socket"]),
        (LOAD, 0, 0, AT_FIRST_ARGUMENT),
    ]
    for family in families:
        steps += [(EQUAL, 0, 1, int(getattr(socket, family))), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, ERRNO | EAFNOSUPPORT))
    for call in sorted(calls & known.keys() - {"socket"}):
        steps += [(EQUAL, 0, 1, known[call]), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, ERRNO | EPERM))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def confine(unit: Path) -> None:
    """From here on, for this process and all that it starts."""
    (families,) = settings(unit, "RestrictAddressFamilies")
    code = program(allowed_calls(unit), families.split())
    buffer = ctypes.create_string_buffer(code, len(code))
    whole = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, whole)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
