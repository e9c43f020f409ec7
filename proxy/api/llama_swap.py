"""Routes for people who come from llama-swap: what runs, unload all, one model's own server, its
log.
"""

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web

from proxy.api.bodies import read_body
from proxy.api.followers import Follower
from proxy.api.nameless import check_slots
from proxy.api.passthrough import COMPUTING, Forward, answer, request_headers
from proxy.api.services import SERVICES, Services
from proxy.api.turns import work_of
from proxy.api.wire import json_response, start_stream
from proxy.dialect.body import Body
from proxy.dialect.form import KIND as FORM
from proxy.dialect.form import check_form, form_fields
from proxy.dialect.lenient import mend_text
from proxy.dialect.limits import check_limits
from proxy.dialect.workload import Workload, workload_of
from proxy.engine.types import Mode
from proxy.errors import BadRequest, ModelNotFound
from proxy.pool.state import Backend, BackendState
from proxy.pool.work import Work
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model

STATES = {
    BackendState.STARTING: "starting",
    BackendState.READY: "ready",
    BackendState.DRAINING: "stopping",
    BackendState.STOPPING: "stopping",
}
EMBEDDING_PATHS = ("/v1/embeddings", "/embeddings", "/embedding")
RERANK_PATHS = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")
# Parts of a name: whoever asks chooses how many slashes there are, and each is a name to look up.
MOST_PARTS = 16


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/running", running)
    router.add_get("/unload", unload_all)
    router.add_get("/logs", recent_logs)
    router.add_get("/logs/stream", stream_logs, allow_head=False)
    router.add_get("/logs/stream/{model:.+}", stream_logs, allow_head=False)
    router.add_get("/logs/{model:.+}", recent_logs)
    router.add_route("*", "/upstream/{rest:.+}", upstream)


async def running(request: web.Request) -> web.Response:
    pool = request.app[SERVICES].pool
    entries = [_running(b) for b in pool.backends() if b.state in STATES]
    return json_response({"running": entries})


async def unload_all(request: web.Request) -> web.Response:
    pool = request.app[SERVICES].pool
    await asyncio.gather(*(pool.unload(b.id) for b in pool.backends()))
    return web.Response(text="OK")


async def recent_logs(request: web.Request) -> web.Response:
    """What is kept of what the engines said, one line each."""
    services = request.app[SERVICES]
    model = request.match_info.get("model")
    if model is not None:
        model = (await services.resolve(model)).loaded_as
    lines = services.log_buffer.recent(model)
    return web.Response(text="".join(f"{line.backend}: {line.text}\n" for line in lines))


async def stream_logs(request: web.Request) -> web.StreamResponse:
    """What the engines say, one line each; first what is kept, unless `?no-history` is given."""
    services = request.app[SERVICES]
    model = request.match_info.get("model")
    if model is not None:
        found = await services.resolve(model)
        model = found.loaded_as
    with services.log_buffer.read(model) as lines:
        response = await start_stream(request, "text/plain; charset=utf-8")
        if "no-history" not in request.query:
            for line in services.log_buffer.recent(model):
                await response.write(f"{line.backend}: {line.text}\n".encode())
        follower = Follower(request)
        async for line in lines:
            if not follower.may_stay():
                break
            await response.write(f"{line.backend}: {line.text}\n".encode())
    return response


async def upstream(request: web.Request) -> web.StreamResponse:
    """Ask a model's own server, whatever it has: `/upstream/{model}/{path}`."""
    services = request.app[SERVICES]
    # As it was sent: what is decoded may hold a line break, and must not get into a request's head.
    raw = request.rel_url.raw_path.removeprefix("/upstream/")
    model, path = split_upstream(services, raw)
    check_slots(request.method, path, model)
    limit = services.policies.current.server.max_body_bytes
    body = await read_body(request, limit) if request.can_read_body else b""
    kind = request.headers.get(hdrs.CONTENT_TYPE, "")
    if kind.strip().lower().startswith(FORM):
        check_form(form_fields(kind, body))
    elif body.lstrip()[:1] in (b"{", b"["):
        body = mend_text(body)
    _check_limits(body)
    query = request.rel_url.raw_query_string
    target = f"{path}?{query}" if query else path
    forward = Forward(request.method, target, request_headers(request), body)
    wanted = ModelRequest(model.name, work=_work(request, path, body))
    return await answer(request, model, wanted, _mode_of(path), forward)


def _work(request: web.Request, path: str, body: bytes) -> Work | None:
    """In slots, as far as the path is known to need any."""
    if request.method != "POST" or path not in COMPUTING:
        return None
    try:
        return work_of(request, workload_of(Body(body), generates=_mode_of(path) == "generation"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return work_of(request, Workload())  # it is the engine's to say so


def _check_limits(body: bytes) -> None:
    """Whatever its own server is asked, it must not die of it. Raises BadRequest."""
    if not body:
        return
    try:
        made = Body(body)
        if made.fields:  # taken apart, which finds out how deep it is nested
            check_limits(made)
    except RecursionError as error:
        raise BadRequest("the body is nested too deep") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # no JSON object: it has no such fields


def split_upstream(services: Services, rest: str) -> tuple[Model, str]:
    """The model and the path in `rest`: names have slashes too, so the longest name that exists
    counts.
    """
    parts = rest.split("/")
    for length in range(min(len(parts), MOST_PARTS), 0, -1):
        name = unquote("/".join(parts[:length]))
        with suppress(ModelNotFound):
            return services.resolver.resolve(name), "/" + "/".join(parts[length:])
    raise ModelNotFound(f"there is no model at the start of {rest!r}", param="model")


def _mode_of(path: str) -> Mode:
    if path in EMBEDDING_PATHS:
        return "embedding"
    return "rerank" if path in RERANK_PATHS else "generation"


def _running(backend: Backend) -> dict[str, Any]:
    ttl_s = backend.ttl_s
    return {
        "model": backend.options.model,
        "name": backend.options.model,
        "description": "",
        "state": STATES[backend.state],
        "cmd": " ".join(backend.options.command),
        "proxy": f"/upstream/{backend.options.model}",
        # llama-swap's 0 is "for ever"
        "ttl": int(ttl_s) if ttl_s != float("inf") else 0,
    }
