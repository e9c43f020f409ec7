"""The default engine: llama-server inside a worker process of ours, whose experts move while it
answers.

Counterpart: proxy/worker, over its control socket (proxy/worker/control.py says what goes over it).
"""

import asyncio
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from proxy.engine.arguments import server_arguments
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.process import ChildProcess
from proxy.engine.types import Address, Device, LoadOptions, Move, Status
from proxy.errors import BackendDied, Conflict, LoadFailed, reason_of
from proxy.tasks import spawn

log = structlog.get_logger()

CONNECT_POLL_S = 0.02
# A load that says nothing for this long hangs. (A large model from a slow disk says something now
# and then.)
STALL_S = 300.0
# A move takes as long as it takes; meanwhile the worker is asked now and then what it can say at
# once. One that cannot has been stopped: on a machine that is busy, an answer takes tenths of a
# second.
ALIVE_S = 5.0
MAX_LINE_BYTES = 1 << 22


class _Event(msgspec.Struct):
    """One line from the worker: an answer (id, ok or error), or news of its state."""

    id: int | None = None
    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    event: str | None = None
    state: str = ""
    live_moves: bool = False
    moves_by_reload: bool = False
    why_no_moves: str | None = None
    status: Status | None = None


class HostedEngine:
    """One worker process. Keeps the `Engine` protocol."""

    def __init__(
        self,
        backend_id: str,
        options: LoadOptions,
        *,
        runtime_dir: Path,
        log_buffer: LogBuffer,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """`runtime_dir` is for the sockets; a Unix socket's path may have 107 bytes, so it has to
        be short. `names`: the worker's own name of a device -> the one used here, where it differs.
        """
        self._names = dict(names or {})
        self._own_names = {outside: own for own, outside in self._names.items()}
        self._options = options
        self._socket = runtime_dir / f"{backend_id}.sock"
        self._control = runtime_dir / f"{backend_id}.control"
        self._log = log.bind(backend=backend_id)
        self._child = ChildProcess(
            self._argv(options),
            {},
            backend_id,
            on_line=lambda line: log_buffer.write(options.model, backend_id, line),
        )
        self._numbers = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        # The mutable state: what the worker said last, and who waits for an answer.
        self._last = _Event()
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._ready = asyncio.Event()

    def _argv(self, options: LoadOptions) -> list[str]:
        return [
            *(sys.executable, "-m", "proxy.worker"),
            *(
                "--socket",
                str(self._socket),
                "--control",
                str(self._control),
                "--repack",
                options.repack,
            ),
            *(("--libdir", str(options.libdir)) if options.libdir else ()),
            *(("--fixed-split", str(options.split)) if options.split is not None else ()),
            *(("--per-token-outputs",) if options.mode != "generation" else ()),
            *(("--dense",) if options.dense else ()),
            *(
                part
                for name in map(self._own, options.no_attention)
                if name is not None
                for part in ("--no-attention", name)
            ),
            "--",
            *server_arguments(options),
        ]

    def __repr__(self) -> str:
        return f"<HostedEngine {self._child.name} pid={self.pid} {self._last.state or 'starting'}>"

    @property
    def address(self) -> Address:
        return Address(socket=str(self._socket))

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def live_moves(self) -> bool:
        return self._last.live_moves

    @property
    def moves_by_reload(self) -> bool:
        return self._last.moves_by_reload

    @property
    def why_no_moves(self) -> str | None:
        return self._last.why_no_moves

    async def start(self) -> None:
        """Spawn the worker and wait until it serves. Raises LoadFailed."""
        await asyncio.to_thread(self._prepare)
        await self._child.start()
        gone = spawn(self._child.wait(), name=f"{self._child.name}:exit")
        try:
            connecting = spawn(self._connect(), name=f"{self._child.name}:connect")
            await self._or_gone(gone, connecting)
            ready = spawn(self._ready.wait(), name=f"{self._child.name}:ready")
            await self._or_gone(gone, ready)
            self._child.quiet()
        except BaseException:
            await self._child.stop(grace_s=1.0)
            raise

    def _prepare(self) -> None:
        """What llama-server would not explain. Raises LoadFailed."""
        model, path = self._options.model, self._options.path
        try:
            path.stat()
        except FileNotFoundError as error:
            raise LoadFailed(
                f"model {model!r} cannot be loaded: its file does not exist: {path} (see `path` "
                f'under [models."{model}"] of the policies, and whether its disk is mounted)'
            ) from error
        except OSError as error:
            why = f"its file cannot be read: {path}: {reason_of(error)}"
            raise LoadFailed(f"model {model!r} cannot be loaded: {why}") from error
        # A worker that was killed leaves its sockets, and the next of this id could not listen.
        for stale in (self._socket, self._control):
            stale.unlink(missing_ok=True)

    async def _or_gone(self, gone: "asyncio.Task[int]", step: "asyncio.Task[Any]") -> None:
        """Wait for a step of the start. Raises LoadFailed if the worker ends first, or says nothing
        for too long."""
        try:
            while not step.done():
                lines = self._child.lines
                await asyncio.wait(
                    (gone, step), return_when=asyncio.FIRST_COMPLETED, timeout=STALL_S
                )
                if gone.done():
                    raise self._child.load_failed(
                        f"llama-server ended while loading ({gone.result()})"
                    )
                if not step.done() and self._child.lines == lines:
                    raise self._child.load_failed(
                        f"llama-server has said nothing for {STALL_S:.0f} s"
                    )
        finally:
            step.cancel()

    async def _connect(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(
                    str(self._control), limit=MAX_LINE_BYTES
                )
                break
            except OSError:  # not listening yet
                await asyncio.sleep(CONNECT_POLL_S)
        spawn(self._listen(reader), name=f"{self._child.name}:control")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = msgspec.json.decode(line, type=_Event)
                if message.event == "state":
                    self._last = self._renamed(message)
                    if message.state == "ready":
                        self._ready.set()
                elif message.id is not None and (future := self._waiting.pop(message.id, None)):
                    if future.cancelled():
                        continue
                    if message.error is None:
                        future.set_result(message.ok)
                    else:
                        future.set_exception(Conflict(message.error))
        except OSError as error:
            self._log.debug("control_lost", error=str(error))
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(BackendDied("the worker ended"))
            self._waiting.clear()
            if self._writer is not None:
                self._writer.close()

    async def _call(self, op: str, *, lasts: bool = False, **arguments: object) -> msgspec.Raw:
        """Ask the worker. `lasts`: the answer takes a while, and is waited for while others come.
        Raises Conflict with its words if it refuses, BackendDied if it is gone or does not answer.
        """
        if self._writer is None or self._writer.is_closing():
            raise BackendDied("the worker is not there")
        number = next(self._numbers)
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._writer.write(msgspec.json.encode({"id": number, "op": op, **arguments}) + b"\n")
        try:
            while lasts and not future.done():
                await asyncio.wait((future,), timeout=ALIVE_S)
                if not future.done():
                    await self._check_alive()
            return await future
        finally:
            self._waiting.pop(number, None)

    async def _check_alive(self) -> None:
        """Raises BackendDied where the worker does not say what it has at hand."""
        try:
            async with asyncio.timeout(ALIVE_S):
                await self._call("state")
        except TimeoutError as error:
            raise BackendDied("the worker does not answer") from error

    async def wait_exit(self) -> int:
        return await self._child.wait()

    def _renamed(self, event: _Event) -> _Event:
        status, name = event.status, self._name
        if status is None or not self._names:
            return event
        layers = tuple(
            replace(
                layer, experts=name(layer.experts), attention_device=name(layer.attention_device)
            )
            for layer in status.layers
        )
        held = {name(device): kinds for device, kinds in status.held.items()}
        return msgspec.structs.replace(event, status=replace(status, layers=layers, held=held))

    def _name(self, own: str) -> str:
        return self._names.get(own, own)

    def _own(self, name: str) -> str | None:
        """The worker's own name of a device; None where it does not have that one, and the name is
        another one's there."""
        return self._own_names.get(name, None if name in self._names else name)

    def known(self) -> Status:
        # Pushed by the worker at each change.
        return self._last.status or Status(block_count=0)

    async def devices(self) -> Sequence[Device]:
        devices = msgspec.json.decode(await self._call("devices"), type=list[Device])
        return [replace(device, name=self._name(device.name)) for device in devices]

    async def memory(self) -> dict[str, int]:
        """The worker's own size: {"resident_bytes", "steps"}."""
        return msgspec.json.decode(await self._call("memory"), type=dict[str, int])

    async def place(self, placement: Mapping[int, str], *, settle_s: float = 0.0) -> Move:
        layers: dict[str, str] = {}
        for layer, place in placement.items():
            if (own := self._own(place)) is None:
                raise Conflict(f"layer {layer}: no device {place!r}")
            layers[str(layer)] = own
        said = await self._call("place", lasts=True, layers=layers, settle_s=settle_s)
        move = msgspec.json.decode(said, type=Move)
        short = move.short_of_memory
        return move if short is None else replace(move, short_of_memory=self._name(short))

    async def stop(self, grace_s: float = 10.0) -> None:
        await self._child.stop(grace_s)
