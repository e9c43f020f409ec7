"""OpenAI's responses: a chat of the engine's in another protocol, and the last ones kept."""

import secrets
import time
from functools import partial
from typing import Any, Final

from aiohttp import web

from proxy.api.middleware import KEY_NAME
from proxy.api.passthrough import RESPONSES, Translated, post
from proxy.api.services import SERVICES
from proxy.api.wire import json_response
from proxy.dialect.body import Body
from proxy.dialect.openai.requests import Asked, read_asked
from proxy.dialect.openai.response import Response
from proxy.dialect.openai.stream import counted, responding
from proxy.errors import Unsupported

CHAT: Final = "/v1/chat/completions"
COUNT: Final = "/input_tokens"
ID_BYTES: Final = 24


def add_routes(router: web.UrlDispatcher) -> None:
    for path in RESPONSES:
        router.add_post(
            path, post("generation", has_params=True, protocol="chat", translate=_answered)
        )
        router.add_post(
            path + COUNT,
            post("generation", has_params=False, protocol="chat", translate=_counted),
        )
        router.add_get(path + "/{id}", show, allow_head=False)
        router.add_delete(path + "/{id}", delete)


async def show(request: web.Request) -> web.Response:
    """A response that is kept."""
    if request.query.get("stream") == "true":
        raise Unsupported("stream is not supported here: what is kept is complete", param="stream")
    kept = request.app[SERVICES].responses
    body = kept.response(request.match_info["id"], _owner(request))
    return web.Response(body=body, content_type="application/json")


async def delete(request: web.Request) -> web.Response:
    """Forget one."""
    id = request.match_info["id"]
    request.app[SERVICES].responses.forget(id, _owner(request))
    return json_response({"id": id, "object": "response", "deleted": True})


def _answered(request: web.Request, body: Body) -> Translated:
    asked = _read(request, body)
    services, owner = request.app[SERVICES], _owner(request)

    def keep(response: dict[str, Any]) -> None:
        if asked.stores:
            most_bytes = services.policies.current.server.keep_responses_bytes
            services.responses.keep(response, asked.items, owner, most_bytes)

    make = partial(Response, asked, _new_id, time.time)
    return Translated(Body.of(asked.chat), CHAT, responding(make, keep))


def _counted(request: web.Request, body: Body) -> Translated:
    return Translated(Body.of(_read(request, body).chat), CHAT + COUNT, counted)


def _read(request: web.Request, body: Body) -> Asked:
    kept = request.app[SERVICES].responses
    return read_asked(body, partial(kept.expand, owner=_owner(request)))


def _owner(request: web.Request) -> str:
    return request.get(KEY_NAME) or ""


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(ID_BYTES)
