"""Where a new model is put."""

import pytest

from proxy.fleet.front.views.store import most_room
from proxy.fleet.state import Node


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        ([], None),
        ([Node("a", free_bytes=1), Node("b", free_bytes=2)], "b"),
        # What others could give counts as what is free.
        ([Node("a", free_bytes=5), Node("b", free_bytes=1, movable_bytes=3, idle_bytes=2)], "b"),
        ([Node("a", movable_bytes=9), Node("b", free_bytes=8)], "a"),
        # Of equals it is the same one each time.
        ([Node("a"), Node("b")], "b"),
        ([Node("b"), Node("a")], "b"),
    ],
)
def test_it_is_put_where_most_memory_could_be_had(nodes: list[Node], chosen: str | None) -> None:
    found = most_room(nodes)
    assert (found.name if found else None) == chosen
