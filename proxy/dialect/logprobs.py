"""The probabilities of an OpenAI chat's tokens without those of tokens that were not chosen, where
nobody asked for these. llama-server has either none at all, or some for each token. Pure.
"""

import re
from typing import Final

import msgspec

from proxy.dialect.body import Body
from proxy.dialect.rewrite import EVENT_STREAM, Rewrite, Rewriter, Whole
from proxy.errors import ProxyError

# In a text the quotes would have backslashes.
ALTERNATIVES: Final = re.compile(
    rb'"top_logprobs":\s*\[(?:[^\[\]"]|"(?:[^"\\]|\\.)*"|\[[^\[\]]*\])*\]'
)
NONE: Final = b'"top_logprobs":[]'


def ask_for_chosen(body: Body) -> Rewriter | None:
    """Have a chat ask for as little as there is where it wants probabilities and no alternatives;
    how its answer goes out then, None: as it comes."""
    fields = body.fields
    if bytes(fields.get("top_logprobs", b"")) == b"0":
        # No alternatives are none, whether probabilities are asked for or not.
        body.replace({name: raw for name, raw in fields.items() if name != "top_logprobs"})
        fields = body.fields
    if bytes(fields.get("logprobs", b"")) != b"true" or "n_probs" in fields:
        return None
    if msgspec.json.decode(fields.get("top_logprobs", b"null")):
        return None
    body.change({"top_logprobs": 1})
    return chosen_only


def chosen_only(streams: bool) -> Rewrite:
    """An answer whose lists of alternatives are empty."""
    return _Stream() if streams else Whole(_without)


def _without(text: bytes) -> bytes:
    return ALTERNATIVES.sub(NONE, text)


class _Stream:
    """A stream line by line: an event's data is one."""

    content_type = EVENT_STREAM

    def __init__(self) -> None:
        # What changes: the beginning of a line that has not come to its end.
        self._begun: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        whole, newline, begun = chunk.rpartition(b"\n")
        if not newline:
            self._begun.append(chunk)
            return b""
        lines = b"".join((*self._begun, whole, newline))
        self._begun = [begun] if begun else []
        return _without(lines)

    def end(self) -> bytes:
        left, self._begun = b"".join(self._begun), []
        return _without(left)

    def fail(self, error: ProxyError) -> bytes | None:
        return None
