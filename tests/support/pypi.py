"""Programs from PyPI that want other versions of what this project uses: each in an environment of
its own."""

import sys
from pathlib import Path

from tests.support.archive import cache_folder
from tests.support.install import install
from tests.support.turns import one_at_a_time

INSTALL_S = 150.0  # a slow index is no fault of ours: the test is skipped


def program(name: str, wanted: str) -> Path:
    """The program `name` of the package `wanted` ("name==version"), kept between runs. Skips the
    test where it cannot be had."""
    folder = cache_folder() / f"pypi-{wanted.replace('==', '-')}"
    done = folder / "installed"
    with one_at_a_time(folder):
        if not done.exists():
            # What is never imported need not be compiled.
            pip = (folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-compile", wanted)
            for command in ((sys.executable, "-m", "venv", "--clear", folder), pip):
                install("pip", wanted, command, INSTALL_S)
            done.touch()
    return folder / "bin" / name
