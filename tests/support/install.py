"""Installs what tests want and this project does not."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def install(by: str, what: str, command: Sequence[str | Path], within_s: float) -> None:
    """Run one command of `by`, which is to install `what`. Skips the test where it cannot."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=within_s)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{by} takes too long to install {what}")
    if ended.returncode:
        pytest.skip(f"{by} cannot install {what}: {ended.stderr[-300:]}")
