"""The last responses."""

from typing import Any

import pytest

from proxy.api.openai.kept import KeptResponses
from proxy.errors import ItemNotFound, NotFound, PreviousNotFound

MOST_BYTES = 1000
USER: Any = {"role": "user", "content": "hi"}


def response(number: int, text: str = "x") -> Any:
    item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": text}
    return {"id": f"resp_{number}", "output": [item]}


def keep(kept: KeptResponses, made: Any, owner: str = "me", most_bytes: int = MOST_BYTES) -> None:
    kept.keep(made, [USER], owner, most_bytes)


def test_a_conversation_goes_on_from_a_response() -> None:
    kept = KeptResponses()
    keep(kept, response(1))

    assert kept.expand("resp_1", [USER], "me") == [USER, *response(1)["output"], USER]
    assert kept.expand(None, [USER], "me") == [USER]


def test_items_may_be_referred_to() -> None:
    kept = KeptResponses()
    keep(kept, response(1))
    (item,) = response(1)["output"]

    for reference in ({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}):
        assert kept.expand(None, [USER, reference, USER], "me") == [USER, item, USER]
    assert kept.expand(None, [item | {"content": "other"}], "me")[0]["content"] == "other"
    assert kept.expand(None, [5, {"id": 5, "type": "x"}], "me") == [5, {"id": 5, "type": "x"}]


def test_what_is_not_there_or_anothers_is_named() -> None:
    kept = KeptResponses()
    keep(kept, response(1))

    for id, owner in (("resp_2", "me"), ("resp_1", "another")):
        with pytest.raises(PreviousNotFound, match=id) as error:
            kept.expand(id, [], owner)
        assert error.value.status == 400
        with pytest.raises(NotFound):
            kept.response(id, owner)
        with pytest.raises(NotFound):
            kept.forget(id, owner)
    with pytest.raises(ItemNotFound, match="msg_1") as missing:
        kept.expand(None, [{"type": "item_reference", "id": "msg_1"}], "another")
    assert missing.value.status == 404


def test_the_oldest_make_room() -> None:
    kept = KeptResponses()
    for number in range(5):
        keep(kept, response(number, "x" * 150))

    with pytest.raises(NotFound):
        kept.response("resp_0", "me")
    with pytest.raises(ItemNotFound):
        kept.expand(None, [{"id": "msg_0"}], "me")
    assert b"resp_4" in kept.response("resp_4", "me")
    keep(kept, response(6, "x" * MOST_BYTES))
    with pytest.raises(NotFound):
        kept.response("resp_6", "me")
    assert kept.response("resp_4", "me"), "one that is too large costs no other"
    keep(kept, response(7), most_bytes=0)
    with pytest.raises(NotFound):
        kept.response("resp_4", "me")


def test_what_is_forgotten_is_gone_and_leaves_room() -> None:
    kept = KeptResponses()
    keep(kept, response(1, "x" * 200))
    kept.forget("resp_1", "me")

    with pytest.raises(NotFound):
        kept.response("resp_1", "me")
    for number in range(2, 4):
        keep(kept, response(number, "x" * 150))
    assert kept.response("resp_2", "me")
