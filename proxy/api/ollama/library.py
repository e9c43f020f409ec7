"""Ollama's routes that change which models there are: pull, create, copy, delete, blobs, push."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from proxy.api.bodies import body_chunks
from proxy.api.ollama.listing import parameters_of
from proxy.api.ollama.request import read_request
from proxy.api.services import SERVICES, Services
from proxy.api.wire import json_response, start_stream
from proxy.catalog.entry import Message
from proxy.catalog.modelfile import ROLES
from proxy.catalog.parameters import BadParameter, from_json, unknown
from proxy.dialect.ollama.requests import read
from proxy.errors import BadRequest, ModelNotFound, ProxyError
from proxy.hub.create import CreateSpec
from proxy.hub.hub import Hub, reference_of
from proxy.hub.progress import Line

S = TypeVar("S", bound=msgspec.Struct)
log = structlog.get_logger()
HUB: web.AppKey[Hub] = web.AppKey("hub", Hub)


class PullBody(msgspec.Struct):
    model: str = ""
    name: str = ""
    insecure: bool | None = None
    stream: bool | None = None


class CopyBody(msgspec.Struct):
    source: str = ""
    destination: str = ""


class DeleteBody(msgspec.Struct):
    model: str = ""
    name: str = ""


class CreateMessage(msgspec.Struct):
    role: str = ""
    content: str | None = None


class CreateBody(msgspec.Struct):
    model: str = ""
    name: str = ""
    from_: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[CreateMessage] | None = None
    quantize: str | None = None
    quantization: str | None = None
    remote_host: str | None = None
    stream: bool | None = None


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_post("/api/pull", pull)
    router.add_post("/api/create", create)
    router.add_post("/api/copy", copy)
    router.add_delete("/api/delete", delete)
    router.add_head("/api/blobs/{digest}", head_blob)
    router.add_post("/api/blobs/{digest}", post_blob)
    router.add_post("/api/push", push)


async def hub_context(app: web.Application) -> AsyncIterator[None]:
    """Our store is there as long as the application is (for its `cleanup_ctx`)."""
    services = app[SERVICES]
    app[HUB] = Hub(services.policies.current.catalog.state, services.catalog)
    await app[HUB].sweep()
    yield
    await app[HUB].close()


async def end_jobs(app: web.Application) -> None:
    """Nobody is to wait for the end of a pull when the proxy ends (for the app's `on_shutdown`)."""
    await app[HUB].end_jobs()


async def pull(request: web.Request) -> web.StreamResponse:
    body = await _body(request, PullBody)
    name = _name(body)
    served_as = await _served_as(request.app[SERVICES], name)
    lines = request.app[HUB].pull(name, insecure=bool(body.insecure), served_as=served_as)
    return await _answer(request, lines, stream=body.stream is not False)


async def create(request: web.Request) -> web.StreamResponse:
    body = await _body(request, CreateBody)
    recipe = _recipe(body)
    if recipe.source is not None:
        source, params = await _made_from(request.app[SERVICES], recipe.source)
        recipe = replace(recipe, source=source, parameters={**params, **recipe.parameters})
    lines = request.app[HUB].create(recipe)
    return await _answer(request, lines, stream=body.stream is not False)


async def copy(request: web.Request) -> web.Response:
    body = await _body(request, CopyBody)
    source, params = await _made_from(request.app[SERVICES], body.source)
    if params:  # the file alone would be another model
        recipe = CreateSpec(
            reference_of(body.destination, "destination"), source, parameters=params
        )
        async for _ in request.app[HUB].create(recipe):
            pass
    else:
        await request.app[HUB].copy(source, body.destination)
    return web.Response()


async def delete(request: web.Request) -> web.Response:
    body = await _body(request, DeleteBody)
    if not _name(body).strip():
        raise BadRequest("model is required", param="model")
    await request.app[HUB].delete(_name(body))
    return web.Response()


async def head_blob(request: web.Request) -> web.Response:
    found = request.app[HUB].has_blob(request.match_info["digest"])
    return web.Response(status=200 if found else 404)


async def post_blob(request: web.Request) -> web.Response:
    """An upload of any size; it is written to disk as it comes."""
    new = await request.app[HUB].receive(request.match_info["digest"], body_chunks(request))
    return web.Response(status=201 if new else 200)


async def push(request: web.Request) -> web.Response:
    """Refused: it needs a key that is registered with Ollama, and only Ollama has that."""
    if not _name(await _body(request, DeleteBody)).strip():
        raise BadRequest("model is required", param="model")
    raise BadRequest("moe-proxy does not push models; push them with ollama, which has the key")


async def _served_as(services: Services, name: str) -> str | None:
    """The model that a policy gives this name: an alias, a variant, another server."""
    try:
        model = await services.resolve(name)
    except ModelNotFound:
        return None
    found = services.catalog.find(name)
    return None if found is not None and found is model.entry else model.name


async def _made_from(services: Services, name: str) -> tuple[str, Mapping[str, Any]]:
    """How the catalogue calls the model of this name, which may be an alias or a variant's; and
    what a variant has of its own besides."""
    try:
        model = await services.resolve(name)
    except (ModelNotFound, BadRequest):
        return name, {}  # a registry may know it, and what is no name is told later
    if model.entry is None:
        raise BadRequest(f"{model.name} has no file here: another server has it", param="from")
    is_variant = model.policy.base is not None and model.policy.path is None
    return model.entry.name, parameters_of(model) if is_variant else {}


async def _body(request: web.Request, kind: type[S]) -> S:
    return read(await read_request(request), kind)


def _name(body: PullBody | DeleteBody | CreateBody) -> str:
    return body.model or body.name


def _recipe(body: CreateBody) -> CreateSpec:
    """Raises BadRequest."""
    if body.remote_host:
        raise BadRequest("models that run elsewhere are not served here", param="remote_host")
    licenses = [body.license] if isinstance(body.license, str) else body.license or []
    try:
        parameters = from_json(body.parameters or {})
    except BadParameter as error:
        raise BadRequest(str(error), param="parameters") from error
    for what in unknown(body.parameters or {}):
        log.warning("create_parameter_unknown", model=_name(body), what=what)
    return CreateSpec(
        name=reference_of(_name(body)),
        source=body.from_ or None,
        files=body.files or {},
        adapters=body.adapters or {},
        parameters=parameters,
        template=body.template,
        system=body.system,
        messages=tuple(map(_message, body.messages or ())),
        licenses=tuple(text for text in licenses if text),
        quantize=body.quantize or body.quantization or None,
    )


def _message(given: CreateMessage) -> Message:
    """Raises BadRequest for who is nobody in a conversation: each of the model's would fail."""
    role = given.role.lower()
    if role not in ROLES:
        raise BadRequest(
            f"messages: {given.role[:40]!r} is no role; use {', '.join(ROLES)}", param="messages"
        )
    return Message(role, given.content or "")


async def _answer(
    request: web.Request, lines: AsyncGenerator[Line, None], *, stream: bool
) -> web.StreamResponse:
    """The lines as they come, or the last one. An error before the first has its own status."""
    async with aclosing(lines):
        if not stream:
            last: Line = {}
            async for line in lines:
                last = line
            return json_response(last)
        first = await anext(lines)
        response = await start_stream(request, "application/x-ndjson")
        await response.write(_line(first))
        try:
            async for line in lines:
                await response.write(_line(line))
        except ProxyError as error:
            await response.write(_line({"error": error.message}))
        await response.write_eof()
        return response


def _line(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"
