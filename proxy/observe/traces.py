"""Traces for OpenTelemetry, where its own variables (`OTEL_*`) switch them on: to which collector,
of which requests, how they are batched, all of that is read by its SDK. Without them nothing of it
is imported, and without the extra `otel` there is nothing to import.

Spans are sent by a thread of the SDK's. Where the collector is gone they are dropped, which is told
once.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from proxy.version import own_version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span

log = structlog.get_logger()

Value = str | int | float | bool
Attributes = Mapping[str, Value]

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN: Final = "http/protobuf"
HOW_TO_GET_IT: Final = "pip install 'moe-proxy[otel]'"
# What may still be sent when the proxy ends; a collector that is gone takes no longer.
CLOSE_S: Final = 1.0
NS: Final = 1_000_000_000


def is_on(env: Mapping[str, str]) -> bool:
    """Whether somebody wants traces, by OpenTelemetry's own rules. Its default would be to send
    them to this machine, asked or not: here a collector has to be named."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporters := env.get("OTEL_TRACES_EXPORTER", "").strip():
        return "otlp" in [name.strip() for name in exporters.split(",")]
    return any(env.get(name, "").strip() for name in ENDPOINTS)


@asynccontextmanager
async def tracing(env: Mapping[str, str]) -> "AsyncIterator[Traces | None]":
    """Traces for the length of the block, as `env` says. Leaving it sends what is there."""
    traces = traces_from(env)
    try:
        yield traces
    finally:
        if traces is not None:
            await asyncio.to_thread(traces.close)


def traces_from(env: Mapping[str, str]) -> "Traces | None":
    """None: nobody wants them, or they cannot be had, which the log says. The SDK reads the
    process's own environment."""
    if not is_on(env):
        return None
    protocol = next((env[name] for name in PROTOCOLS if env.get(name)), SPOKEN)
    if protocol != SPOKEN:
        log.warning("no_traces", why=f"{protocol} is not spoken; use {SPOKEN}")
        return None
    try:
        return Traces(_provider())
    except ImportError as error:
        log.warning("no_traces", why=f"{error}: {HOW_TO_GET_IT}")
    except Exception as error:  # whatever it makes of what its variables say
        log.warning("no_traces", why=f"OTEL_*: {error}")
    return None


def _provider() -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # It says each failure several times, with a traceback.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say counts more.
    ours = Resource({"service.name": "moe-proxy", "service.version": own_version()})
    named = Resource.create().attributes
    said = {key: v for key, v in named.items() if not str(v).startswith("unknown_service")}
    provider = TracerProvider(resource=ours.merge(Resource(said)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_telling(OTLPSpanExporter())))
    return provider


def _telling(exporter: "SpanExporter") -> "SpanExporter":
    """The same, which says in the log once that it fails, and once that it goes on."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Telling(SpanExporter):
        fails = False

        def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
            result = exporter.export(spans)
            fails = result is not SpanExportResult.SUCCESS
            if fails and not self.fails:
                why = "the collector takes none; they are dropped until it does"
                log.warning("traces_not_sent", why=why, spans=len(spans))
            if self.fails and not fails:
                log.info("traces_sent_again")
            self.fails = fails
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Telling()


class Traces:
    """Makes spans of requests. Nothing of it waits for anybody."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import propagate, trace

        self._provider, self._trace, self._propagate = provider, trace, propagate
        self._tracer = provider.get_tracer("moe-proxy", own_version())

    def begin(self, name: str, headers: Mapping[str, str], attributes: Attributes) -> "RequestSpan":
        """A span of a request that has come; `headers` say whose part it is."""
        parent = self._propagate.extract(headers)
        server = self._trace.SpanKind.SERVER
        span = self._tracer.start_span(name, parent, server, attributes)
        carried: dict[str, str] = {}
        self._propagate.inject(carried, self._trace.set_span_in_context(span, parent))
        return RequestSpan(span, carried)

    def close(self) -> None:
        """Send what is there, for CLOSE_S at most. Blocks so long."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True, name="traces")
        ending.start()
        ending.join(CLOSE_S)


class RequestSpan:
    """The span of one request. `headers` name it to whoever is asked on its behalf."""

    def __init__(self, span: "Span", headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._span = span
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def event(self, name: str, attributes: Attributes, at_s: float | None = None) -> None:
        """Something happened, now or at a monotonic time."""
        at_ns = None if at_s is None else round(at_s * NS) + self._offset_ns
        self._span.add_event(name, attributes, at_ns)

    def end(self, attributes: Attributes, failed: str | None = None) -> None:
        """It is over; `failed` says why that is the server's fault."""
        from opentelemetry.trace import StatusCode

        self._span.set_attributes(attributes)
        if failed is not None:
            self._span.set_status(StatusCode.ERROR, failed)
        self._span.end()
