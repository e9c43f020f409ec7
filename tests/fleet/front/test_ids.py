"""What an id of a fleet is, and is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.front.ids import apart, marked, marked_with_id, of_fleet
from proxy.node.names import USABLE_NAME

names = st.from_regex(USABLE_NAME, fullmatch=True)


@given(names, st.text(min_size=1))
def test_what_is_put_together_comes_apart(node: str, its: str) -> None:
    """Clients choose the ids of requests, and put dots into them."""
    assert apart(of_fleet(node, its)) == (node, its)


@pytest.mark.parametrize("text", ["", "b1", ".b1", "attic.", "AT.b1", "a b.b1", "-a.b1", "../x"])
def test_what_is_no_id_of_a_fleet(text: str) -> None:
    assert apart(text) is None


def test_what_a_node_tells_has_the_node_and_the_fleets_ids() -> None:
    request = {"id": "r.1", "backend": "b1", "model": "m"}
    assert marked_with_id("attic", request) == {
        "id": "attic.r.1",
        "backend": "attic.b1",
        "model": "m",
        "node": "attic",
    }
    assert marked_with_id("attic", {"id": "r", "backend": None})["backend"] is None


def test_an_event_says_whose_backend_makes_way() -> None:
    event = {"kind": "room_missing", "backend": "b2", "unloads": "b1", "missing": {"CUDA0": 1}}
    assert marked("attic", event) == {
        **event,
        "backend": "attic.b2",
        "unloads": "attic.b1",
        "node": "attic",
    }
    assert marked("attic", {"kind": "room_missing", "unloads": None})["unloads"] is None
