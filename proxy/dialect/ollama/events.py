"""What an engine's answer is made of; read by `reading`, written by `answers`.

All dialects of engines end here, and everything that a client of Ollama sees begins here.
"""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and the logarithm of its probability."""

    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Logprob:
    """The token that was chosen, and the likeliest at its place."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, of the thinking before it, or of both."""

    content: str = ""
    thinking: str = ""
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A piece of a tool call: pieces with the same `index` are one call, `arguments` its JSON."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing more is generated."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of prompt (from the cache, too) and answer; what each took in ns, None if not said."""

    prompt: int
    generated: int
    prompt_ns: int | None = None
    generated_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The engine gave up in the middle."""

    message: str
    status: int = 500


Event = Text | ToolCallPart | Finish | Counts | Failure
