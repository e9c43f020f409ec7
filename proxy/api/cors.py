"""What browsers want to be told before they let a page of another origin have an answer (CORS)."""

import re
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

from proxy.errors import BadRequest

# The origin of a page that may use the proxy, once that was decided.
ALLOWED_ORIGIN: web.RequestKey[str] = web.RequestKey("allowed_origin", str)
# Headers of answers that pages may read beside those that they always may.
EXPOSED: Final = (
    "X-Moe-Proxy-Backend",
    "X-Moe-Proxy-Moe-Cpu-Layers",
    "X-Moe-Proxy-Node",
    "X-Moe-Proxy-Pid",
    "X-Moe-Proxy-Warning",
    "X-Request-Id",
    "Retry-After",
)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# As long as Chromium remembers at most. Each request is judged itself, whatever a browser knows.
MAX_AGE_S: Final = 7200
REQUEST_PRIVATE_NETWORK: Final = "Access-Control-Request-Private-Network"
ALLOW_PRIVATE_NETWORK: Final = "Access-Control-Allow-Private-Network"

_EXPOSED_TEXT: Final = ", ".join(EXPOSED)
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, before a page's request, if it may be made."""
    return method == "OPTIONS" and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers


def preflight_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The answer to a preflight from an origin that is allowed, beside what `add_headers` gives
    each answer. Raises BadRequest for what is no name of a header."""
    asked = headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not all(map(_NAME.fullmatch, names)):
        raise BadRequest("Access-Control-Request-Headers: these are not all names of headers")
    answer: dict[str, str] = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(METHODS),
        hdrs.ACCESS_CONTROL_MAX_AGE: str(MAX_AGE_S),
        hdrs.VARY: ", ".join(
            (hdrs.ACCESS_CONTROL_REQUEST_METHOD, hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
        ),
    }
    if names:
        answer[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ", ".join(names)
    if headers.get(REQUEST_PRIVATE_NETWORK, "").lower() == "true":
        answer[ALLOW_PRIVATE_NETWORK] = "true"
    return answer


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Said by every answer, when its head is sent: also by streams and errors."""
    # Also where there is no origin: a cache must not give that answer to one who has.
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    if origin := request.get(ALLOWED_ORIGIN):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED_TEXT
