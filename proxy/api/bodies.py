"""Reads request bodies, up to a limit that may change at any time, and JSON bodies of our own
routes.
"""

from typing import TypeVar

import msgspec
from aiohttp import web

from proxy.errors import BadRequest, BodyTooLarge
from proxy.policy.units import format_size

T = TypeVar("T")


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge, before reading where its length is announced."""
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    if request.content.is_eof():  # it came with its head, as most do
        body = request.content.read_nowait()
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode_json(body: bytes, kind: type[T]) -> T:
    """A body of one of our own routes. Raises BadRequest that says where it is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not what is expected here: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deep") from error


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is larger than {format_size(max_bytes)}, which is the most that is taken; "
        "[server] max_body sets it"
    )
