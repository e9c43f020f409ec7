"""What a request will do in a backend's slots, and for whom; what its turn is decided by."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import msgspec

# An answer that may be longer than this, or as long as it likes, is a long one. Most say a far
# larger limit than they need.
LONG_TOKENS: Final = 1024


class Work(msgspec.Struct, frozen=True, eq=False):
    """One request's: no two are equal.

    `client` is who has a share of its own, `connection` what is told apart within it. `shown` is
    what the client is called in the state, None: nothing that is to be told.
    """

    client: Hashable
    connection: Hashable = None
    shown: str | None = None
    slots: int = 1  # that it takes at once
    tokens: int | None = None  # the longest that each of its answers may be; None: not said

    @property
    def units(self) -> int:
        """How long it takes, as far as the request says so, beside others."""
        return LONG_TOKENS if self.tokens is None else max(1, min(self.tokens, LONG_TOKENS))


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request that waits for its turn stands. Times in seconds."""

    work: Work
    backend: str
    position: int  # 1: the next
    waited_s: float
    expected_s: float | None  # from now on; None: nothing was measured yet
