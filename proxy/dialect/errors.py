"""Errors as each protocol's clients expect them; the counterpart of `proxy.errors`."""

import math
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from proxy.errors import ContextExceeded, EngineSaid, ProxyError

Dialect = Literal["openai", "anthropic", "ollama"]

TOO_LONG: Final = "exceed_context_size_error"  # llama-server's word for it
# Behind llama-server's "try increasing it": its users know what to increase, ours may not.
INCREASE: Final = ": ctx in the model's policy, or num_ctx in options"
RESPONSES: Final = ("/v1/responses", "/responses")

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def dialect_of(path: str) -> Dialect:
    """The protocol that a path belongs to; OpenAI's where none claims it."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return "anthropic"
    if path.startswith("/api/"):
        return "ollama"
    return "openai"


def error_body(error: ProxyError, dialect: Dialect) -> bytes:
    """The JSON that tells `error` in this protocol."""
    return msgspec.json.encode(_error_object(error, dialect))


def error_event(error: ProxyError, path: str, number: int = 0) -> bytes:
    """`error` as the last event of a stream that was asked for at `path` (it may have a query).

    The client of OpenAI's responses raises by `error`; that protocol's own event has the same
    fields at its top, and the `number` of events before it.
    """
    path = path.partition("?")[0]
    told = _error_object(error, dialect_of(path))
    if path in RESPONSES:
        told = {**told["error"], **told, "type": "error", "sequence_number": number}
    name = b"event: error\n" if "type" in told else b""
    return b"%sdata: %s\n\n" % (name, msgspec.json.encode(told))


def message_of(body: bytes) -> str:
    """What an engine says in the body of an error, in any of the usual shapes."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        told = None
    inner = told.get("error", told) if isinstance(told, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else inner
    return message if isinstance(message, str) and message else "the engine answered with an error"


def said_by_engine(body: bytes, status: int) -> EngineSaid:
    """The error in an engine's body, as one of ours, so that each protocol can have it in its own
    shape. Its code is the engine's word for it; numbers are no codes."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        told = None
    inner = told.get("error", told) if isinstance(told, dict) else None
    named = inner if isinstance(inner, dict) else {}
    message = message_of(body)
    tokens, ctx = named.get("n_prompt_tokens"), named.get("n_ctx")
    if named.get("type") == TOO_LONG and isinstance(tokens, int) and isinstance(ctx, int):
        return ContextExceeded(message + INCREASE, status=status, tokens=tokens, ctx=ctx)
    words = [word for key in ("code", "type") if isinstance(word := named.get(key), str)]
    return EngineSaid(message, status=status, code=next(filter(None, words), None))


def error_headers(error: ProxyError) -> dict[str, str]:
    """The headers that go with the body: when to come again, if that is known, in whole seconds."""
    headers = {"Content-Type": "application/json"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _error_object(error: ProxyError, dialect: Dialect) -> dict[str, Any]:
    server = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if dialect == "ollama":
        return {"error": error.message}
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(
            error.status, "api_error" if server else "invalid_request_error"
        )
        message = error.message
        if isinstance(error, ContextExceeded):
            # Claude Code knows it by these words, and makes the conversation shorter.
            message = f"prompt is too long: {error.tokens} tokens > {error.ctx} maximum"
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = _OPENAI_TYPES.get(error.status, "server_error" if server else "invalid_request_error")
    told: dict[str, Any] = {
        **{"message": error.message, "type": kind},
        **{"param": error.param, "code": error.code},
    }
    if isinstance(error, ContextExceeded):
        # Clients know it by the code, or where they only look at the text by some of these words
        # (LiteLLM by the first ones, LangChain by the last), and cut the conversation.
        told["message"] = (
            f"This model's maximum context length is {error.ctx} tokens. However, your request has "
            f"{error.tokens} tokens, the prompt is too long and exceeds the context window: "
            f"{error.message}"
        )
        told |= {"n_prompt_tokens": error.tokens, "n_ctx": error.ctx}
    return {"error": told}
