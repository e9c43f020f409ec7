"""Bodies that a front keeps, and what becomes of those for which it has no room."""

import io
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.fleet.front.body import LOOKED_AT_BYTES, MOST_KEPT_BYTES, MOST_OF_ALL_BYTES
from proxy.fleet.front.run import running
from proxy.node.identity import identity_of
from proxy.node.names import KEY_FILE_VARIABLE
from tests.support.fleet import key_file

CHAT = "/v1/chat/completions"
LONG = json.dumps({"messages": 2 * LOOKED_AT_BYTES * "x", "model": "m"}).encode()


@pytest.mark.parametrize("path", [CHAT, "/api/create"])
async def test_where_all_bodies_are_too_much_one_is_to_come_again(
    path: str, tmp_path: Path
) -> None:
    """And nobody is asked for a model whose name has not come yet."""
    identity = identity_of({KEY_FILE_VARIABLE: str(key_file(tmp_path))})
    here = socket.create_server(("127.0.0.1", 0))
    async with (
        running(identity, [here], "127.0.0.1", inherited=False) as one,
        aiohttp.ClientSession(f"http://127.0.0.1:{here.getsockname()[1]}") as client,
    ):
        budget = one.front.budget
        budget.held_bytes = MOST_OF_ALL_BYTES  # others' bodies

        async with client.post(path, data=io.BytesIO(LONG)) as answer:
            assert answer.status == 503
            assert "the bodies of all requests together" in await answer.text()
            assert "Retry-After" in answer.headers

        assert budget.held_bytes == MOST_OF_ALL_BYTES


async def test_a_model_that_comes_behind_what_is_too_long_is_asked_to_come_first(
    tmp_path: Path,
) -> None:
    identity = identity_of({KEY_FILE_VARIABLE: str(key_file(tmp_path))})
    here = socket.create_server(("127.0.0.1", 0))
    async with (
        running(identity, [here], "127.0.0.1", inherited=False),
        aiohttp.ClientSession(f"http://127.0.0.1:{here.getsockname()[1]}") as client,
    ):
        headers = {"Content-Length": str(MOST_KEPT_BYTES + 1), "Connection": "close"}
        body = LONG[: LOOKED_AT_BYTES + (1 << 18)]

        async def beginning() -> AsyncIterator[bytes]:
            yield body

        async with client.post(CHAT, data=beginning(), headers=headers) as answer:
            assert answer.status == 413
            assert "put `model` before" in await answer.text()
