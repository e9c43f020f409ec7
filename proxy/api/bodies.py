"""Reads request bodies, up to a limit that may change at any time, and JSON bodies of our own
routes.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from proxy.api.services import SERVICES
from proxy.api.unpack import unpacker_of
from proxy.errors import BadRequest, BodyTooLarge, TooSlow
from proxy.policy.units import format_size

T = TypeVar("T")

# A body of which nothing comes for so long is given up, and one that comes slower than any line.
STALLED_S: Final = 30.0
SLOWEST_BYTES_PER_S: Final = 1024
# Of a long body, such as one with images, the beginning and the end: all would take too long.
DIGESTED_BYTES: Final = 1 << 18
DIGEST: web.RequestKey[bytes] = web.RequestKey("digest", bytes)


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge, before reading where its length is announced; Busy where
    those of all requests are too much; TooSlow for one that stops coming."""
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    services = request.app[SERVICES]
    budget, most = services.bodies, services.policies.current.server.max_bodies_bytes
    plain = request.content.exception() is None and hdrs.CONTENT_ENCODING not in request.headers
    if request.content.is_eof() and plain:  # it came with its head, as most do
        body = request.content.read_nowait()
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        budget.take(request, len(body), most)
        request[DIGEST] = _digest(request.path, body)
        return body
    chunks: list[bytes] = []
    size = 0
    async for chunk in body_chunks(request):
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        budget.take(request, len(chunk), most)
        chunks.append(chunk)
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    request[DIGEST] = _digest(request.path, body)
    return body


async def body_chunks(request: web.Request) -> AsyncGenerator[bytes, None]:
    """A body as it comes, unpacked. Raises TooSlow where nothing comes for a while, or hardly
    anything, and BadRequest for what cannot be unpacked."""
    unpacker = unpacker_of(", ".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())))
    async for chunk in sent_chunks(request):
        if unpacker is None:
            yield chunk
            continue
        for piece in unpacker.pieces(chunk):
            yield piece
            await asyncio.sleep(0)  # others have their turn meanwhile
    if unpacker is not None:
        unpacker.end()


async def sent_chunks(request: web.Request) -> AsyncGenerator[bytes, None]:
    """The same, as packed as it came."""
    loop = asyncio.get_running_loop()
    began_s, size = loop.time(), 0
    while True:
        # Who sends a byte now and then would stay for days otherwise.
        latest_s = began_s + STALLED_S + size / SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout_at(min(loop.time() + STALLED_S, latest_s)):
                chunk = await request.content.readany()
        except TimeoutError:
            raise TooSlow(f"{size} bytes of the body came, and then no more in time") from None
        except web.RequestPayloadError as error:
            raise BadRequest("the body is broken: not what its headers say that it is") from error
        if not chunk:
            return
        size += len(chunk)
        yield chunk


def decode_json(body: bytes, kind: type[T]) -> T:
    """A body of one of our own routes. Raises BadRequest that says where it is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not what is expected here: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deep") from error


def digest_of(request: web.Request) -> bytes:
    """By which this path and body are known when they come again; empty where no body was read."""
    return bytes(request.get(DIGEST, b""))


def _digest(path: str, body: bytes) -> bytes:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16)
    digest.update(len(body).to_bytes(8, "big"))
    if len(body) <= 2 * DIGESTED_BYTES:
        digest.update(body)
    else:
        digest.update(body[:DIGESTED_BYTES])
        digest.update(body[-DIGESTED_BYTES:])
    return digest.digest()


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is larger than {format_size(max_bytes)}, which is the most that is taken; "
        "[server] max_body sets it"
    )
