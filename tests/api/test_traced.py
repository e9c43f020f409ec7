"""Requests in traces, as a collector gets them: a real one's protocol, and a small engine that says
whose part it was asked on.
"""

import asyncio
import contextlib
import gzip
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.api.traced import operation_of
from proxy.app import Settings, running
from proxy.observe.traces import HOW_TO_GET_IT
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies

pytest.importorskip("opentelemetry.sdk.trace", reason=HOW_TO_GET_IT)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MESSAGES = [{"role": "user", "content": "hi"}]
# An engine that streams a chat, and writes down what traceparent it was sent.
ENGINE = """
import http.server, json, sys
class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(sys.argv[2], "a") as file:
            file.write(self.headers.get("traceparent", "none") + "\\n")
        told = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream"); self.end_headers()
        self.wfile.write(b"data: " + json.dumps(told).encode() + b"\\n\\ndata: [DONE]\\n\\n")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Engine).serve_forever()
"""


class Collector:
    """An OTLP receiver: spans by name, with their attributes as plain values."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, Any] = {}
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        data = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        sent = ExportTraceServiceRequest.FromString(data)
        for of_resource in sent.resource_spans:
            self.resource = plain(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        return web.Response(content_type="application/x-protobuf")

    async def span(self, request_id: str) -> Any:
        """The span of a request, once it has come."""

        def found() -> list[Any]:
            named = "moe_proxy.request_id"
            return [one for one in self.spans if plain(one.attributes).get(named) == request_id]

        (span,) = await until(found, f"a span of {request_id}")
        return span


def plain(attributes: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in attributes
    }


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    yield made
    await runner.cleanup()


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A proxy with a small engine, `asked`, and a model, `tiny`."""
    (folder / "engine.py").write_text(ENGINE)
    command = [sys.executable, str(folder / "engine.py"), "{port}", str(folder / "parents")]
    tiny = {"path": model(layers=2), "ctx": 512, "parallel": 1}
    file = folder / "policies.toml"
    file.write_text(policies({"asked": {"engine": "command", "command": command}, "tiny": tiny}))
    otel = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    settings = Settings(port=0, policies=file, env={"HOME": str(folder)} | otel)
    async with running(settings) as proxy, aiohttp.ClientSession(proxy.url) as session:
        yield session


async def ask(session: aiohttp.ClientSession, path: str, **how: Any) -> tuple[int, str]:
    """The status, and the request's id."""
    async with session.post(path, **how) as answer:
        await answer.read()
        return answer.status, answer.headers["X-Request-Id"]


@pytest.mark.llama
async def test_a_span_says_what_a_request_was(tmp_path: Path, collector: Collector) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 3}
    async with served(tmp_path) as session:
        _, first = await ask(session, "/v1/chat/completions", json=body)
        _, second = await ask(session, "/v1/chat/completions", json=body | {"stream": True})
        _, wrong = await ask(session, "/v1/messages", json=body | {"model": "none"})
        span, later = await collector.span(first), await collector.span(second)
        refused = await collector.span(wrong)

    told = plain(span.attributes)
    assert (span.name, span.kind) == ("POST /v1/chat/completions", 2)
    assert (
        told
        | {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "tiny",
            "gen_ai.usage.output_tokens": 3,
            "moe_proxy.backend": "b1",
            "moe_proxy.moe_cpu_layers": 2,
            "moe_proxy.loaded": True,
        }
        == told
    )
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told["moe_proxy.waited_s"] > 0
    events = sorted(span.events, key=lambda event: event.time_unix_nano)
    kinds = ["moe_proxy.model_loaded", "moe_proxy.backend_asked", "moe_proxy.first_byte"]
    assert [event.name for event in events] == kinds
    assert all(
        span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
        for event in events
    )
    assert plain(later.attributes)["moe_proxy.loaded"] is False
    assert plain(later.attributes)["gen_ai.usage.output_tokens"] == 3
    assert plain(refused.attributes)["http.response.status_code"] == 404
    assert refused.status.code == 0, "what a client does wrong is not the server's fault"
    assert collector.resource["service.name"] == "moe-proxy"
    assert collector.resource["deployment.environment.name"] == "test"


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/responses", {"stream": True, "input": "hi"}),
        ("/v1/messages", {"stream": True, "max_tokens": 3}),
        ("/api/chat", {}),
    ],
)
async def test_a_trace_is_taken_and_passed_on(
    tmp_path: Path, collector: Collector, path: str, more: Any
) -> None:
    body = {"model": "asked", "messages": MESSAGES} | more
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    async with served(tmp_path) as session:
        status, mine = await ask(session, path, json=body, headers=headers)
        _, other = await ask(session, path, json=body)
        span, alone = await collector.span(mine), await collector.span(other)

    _, trace, parent, _ = PARENT.split("-")
    assert status == 200
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    assert (alone.trace_id.hex() != trace, alone.parent_span_id) == (True, b"")
    parents = (tmp_path / "parents").read_text().split()
    passed_on = [f"00-{one.trace_id.hex()}-{one.span_id.hex()}" for one in (span, alone)]
    assert [one.rpartition("-")[0] for one in parents] == passed_on
    assert plain(span.attributes)["gen_ai.usage.input_tokens"] == 4


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_without_them_a_trace_is_passed_on_as_it_came(tmp_path: Path, path: str) -> None:
    body = {"model": "asked", "messages": MESSAGES, "stream": True}
    async with served(tmp_path) as session:
        await ask(session, path, json=body, headers={"traceparent": PARENT})

    assert (tmp_path / "parents").read_text().split() == [PARENT]


async def test_what_only_looks_is_in_no_trace(tmp_path: Path, collector: Collector) -> None:
    async with served(tmp_path) as session:
        async with session.get("/v1/models") as looked:
            assert looked.status == 200
        _, posted = await ask(session, "/api/show", json={"model": "asked"})
        await collector.span(posted)

    assert [span.name for span in collector.spans] == ["POST /api/show"]


async def test_a_client_that_leaves_is_no_fault_of_the_server(
    tmp_path: Path, collector: Collector
) -> None:
    async with served(tmp_path) as session:
        async with session.get("/health") as answer:
            port = answer.url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = ["POST /api/chat HTTP/1.1", "Host: localhost", "Content-Length: 9"]
        writer.write("\r\n".join((*head, "Expect: 100-continue", "", "")).encode())
        await reader.readuntil(b"\r\n\r\n")  # it is here, and its body is waited for
        writer.close()
        span = await until(lambda: next(iter(collector.spans), None), "its span")

    assert plain(span.attributes)["error.type"] == "client_left"
    assert span.status.code == 0


@pytest.mark.parametrize(
    ("route", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/completions", "text_completion"),
        ("/api/generate", "text_completion"),
        ("/api/embed", "embeddings"),
        ("/v1/messages", "chat"),
        ("/tokenize", None),
        ("/v1/messages/count_tokens", None),
        ("", None),
    ],
)
def test_what_is_done_at_a_route(route: str, operation: str | None) -> None:
    assert operation_of(route) == operation
