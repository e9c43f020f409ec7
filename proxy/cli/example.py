"""The request that `serve` proposes to try: of a model that can answer it."""

import json
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from proxy.catalog.local import Entry
from proxy.catalog.summary import Summary
from proxy.routing.resolver import Model

# Headers that nobody has read yet take a while; the first models that were looked at have to do.
LOOK_S: Final = 3.0
# A first answer is to come soon.
TOKENS: Final = 100
BEST: Final = 5  # no model is a better example
KEY: Final = '-H "Authorization: Bearer $MOE_PROXY_API_KEY" '


@dataclass(frozen=True, slots=True)
class Example:
    """A path, and what is sent there."""

    path: str
    body: dict[str, Any]

    def command(self, url: str, *, keys: bool) -> str:
        """As it is pasted into a shell. `keys`: whether the proxy asks for one."""
        body = shlex.quote(json.dumps(self.body))
        return f"curl {url}{self.path} {KEY if keys else ''}-d {body}"


def example_of(
    models: Iterable[Model],
    summary_of: Callable[[Entry], Summary],
    *,
    look_s: float = LOOK_S,
    clock: Callable[[], float] = time.monotonic,
) -> Example | None:
    """The best one: a chat with a model with experts, if there is any, else with another one; only
    where nothing else is there, of a model for embeddings. None where nothing could be asked.
    Blocking."""
    until_s = clock() + look_s
    best, best_rank = None, 0
    for model in models:
        summary = summary_of(model.entry) if model.entry else Summary()
        rank = _rank(model, summary)
        if rank > best_rank:
            best, best_rank = _asking(model, summary), rank
        if rank == BEST or clock() > until_s:
            break
    return best


def _rank(model: Model, summary: Summary) -> int:
    """How good an example a model is; 0 for one that cannot answer."""
    if model.policy.engine == "command":
        return 2 if model.policy.mode == "generation" else 1
    # A policy's file that is not there, or one that cannot be loaded.
    if model.entry is None or model.entry.refusal or not summary.architecture:
        return 0
    if _kind(model, summary) != "generation":
        return 1
    return 2 + (summary.expert_count > 0) + 2 * summary.template


def _kind(model: Model, summary: Summary) -> str:
    if model.policy.mode != "generation" or summary.chat:
        return model.policy.mode
    return "embedding" if summary.embedding else "rerank"


def _asking(model: Model, summary: Summary) -> Example:
    match _kind(model, summary):
        case "embedding":
            return Example("/v1/embeddings", {"model": model.name, "input": "Hi"})
        case "rerank":
            asked = {"query": "Hi", "documents": ["Hello", "Good night"]}
            return Example("/v1/rerank", {"model": model.name, **asked})
    chat = {"max_tokens": TOKENS, "messages": [{"role": "user", "content": "Hi"}]}
    return Example("/v1/chat/completions", {"model": model.name, **chat})
