"""`/api/embed` and the older `/api/embeddings`: texts in, vectors of length 1 out."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from proxy.api.bodies import digest_of
from proxy.api.notes import WarnOnce
from proxy.api.ollama import inputs
from proxy.api.ollama.engine_client import Engine
from proxy.api.ollama.inputs import most_tokens
from proxy.api.ollama.request import ParsedRequest, parse, read_as
from proxy.api.ollama.run import backend_headers
from proxy.api.request_deadline import deadline
from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES
from proxy.api.short_context import warn_of_prompt
from proxy.api.traced import trace_headers
from proxy.api.turns import work_of
from proxy.api.wire import json_response
from proxy.dialect.limits import MOST_INPUTS
from proxy.dialect.ollama.requests import EmbedBody, EmbeddingsBody
from proxy.dialect.spent import Spent
from proxy.dialect.vectors import read_dimensions, shortened
from proxy.dialect.workload import Workload
from proxy.errors import BackendDied
from proxy.pool.lease import Lease


class Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class Usage(msgspec.Struct):
    prompt_tokens: int


class Embeddings(msgspec.Struct):
    data: list[Vector]
    usage: Usage


async def embed(notes: WarnOnce, request: web.Request) -> web.StreamResponse:
    started_ns = time.monotonic_ns()
    body = await read_as(request, EmbedBody)
    texts = body.texts
    asked = await parse(request, body, notes, missing=_missing(body.model))
    truncate, dimensions = body.truncate is not False, read_dimensions(body.dimensions)

    async def send(lease: Lease) -> web.Response:
        loaded_ns = time.monotonic_ns()
        found, tokens = await _embed(request, lease, asked, texts, truncate=truncate)
        answer: dict[str, Any] = {
            "model": asked.shown,
            "embeddings": [shortened(vector, dimensions) for vector in found],
        }
        if texts:
            answer["total_duration"] = time.monotonic_ns() - started_ns
            answer["load_duration"] = loaded_ns - started_ns
            answer["prompt_eval_count"] = tokens
        return _answer(request, answer, lease)

    router = request.app[SERVICES].router
    work = work_of(request, Workload(slots=len(texts), tokens=1)) if texts else None
    wanted, digest = replace(asked.wanted, work=work), digest_of(request)
    async with deadline(request, wanted):
        return await router.with_retry(asked.model, wanted, "embedding", send, digest)


async def embeddings(notes: WarnOnce, request: web.Request) -> web.StreamResponse:
    body = await read_as(request, EmbeddingsBody)
    asked = await parse(request, body, notes, missing=_missing(body.model))

    async def send(lease: Lease) -> web.Response:
        texts = [body.prompt] if body.prompt else []
        found, _ = await _embed(request, lease, asked, texts, truncate=True)
        return _answer(request, {"embedding": found[0] if found else []}, lease)

    router = request.app[SERVICES].router
    work = work_of(request, Workload(tokens=1)) if body.prompt else None
    wanted, digest = replace(asked.wanted, work=work), digest_of(request)
    async with deadline(request, wanted):
        return await router.with_retry(asked.model, wanted, "embedding", send, digest)


async def _embed(
    request: web.Request,
    lease: Lease,
    asked: ParsedRequest,
    texts: Sequence[str],
    *,
    truncate: bool,
) -> tuple[list[list[float]], int]:
    """A vector for each text, and how many tokens they had. No texts: the model is only loaded."""
    services, request_log = request.app[SERVICES], request[REQUEST_LOG]
    request_log.asks(lease.backend.id, lease.backend.ready_s)
    request_log.moe_cpu_layers = services.desired.current(lease.backend)
    if not texts:
        return [], 0
    limit = await services.planner.longest_input(asked.model, asked.wanted, most_tokens(texts))
    engine = Engine(lease.backend.engine.address, services.calls, trace_headers(request))
    on_long = partial(warn_of_prompt, lease.backend.options, cut=truncate)
    found: list[list[float]] = []
    tokens = 0
    # So many at a time as one request may have: Ollama's clients send all that they have at once.
    for start in range(0, len(texts), MOST_INPUTS):
        some = texts[start : start + MOST_INPUTS]
        answer = _read(await inputs.embed(engine, some, limit, truncate=truncate, on_long=on_long))
        lease.answered()
        found += [entry.embedding for entry in sorted(answer.data, key=lambda entry: entry.index)]
        tokens += answer.usage.prompt_tokens
    request_log.spent = Spent(tokens)
    return found, tokens


def _read(answer: Any) -> Embeddings:
    try:
        return msgspec.convert(answer, Embeddings)
    except msgspec.ValidationError as error:
        raise BackendDied(f"the engine's answer made no sense: {error}") from error


def _missing(name: str | None) -> str:
    return f'model "{name}" not found, try pulling it first'


def _answer(request: web.Request, body: dict[str, Any], lease: Lease) -> web.Response:
    response = json_response(body)
    response.headers.update(backend_headers(request.app[SERVICES], lease.backend))
    return response
