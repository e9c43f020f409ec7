"""Which machine a request goes to, by the thousand."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.choice import HOT_LINE, Asked, Choice, choose
from proxy.fleet.state import Fleet, Loaded, Node

GB = 10**9


def fleet(*nodes: Node, files: str = "m") -> Fleet:
    made = Fleet()
    for node in nodes:
        made.update(node)
        made.set_files(node.name, files.split())
    return made


def serving(name: str, *, ctx: int = 8192, slots: int = 2, busy: int = 0) -> Node:
    """A node with the model loaded."""
    return Node(name, (Loaded("m", ctx, slots, min(busy, slots), max(busy - slots, 0)),))


def keys(count: int) -> list[bytes]:
    return [f"conversation {number}".encode() for number in range(count)]


def test_a_conversation_stays_where_it_was_and_all_are_spread() -> None:
    three = fleet(*(serving(name, slots=9) for name in "abc"))
    first = {key: choose(three, Asked("m", key)) for key in keys(3000)}

    assert first == {key: choose(three, Asked("m", key)) for key in keys(3000)}
    by_node = Counter(choice.node for choice in first.values() if choice)
    assert set(by_node) == {"a", "b", "c"}
    assert min(by_node.values()) > 900


def test_only_those_of_a_node_that_left_move() -> None:
    nodes = [serving(name, slots=9) for name in "abcd"]
    four, three = fleet(*nodes), fleet(*nodes[:3])
    for key in keys(1000):
        before, after = choose(four, Asked("m", key)), choose(three, Asked("m", key))
        assert before
        assert before == after or before.node == "d"


def test_where_its_node_is_full_the_next_one_has_it_and_then_its_own_again() -> None:
    key = keys(1)[0]
    two = fleet(serving("a"), serving("b"))
    own = choose(two, Asked("m", key))
    assert own

    two.update(serving(own.node, busy=2))
    other = choose(two, Asked("m", key))
    two.update(serving(own.node, busy=1))

    assert other == Choice("b" if own.node == "a" else "a", "loaded")
    assert choose(two, Asked("m", key)) == own


def test_what_is_remembered_counts_before_the_hash() -> None:
    key = keys(1)[0]
    two = fleet(serving("a"), serving("b"))
    own = choose(two, Asked("m", key))
    assert own
    other = "b" if own.node == "a" else "a"

    assert choose(two, Asked("m", key, before=other)) == Choice(other, "loaded")
    two.update(serving(other, busy=2))
    assert choose(two, Asked("m", key, before=other)) == own
    two.remove(other)
    assert choose(two, Asked("m", key, before=other)) == own


def test_a_context_that_is_too_small_is_none() -> None:
    two = fleet(serving("a", ctx=4096), serving("b", ctx=32768))

    assert {choose(two, Asked("m", key, ctx=8192)) for key in keys(50)} == {Choice("b", "loaded")}


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        # The file alone says where it may go.
        ([Node("a", free_bytes=9 * GB), Node("b", free_bytes=5 * GB)], Choice("a", "room")),
        ([Node("a"), Node("b", free_bytes=5 * GB)], Choice("b", "room")),
        ([Node("a", movable_bytes=9 * GB), Node("b", free_bytes=3 * GB, movable_bytes=GB)],
         Choice("b", "shrink")),
        ([Node("a", idle_bytes=9 * GB), Node("b", movable_bytes=4 * GB)], Choice("b", "shrink")),
        ([Node("a", idle_bytes=9 * GB), Node("b")], Choice("a", "unload")),
        ([Node("a", free_bytes=9 * GB, draining=True), Node("b", idle_bytes=4 * GB)],
         Choice("b", "unload")),
        # Nobody has room: it waits where least is done.
        ([Node("a", (Loaded("x", 1, 1, 1, 3),)), Node("b", (Loaded("y", 1, 1, 1),))],
         Choice("b", "wait")),
    ],
)  # fmt: skip
def test_a_model_that_is_not_loaded_goes_where_it_takes_least(
    nodes: list[Node], chosen: Choice
) -> None:
    assert choose(fleet(*nodes), Asked("m", b"k", least_bytes=4 * GB)) == chosen


def test_a_hot_model_gets_a_second_node_and_nobody_is_unloaded_for_that() -> None:
    asked = Asked("m", b"k", least_bytes=4 * GB)
    line = int(2 * HOT_LINE)
    busy = serving("a", busy=2 + line)
    assert choose(fleet(serving("a", busy=1 + line), Node("b", free_bytes=9 * GB)), asked) == (
        Choice("a", "line")
    )
    assert choose(fleet(busy, Node("b", free_bytes=9 * GB)), asked) == Choice("b", "room")
    assert choose(fleet(busy, Node("b", movable_bytes=9 * GB)), asked) == Choice("b", "shrink")
    assert choose(fleet(busy, Node("b", idle_bytes=9 * GB)), asked) == Choice("a", "line")


def test_nobody_has_it() -> None:
    assert choose(fleet(Node("a"), files="other"), Asked("m", b"k")) is None
    there = fleet(serving("a"))
    assert choose(there, Asked("m", b"k", without=("a",))) is None
    there.remove("a")
    assert choose(there, Asked("m", b"k")) is None
    assert (dict(there.nodes), [*there.models()], dict(there.with_model("m"))) == ({}, [], {})


states = st.builds(
    serving,
    st.sampled_from("abcdef"),
    ctx=st.sampled_from([512, 8192]),
    slots=st.integers(1, 4),
    busy=st.integers(0, 9),
) | st.builds(
    Node,
    st.sampled_from("abcdef"),
    free_bytes=st.integers(0, 9),
    movable_bytes=st.integers(0, 9),
    idle_bytes=st.integers(0, 9),
    draining=st.booleans(),
)


@given(st.lists(states), st.binary(min_size=1, max_size=80), st.integers(0, 20))
def test_a_choice_is_one_that_may_be_made(nodes: list[Node], key: bytes, least_bytes: int) -> None:
    made = fleet(*nodes)
    asked = Asked("m", key, ctx=8192, least_bytes=least_bytes)
    choice = choose(made, asked)

    usable = [node for node in made.nodes.values() if not node.draining]
    assert (choice is None) == (not usable)
    if choice is None:
        return
    node = made.nodes[choice.node]
    loaded = made.with_model("m").get(choice.node)
    assert not node.draining
    assert (choice.why in ("loaded", "line")) == (loaded is not None and loaded.ctx >= 8192)
    if any(x.is_free and x.ctx >= 8192 for x in made.with_model("m").values()):
        assert choice.why == "loaded"
    if choice.why in ("room", "shrink", "unload"):
        assert least_bytes <= node.free_bytes + node.movable_bytes + node.idle_bytes


def test_the_index_says_what_the_nodes_say_whatever_happens() -> None:
    """A thousand changes, against a list that is made anew each time."""
    turns, names, models = random.Random(0), "abcdefgh", [f"m{n}" for n in range(12)]
    made = Fleet()
    nodes: dict[str, Node] = {}
    files: dict[str, frozenset[str]] = {}
    for name in itertools.islice(itertools.cycle(names), 1000):
        match turns.randrange(4):
            case 0:
                made.remove(name)
                nodes.pop(name, None)
                files.pop(name, None)
            case 1:
                files[name] = frozenset(turns.sample(models, turns.randrange(6)))
                made.set_files(name, files[name])
            case _:
                chosen = turns.sample(models, turns.randrange(4))
                nodes[name] = Node(name, tuple(Loaded(m, 1, 1) for m in chosen))
                made.update(replace(nodes[name]))
        for model in models:
            there = {n for n, node in nodes.items() if any(x.model == model for x in node.loaded)}
            assert set(made.with_model(model)) == there
            known = {n for n, each in files.items() if model in each and n in nodes}
            assert {node.name for node in made.with_file(model)} == known
