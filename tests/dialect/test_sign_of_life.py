"""What a stream says while there is nothing to say."""

import pytest

from proxy.dialect.sign_of_life import is_comment, sign_of_life


def test_openais_clients_get_comments_and_anthropics_pings() -> None:
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'

    assert sign_of_life("/v1/chat/completions", "waiting") == b": waiting\n\n"
    assert sign_of_life("/v1/responses") == b":\n\n"
    assert sign_of_life("/v1/messages") == ping
    assert sign_of_life("/v1/messages", "waiting") == b": waiting\n" + ping


@pytest.mark.parametrize("chunk", [b":\n\n", b": so\n\n: and so\n\n", b": ping\r\n\r\n"])
def test_comments_alone_are_no_answer(chunk: bytes) -> None:
    assert is_comment(chunk)


@pytest.mark.parametrize("chunk", [b"data: {}\n\n", b":\n\ndata: {}\n\n", b":", b"", b": half\n"])
def test_what_has_an_event_or_may_have_one_is(chunk: bytes) -> None:
    assert not is_comment(chunk)
