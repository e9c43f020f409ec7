"""`/api/embed` and the older `/api/embeddings`: texts in, vectors of length 1 out."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from aiohttp import web

from proxy.api.bodies import digest_of
from proxy.api.middleware import REQUEST_LOG
from proxy.api.ollama.engine_client import Engine, EngineRefused
from proxy.api.ollama.request import WarnOnce, parse, read_request
from proxy.api.ollama.run import backend_headers
from proxy.api.request_deadline import deadline
from proxy.api.services import SERVICES
from proxy.api.turns import work_of
from proxy.api.wire import json_response
from proxy.dialect.limits import MOST_INPUTS
from proxy.dialect.ollama.requests import EmbedBody, EmbeddingsBody, read
from proxy.dialect.workload import Workload
from proxy.errors import BadRequest
from proxy.pool.lease import Lease

EMBEDDINGS: Final = "/v1/embeddings"
# A model that looks at all tokens at once takes no more of them than a batch has, and llama-server
# says so in words alone.
BATCH_LIMIT: Final = re.compile(r"too large to process.*current batch size: (\d+)")
TOO_LONG: Final = "the input length exceeds the context length"


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
    body = read(await read_request(request), EmbedBody)
    texts = body.texts
    asked = await parse(request, body, notes, missing=_missing(body.model))
    truncate = body.truncate is not False

    async def send(lease: Lease) -> web.Response:
        loaded_ns = time.monotonic_ns()
        found, tokens = await _embed(request, lease, texts, truncate=truncate)
        answer: dict[str, Any] = {
            "model": asked.shown,
            "embeddings": [_cut(vector, body.dimensions or 0) for vector in found],
        }
        if texts:
            answer["total_duration"] = time.monotonic_ns() - started_ns
            answer["load_duration"] = loaded_ns - started_ns
            answer["prompt_eval_count"] = tokens
        return _answer(request, answer, lease)

    router = request.app[SERVICES].router
    work = work_of(request, Workload(slots=len(texts), tokens=1)) if texts else None
    wanted, digest = replace(asked.wanted, work=work), digest_of(request)
    async with deadline(request):
        return await router.with_retry(asked.model, wanted, "embedding", send, digest)


async def embeddings(notes: WarnOnce, request: web.Request) -> web.StreamResponse:
    body = read(await read_request(request), EmbeddingsBody)
    if not body.model:
        raise BadRequest("model is required", param="model")
    asked = await parse(request, body, notes, missing=_missing(body.model))

    async def send(lease: Lease) -> web.Response:
        texts = [body.prompt] if body.prompt else []
        found, _ = await _embed(request, lease, texts, truncate=True)
        return _answer(request, {"embedding": found[0] if found else []}, lease)

    router = request.app[SERVICES].router
    work = work_of(request, Workload(tokens=1)) if body.prompt else None
    wanted, digest = replace(asked.wanted, work=work), digest_of(request)
    async with deadline(request):
        return await router.with_retry(asked.model, wanted, "embedding", send, digest)


async def _embed(
    request: web.Request, lease: Lease, texts: Sequence[str], *, truncate: bool
) -> tuple[list[list[float]], int]:
    """A vector for each text, and how many tokens they had. No texts: the model is only loaded."""
    request[REQUEST_LOG].backend = lease.backend.id
    engine = Engine(lease.backend.engine.address, request.app[SERVICES].calls)
    found: list[list[float]] = []
    tokens = 0
    # So many at a time as one request may have: Ollama's clients send all that they have at once.
    for start in range(0, len(texts), MOST_INPUTS):
        some = texts[start : start + MOST_INPUTS]
        vectors, count = await _embed_some(engine, lease, some, truncate=truncate)
        found += vectors
        tokens += count
    return found, tokens


async def _embed_some(
    engine: Engine, lease: Lease, texts: Sequence[str], *, truncate: bool
) -> tuple[list[list[float]], int]:
    try:
        answer = _read(await engine.post(EMBEDDINGS, {"input": list(texts)}, Embeddings))
        lease.answered()
        return answer
    except EngineRefused as refusal:
        limit = _limit(refusal)
        if limit is None:
            raise
        if not truncate:
            raise BadRequest(TOO_LONG, param="input") from refusal
    inputs = [(await engine.tokens_of(text, begins=True))[:limit] for text in texts]
    return _read(await engine.post(EMBEDDINGS, {"input": inputs}, Embeddings))


def _missing(name: str | None) -> str:
    return f'model "{name}" not found, try pulling it first' if name else "model '' not found"


def _read(answer: Embeddings) -> tuple[list[list[float]], int]:
    data = sorted(answer.data, key=lambda entry: entry.index)
    return [entry.embedding for entry in data], answer.usage.prompt_tokens


def _limit(refusal: EngineRefused) -> int | None:
    """How many tokens would not have been too many, if there were too many."""
    if refusal.too_long_for:
        return refusal.too_long_for - 1
    match = BATCH_LIMIT.search(refusal.message)
    return int(match[1]) if match else None


def _cut(vector: list[float], dimensions: int) -> list[float]:
    """The first `dimensions` numbers, again of length 1; 0: all."""
    if not 0 < dimensions < len(vector):
        return vector
    first = vector[:dimensions]
    length = max(math.hypot(*first), 1e-12)
    return [number / length for number in first]


def _answer(request: web.Request, body: dict[str, Any], lease: Lease) -> web.Response:
    response = json_response(body)
    response.headers.update(backend_headers(request.app[SERVICES], lease.backend))
    return response
