"""What is known of one request, for its log line, the metrics and its trace."""

import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from proxy.api.open_requests import OpenRequest
from proxy.dialect.spent import NOTHING, Spent
from proxy.errors import FIRST_ERROR
from proxy.observe.traces import RequestSpan
from proxy.observe.words import CLIENT_LEFT


def only_looks(method: str, path: str, status: int) -> bool:
    """Whether it changed nothing and asked no model. That is done often, and is of interest when it
    fails: not when a page of ours is closed. The page's editor checks at each key."""
    looked = method in ("GET", "HEAD") or (
        path.startswith("/admin/policies/") and path.endswith("/check")
    )
    return looked and (status < FIRST_ERROR or status == CLIENT_LEFT)


@dataclass(slots=True)
class RequestLog:
    """What is known of one request at its end, for its log line. The handlers fill it in."""

    id: str = ""
    model: str | None = None
    found: bool = False  # there is such a model; else `model` is what a client makes up
    backend: str | None = None
    bytes_sent: int = 0
    first_byte_s: float | None = None  # since the request came
    broken: str | None = None  # why the answer ended early
    failed: int | None = None  # the status of an error that came too late to have one
    moe_cpu_layers: int | None = None
    spent: Spent = NOTHING
    warnings: list[str] = field(default_factory=list)  # what its client should know
    ended: int | None = None  # the status of an answer that has no more to come
    open: OpenRequest | None = None  # while a model is run for it
    span: RequestSpan | None = None  # where traces are wanted
    waited_s: float | None = None  # until a backend was asked, the last time
    loaded: bool = False  # its backend was loaded meanwhile
    started_s: float = field(default_factory=time.monotonic)

    def asks(self, backend: str, ready_s: float | None = None) -> None:
        """A backend is asked, as far as it is known the one that will answer. `ready_s`: since when
        it serves."""
        self.backend = backend
        if self.open is not None:
            self.open.asks(backend)
        if self.span is not None:
            self.waited_s = round(time.monotonic() - self.started_s, 6)
            if ready_s is not None and ready_s > self.started_s:
                self.loaded = True
                self.span.event("moe_proxy.model_loaded", {"moe_proxy.backend": backend}, ready_s)
            self.span.event("moe_proxy.backend_asked", {"moe_proxy.backend": backend})

    def prompt_has(self, tokens: int) -> None:
        """The engine says how long the prompt is. Of several answers each has its own."""
        if self.open is not None and self.open.work.slots == 1:
            self.open.prompt_tokens = tokens

    def is_of(self, model: str) -> None:
        """The model that is asked for, which there is."""
        self.model, self.found = model, True

    def broke(self, why: str, status: int) -> None:
        """Some of the answer is out, or its head, and there will be no more; `status` is what it
        would have been told by before."""
        self.broken, self.failed = why, status

    def sent(self, size_bytes: int) -> None:
        """Some of the answer is on its way."""
        if self.first_byte_s is None:
            self.first_byte_s = round(time.monotonic() - self.started_s, 6)
        self.bytes_sent += size_bytes

    def known(self) -> dict[str, Any]:
        names = ("model", "backend", "moe_cpu_layers", "bytes_sent", "first_byte_s", "broken")
        found = {name: getattr(self, name) for name in names}
        found["prompt_tokens"], found["cached_tokens"], found["tokens"] = self.spent
        return {name: value for name, value in found.items() if value is not None}


REQUEST_LOG: web.RequestKey[RequestLog] = web.RequestKey("facts", RequestLog)
