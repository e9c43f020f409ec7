"""What options benches refuse, and how they end when they are no longer wanted."""

import argparse
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import _options
from bench._options import (
    amount,
    checkout,
    count,
    model_file,
    model_size,
    program,
    result_file,
)
from bench.all import SCRIPTS
from tests.support.guard import HANG_S

BENCH = Path(_options.__file__).parent
WAITS = """
import argparse, time
from bench._options import parsed
parsed(argparse.ArgumentParser())
try:
    print("measuring", flush=True)
    time.sleep(60)
finally:
    {at_its_end}
"""


@pytest.mark.parametrize(
    ("read", "text", "why"),
    [
        (count(), "0", "at least 1"),
        (count(0), "-1", "at least 0"),
        (count(), "2.5", "not a whole number"),
        (amount(), "0", "above 0"),
        (amount(zero=True), "-1", "from 0"),
        (amount(zero=True), "nan", "from 0"),
        (amount(), "inf", "above 0"),
        (amount(), "soon", "not a number"),
        (model_file, "/nowhere.gguf", "no file"),
        (program, __file__, "cannot be run"),
        (checkout, "/", "no checkout"),
        (result_file, "/nowhere/x.json", "cannot be written"),
        (result_file, "/", "is a folder"),
        (model_size(["small", "huge"]), "tiny", "neither one of small, huge nor a file"),
    ],
)
def test_a_wrong_option_is_refused_with_its_reason(
    read: Callable[[str], object], text: str, why: str
) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(why)):
        read(text)


def test_a_right_one_is_taken(tmp_path: Path) -> None:
    assert (count(0)("0"), count()("3"), amount(zero=True)("0"), amount()("0.5")) == (0, 3, 0, 0.5)
    assert program(sys.executable) == model_file(sys.executable) == Path(sys.executable)
    assert checkout(str(BENCH.parent)) == BENCH.parent
    assert result_file(str(tmp_path / "new.json")) == tmp_path / "new.json"
    assert (model_size(["small"])("small"), model_size(["small"])(__file__)) == ("small", __file__)


@pytest.mark.parametrize("script", [*(script.name for script in SCRIPTS), "all"])
def test_every_bench_reads_its_options_so(script: str) -> None:
    text = (BENCH / f"{script}.py").read_text()

    assert "parsed(parser)" in text
    assert '"--json"' in text
    # Of anything but a seed and what a figure is compared with, no number will do.
    loose = [line for line in text.splitlines() if re.search(r"type=(int|float|Path)\b", line)]
    assert [line for line in loose if not re.search(r'"--(seed|check)"|FOLDER', line)] == []


def test_nothing_is_measured_with_a_wrong_one() -> None:
    command = (sys.executable, "-m", "bench.pressure", "--rounds", "0")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "argument --rounds: 0 is too few: at least 1" in ended.stderr


@pytest.mark.parametrize("at_its_end", ["pass", "raise OSError('its other half is gone')"])
def test_it_ends_with_a_word_by_ctrl_c(at_its_end: str) -> None:
    command = (sys.executable, "-c", WAITS.format(at_its_end=at_its_end))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=BENCH.parent
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "measuring\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=HANG_S)
        finally:
            process.kill()

    assert errors == "stopped\n"
    assert process.returncode != 0


def test_what_fails_by_itself_is_told_in_full() -> None:
    program = WAITS.format(at_its_end="pass").replace("time.sleep(60)", "raise OSError('full')")
    command = (sys.executable, "-c", program)
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_S, check=False, cwd=BENCH.parent
    )

    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith("OSError: full\n")
