"""A request's hold on a backend; made by `proxy.pool.pool`."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from proxy.pool.events import Event, Released, Yielded
from proxy.pool.state import Backend


class Lease:
    """While it is held the backend is not unloaded. It is released once, however often it is asked
    to be."""

    def __init__(
        self,
        backend: Backend,
        give_back: Callable[[bool], None],
        yield_place: Callable[[], None] = lambda: None,
    ) -> None:
        """`give_back` is told whether the backend has answered. `yield_place`: its turn is over,
        and somebody else's begins, while the backend is still held."""
        self.yield_place = yield_place
        self.backend = backend
        self._give_back: Callable[[bool], None] | None = give_back
        self.is_answered = False
        self.is_broken = False

    @classmethod
    def of(cls, request: int, backend: Backend, tell: Callable[[Event], None]) -> Self:
        """What a request was granted."""
        return cls(
            backend,
            lambda answered: tell(Released(request, answered)),
            lambda: tell(Yielded(request)),
        )

    def __repr__(self) -> str:
        return f"<Lease {self.backend!r}{'' if self._give_back else ' released'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def answered(self) -> None:
        """The backend has computed a whole answer: it works. To be said before the release."""
        self.is_answered = True

    def broke(self) -> None:
        """The backend went away in the middle of its answer."""
        self.is_broken = True

    def release(self) -> None:
        """Give it back. Waits for nothing, so no cancellation can come in between."""
        give_back, self._give_back = self._give_back, None
        if give_back:
            give_back(self.is_answered)
