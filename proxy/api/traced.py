"""What a trace says of a request: by OpenTelemetry's conventions for HTTP servers and generative
AI, and beside them what only a proxy of models knows.
"""

from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from proxy.api.request_log import REQUEST_LOG, RequestLog
from proxy.api.services import SERVICES
from proxy.observe.traces import Value
from proxy.observe.words import CLIENT_LEFT

PARENT: Final = ("traceparent", "tracestate")
# What only looks, all day long, is in no trace.
LOOKS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# What is done at a path, by its last part.
OPERATIONS: Final = {
    **dict.fromkeys(("completions", "completion", "generate", "infill"), "text_completion"),
    **dict.fromkeys(("chat", "responses", "messages"), "chat"),
    **dict.fromkeys(("embeddings", "embedding", "embed"), "embeddings"),
}


def begin_span(request: web.Request, request_log: RequestLog) -> None:
    traces = request.app[SERVICES].traces
    if traces is None or request.method in LOOKS:
        return
    resource = request.match_info.route.resource
    route = resource.canonical if resource else ""
    host, _, port = request.host.rpartition(":")
    attributes: dict[str, Value] = {
        "http.request.method": request.method,
        "url.scheme": request.scheme,
        "url.path": request.path,
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
        "server.address": host or port,
        "moe_proxy.request_id": request_log.id,
    }
    known: dict[str, Value | None] = {
        "http.route": route or None,
        "server.port": int(port) if host and port.isdecimal() else None,
        "client.address": request.remote,
        "user_agent.original": request.headers.get("User-Agent"),
        "gen_ai.operation.name": operation_of(route),
    }
    attributes |= {name: value for name, value in known.items() if value is not None}
    name = f"{request.method} {route}".rstrip()
    request_log.span = traces.begin(name, request.headers, attributes)


def end_span(request_log: RequestLog, status: int) -> None:
    span = request_log.span
    if span is None:
        return
    if request_log.first_byte_s is not None:
        at_s = request_log.started_s + request_log.first_byte_s
        span.event("moe_proxy.first_byte", {}, at_s)
    left = status == CLIENT_LEFT
    failed = None
    if not left and (request_log.broken or status >= HTTPStatus.INTERNAL_SERVER_ERROR):
        failed = request_log.broken or HTTPStatus(status).phrase
    wrong = "client_left" if left else "broken" if request_log.broken else str(status)
    known: dict[str, Value | None] = {
        "http.response.status_code": None if left else status,
        "error.type": wrong if left or failed is not None else None,
        **_of_model(request_log),
    }
    span.end({name: value for name, value in known.items() if value is not None}, failed)


def trace_headers(request: web.Request) -> dict[str, str]:
    """What tells an engine whose part its answer is: ours where there is a span, else whatever came
    with the request."""
    span = request[REQUEST_LOG].span
    if span is not None:
        return dict(span.headers)
    return {name: request.headers[name] for name in PARENT if name in request.headers}


def operation_of(route: str) -> str | None:
    """What is done at a route, in the words of the conventions; None where they have none."""
    if route.endswith("/chat/completions"):
        return "chat"
    return OPERATIONS.get(route.rpartition("/")[2])


def _of_model(request_log: RequestLog) -> dict[str, Any]:
    if request_log.model is None:
        return {}
    spent = request_log.spent
    return {
        "gen_ai.provider.name": "moe-proxy",
        "gen_ai.request.model": request_log.model,
        "gen_ai.usage.input_tokens": spent.prompt,
        "gen_ai.usage.cache_read.input_tokens": spent.cached,
        "gen_ai.usage.output_tokens": spent.generated,
        "gen_ai.response.time_to_first_chunk": request_log.first_byte_s,
        "moe_proxy.backend": request_log.backend,
        "moe_proxy.moe_cpu_layers": request_log.moe_cpu_layers,
        "moe_proxy.waited_s": request_log.waited_s,
        "moe_proxy.loaded": request_log.loaded if request_log.backend else None,
    }
