"""What becomes of a body before an engine gets it: its protocol, its defaults, and what
llama-server would not do with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from proxy.api.abilities import check_generates, check_tools
from proxy.api.defaults import defaults_of
from proxy.api.notes import WarnOnce, warn
from proxy.api.openai.responses import translate as translate_response
from proxy.api.options import taken_options
from proxy.dialect.anthropic.translation import translate as translate_message
from proxy.dialect.body import Body
from proxy.dialect.called import call_rewriter
from proxy.dialect.effort import say_effort
from proxy.dialect.errors import dialect_of
from proxy.dialect.forced_call import force_call
from proxy.dialect.limits import check_limits
from proxy.dialect.logprobs import ask_for_chosen
from proxy.dialect.media import has_media
from proxy.dialect.ollama.models import Abilities
from proxy.dialect.ollama.options import Options
from proxy.dialect.openai.checks import check
from proxy.dialect.openai.completions import translate as translate_completion
from proxy.dialect.openai.history import mend_history
from proxy.dialect.preamble import add_preamble, preamble_of
from proxy.dialect.rewrite import Rewriter, Translated, chained, streamed
from proxy.dialect.tool_choice import has_tools, narrow_tools
from proxy.dialect.typos import in_body
from proxy.dialect.workload import Workload, workload_of
from proxy.engine.types import Mode
from proxy.errors import BadRequest
from proxy.routing.resolver import Model

# Paths of OpenAI's that llama-server also has without the version.
OF_OPENAI: Final = ("/chat/completions", "/responses")
# What llama-server reads of a request's first line.
LONGEST_TARGET: Final = 32000
# What is another name of a path of llama-server's: Cohere's, whose answer is the same.
ALSO: Final = {"/v2/rerank": "/v1/rerank"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked at a path: of a model of which kind, whether generating's parameters apply, and
    whether it takes conversations, which go on as chats."""

    mode: Mode
    has_params: bool
    chats: bool

    @property
    def computes(self) -> bool:
        """Whether the model is run for the answer."""
        return self.has_params or self.mode != "generation"


class Prepared(msgspec.Struct, frozen=True):
    """`rewriter`: how its answer goes out, where that is not as it comes; `load`: how much it asks
    for, None where the model is not run."""

    target: str
    body: Body
    rewriter: Rewriter | None
    load: Workload | None


def prepare(
    request: web.Request, body: Body, model: Model, can: Abilities, kind: Kind, notes: WarnOnce
) -> Prepared:
    """Raises BadRequest, and what says that the model cannot."""
    if kind.mode == "generation" and (kind.chats or kind.has_params):
        check_generates(model, can, "chat" if kind.chats else "generate")
    try:
        return _prepare(request, body, model, can, kind, notes)
    except msgspec.DecodeError as error:
        # The first look skips what it does not want: a number without end, half a character.
        raise BadRequest(f"the body is not valid JSON: {error}") from error


def target_of(request: web.Request) -> str:
    """What the engine is asked for: path and query, where it takes a query of this length."""
    target = request.rel_url.raw_path_qs
    return target if len(target) <= LONGEST_TARGET else request.rel_url.raw_path


def has_shape(path: str) -> bool:
    """Whether a path is OpenAI's or Anthropic's, rather than llama-server's own."""
    return path.startswith(("/v1/", *ALSO)) or path.startswith(OF_OPENAI)


def _prepare(
    request: web.Request, body: Body, model: Model, can: Abilities, kind: Kind, notes: WarnOnce
) -> Prepared:
    asked = request.path
    path, mark, query = target_of(request).partition("?")
    target = f"{ALSO.get(path, path)}{mark}{query}"
    rewriter = streamed(asked) if has_shape(asked) and dialect_of(asked) == "openai" else None
    check_limits(body)
    if kind.computes:
        warn(request, in_body(body.fields.keys()))
    options = taken_options(body) if kind.has_params else Options()
    weakest: Mapping[str, object] = {}
    if (translated := _translated(request, body)) is not None:
        target, body, rewriter = translated.target, translated.body, translated.rewriter
        weakest = translated.defaults
    elif model.policy.engine == "hosted":  # another one may take what it likes
        check(asked, body, chats=kind.chats)
    if kind.chats and model.policy.engine == "hosted":
        say_effort(body)
    if kind.has_params:
        notes.options(options)
        # What counts: what the body says by whatever name, then what its `options`, then what the
        # model, and then what a protocol has by default.
        for params in (options.sampling, defaults_of(model), weakest):
            body.add_defaults(params)
        body.say_known_names()
    if kind.chats:
        rewriter = _adapt(body, model, can, kind, rewriter)
    load = workload_of(body, generates=kind.has_params) if kind.computes else None
    return Prepared(target, body, rewriter, load)


def _translated(request: web.Request, body: Body) -> Translated | None:
    """A request of a protocol that engines do not speak, or not as its clients do."""
    path = request.path
    return (
        translate_message(path, body)
        or translate_response(request, body)
        or translate_completion(path, body)
    )


def _adapt(
    body: Body, model: Model, can: Abilities, kind: Kind, rewriter: Rewriter | None
) -> Rewriter | None:
    """What a conversation needs that llama-server would not do with it; how its answer goes out."""
    if not model.takes_media and has_media(body):
        model.check_media()
    if has_tools(body):
        check_tools(model, can)
    if model.policy.engine == "hosted":
        mend_history(body)
    add_preamble(body, preamble_of(model.entry))
    narrow_tools(body)
    if not kind.has_params:
        return rewriter  # nothing is said in answer, its tokens are counted
    # Other engines do as they are told.
    if model.policy.engine == "hosted" and force_call(body, can.calling):
        rewriter = chained(call_rewriter, rewriter)
    if chosen := ask_for_chosen(body):
        rewriter = chained(chosen, rewriter)
    return rewriter
