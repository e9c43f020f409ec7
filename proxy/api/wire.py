"""JSON answers and event streams."""

from typing import Any, Final

import msgspec
from aiohttp import web

# Who answered, where that was not the proxy itself.
BACKEND_HEADER: Final = "X-Moe-Proxy-Backend"
_encoder = msgspec.json.Encoder(enc_hook=str)


def json_response(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=_encoder.encode(value), content_type="application/json")


def sse_frame(value: Any, *, event_id: int | None = None, event: str | None = None) -> bytes:
    """One server-sent event with JSON data."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    head += f"event: {event}\n" if event else ""
    return head.encode() + b"data: " + _encoder.encode(value) + b"\n\n"


async def start_stream(request: web.Request, content_type: str) -> web.StreamResponse:
    """The head of an answer that goes on until the client leaves."""
    response = web.StreamResponse(
        headers={
            "Content-Type": content_type,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    return response
