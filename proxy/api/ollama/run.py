"""Runs one generation for an Ollama client: a backend's events out, as lines or as one answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from proxy.api.bodies import digest_of
from proxy.api.ollama.engine_client import Engine, EngineRefused, Generation
from proxy.api.passthrough import SPLIT_HEADER
from proxy.api.reply import LAST_WORD_S
from proxy.api.request_deadline import deadline
from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES, Services
from proxy.api.short_context import warn_of_prompt
from proxy.api.traced import trace_headers
from proxy.api.turns import work_of
from proxy.api.wire import BACKEND_HEADER
from proxy.dialect.ollama.answers import Durations, Endpoint, Writer, error_line
from proxy.dialect.ollama.events import Failure
from proxy.dialect.ollama.times import rfc3339
from proxy.dialect.workload import Workload
from proxy.errors import BackendDied, CutShort, ProxyError
from proxy.observe.words import CLIENT_LEFT
from proxy.pool.lease import Lease
from proxy.pool.state import Backend
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model
from proxy.upstream.connection import BrokenAnswer

NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Job:
    """One generation. `started_ns` is when the request came, on the monotonic clock."""

    endpoint: Endpoint
    shown: str
    model: Model
    wanted: ModelRequest
    stream: bool
    started_ns: int
    tokens: int | None  # that the answer may have at most; None: not said
    alternatives: bool  # to the tokens chosen are wanted, where their probabilities are
    # May ask the engine before: context that comes as tokens has to become a prompt.
    prepare: Callable[[Engine], Awaitable[Generation]]
    # What to ask instead where the prompt has more tokens than the context; None: nothing fits.
    shorten: Callable[[Engine, int], Awaitable[Generation | None]] | None = None
    # The conversation so far as tokens, given what was generated.
    context: Callable[[Engine, Generation, str], Awaitable[Sequence[int]]] | None = None


async def run(request: web.Request, job: Job) -> web.StreamResponse:
    """Have the job done by a backend, loading it if need be."""
    services = request.app[SERVICES]
    wanted = replace(job.wanted, work=work_of(request, Workload(tokens=job.tokens)))
    attempt: _Attempt | None = None

    async def send(lease: Lease) -> web.StreamResponse:
        nonlocal attempt
        attempt = _Attempt(request, services, lease, job)
        return await attempt.run()

    digest = digest_of(request)
    try:
        async with deadline(request, wanted):
            return await services.router.with_retry(job.model, wanted, "generation", send, digest)
    except CutShort as error:
        if attempt is None:
            raise
        return await attempt.fail(error)


def now() -> str:
    """This moment, as answers tell it."""
    return rfc3339(time.time_ns())


def backend_headers(services: Services, backend: Backend) -> dict[str, str]:
    """Who answers, and with which split."""
    headers = {BACKEND_HEADER: backend.id}
    if (split := services.desired.current(backend)) is not None:
        headers[SPLIT_HEADER] = str(split)
    return headers


class _Attempt:
    """A job on one backend; another one can only follow while nothing was sent."""

    def __init__(self, request: web.Request, services: Services, lease: Lease, job: Job) -> None:
        self._request, self._lease = request, lease
        backend = lease.backend
        self._job = job
        self._facts = request[REQUEST_LOG]
        self._facts.asks(backend.id, backend.ready_s)
        self._facts.moe_cpu_layers = services.desired.current(backend)
        self._cause = services.router.cause_of_end
        self._engine = Engine(backend.engine.address, services.calls, trace_headers(request))
        self._writer = Writer(
            job.endpoint, job.shown, stream=job.stream, alternatives=job.alternatives
        )
        self._load_ns = time.monotonic_ns() - job.started_ns
        headers = backend_headers(services, backend)
        headers["Content-Type"] = NDJSON if job.stream else JSON
        self._response = web.StreamResponse(headers=headers)

    async def run(self) -> web.StreamResponse:
        try:
            await self._generate()
            self._lease.answered()
            await self._response.write_eof()
        except ConnectionResetError:
            self._facts.broke("the client left", CLIENT_LEFT)
        except (ProxyError, BrokenAnswer) as error:
            await self.fail(error)
        return self._response

    async def _generate(self) -> None:
        generation = await self._job.prepare(self._engine)
        try:
            await self._relay(generation)
        except EngineRefused as refusal:
            shorter = None
            if refusal.too_long_for and self._job.shorten is not None:
                shorter = await self._job.shorten(self._engine, refusal.too_long_for)
            kept = shorter is not None and not self._response.prepared
            if refusal.too_long_for:
                options = self._lease.backend.options
                warn_of_prompt(options, refusal.prompt_tokens, cut=kept)
            if shorter is None or not kept:
                raise
            generation = shorter
            await self._relay(generation)
        context: Sequence[int] = ()
        if self._job.context is not None:
            # Engines other than llama-server cannot tell; an answer without is still an answer.
            with suppress(ProxyError):
                text = "".join(self._writer.content)
                context = await self._job.context(self._engine, generation, text)
        total_ns = time.monotonic_ns() - self._job.started_ns
        durations = Durations(total_ns, self._load_ns)
        self._facts.spent = self._writer.spent
        await self._send(self._writer.end(now(), durations, context=context))

    async def _relay(self, generation: Generation) -> None:
        hosted = self._job.model.policy.engine == "hosted"  # another one may not know the word
        told = self._facts.prompt_has if hosted else None
        answer = self._engine.generate(generation, self._lease.yield_place, told)
        async with aclosing(answer) as batches:
            async for batch in batches:
                lines = []
                created_at = now()
                for event in batch:
                    if isinstance(event, Failure):
                        raise EngineRefused(event.message, status=event.status)
                    lines.append(self._writer.write(event, created_at))
                await self._send(b"".join(lines))
        if not self._writer.finished:
            raise BrokenAnswer("it ended without an end")

    async def _send(self, data: bytes) -> None:
        if not data:
            return
        if not self._response.prepared:
            await self._response.prepare(self._request)
        await self._response.write(data)
        self._facts.sent(len(data))

    async def fail(self, error: ProxyError | BrokenAnswer) -> web.StreamResponse:
        """Tell of an error: with a status, or in a line of its own once something was sent."""
        broken = isinstance(error, BrokenAnswer)
        message = f"the engine went away: {error}" if broken else str(error)
        if not self._response.prepared:
            if broken:
                raise BackendDied(message) from error
            raise error
        status = BackendDied.status if isinstance(error, BrokenAnswer) else error.status
        self._facts.broke(message, status)
        if broken:
            self._lease.broke()
            if cause := await self._cause(self._lease.backend):
                message = f"{message}: {cause}"
                self._facts.broke(message, status)
        with suppress(ConnectionResetError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):  # a client that does not read gets none
                await self._response.write(error_line(message))
                await self._response.write_eof()
        return self._response
