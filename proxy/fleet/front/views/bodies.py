"""Bodies that a front has to read before it knows whom to ask; nodes check what stands in them."""

from typing import Any, Final

import msgspec
from aiohttp import web

from proxy.api.bodies import body_chunks
from proxy.errors import BodyTooLarge
from proxy.fleet.front.body import MOST_OF_ALL_BYTES
from proxy.fleet.front.server import FRONT

# A recipe for a model may have long templates and conversations.
MOST_BYTES: Final = 64 << 20


async def read_small_body(request: web.Request) -> bytes:
    """All of it, unpacked. Raises BodyTooLarge, TooSlow and BadRequest, and Busy where those of all
    requests are too much."""
    budget = request.app[FRONT].budget
    pieces: list[bytes] = []
    size = 0
    async for chunk in body_chunks(request):
        size += len(chunk)
        if size > MOST_BYTES:
            raise BodyTooLarge(f"the body is larger than {MOST_BYTES >> 20} MiB")
        budget.take(request, len(chunk), MOST_OF_ALL_BYTES)
        pieces.append(chunk)
    return b"".join(pieces)


def fields_of(body: bytes) -> dict[str, Any]:
    """Nothing for what is no JSON object: a node says so."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def name_in(fields: dict[str, Any], *keys: str) -> str:
    """The first of these that is a name; "" for none."""
    for key in keys:
        if isinstance(name := fields.get(key), str) and name:
            return name
    return ""
