"""Has an engine make vectors of inputs, each cut to as many tokens as a request may have, whatever
context the model happens to be loaded with."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from proxy.api.ollama.engine_client import Engine, EngineRefused
from proxy.errors import BadRequest

EMBEDDINGS: Final = "/v1/embeddings"
# A model that looks at all tokens at once takes no more of them than a batch has, and llama-server
# says so in words alone.
BATCH_LIMIT: Final = re.compile(r"too large to process.*current batch size: (\d+)")
TOO_LONG: Final = "the input length exceeds the context length"
NOTHING_LEFT: Final = "input after truncation exceeds maximum context length"
MARKS: Final = 2  # tokens that may stand around a text
# Some models have no token at all for no text, and llama-server refuses that; a blank has one.
BLANK: Final = " "


def most_tokens(inputs: Sequence[Any]) -> int:
    """No input has more tokens than this."""
    return max(map(_most_tokens, inputs), default=0)


async def embed(
    engine: Engine,
    inputs: Sequence[Any],
    limit: int | None,
    *,
    truncate: bool,
    on_long: Callable[[int | None], None],
    more: Mapping[str, Any] | None = None,
) -> Any:
    """llama-server's answer for inputs, each a text, tokens, or what it takes besides. `limit`: how
    many tokens each may have; None: what the engine takes. `on_long` is told of one that has more
    (None: not known how many). `more` goes along.

    Raises BadRequest for an input that is too long, unless it is to be cut, and EngineRefused.
    """
    body = dict(more or {})
    try:
        fitting = [
            await _fitted(engine, each, limit, on_long, truncate=truncate) for each in inputs
        ]
        return await engine.post(EMBEDDINGS, {**body, "input": fitting}, dict[str, Any])
    except EngineRefused as refusal:
        limit = _limit(refusal)
        if limit is None:
            raise
        on_long(refusal.prompt_tokens)
        if not truncate:
            raise BadRequest(TOO_LONG, param="input") from refusal
    fitting = [await _fitted(engine, each, limit, lambda _: None, truncate=True) for each in inputs]
    return await engine.post(EMBEDDINGS, {**body, "input": fitting}, dict[str, Any])


def _most_tokens(given: Any) -> int:
    if isinstance(given, str):
        return len(given.encode(errors="replace")) + MARKS
    return len(given) if isinstance(given, list) else 0


async def _fitted(
    engine: Engine,
    given: Any,
    limit: int | None,
    on_long: Callable[[int], None],
    *,
    truncate: bool,
) -> Any:
    if given == "":
        with suppress(EngineRefused):  # other engines need not know how to tell
            return "" if await engine.tokens_of("", begins=True) else BLANK
    if limit is None or _most_tokens(given) <= limit:
        return given
    tokens = await engine.tokens_of(given, begins=True) if isinstance(given, str) else given
    if len(tokens) <= limit:
        return given
    on_long(len(tokens))
    if not truncate:
        raise BadRequest(TOO_LONG, param="input")
    return await _cut(engine, given, tokens, limit)


async def _cut(engine: Engine, given: Any, tokens: list[int], limit: int) -> list[int]:
    """The first tokens of an input, between the marks that its model puts around a text."""
    bare = await engine.tokens_of(given, begins=False) if isinstance(given, str) else tokens
    marks = len(tokens) - len(bare)
    starts = (n for n in range(marks + 1) if tokens[n : n + len(bare)] == bare)
    start = next(starts, None)
    if start is None:  # the marks change the text between them
        return tokens[:limit]
    if limit <= marks:
        raise BadRequest(NOTHING_LEFT, param="input")
    return [*tokens[:start], *bare[: limit - marks], *tokens[start + len(bare) :]]


def _limit(refusal: EngineRefused) -> int | None:
    """How many tokens would not have been too many, if there were too many."""
    if refusal.too_long_for:
        return refusal.too_long_for - 1
    match = BATCH_LIMIT.search(refusal.message)
    return int(match[1]) if match else None
