"""The body of a request that is passed on: kept as long as that is possible, so that it can be sent
again, and else sent as it comes."""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from proxy.api.bodies import sent_chunks
from proxy.api.body_budget import BodyBudget
from proxy.errors import BodyTooLarge, Busy, ProxyError

# Enough for several pictures; what is longer is sent as it comes, and cannot be sent again.
MOST_KEPT_BYTES: Final = 64 << 20
MOST_OF_ALL_BYTES: Final = 512 << 20
# Of one that will be longer: enough to see which model it is for.
LOOKED_AT_BYTES: Final = 1 << 20


class RequestBody:
    """`kept` is its beginning; all of it where `is_whole`."""

    def __init__(self, request: web.Request, budget: BodyBudget) -> None:
        self._request, self._budget = request, budget
        self._chunks = sent_chunks(request)
        # What changes:
        self.kept = b""
        self.is_whole = False
        self.is_spent = False  # what was not kept is gone
        self._refused: Busy | None = None  # all bodies together were too much

    @property
    def length(self) -> int | None:
        """In bytes; None where it is not known before all of it came."""
        return len(self.kept) if self.is_whole else self._request.content_length

    async def begin(self, most_bytes: int = MOST_KEPT_BYTES) -> None:
        """Keep it, up to so much. Raises TooSlow and BadRequest."""
        content = self._request.content
        if not self._request.can_read_body:
            self.is_whole = True
            return
        if content.is_eof() and content.exception() is None:  # it came with its head
            self.kept, self.is_whole = content.read_nowait(), True
            return
        if (self._request.content_length or 0) > most_bytes:
            most_bytes = LOOKED_AT_BYTES
        pieces: list[bytes] = []
        size = 0
        async for chunk in self._chunks:
            pieces.append(chunk)
            size += len(chunk)
            if size > most_bytes or not self._take(len(chunk)):
                break
        else:
            self.is_whole = True
        self.kept = b"".join(pieces)

    def why_not_known(self) -> ProxyError:
        """Why so little of it was kept that it does not say whom it is for."""
        return self._refused or BodyTooLarge(
            f"the body has more than {MOST_KEPT_BYTES >> 20} MiB, and no model is named in the "
            f"first MiB of it; put `model` before what is long"
        )

    async def rest(self) -> AsyncIterator[bytes]:
        """What follows what was kept, once. Raises TooSlow and BadRequest."""
        self.is_spent = True
        async for chunk in self._chunks:
            yield chunk

    def release(self) -> None:
        """Nobody needs it any more. It goes now, and not with whatever still knows its request."""
        self.kept = b""
        self._budget.release(self._request)

    def _take(self, count: int) -> bool:
        try:
            self._budget.take(self._request, count, MOST_OF_ALL_BYTES)
        except Busy as error:
            self._refused = error
            return False
        return True
