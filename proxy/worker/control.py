"""The worker's control socket: one JSON object a line, each with an id that its answer repeats.

    {"id": 1, "op": "state"}                                   -> {"id": 1, "ok": {...}}
    {"id": 2, "op": "place", "layers": {"3": "CPU"}, ...}      -> {"id": 2, "ok": {Move}}
    {"id": 3, "op": "sing"}                                    -> {"id": 3, "error": "..."}
    unasked, after each change:                                   {"event": "state", ...}
    where "devices" was asked with "look_every_s", and they show
    something else at one of these looks, once:                   {"event": "devices"}

Counterpart: proxy/engine/hosted.py. By hand: `nc -U control.sock`.
"""

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from proxy.engine.types import Device
from proxy.memory.reader import Reader, Tell
from proxy.memory.readings import Unreadable
from proxy.worker.libraries import LlamaError
from proxy.worker.server import EmbeddedServer

MAX_LINE_BYTES = 1 << 20


class Request(msgspec.Struct):
    """One line from a client."""

    id: int
    op: str
    layers: dict[str, str] = {}
    settle_s: float = 0.0
    look_every_s: float = 0.0


class Control:
    """Serves any number of clients on one Unix socket."""

    def __init__(self, embedded: EmbeddedServer, terminate: Callable[[], None]) -> None:
        self._embedded = embedded
        self._terminate = terminate
        self._loop = asyncio.get_running_loop()
        self._clients: set[asyncio.StreamWriter] = set()
        # The devices' drivers: one that hangs has one thread, however often somebody asks.
        self._drivers: Reader[list[Device]] | None = None
        self._asking: asyncio.Future[None] | None = None
        self._operations: dict[str, Callable[[Request], Awaitable[Any]]] = {
            "state": self._state,
            "devices": self._devices,
            "layers": self._layers,
            "memory": self._memory,
            "place": self._place,
            "terminate": self._stop,
        }
        embedded.subscribe(self._changed)

    async def serve(self, path: str) -> asyncio.Server:
        return await asyncio.start_unix_server(self._client, path, limit=MAX_LINE_BYTES)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        answers: set[asyncio.Task[None]] = set()
        try:
            self._send(writer, self._event())
            while line := await reader.readline():
                # One client's long move must not keep its next question waiting.
                task = self._loop.create_task(self._answer(line, writer), name="control-answer")
                answers.add(task)
                task.add_done_callback(answers.discard)
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # a client that left or sent a line without an end; or the worker ends
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.MsgspecError as error:
            self._send(writer, {"id": None, "error": str(error)})
            return
        operation = self._operations.get(request.op)
        if operation is None:
            allowed = ", ".join(self._operations)
            self._send(
                writer, {"id": request.id, "error": f"op: {request.op!r} is not one of {allowed}"}
            )
            return
        try:
            self._send(writer, {"id": request.id, "ok": await operation(request)})
        except (LlamaError, ValueError) as error:
            self._send(writer, {"id": request.id, "error": str(error)})
        except Exception as error:  # whatever it is: the client waits for this answer
            traceback.print_exc()
            self._send(writer, {"id": request.id, "error": said_of(error)})

    def _event(self) -> dict[str, Any]:
        embedded = self._embedded
        return {
            "event": "state",
            "state": embedded.state,
            "live_moves": embedded.live_moves,
            "moves_by_reload": embedded.moves_by_reload,
            "why_no_moves": embedded.why_no_moves,
            "confined": embedded.confined,
            "status": embedded.status(),
        }

    def _changed(self) -> None:
        """Called on the host's threads."""
        self._on_loop(self._broadcast)

    def _on_loop(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so does the process
            self._loop.call_soon_threadsafe(function, *arguments)

    def _broadcast(self, event: dict[str, Any] | None = None) -> None:
        event = event or self._event()
        for writer in self._clients:
            self._send(writer, event)

    def _send(self, writer: asyncio.StreamWriter, message: object) -> None:
        if not writer.is_closing():
            writer.write(msgspec.json.encode(message) + b"\n")

    async def _state(self, _: Request) -> object:
        return self._event()

    async def _devices(self, request: Request) -> object:
        drivers = self._drivers = self._drivers or Reader("devices", self._look, time.monotonic)
        if self._asking is None or self._asking.done():
            self._asking = asked = self._loop.create_future()
            changed = partial(self._on_loop, self._broadcast, {"event": "devices"})
            every_s = request.look_every_s
            tell = Tell(every_s, changed) if every_s > 0 else None
            drivers.ask(partial(self._on_loop, asked.set_result, None), tell)
        await asyncio.shield(self._asking)
        if (problem := drivers.answer.problem) is not None:
            raise LlamaError(problem)
        return drivers.answer.value

    def _look(self) -> list[Device]:
        """On the drivers' thread."""
        try:
            return self._embedded.devices()
        except Exception as error:  # whatever it is: somebody waits for this answer
            if not isinstance(error, (LlamaError, ValueError)):
                traceback.print_exc()
            raise Unreadable(said_of(error)) from error

    async def _layers(self, _: Request) -> object:
        return self._embedded.status().layers

    async def _memory(self, _: Request) -> object:
        return self._embedded.memory()

    async def _place(self, request: Request) -> object:
        placement = {int(layer): place for layer, place in request.layers.items()}
        # Not in a thread: orders count in the order in which they came.
        move = await asyncio.wrap_future(self._embedded.place(placement))
        if request.settle_s > 0 and not move.superseded:
            settled = await asyncio.to_thread(self._embedded.wait_settled, request.settle_s)
            move = replace(move, settled=settled)
        self._broadcast()  # so that whoever gets the answer knows the state that it led to
        return move

    async def _stop(self, _: Request) -> object:
        self._terminate()
        return {}


def said_of(error: Exception) -> str:
    known = isinstance(error, (LlamaError, ValueError))
    return str(error) if known else f"{type(error).__name__}: {error}"
