"""What of a stream is a byte of the answer, and what only says that somebody is there."""

import pytest

from proxy.dialect.sign_of_life import sign_of_life
from proxy.fleet.front.answer import is_sign_of_life


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("told", ["", "waiting, position 3"])
def test_signs_of_life_are_none(path: str, told: str) -> None:
    sign = sign_of_life(path, told)

    assert is_sign_of_life(sign)
    assert is_sign_of_life(sign * 3)
    assert not is_sign_of_life(sign + b"data: {}\n\n")
    assert not is_sign_of_life(sign[:-1])


@pytest.mark.parametrize("chunk", [b"data: null\n\n", b"event: error\ndata: {}\n\n", b"x", b""])
def test_all_else_is_one(chunk: bytes) -> None:
    assert not is_sign_of_life(chunk)
