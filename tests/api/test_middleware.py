"""What every request goes through, around handlers that fail."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.api.middleware import OPEN_PATHS, errors

PATH = min(OPEN_PATHS)  # nobody is asked for a key there


async def fails_at_once(request: web.Request) -> web.StreamResponse:
    raise ZeroDivisionError


async def fails_in_between(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half an ans")
    raise ZeroDivisionError


def client(handler: object) -> TestClient[web.Request, web.Application]:
    app = web.Application(middlewares=[errors])
    app.router.add_get(PATH, handler)  # type: ignore[arg-type]
    return TestClient(TestServer(app))


async def test_a_bug_is_an_error_in_the_protocols_shape() -> None:
    async with client(fails_at_once) as asking, asking.get(PATH) as answer:
        assert answer.status == 500
        assert (await answer.json())["error"]["code"] == "internal_error"


async def test_a_bug_in_the_middle_ends_the_answer_too_early() -> None:
    """Another answer behind half of the first one would be taken for more of that."""
    async with client(fails_in_between) as asking, asking.get(PATH) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
