"""Our end of a worker's control socket: questions, each with an answer, and news of its state.

Counterpart: proxy/worker/control.py, which says what goes over it.
"""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from proxy.engine.types import Status
from proxy.errors import BackendDied, Conflict, NoAnswer
from proxy.tasks import spawn

log = structlog.get_logger()

# Doubled from the one to the other: a worker that waited for its model listens at once.
CONNECT_POLL_S, CONNECT_POLL_MOST_S = 0.001, 0.02
MAX_LINE_BYTES = 1 << 22
# A worker answers at once, but for a driver that takes its time with `devices`.
ANSWER_S = 15.0
# Whoever waits for what takes long leaves it to the proxy to end a worker that is silent
# (`hang_timeout`: within a minute), and gives up only where that is switched off.
SILENT_ANSWERS = 6
# What may take long tells of each step. One layer can be slow to copy, and a worker waits ten
# minutes for a decode step to end; a move that tells nothing for longer than that hangs.
NEWS_S = 900.0


class Event(msgspec.Struct):
    """One line from the worker: an answer (id, ok or error), news of its state, or that its devices
    show something else."""

    id: int | None = None
    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    event: str | None = None
    state: str = ""
    live_moves: bool = False
    moves_by_reload: bool = False
    why_no_moves: str | None = None
    confined: str | None = None
    status: Status | None = None


class ControlClient:
    """One connection. Belongs to the event loop that connects it."""

    def __init__(
        self,
        name: str,
        on_event: Callable[[Event], None],
        *,
        answer_s: float = ANSWER_S,
        news_s: float = NEWS_S,
    ) -> None:
        """`on_event` is called with each piece of news, and before the answer to whatever led to
        it."""
        self._name = name
        self._on_event = on_event
        self._answer_s, self._news_s = answer_s, news_s
        self._log = log.bind(backend=name)
        self._numbers = itertools.count(1)
        # What changes: the connection, who waits for an answer, and when there was news last.
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._news_at_s = 0.0
        self.news = 0  # how many pieces of it came

    @property
    def connected(self) -> bool:
        """Whether it ever was: from then on, whoever finds nobody there will find nobody again."""
        return self._writer is not None

    async def connect(self, path: Path) -> None:
        """Returns once the worker listens there, which may be never."""
        pause_s = CONNECT_POLL_S
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(
                    str(path), limit=MAX_LINE_BYTES
                )
                break
            except OSError:  # not listening yet
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, CONNECT_POLL_MOST_S)
        spawn(self._listen(reader), name=f"{self._name}:control")

    async def call(self, op: str, **arguments: object) -> msgspec.Raw:
        """Ask the worker. Raises Conflict with its words if it refuses, NoAnswer if it is silent,
        BackendDied if it is gone."""
        answer = self._ask(op, arguments)
        # Not a time limit around it: this is asked several times a second.
        timer = asyncio.get_running_loop().call_later(self._answer_s, self._silent, answer, op)
        try:
            return await answer
        finally:
            timer.cancel()
            answer.cancel()

    def _silent(self, answer: "asyncio.Future[msgspec.Raw]", op: str) -> None:
        if not answer.done():
            why = f"the worker has not answered {op!r} for {self._answer_s:g} s"
            answer.set_exception(NoAnswer(why))

    async def call_long(self, op: str, *, more_s: float = 0.0, **arguments: object) -> msgspec.Raw:
        """The same for what may take as long as it will, as long as there is news now and then
        (after `more_s`), and the worker answers other questions meanwhile."""
        loop = asyncio.get_running_loop()
        answer, began_s = self._ask(op, arguments), loop.time()
        patience_s = self._news_s + more_s
        try:
            while not answer.done():
                await asyncio.wait((answer,), timeout=self._answer_s)
                if answer.done():
                    break
                await self._sign_of_life()
                if loop.time() - max(began_s, self._news_at_s) > patience_s:
                    raise NoAnswer(f"the worker is at {op!r}, without news for {patience_s:g} s")
            return answer.result()
        finally:
            answer.cancel()

    async def _sign_of_life(self) -> None:
        for _ in range(SILENT_ANSWERS - 1):
            with suppress(NoAnswer):
                await self.call("state")
                return
        await self.call("state")

    def close(self) -> None:
        """Stop listening: whoever waits for an answer gets BackendDied, at once."""
        if self._writer is not None:
            self._writer.close()
        self._lost("the worker was ended")

    def _ask(self, op: str, arguments: dict[str, object]) -> "asyncio.Future[msgspec.Raw]":
        if self._writer is None or self._writer.is_closing():
            raise BackendDied("the worker is not there")
        number = next(self._numbers)
        answer: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        answer.add_done_callback(lambda answer: self._answered(number, answer))
        self._writer.write(msgspec.json.encode({"id": number, "op": op, **arguments}) + b"\n")
        return answer

    def _answered(self, number: int, answer: "asyncio.Future[msgspec.Raw]") -> None:
        self._waiting.pop(number, None)
        if not answer.cancelled():
            answer.exception()  # seen, though whoever asked may not wait for it any more

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(msgspec.json.decode(line, type=Event))
        except OSError as error:
            self._log.debug("control_lost", error=str(error))
        except (ValueError, msgspec.MsgspecError) as error:  # too long a line, or no JSON
            self._log.error("control_garbage", error=str(error))
        finally:
            self._lost("the worker ended")
            if self._writer is not None:
                self._writer.close()

    def _lost(self, why: str) -> None:
        for answer in tuple(self._waiting.values()):
            if not answer.done():
                answer.set_exception(BackendDied(why))

    def _take(self, message: Event) -> None:
        if message.event is not None:
            if message.event == "state":
                self.news += 1
                self._news_at_s = asyncio.get_running_loop().time()
            self._on_event(message)
        elif message.id is not None and (answer := self._waiting.get(message.id)):
            if answer.done():
                return
            if message.error is None:
                answer.set_result(message.ok)
            else:
                answer.set_exception(Conflict(message.error))
