"""Whether what we say goes to systemd's journal."""

import os
from collections.abc import Mapping


def goes_to_journal(descriptor: int, env: Mapping[str, str]) -> bool:
    """By JOURNAL_STREAM, "device:inode" of what systemd gave us (systemd.exec(5))."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return env.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
