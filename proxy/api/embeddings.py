"""`/v1/embeddings`, where llama-server does less than Ollama: it makes vectors of one length only,
and refuses inputs that are too long or empty. All others are passed through as they are."""

from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from proxy.api.bodies import digest_of
from proxy.api.ollama.engine_client import Engine
from proxy.api.ollama.inputs import embed, most_tokens
from proxy.api.ollama.run import backend_headers
from proxy.api.request_deadline import deadline
from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES
from proxy.api.short_context import warn_of_prompt
from proxy.api.wire import json_response
from proxy.dialect.body import Body
from proxy.dialect.vectors import read_dimensions, shortened
from proxy.errors import BadRequest
from proxy.pool.lease import Lease
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model

PATH: Final = "/v1/embeddings"
NULL: Final = msgspec.Raw(b"null")


async def special(
    request: web.Request, model: Model, wanted: ModelRequest, body: Body
) -> web.StreamResponse | None:
    """The answer, where llama-server alone would not give it; None where it does. Raises
    BadRequest."""
    services = request.app[SERVICES]
    if model.policy.engine != "hosted":
        return None  # another server's business
    dimensions = read_dimensions(_field(body, "dimensions"))
    inputs = _inputs(_field(body, "input"))
    if not all(map(_is_input, inputs)):
        raise BadRequest("input: use a text, tokens, or a list of these", param="input")
    limit = await services.planner.longest_input(model, wanted, most_tokens(inputs))
    if not inputs or not (dimensions or limit or "" in inputs):
        return None
    ours = ("input", "dimensions")
    more = {name: raw for name, raw in body.fields.items() if name not in ours and raw != NULL}

    async def send(lease: Lease) -> web.Response:
        request[REQUEST_LOG].asks(lease.backend.id)
        engine = Engine(lease.backend.engine.address, services.calls)
        on_long = partial(warn_of_prompt, lease.backend.options, cut=True)
        answer = await embed(engine, inputs, limit, truncate=True, on_long=on_long, more=more)
        lease.answered()
        for entry in answer["data"]:
            entry["embedding"] = shortened(entry["embedding"], dimensions)
        response = json_response(answer)
        response.headers.update(backend_headers(services, lease.backend))
        return response

    async with deadline(request, wanted):
        return await services.router.with_retry(
            model, wanted, "embedding", send, digest_of(request)
        )


def _field(body: Body, name: str) -> Any:
    """Raises BadRequest."""
    raw = body.fields.get(name)
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The first look skips what it does not want: a number without end, half a character.
        raise BadRequest(f"{name} is not valid JSON: {error}", param=name) from error


def _inputs(given: Any) -> list[Any]:
    """One by one; of what is not there, nothing."""
    if not isinstance(given, list):
        return [] if given is None else [given]
    is_tokens = any(isinstance(each, int) for each in given)
    return [given] if is_tokens else given


def _is_input(given: Any) -> bool:
    """Whether llama-server knows what to make of it, and does not take it for its own fault."""
    if isinstance(given, list):
        return all(isinstance(each, str | int) and not isinstance(each, bool) for each in given)
    return isinstance(given, str) or (isinstance(given, dict) and "prompt_string" in given)
