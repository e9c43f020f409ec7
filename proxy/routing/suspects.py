"""Which requests seem to kill workers: plain decisions, and a short memory.

When a worker crashes, one of its requests may be why. The only one that had no byte yet is a
suspect, else one that was there alone; of several nobody knows. A suspect is asked again only of a
worker that nobody else uses, and not at all once two workers have died of it. An answer clears it.
"""

import time
from collections.abc import Callable
from typing import Final

from cachetools import LRUCache, TTLCache

from proxy.pool.state import Name

REMEMBERED_S: Final = 600.0
MOST_SUSPECTS: Final = 256
MOST_STARTS: Final = 64
ENOUGH: Final = 2  # so many workers

Asked = tuple[str, bytes]  # a model, and the digest of what it was asked


class Suspects:
    """By what was asked, since a client that tries again sends the same."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        # What changes: the starts that died of each, and those that were there when each died, with
        # whether they had a byte.
        self._starts: TTLCache[Asked, frozenset[Name]] = TTLCache(
            MOST_SUSPECTS, REMEMBERED_S, timer=now
        )
        self._there: LRUCache[Name, dict[Asked, bool]] = LRUCache(MOST_STARTS)
        self._any = False  # as long as nothing has ever died, no request is looked for

    def deaths(self, asked: Asked) -> int:
        """How many workers seem to have died of it lately."""
        return len(self._starts.get(asked, ())) if self._any else 0

    def was_there(self, start: Name, asked: Asked, *, has_byte: bool) -> None:
        """A worker crashed before it had answered this. To be told by all that were there, before
        any is judged."""
        there = self._there.setdefault(start, {})
        there[asked] = has_byte and there.get(asked, True)

    def judge(self, start: Name, asked: Asked) -> int:
        """How many workers seem to have died of it, this one counted if it was the only one to
        blame."""
        there = self._there.get(start, {})
        blamed = [other for other, has_byte in there.items() if not has_byte] or list(there)
        before = self._starts.get(asked, frozenset())
        if blamed == [asked]:
            self._starts[asked] = before | {start}
            self._any = True
        return self.deaths(asked)

    def clear(self, asked: Asked) -> None:
        """It was answered."""
        if self._any:
            self._starts.pop(asked, None)
