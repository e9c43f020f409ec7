"""How far something is, at a terminal and elsewhere."""

import io

from proxy.cli.progress import CLEAR, Steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_steps_are_a_bar_below_the_words_and_say_how_long_the_others_take() -> None:
    out, now = Terminal(), [100.0]
    steps = Steps(out, lambda: now[0])

    steps.say("loading")
    steps.step(0, 4)
    now[0] += 5
    steps.say("round 1")
    steps.step(1, 4)
    lines = out.getvalue().split(CLEAR)
    steps.say("the last")
    steps.step(4, 4)

    assert lines[-1].endswith(" 1 of 4, about 15 s left")
    assert lines[-1].count("░") > 2 * lines[-1].count("█") > 0
    assert "round 1\n" in lines, "it stands in a line of its own"
    assert out.getvalue().endswith(f"the last\n{CLEAR}{lines[-1]}{CLEAR}")


def test_elsewhere_there_are_the_words_alone() -> None:
    out = io.StringIO()
    steps = Steps(out)

    steps.step(0, 2)
    steps.say("round 1")
    steps.step(1, 2)

    assert out.getvalue() == "round 1\n"
