"""How many tokens an answer took, from its last bytes: there llama-server has its timings, and
other engines have the usage. Before vectors it is among the first ones. Pure."""

import re
from typing import Final, NamedTuple

# Timings and usage are shorter, and a stream has nothing but its end mark after them.
LAST_BYTES: Final = 4096
FIRST_BYTES: Final = 512
_READ: Final = re.compile(rb'"prompt_n":\s*(\d+)')
_CACHED: Final = re.compile(rb'"cache_n":\s*(\d+)')
_GENERATED: Final = re.compile(rb'"predicted_n":\s*(\d+)')
_USED: Final = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d+)')
_MADE: Final = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
# In the chunks that tell how much of a prompt is read. In a text the quotes would have backslashes.
PROGRESS: Final = b'"prompt_progress":'
_WHOLE: Final = re.compile(PROGRESS + rb'\s*\{\s*"total":\s*(\d{1,11})\b')


class Spent(NamedTuple):
    """Tokens; None where nobody says. `prompt` is all of it, `cached` what was not read again."""

    prompt: int | None = None
    cached: int | None = None
    generated: int | None = None


NOTHING: Final = Spent()


def prompt_length(data: bytes) -> int | None:
    """How many tokens a prompt has of which `data` tells how much is read; None where it does
    not."""
    found = _WHOLE.search(data)
    return None if found is None else int(found[1])


class Tail:
    """The end of an answer that passes by, and its beginning."""

    def __init__(self) -> None:
        self._first = self._last = b""

    def feed(self, chunk: bytes) -> None:
        if len(self._first) < FIRST_BYTES:
            self._first += chunk[:FIRST_BYTES]
        self._last = chunk if len(chunk) >= LAST_BYTES else (self._last + chunk)[-LAST_BYTES:]

    def spent(self) -> Spent:
        text = self._last[-LAST_BYTES:]
        read, cached = _last(_READ, text), _last(_CACHED, text)
        generated = _last(_GENERATED, text)
        prompt = None if read is None else read + (cached or 0)
        if prompt is None:
            prompt = _last(_USED, text)
        return Spent(
            _last(_USED, self._first) if prompt is None else prompt,
            cached,
            _last(_MADE, text) if generated is None else generated,
        )


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    # A number that no count has is somebody's joke.
    return int(found[-1]) if found and len(found[-1]) < 12 else None
