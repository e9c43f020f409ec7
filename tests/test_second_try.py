"""What fails beside others and what fails: real runs of pytest."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.parts import ROOT
from tests.support.second_try import MOST

ONCE = """
from pathlib import Path
def test_once():
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        assert False
"""
ALWAYS = "def test_always():\n    assert False\n"
MANY = (
    f"import pytest\n@pytest.mark.parametrize('n', range({MOST}))\ndef test_n(n):\n    assert 0\n"
)
# Alone, the second step cannot pass.
STORY = f"""
import pytest
pytestmark = pytest.mark.story
STEPS = []
def test_first():
    STEPS.append(1)
{ONCE}    assert STEPS
"""


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (ONCE, 0, "failed beside other tests, and passed by itself: test_x.py::test_once"),
        (ONCE + ALWAYS, 1, "failed also by itself: test_x.py::test_always"),
        (ONCE + ALWAYS, 1, "failed beside other tests, and passed by itself: test_x.py::test_once"),
        (STORY, 0, "failed beside other tests, and passed by itself: test_x.py::test_once"),
        (ONCE + MANY, 1, ""),  # too many to be an accident
    ],
)
def test_a_second_try(tmp_path: Path, text: str, status: int, said: str) -> None:
    (tmp_path / "test_x.py").write_text(text)
    quiet = ("-q", "-p", "no:asyncio", "-o", "addopts=")
    env = {"PYTHONPATH": str(ROOT)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", *command, *quiet)
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    assert run("pytest").returncode == 1
    tried = run("tests.support.second_try")

    assert tried.returncode == status, tried.stderr
    assert said in tried.stdout
