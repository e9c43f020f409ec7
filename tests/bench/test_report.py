"""What benches say: ratios only where there is a difference, and the page that `all` writes."""

import json
import sys
from pathlib import Path

import pytest

from bench import all as runner
from bench._page import MARKER, Ran, rewritten, tables
from bench._report import figure
from bench._tell import difference, more_text, spread, tell, times_text
from bench.all import SCRIPTS, Script, run, told

BENCH = Path(runner.__file__).parent
WHERE = {"date": "2026-01-02", "machine": "a machine", "load": 0.1, "commit": "abc"}
WHERE |= {"command": "python -m bench.all"}
FAST, SLOW = [1.0, 1.1, 1.2, 1.1, 1.0], [2.0, 2.2, 2.4, 2.2, 2.1]
EITHER = [1.0, 2.2, 0.5, 2.2, 1.0]
NOT_KNOWN = "not told apart"


def test_a_ratio_is_told_where_it_is_larger_than_the_spread() -> None:
    assert times_text(SLOW, FAST) == "2.00 (2.00 to 2.00)"
    assert times_text(EITHER, FAST) == NOT_KNOWN
    assert times_text(FAST, FAST) == NOT_KNOWN


def test_so_is_a_difference() -> None:
    assert more_text(SLOW, FAST, 1000) == "1100 (1100 to 1100)"
    assert difference(FAST, SLOW) is not None
    assert more_text(EITHER, FAST) == NOT_KNOWN


@pytest.mark.parametrize(
    ("same_way", "other_way", "said"),
    [(4, 0, False), (5, 0, True), (4, 1, False), (7, 0, True), (6, 1, False), (10, 2, True)],
)
def test_what_may_be_luck_is_not_told(same_way: int, other_way: int, said: bool) -> None:
    ours = [2.0] * same_way + [1.0] * other_way
    theirs = [1.0] * same_way + [2.0] * other_way

    assert (times_text(ours, theirs) != NOT_KNOWN) is said
    assert (more_text(theirs, ours) != NOT_KNOWN) is said


def test_what_was_measured_once_has_no_spread() -> None:
    assert spread([0.5], 1000) == "500 (once)"
    assert spread([0.5, 0.7, 0.6], 1000) == "600 (550 to 650)"


def test_results_are_kept_with_where_and_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench/edits.py", "--rounds", "2"])
    tell({"edits": figure(FAST)}, "What came out.", "| a |", file=tmp_path / "x.json")
    kept = json.loads((tmp_path / "x.json").read_text())

    assert kept["circumstances"]["command"] == "python -m bench.edits --rounds 2"
    assert kept["edits"]["median"] == 1.1
    assert capsys.readouterr().out.endswith("\n\nWhat came out.\n\n| a |\n")


def test_tables_are_found_in_what_is_printed() -> None:
    printed = (
        "date: today, load: 3\n| a |\n| 1 |\n\nOf b,\nand more.\n\n| b |\n| 2 |\n\n"
        'Above c:\n| c |\n\nnobody asked for this\n\nto be seen\n\n| d |\n{"json": 1}\n'
    )

    assert tables(printed) == [
        "| a |\n| 1 |",
        *("Of b, and more.", "| b |\n| 2 |"),
        *("Above c:", "| c |"),
        *("to be seen", "| d |"),
    ]


def test_the_page_is_written_from_its_marker_on_and_the_rest_stays() -> None:
    page = f"# Mine\n\ntext | with | bars\n\n{MARKER}\nold\n"
    ran = [Ran("Edits", "python -m bench.edits", "Saved.\n\n| ms |\n| 3 |\n", 4.0)]
    once = rewritten(page, ran, WHERE)

    assert once.startswith(f"# Mine\n\ntext | with | bars\n\n{MARKER}\n")
    assert "old" not in once
    for what in (*WHERE.values(), "### Edits", "`python -m bench.edits`, 4 s", "| ms |\n| 3 |"):
        assert str(what) in once
    assert rewritten(once, ran, WHERE) == once
    with pytest.raises(ValueError, match="there is no line"):
        rewritten("# Mine\n", ran, WHERE)


@pytest.mark.parametrize(("load", "said"), [(0.1, False), (1000.0, True)])
def test_the_page_says_that_others_used_the_machine(load: float, said: bool) -> None:
    page = rewritten(MARKER, [], {**WHERE, "load": load})

    assert ("Others used the machine" in page) is said


def test_a_bench_that_fails_is_named_and_keeps_no_other_from_running(
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken, good = Script("edits", "Edits", "--no-such-option"), Script("edits", "Edits", "--help")
    ran = [run(each, limit_s=60) for each in (broken, good)]
    words, status = told(ran)

    assert status == 1
    assert "failed: python -m bench.edits --no-such-option: exit status 2" in words
    assert "--help" not in words
    assert "--rounds" in ran[1].output
    assert "--rounds" in capsys.readouterr().out  # shown as it comes
    assert "**failed**, exit status 2" in rewritten(MARKER, ran, WHERE)
    assert told(ran[1:])[1] == 0


def test_a_bench_that_takes_too_long_is_ended_and_named() -> None:
    ran = run(Script("pressure", "Memory", "--rounds 1000000"), limit_s=0.01)

    assert ran.failed == "it took more than 0.01 s"


def test_every_bench_has_a_short_form() -> None:
    files = {path.stem for path in BENCH.glob("[a-z]*.py")} - {"all"}

    assert files <= {script.name for script in SCRIPTS}
