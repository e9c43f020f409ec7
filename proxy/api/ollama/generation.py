"""`/api/generate` and `/api/chat`: what they ask of a model, and loading and unloading by asking
nothing.
"""

import asyncio
import time
from functools import partial

from aiohttp import web

from proxy.api.abilities import check_tools
from proxy.api.notes import WarnOnce
from proxy.api.ollama import prompts
from proxy.api.ollama.engine_client import Engine, EngineRefused, Generation
from proxy.api.ollama.request import ParsedRequest, parse, read_as
from proxy.api.ollama.run import JSON, Job, backend_headers, now, run
from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES
from proxy.dialect.limits import check_schema
from proxy.dialect.ollama import bodies
from proxy.dialect.ollama.answers import Durations, Endpoint, Writer
from proxy.dialect.ollama.reading import read_chat
from proxy.dialect.ollama.requests import ChatBody, GenerateBody
from proxy.dialect.ollama.requests import Generation as GenerationBody
from proxy.dialect.openai.checks import meant_tools
from proxy.errors import BadRequest
from proxy.tasks import spawn

NOT_SUPPORTED = "not_supported_error"  # llama-server's `type` of that error
# How long an answer to "unload" waits for the model to be gone; one that is in use takes longer.
UNLOADED_S = 5.0


async def generate(notes: WarnOnce, request: web.Request) -> web.StreamResponse:
    started_ns = time.monotonic_ns()
    body = await read_as(request, GenerateBody)
    body.check()
    asked = await parse(request, body, notes, missing=f"model '{body.model}' not found")
    if not body.prompt and asked.wanted.keep_alive_s == 0:
        return await _unload(request, asked, "generate")
    _check(asked, body, "generate")
    if body.images:
        asked.model.check_media()
    if not body.prompt:
        return await _load(request, asked, "generate")
    if body.template:
        notes.once("template", instead="the model's own chat template is used")
    # A template that belongs to the model makes a conversation of the prompt; else it is as it is.
    talks = not body.raw and asked.can.template
    prepare: prompts.Prepare = prompts.as_conversation if talks else prompts.as_text
    if body.suffix:
        prepare = prompts.as_infill
    elif body.context:
        prepare = prompts.after_context
    after = partial(prompts.context_after, asked.can.marks)
    job = Job(
        "generate",
        asked.shown,
        asked.model,
        asked.wanted,
        body.streams,
        started_ns,
        _tokens(asked),
        bool(body.top_logprobs),
        prepare=partial(prepare, asked, body),
        context=None if body.raw or body.suffix else after,
    )
    try:
        return await run(request, job)
    except EngineRefused as refusal:
        if body.suffix and refusal.kind == NOT_SUPPORTED:
            raise BadRequest(f'"{asked.shown}" does not support insert') from refusal
        raise


async def chat(notes: WarnOnce, request: web.Request) -> web.StreamResponse:
    started_ns = time.monotonic_ns()
    body = await read_as(request, ChatBody)
    body.check()
    asked = await parse(request, body, notes, missing=f"model '{body.model}' not found")
    if not body.messages and asked.wanted.keep_alive_s == 0:
        return await _unload(request, asked, "chat")
    _check(asked, body, "chat")
    if tools := meant_tools(body.tools or ()):
        check_tools(asked.model, asked.can)
    check_schema(tools, "tools")
    if any(message.images for message in body.messages or ()):
        asked.model.check_media()
    if not body.messages:
        return await _load(request, asked, "chat")
    messages = bodies.chat_messages(body.messages, asked.preamble)
    make = partial(
        bodies.chat,
        body,
        params=asked.params,
        tools=tools,
        can_think=asked.can.thinks,
    )

    async def prepare(_: Engine) -> Generation:
        return Generation(prompts.CHAT, make(messages), read_chat)

    async def shorten(engine: Engine, limit: int) -> Generation | None:
        return await prompts.shortened(engine, messages, make, limit)

    job = Job(
        "chat",
        asked.shown,
        asked.model,
        asked.wanted,
        body.streams,
        started_ns,
        _tokens(asked),
        bool(body.top_logprobs),
        prepare=prepare,
        shorten=None if body.truncate is False else shorten,
    )
    return await run(request, job)


def _tokens(asked: ParsedRequest) -> int | None:
    """How long the answer may be; None: not said, or as long as it likes."""
    most = asked.params.get("n_predict")
    return most if isinstance(most, int) and most > 0 else None


def _check(asked: ParsedRequest, body: GenerationBody, endpoint: Endpoint) -> None:
    if not asked.can.chat:
        raise BadRequest(f'"{asked.shown}" does not support {endpoint}', param="model")
    if body.thinks and not asked.can.thinking:
        raise BadRequest(f'"{asked.shown}" does not support thinking', param="think")
    check_schema(body.format, "format")


async def _load(request: web.Request, asked: ParsedRequest, endpoint: Endpoint) -> web.Response:
    """Nothing is asked, so the model is only made ready."""
    services = request.app[SERVICES]
    async with await services.router.route(asked.model, asked.wanted, "generation") as lease:
        request_log = request[REQUEST_LOG]
        request_log.backend = lease.backend.id
        request_log.moe_cpu_layers = services.desired.current(lease.backend)
        answer = _empty(asked, endpoint, "load")
        answer.headers.update(backend_headers(services, lease.backend))
    return answer


async def _unload(request: web.Request, asked: ParsedRequest, endpoint: Endpoint) -> web.Response:
    """Take the model away as soon as nobody uses it; whoever does is not cut off."""
    unload = request.app[SERVICES].unload(asked.model)
    gone = spawn(unload, name=f"unload {asked.model.name}")
    await asyncio.wait((gone,), timeout=UNLOADED_S)
    return _empty(asked, endpoint, "unload")


def _empty(asked: ParsedRequest, endpoint: Endpoint, reason: str) -> web.Response:
    line = Writer(endpoint, asked.shown, stream=False).end(now(), Durations(0, 0), reason=reason)
    return web.Response(body=line, headers={"Content-Type": JSON})
