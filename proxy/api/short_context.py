"""Tells whoever runs the proxy that a client's prompt did not fit, and which key that changes: the
client itself may show nothing of it, and work with half of what it was told."""

from typing import Final

import msgspec
import structlog

from proxy.dialect.errors import TOO_LONG
from proxy.engine.types import LoadOptions

log = structlog.get_logger()

MOST_BYTES: Final = 1 << 14


class _Error(msgspec.Struct):
    type: str | None = None
    n_prompt_tokens: int | None = None


class _Refusal(msgspec.Struct):
    error: _Error


def warn_of_prompt(options: LoadOptions, tokens: int | None, *, cut: bool) -> None:
    """A prompt of so many `tokens` (None: not known) was too long for what is loaded as `options`;
    it was `cut`, or else refused."""
    log.warning(
        "prompt_cut" if cut else "prompt_refused",
        model=options.model,
        prompt_tokens=tokens,
        ctx=options.ctx,
        hint=f'raise ctx under [models."{options.model}"] or [defaults] of the policies, or have '
        "the client ask for a larger num_ctx; a model takes no more than it was trained for",
    )


def warn_of_refusal(options: LoadOptions, body: bytes) -> None:
    """The same, where an engine refused it with this `body`, or its beginning. Other refusals say
    nothing of it."""
    if TOO_LONG.encode() not in body[:MOST_BYTES]:
        return
    try:
        found = msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if found.type == TOO_LONG:
        warn_of_prompt(options, found.n_prompt_tokens, cut=False)
