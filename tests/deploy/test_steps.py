import sys
import threading
from pathlib import Path

import pytest
import steps


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_output_goes_to_the_log_and_not_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps.run(python("print('compiled')"), tmp_path / "log")

    assert "compiled\n" in (tmp_path / "log").read_text()
    assert capfd.readouterr().out == ""


def test_a_failure_carries_the_last_lines_and_the_place_of_the_rest(tmp_path: Path) -> None:
    code = "for i in range(100): print('line', i)\nraise SystemExit(3)"

    with pytest.raises(steps.Failure) as failure:
        steps.run(python(code), tmp_path / "log")

    message = str(failure.value)
    assert "exit status 3" in message
    assert "line 99\n" in message
    assert "line 10\n" not in message
    assert str(tmp_path / "log") in message


def test_a_failure_that_is_understood_is_told_in_a_line(tmp_path: Path) -> None:
    code = "print('first error')\nfor i in range(200): print('line', i)\nraise SystemExit(3)"

    with pytest.raises(steps.Failure) as failure:
        steps.run(python(code), tmp_path / "log", explain=lambda said: said.splitlines()[0].upper())

    assert str(failure.value) == f"FIRST ERROR\nAll of its output: {tmp_path / 'log'}"


def test_the_environment_is_added_to_ours(tmp_path: Path) -> None:
    code = "import os; print(os.environ['CMAKE_ARGS'], 'PATH' in os.environ)"

    steps.run(python(code), tmp_path / "log", env={"CMAKE_ARGS": "-DX=1"})

    assert "-DX=1 True" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("line", "step"),
    [("  [12/242] /usr/bin/g++ -c x.cpp", "[12/242]"), ("[ 45%] Building CXX object", "[45%]")],
)
def test_progress_names_the_step_of_ninja_and_of_make(
    line: str,
    step: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps.run(python(f"print({line!r})"), tmp_path / "log", title="compiling")

    assert capsys.readouterr().out.startswith(f"{step} compiling, 0 s so far\n")


def test_an_interruption_ends_everything_that_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held"
    # A child of the child holds a lock for as long as it lives.
    lock = f"import fcntl, time; f = open({str(held)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    grandchild = f"{lock}; print('[1/2] locked'); time.sleep(300)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-uc', {grandchild!r}])"

    def interrupt(output: steps.Output, title: str) -> None:
        monkeypatch.undo()
        while not output.kept:
            threading.Event().wait(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(steps.Output, "follow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        steps.run(python(child), tmp_path / "log")

    with steps.only_one(held, "the grandchild"):
        pass


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (125, "2 min 5 s")])
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert steps.spoken(seconds) == text


def test_a_second_set_up_waits_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def second() -> None:
        with steps.only_one(tmp_path / "lock", "the first"):
            order.append("second")

    thread = threading.Thread(target=second)
    with steps.only_one(tmp_path / "lock", "nobody"):
        thread.start()
        while "waiting for the first" not in capsys.readouterr().out:
            thread.join(0.01)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]
