"""OpenAI's responses: a chat of the engine's in another protocol, and the last ones kept."""

import secrets
import time
from functools import partial
from typing import Any, Final

from aiohttp import web

from proxy.api.middleware import KEY_NAME
from proxy.api.openai.kept import KeptResponses
from proxy.api.services import SERVICES
from proxy.api.wire import json_response
from proxy.dialect.body import Body
from proxy.dialect.openai.requests import Asked, read_asked
from proxy.dialect.openai.response import Response
from proxy.dialect.openai.stream import counted, responding
from proxy.dialect.rewrite import Translated
from proxy.errors import Unsupported

CHAT: Final = "/v1/chat/completions"
PATHS: Final = ("/v1/responses", "/responses")
COUNT: Final = "/input_tokens"
ID_BYTES: Final = 24


def add_routes(router: web.UrlDispatcher) -> None:
    for path in PATHS:
        router.add_get(path + "/{id}", show, allow_head=False)
        router.add_delete(path + "/{id}", delete)


def translate(request: web.Request, body: Body) -> Translated | None:
    """A request for a response as one for a chat; None for a path that is not its own.

    Raises BadRequest, and ItemNotFound for an item that is not kept.
    """
    path = request.path.removesuffix(COUNT)
    if path not in PATHS:
        return None
    asked = read_asked(body, partial(_kept(request).expand, owner=_owner(request)))
    chat = Body.of(asked.chat)
    if path != request.path:
        return Translated(CHAT + COUNT, chat, counted)
    make = partial(Response, asked, _new_id, time.time)
    return Translated(CHAT, chat, responding(make, partial(_keep, request, asked)))


async def show(request: web.Request) -> web.Response:
    """A response that is kept."""
    if request.query.get("stream") == "true":
        raise Unsupported("stream is not supported here: what is kept is complete", param="stream")
    body = _kept(request).response(request.match_info["id"], _owner(request))
    return web.Response(body=body, content_type="application/json")


async def delete(request: web.Request) -> web.Response:
    """Forget one."""
    id = request.match_info["id"]
    _kept(request).forget(id, _owner(request))
    return json_response({"id": id, "object": "response", "deleted": True})


def _keep(request: web.Request, asked: Asked, response: dict[str, Any]) -> None:
    if asked.stores:
        most_bytes = request.app[SERVICES].policies.current.server.keep_responses_bytes
        _kept(request).keep(response, asked.items, _owner(request), most_bytes)


def _kept(request: web.Request) -> KeptResponses:
    return request.app[SERVICES].responses


def _owner(request: web.Request) -> str:
    return request.get(KEY_NAME) or ""


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(ID_BYTES)
