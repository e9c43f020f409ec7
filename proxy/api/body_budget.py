"""How much of the bodies of all requests together may be in memory."""

from aiohttp import web

from proxy.errors import Busy

RETRY_AFTER_S = 1.0


class BodyBudget:
    """Counts what is held of bodies, from their first byte to the end of their requests."""

    def __init__(self) -> None:
        # What changes: all that is held, and by whom.
        self.held_bytes = 0
        self._of: dict[int, int] = {}

    def take(self, request: web.Request, count: int, most_bytes: int) -> None:
        """Hold `count` more bytes for a request. Raises Busy where all together would then be more
        than `most_bytes`; a request that is alone gets what it needs, up to its own limit."""
        own = self._of.get(id(request), 0)
        if self.held_bytes > own and self.held_bytes + count > most_bytes:
            raise Busy(
                "the bodies of all requests together are as large as they may be ([server] "
                "max_bodies); try again in a moment",
                retry_after_s=RETRY_AFTER_S,
            )
        self._of[id(request)] = own + count
        self.held_bytes += count

    def release(self, request: web.Request) -> None:
        """Its request is over."""
        self.held_bytes -= self._of.pop(id(request), 0)
