"""The `ollama` package from npm against a running proxy."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.api.ollama.conftest import EMBEDDER, TINY
from tests.support.archive import cache_folder
from tests.support.guard import HANG_S

pytestmark = pytest.mark.llama
VERSION = "0.6.4"
SCRIPT = Path(__file__).with_name("client.mjs")


@pytest.fixture(scope="module")
def package() -> Path:
    """A folder whose node_modules have the client, kept between runs."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no node with npm here")
    folder = cache_folder() / f"npm-ollama-{VERSION}"
    if not (folder / "node_modules" / "ollama").exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            (npm, "install", "--no-audit", "--no-fund", "--prefix", folder, f"ollama@{VERSION}"),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"npm cannot install the client: {done.stderr[-300:]}")
    return folder


def test_every_endpoint(url: str, package: Path) -> None:
    # Imports are looked for beside the script.
    script = package / SCRIPT.name
    shutil.copyfile(SCRIPT, script)

    done = subprocess.run(
        ("node", script),
        env=os.environ | {"URL": url, "TINY": TINY, "EMBEDDER": EMBEDDER},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )

    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["generate"]["streamed"] == seen["generate"]["whole"]
    assert seen["chat"]["streamed"] == seen["chat"]["whole"]
    assert seen["tool"] == [{"name": "get_weather", "arguments": {"city": seen["city"]}}]
    assert seen["city"] in ("Rome", "Oslo")
    assert seen["thinking"] == "I ask."
    assert seen["schema"]["sure"] in (True, False)
    assert seen["vectors"] == [256, 256]
    assert TINY in seen["list"]
    assert TINY in seen["ps"]
    assert seen["show"] == ["completion"]
    assert seen["version"]
    assert seen["missing"] == [404, "model 'nope' not found"]
    assert seen["refused"] == [400, 'option "temperature" must be of type float32']
    assert seen["aborted"] == "AbortError"
