"""What is pure in the page's modules, run by node's own test runner."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import proxy
from tests.support.guard import HANG_S

PAGE = Path(proxy.__file__).parent / "ui"


def test_modules_without_a_browser(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node here")
    page = shutil.copytree(PAGE, tmp_path / "ui")
    # A browser is told of modules by its page, node by this.
    (page / "package.json").write_text('{"type": "module"}')

    done = subprocess.run(
        (node, "--test", str(Path(__file__).with_name("modules.test.mjs"))),
        env=os.environ | {"PAGE": str(page)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )

    assert done.returncode == 0, done.stdout
    assert "# pass 25" in done.stdout
