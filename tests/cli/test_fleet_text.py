"""What people read of a fleet."""

from proxy.cli.fleet_text import called_text, drained_so_far, status_table, up_text
from proxy.fleet.cluster.commands import Seen
from proxy.fleet.cluster.directory import Report

GIB = 1 << 30
READY = Report(
    "1", "a", "ready", "http://10.0.0.1:1", "http://127.0.0.1:11434", "", "/a", "10.0.0.1"
)
DRAINED = Report("2", "b", "drained", None, "http://127.0.0.1:11435", "", "/b", "10.0.0.2")
SICK = Report("3", "c", "starting", None, None, "ended with status 2: \x1b[1mbad policies")
STATE = {
    "policies": {"problems": []},
    "backends": [{"model": "m", "in_flight": 2}],
    "devices": [{"name": "CUDA0", "free_bytes": 2 * GIB, "total_bytes": 8 * GIB}],
}


def test_a_line_for_each_node_and_what_is_wrong_with_some() -> None:
    text = status_table(Seen([READY, DRAINED, SICK], frozenset({"b"}), 4, {"a": STATE}))

    lines = text.splitlines()
    assert lines[1].split()[:5] == ["a", "ready", "http://127.0.0.1:11434", "10.0.0.1", "m"]
    assert "CUDA0 2.00 GiB of 8.00 GiB" in lines[1]
    assert lines[1].endswith("2")
    assert "c: ended with status 2: \ufffd[1mbad policies" in lines
    assert "1 more machine of the cluster has said nothing yet" in lines
    assert "logs of b: /b" in lines


def test_one_that_does_not_answer_is_told_with_the_reason() -> None:
    text = status_table(Seen([READY], frozenset(), 1, {"a": "no answer within 3 s"}))

    assert "a: no answer within 3 s" in text.splitlines()


def test_what_was_told_long_ago_is_not_shown_as_new() -> None:
    ages = {"a": 61.4, "b": 1.2}
    seen = Seen([READY, DRAINED], frozenset(), 2, {"a": STATE}, ages=ages)

    lines = status_table(seen).splitlines()

    assert "ready 61 s ago" in lines[1]
    assert "drained  " in lines[2]
    assert any(line.startswith("a: nothing was heard") for line in lines)
    assert seen.is_silent(READY)


def test_policies_that_are_not_in_force_are_told_with_their_node() -> None:
    problem = {"file": "/p.toml", "line": 3, "key": "node", "message": "unknown key"}
    state = STATE | {"policies": {"problems": [problem]}}

    text = status_table(Seen([READY], frozenset(), 1, {"a": state}))

    assert "  a: /p.toml:3: node: unknown key" in text.splitlines()


def test_a_part_of_the_policies_that_is_no_nodes_is_told_once_all_are_there() -> None:
    state = STATE | {"policies": {"problems": [], "nodes": ["a", "b", "celar"]}}
    remark = "[nodes.celar] of the policies has no effect: there is no node 'celar'"

    def told(machines: int) -> list[str]:
        seen = Seen([READY, DRAINED], frozenset(), machines, {"a": state, "b": "silent"})
        return [line for line in status_table(seen).splitlines() if "[nodes." in line]

    assert told(2) == [remark]
    assert told(3) == []  # it may be the name of who has said nothing yet


def test_after_up_it_is_known_where_to_ask_on_this_machine() -> None:
    nodes = [READY, DRAINED]

    assert up_text(Seen(nodes, frozenset(), 2, {}, own="2")).splitlines() == [
        "a ready http://127.0.0.1:11434",
        "b drained http://127.0.0.1:11435",
        "use http://127.0.0.1:11435 on this machine",
    ]
    assert "use" not in up_text(Seen(nodes, frozenset(), 2, {}))


def called(given: str | None, host: str, name: str) -> str:
    report = Report("1", name)
    return called_text(given, host, Seen([report], frozenset(), 1, {}, own="1"))


def test_a_node_that_is_called_otherwise_than_was_said_is_told_with_the_reason() -> None:
    assert called("attic", "box", "attic") == called(None, "Box.lan", "box") == ""
    assert "is called a-b: names of nodes have" in called("a_b!", "box", "a-b")
    assert "[nodes.a-b]" in called("a_b!", "box", "a-b")
    assert "there is another attic" in called("attic", "box", "attic-2")
    assert "there is another box" in called(None, "Box.lan", "box-2")
    assert "keeps the name that it has; to have cellar" in called("cellar", "box", "attic")
    assert called(None, "box", "attic") == ""


def test_a_drain_says_what_it_waits_for() -> None:
    assert drained_so_far(DRAINED) == "b drained"
    waiting = Report("2", "b", "draining", says="waits for 2 requests")
    assert drained_so_far(waiting) == "b draining: waits for 2 requests"
