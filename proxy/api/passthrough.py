"""Requests that an engine answers: which one and with which options is ours, every byte of body and
answer is not.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web
from msgspec.structs import replace

from proxy.api.bodies import digest_of, read_body
from proxy.api.middleware import WARNING, Handler
from proxy.api.notes import WarnOnce
from proxy.api.options import read_model_request
from proxy.api.prepare import Kind, has_shape, prepare
from proxy.api.refused import busy_headers
from proxy.api.reply import EVENT_STREAM, Reply
from proxy.api.request_deadline import TIMEOUT_HEADER, deadline
from proxy.api.request_log import REQUEST_LOG
from proxy.api.request_state import how_it_stands
from proxy.api.services import SERVICES, Services
from proxy.api.short_context import warn_of_refusal
from proxy.api.traced import trace_headers
from proxy.api.turns import work_of
from proxy.api.wire import BACKEND_HEADER
from proxy.dialect.body import Body
from proxy.dialect.errors import said_by_engine
from proxy.dialect.lenient import as_meant
from proxy.dialect.rewrite import EngineError, Rewrite, Rewriter
from proxy.dialect.spent import Tail, prompt_length
from proxy.engine.types import Mode
from proxy.errors import FIRST_ERROR, BackendDied, ProxyError
from proxy.node.names import REFUSES_HEADER
from proxy.observe.words import CLIENT_LEFT
from proxy.pool.lease import Lease
from proxy.pool.state import Backend
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model
from proxy.routing.router import Router
from proxy.upstream.call import HOP_BY_HOP, Call, end_to_end
from proxy.upstream.connection import BrokenAnswer, EngineConnection

SPLIT_HEADER: Final = "X-Moe-Proxy-Moe-Cpu-Layers"
# What is between the client and us: our name, our keys, and the body's encoding, which is undone
# already.
REQUEST_ONLY_OURS: Final = HOP_BY_HOP.union(
    ("host", "content-length", "content-encoding", "expect"),
    ("authorization", "x-api-key", "cookie", "origin", TIMEOUT_HEADER.lower()),
    # With one, llama-server goes on for a client that has left, and ends what anybody else asks
    # by the same name.
    ("x-conversation-id",),
)
# Whom browsers may answer to is ours to say, and so is who answered: the engine may be a proxy too.
ANSWER_ONLY_OURS: Final = HOP_BY_HOP.union(
    (BACKEND_HEADER.lower(), SPLIT_HEADER.lower(), WARNING.lower(), REFUSES_HEADER.lower()),
    ("access-control-allow-origin", "access-control-allow-credentials"),
    ("access-control-allow-methods", "access-control-allow-headers"),
    ("access-control-expose-headers", "access-control-max-age"),
    ("access-control-allow-private-network",),
)
REWRITTEN: Final = ANSWER_ONLY_OURS | {"content-length", "content-type"}

# What llama-server reads of a request's head; longer ones it refuses.
LONGEST_HEADER: Final = 8000
MOST_HEADERS: Final = 90

# Paths with a JSON body that names the model. The last column: whether the policy's `params` apply.
POSTS: Final[tuple[tuple[str, Mode, bool], ...]] = (
    ("/v1/chat/completions", "generation", True),
    ("/chat/completions", "generation", True),
    ("/v1/completions", "generation", True),
    ("/completions", "generation", True),
    ("/completion", "generation", True),
    ("/v1/responses", "generation", True),
    ("/responses", "generation", True),
    ("/v1/messages", "generation", True),
    ("/infill", "generation", True),
    ("/v1/messages/count_tokens", "generation", False),
    ("/v1/chat/completions/input_tokens", "generation", False),
    ("/chat/completions/input_tokens", "generation", False),
    ("/v1/responses/input_tokens", "generation", False),
    ("/responses/input_tokens", "generation", False),
    ("/tokenize", "generation", False),
    ("/detokenize", "generation", False),
    ("/apply-template", "generation", False),
    ("/v1/embeddings", "embedding", False),
    ("/embeddings", "embedding", False),
    ("/embedding", "embedding", False),
    ("/v1/rerank", "rerank", False),
    ("/v1/reranking", "rerank", False),
    ("/rerank", "rerank", False),
    ("/reranking", "rerank", False),
    ("/v2/rerank", "rerank", False),
)
# What llama-server begins a stream of several prompts' answers with: clients take it for a chunk.
NOTHING_YET: Final = b"data: null\n\n"
# Those whose clients are known to read event streams as they are meant.
COMMENTED: Final = frozenset(
    {
        *("/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions"),
        *("/v1/responses", "/responses", "/v1/messages"),
    }
)
COMPUTING: Final = frozenset(
    path for path, mode, has_params in POSTS if has_params or mode != "generation"
)
CHATS: Final = ("/chat/completions", "/responses", "/messages")
OK: Final = HTTPStatus.OK
# Answers a request where llama-server would not, else None.
Special = Callable[[web.Request, Model, ModelRequest, Body], Awaitable[web.StreamResponse | None]]


class Forward(msgspec.Struct, frozen=True):
    """One request as it goes to an engine."""

    method: str
    target: str  # path and query
    headers: Sequence[tuple[str, str]]
    body: bytes = b""
    computes: bool = False  # the model is run for the answer
    comments: bool = False  # its stream may begin with some
    tells_progress: bool = False  # so does its stream of how much of the prompt is read
    asked: str = ""  # the path that the client asked for, where errors are in its protocol's shape
    rewriter: Rewriter | None = None  # how its answer goes out, where that is not as it comes


def add_routes(router: web.UrlDispatcher, special: Mapping[str, Special]) -> None:
    """`special`: who looks first at what is posted to a path."""
    notes = WarnOnce()
    for path, mode, has_params in POSTS:
        chats = _chats(path)
        handle = _post(mode, special.get(path), has_params=has_params, chats=chats, notes=notes)
        router.add_post(path, handle)


def _chats(path: str) -> bool:
    """Whether a path takes conversations, which go on as chats."""
    return path == "/apply-template" or any(part in path for part in CHATS)


def _post(
    mode: Mode, special: Special | None, *, has_params: bool, chats: bool, notes: WarnOnce
) -> Handler:
    kind = Kind(mode, has_params=has_params, chats=chats)

    async def handle(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        data = await read_body(request, services.policies.current.server.max_body_bytes)
        body = as_meant(data)
        wanted = read_model_request(
            body.encode(),
            models=services.resolver.names,
            only=services.only_model,
            knows=services.resolver.knows,
        )
        request[REQUEST_LOG].model = wanted.model
        model = await services.resolve(wanted.model)
        request[REQUEST_LOG].is_of(model.name)
        can = await services.abilities.of(model)
        ready = prepare(request, body, model, can, kind, notes)
        if ready.load is not None:
            wanted = replace(wanted, work=work_of(request, ready.load))
        if special is not None:
            answered = await special(request, model, wanted, ready.body)
            if answered is not None:
                return answered
        comments = ready.load is not None and ready.load.streams and request.path in COMMENTED
        forward = Forward(
            *("POST", ready.target, request_headers(request), ready.body.encode()),
            *(kind.computes, comments),
            tells_progress=comments and ready.body.mentions(b"return_progress"),
            asked=request.path if has_shape(request.path) else "",
            rewriter=ready.rewriter,
        )
        return await answer(request, model, wanted, mode, forward)

    return handle


async def answer(
    request: web.Request, model: Model, wanted: ModelRequest, mode: Mode, forward: Forward
) -> web.StreamResponse:
    """Have the request answered by a backend that has what it asks for, loading it if need be."""
    services = request.app[SERVICES]
    request[REQUEST_LOG].is_of(model.name)
    stands = how_it_stands(services, request[REQUEST_LOG]) if forward.comments else None
    reply = Reply(request, forward.asked or forward.target.partition("?")[0], stands)

    async def send(lease: Lease) -> web.StreamResponse:
        return await _relay(request, services, lease, forward, reply)

    try:
        async with deadline(request, wanted):
            return await services.router.with_retry(model, wanted, mode, send, digest_of(request))
    except ProxyError as error:
        await reply.be_silent()
        if reply.response is None:
            raise
        return await reply.fail(error)
    finally:
        reply.abandon()


async def _relay(
    request: web.Request, services: Services, lease: Lease, forward: Forward, reply: Reply
) -> web.StreamResponse:
    """Pass one answer through. Raises BackendDied as long as nothing of it was sent."""
    request_log, backend = request[REQUEST_LOG], lease.backend
    request_log.asks(backend.id, backend.ready_s)
    async with Call(
        backend.engine.address,
        forward.method,
        forward.target,
        headers=forward.headers,
        body=forward.body,
        warm=services.warm,
        calls=services.calls,
    ) as upstream:
        try:
            if upstream.headers.get("Content-Type") == EVENT_STREAM and not upstream.has_come:
                # Until the first token there is time for it.
                await services.warm.renew(backend.engine.address)
            rewrite = _rewrite_of(forward, upstream)
            if rewrite is None:
                headers = end_to_end(upstream.headers, ANSWER_ONLY_OURS)
            else:
                headers = end_to_end(upstream.headers, REWRITTEN)
                headers.append(("Content-Type", rewrite.content_type))
                reply.tell_errors(rewrite.fail)
            headers.append((BACKEND_HEADER, backend.id))
            headers += busy_headers(request, upstream.status).items()
            if (split := services.desired.current(backend)) is not None:
                headers.append((SPLIT_HEADER, str(split)))
                request_log.moe_cpu_layers = split
            tail = Tail()
            if upstream.status == OK:
                upstream.when_served(lease.yield_place)
            is_whole = await _pass_on(
                *(upstream, headers, reply, rewrite, tail, backend, services.router),
                request_log.prompt_has if forward.tells_progress else None,
            )
            if forward.computes:
                request_log.spent = tail.spent()
            if not is_whole:
                lease.broke()
            elif forward.computes and upstream.status == OK:
                lease.answered()
            await services.warm.renew(backend.engine.address)
        except ConnectionResetError:
            request_log.broke("the client left", CLIENT_LEFT)
    return web.Response(status=CLIENT_LEFT) if reply.response is None else reply.response


def _rewrite_of(forward: Forward, upstream: EngineConnection) -> Rewrite | None:
    """How this answer goes out; None: as it comes."""
    if forward.asked and upstream.status >= FIRST_ERROR:
        return EngineError(upstream.status, forward.asked)
    if forward.rewriter is None:
        return None
    streams = upstream.headers.get("Content-Type", "").startswith(EVENT_STREAM)
    return forward.rewriter(streams)


async def _pass_on(
    upstream: EngineConnection,
    headers: Sequence[tuple[str, str]],
    reply: Reply,
    rewrite: Rewrite | None,
    tail: Tail,
    backend: Backend,
    router: Router,
    prompt_has: Callable[[int], None] | None,
) -> bool:
    """The body, and the head with its first byte: until then an engine may die, and another one
    answer. Raises BackendDied then, and ConnectionResetError where the client leaves. False: the
    answer broke off later."""
    status, reason = upstream.status, upstream.reason
    is_refused = status == HTTPStatus.BAD_REQUEST
    try:
        if not upstream.headers.get("Content-Type", "").startswith(EVENT_STREAM):
            await reply.be_silent()
            if reply.is_early:
                # A status has no place any more.
                data = await upstream.read()
                warn_of_refusal(backend.options, data)
                raise said_by_engine(data, status)
        while chunk := await upstream.read_chunk():
            if not reply.has_begun and chunk.startswith(NOTHING_YET):
                chunk = chunk.removeprefix(NOTHING_YET)
                if not chunk:
                    continue
            if is_refused:
                warn_of_refusal(backend.options, chunk)
            tail.feed(chunk)
            if prompt_has is not None and (tokens := prompt_length(chunk)) is not None:
                prompt_has(tokens)
                prompt_has = None
            if rewrite is None or (chunk := rewrite.feed(chunk)):
                await reply.write(chunk, status, reason, headers)
        if rewrite is not None and (last := rewrite.end()):
            if isinstance(rewrite, EngineError) and rewrite.status != status:
                status, reason = rewrite.status, HTTPStatus(rewrite.status).phrase
            await reply.write(last, status, reason, headers)
    except BrokenAnswer as error:
        died = BackendDied(f"the engine went away: {error}")
        if not reply.has_begun:
            raise died from error
        died.because(await router.cause_of_end(backend))
        await reply.fail(died)
        return False
    await reply.end(status, reason, headers)
    return True


def request_headers(request: web.Request) -> list[tuple[str, str]]:
    """Those that go on to the engine; what would be too much for llama-server says nothing to
    it."""
    headers = end_to_end(request.headers, REQUEST_ONLY_OURS)
    if request[REQUEST_LOG].span is not None:
        ours = trace_headers(request)
        headers = [pair for pair in headers if pair[0].lower() not in ours]
        headers = [*ours.items(), *headers]
    short = [pair for pair in headers if len(pair[0]) + len(pair[1]) <= LONGEST_HEADER]
    return short[:MOST_HEADERS]
