"""Packages from npm, for tests with JavaScript's clients."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.archive import cache_folder
from tests.support.guard import HANG_S, LLAMA_S
from tests.support.install import install
from tests.support.turns import one_at_a_time

INSTALL_S = 240.0  # a slow registry is no fault of ours: the test is skipped


def packages(*wanted: str) -> Path:
    """A folder whose node_modules have these ("name@version"), kept between runs. Skips the test
    where they cannot be had."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no node with npm here")
    folder = cache_folder() / (
        "npm-" + "-".join(each.strip("@").replace("/", "-") for each in wanted)
    )
    done = folder / "installed"
    with one_at_a_time(folder):
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            command = (npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *wanted)
            install("npm", ", ".join(wanted), command, INSTALL_S)
            done.touch()
    return folder


def run(script: Path, folder: Path, **env: str) -> Any:
    """What a script says, which is JSON. Its imports are looked for in `folder`."""
    copied = folder / script.name
    shutil.copyfile(script, copied)
    environment: Mapping[str, str] = os.environ | env
    ended = subprocess.run(
        ("node", copied), env=environment, capture_output=True, text=True, timeout=LLAMA_S - HANG_S
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
