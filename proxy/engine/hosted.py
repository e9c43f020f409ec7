"""The default engine: llama-server inside a worker process of ours, whose experts move while it
answers.

Counterpart: proxy/worker, over its control socket (proxy/worker/control.py says what goes over it).
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from proxy.catalog.gguf import GgufError
from proxy.engine.control_client import ANSWER_S, NEWS_S, ControlClient, Event
from proxy.engine.files import files_to_read
from proxy.engine.last_words import LastWords
from proxy.engine.lent import Lent
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.order import TAKEN, Order
from proxy.engine.process import ChildProcess
from proxy.engine.refusals import refusals
from proxy.engine.types import Address, Device, LoadOptions, Move, Status
from proxy.engine.warm import Kind, WarmWorkers, kind_for
from proxy.engine.worker_command import PROGRAM, worker_arguments, worker_environment
from proxy.errors import Conflict, Hangs, LoadFailed, NoAnswer, reason_of
from proxy.files import check_regular
from proxy.tasks import spawn
from proxy.threads import MODELS

# A load that says nothing for this long hangs. (A large model from a slow disk says something now
# and then.)
STALL_S = 300.0
# How often a worker looks at its devices that is to tell when they show something else.
LOOK_S = 0.25
# One that waited has only to read a line.
TAKEN_WITHIN_S = 5.0


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
        slot_folder: Path | None = None,
        answer_s: float = ANSWER_S,
        news_s: float = NEWS_S,
        stall_s: float = STALL_S,
        warm: WarmWorkers | None = None,
        lent: Lent | None = None,
    ) -> None:
        """In `runtime_dir` it has a folder of its own, for the sockets; a Unix socket's path may
        have 107 bytes, so it has to be short. `names`: the worker's own name of a device -> the
        one used here, where it differs. `slot_folder`: where its slots can be saved; None: nowhere.
        `answer_s`: how long an answer of the worker's is waited for, `news_s`: for news of a move,
        `stall_s`: for a line of a worker that loads; 0 for ever. `warm`: where one may wait that
        takes the load up. `lent`: RPC servers that are known only when it starts.
        """
        self._stall_s = stall_s or None
        self._options, self._slot_folder, self._lent = options, slot_folder, lent
        self._folder = runtime_dir / backend_id
        self._address = Address(socket=str(self._folder / "server.sock"))
        self._control = self._folder / "control"
        self._say: Callable[[str], None] = partial(log_buffer.write, options.model, backend_id)
        self._know(backend_id, () if lent else options.rpc, names or {})
        self._warm = warm or WarmWorkers()
        self._client = ControlClient(backend_id, self._take, answer_s=answer_s, news_s=news_s)
        # The mutable state: what the worker said last.
        self._last = Event()
        self._ready = asyncio.Event()
        self._clearing: asyncio.Task[None] | None = None
        self._tell: Callable[[], None] | None = None

    def _know(self, name: str, rpc: tuple[str, ...], names: Mapping[str, str]) -> None:
        """What it is to be started with, now that its RPC servers are known."""
        self._names = dict(names)
        self._own_names = {outside: own for own, outside in names.items()}
        options = replace(self._options, rpc=rpc)
        self._order = Order(
            worker_arguments(
                options,
                socket=self._folder / "server.sock",
                control=self._control,
                slot_folder=self._slot_folder,
                own_name=self._own,
            ),
            {"TMPDIR": str(self._folder)},
        )
        env = worker_environment(options.libdir, options.backends, os.environ)
        self._child = ChildProcess(
            (*PROGRAM, *self._order.arguments), env | self._order.env, name, on_line=self._say
        )

    def __repr__(self) -> str:
        return f"<HostedEngine {self._child.name} pid={self.pid} {self._last.state or 'starting'}>"

    @property
    def address(self) -> Address:
        return self._address

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

    @property
    def confined(self) -> str | None:
        return self._last.confined

    @property
    def cause(self) -> str | None:
        return self._child.cause

    async def start(self) -> None:
        """Spawn the worker and wait until it serves. Raises LoadFailed."""
        if self._lent is not None and not self._child.unwanted:
            self._know(self._child.name, self._lent.take(), self._lent.names)
        try:
            kind = await MODELS.run(self._prepare)
        except Hangs as error:
            raise LoadFailed(f"model {self._options.model!r}: {error.message}") from error
        waiting = None if self._child.unwanted else self._warm.take(kind)
        connecting = spawn(self._client.connect(self._control), name=f"{self._child.name}:connect")
        try:
            if not await self._taken_up(waiting):
                await self._child.start()
        except BaseException:
            connecting.cancel()
            raise
        gone = spawn(self._child.wait(), name=f"{self._child.name}:exit")
        try:
            await self._or_gone(gone, connecting)
            ready = spawn(self._ready.wait(), name=f"{self._child.name}:ready")
            await self._or_gone(gone, ready)
            self._child.serves()
        except BaseException:
            # Not waited for: why it failed is known, and one that the kernel has never ends.
            spawn(self._child.stop(grace_s=1.0), name=f"{self._child.name}:stop")
            raise

    async def _taken_up(self, waiting: ChildProcess | None) -> bool:
        """Whether a worker that waited has taken the load up. One that is dead or hangs is nobody's
        fault here: then a new one is started."""
        if waiting is None:
            return False
        spare, taken = self._child, asyncio.Event()

        def hear(line: str) -> None:
            if line == TAKEN:
                waiting.words = LastWords()
                taken.set()
            else:
                self._say(line)

        waiting.hand_over(spare.name, hear)
        waiting.tell(self._order.line())
        self._child = waiting
        gone = spawn(waiting.wait(), name=f"{spare.name}:exit")
        told = spawn(taken.wait(), name=f"{spare.name}:taken")
        await asyncio.wait(
            (gone, told), return_when=asyncio.FIRST_COMPLETED, timeout=TAKEN_WITHIN_S
        )
        told.cancel()
        if taken.is_set():
            return True
        if waiting.unwanted:
            await spare.stop()  # it is not wanted either
        spawn(waiting.stop(0.0), name=f"{spare.name}:stop")
        self._child = spare
        return False

    def _prepare(self) -> Kind | None:
        """What llama-server would not explain. Returns which kind of worker is needed. Raises
        LoadFailed."""
        options = self._options
        model = options.model
        if why := _why_unreadable(options) or _why_no_backend(options.backends):
            raise LoadFailed(f"model {model!r} cannot be loaded: {why}")
        if found := refusals(options.args, os.environ, unsafe=options.unsafe_args):
            raise LoadFailed("\n".join((f"model {model!r} cannot be loaded:", *found)))
        # A worker that was killed leaves its sockets, and the next of this id could not listen.
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            why = f"there is no folder for its sockets: {self._folder}: {reason_of(error)}"
            raise LoadFailed(f"model {model!r} cannot be loaded: {why}") from error
        return kind_for(options)

    async def _or_gone(self, gone: "asyncio.Task[int]", step: "asyncio.Task[Any]") -> None:
        """Wait for a step of the start. Raises LoadFailed if the worker ends first, or says nothing
        for too long."""
        try:
            while not step.done():
                lines = self._child.lines
                await asyncio.wait(
                    (gone, step), return_when=asyncio.FIRST_COMPLETED, timeout=self._stall_s
                )
                if gone.done():
                    raise self._child.load_failed(
                        f"llama-server ended while loading ({gone.result()})"
                    )
                if not step.done() and self._child.lines == lines:
                    raise self._child.load_failed(
                        f"llama-server has said nothing for {self._stall_s or 0:g} s"
                    )
        finally:
            step.cancel()

    def _take(self, event: Event) -> None:
        if event.event == "devices":
            if self._tell is not None:
                self._tell()
            return
        self._last = self._renamed(event)
        if event.state == "ready":
            self._ready.set()

    async def wait_exit(self) -> int:
        status = await self._child.wait()
        await self._clear()
        return status

    async def _clear(self) -> None:
        """Remove its folder, once, and before anybody knows that it is gone: the next worker of
        this id has one of the same name."""
        if self._clearing is None:
            if self._lent is not None:
                self._lent.give_back()
            removing = asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._clearing = spawn(removing, name=f"{self._child.name}:clear")
        await asyncio.shield(self._clearing)

    def _renamed(self, event: Event) -> Event:
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

    async def devices(self, tell: Callable[[], None] | None = None) -> Sequence[Device]:
        self._tell = tell
        said = await self._client.call("devices", look_every_s=LOOK_S if tell else 0.0)
        devices = msgspec.json.decode(said, type=list[Device])
        named = (replace(device, name=self._name(device.name)) for device in devices)
        if self._lent is None:
            return [*named]
        held = self.known().held
        return [self._lent.within(d, sum(held.get(d.name, {}).values())) for d in named]

    async def memory(self) -> dict[str, int]:
        """The worker's own size: {"resident_bytes", "steps"}."""
        return msgspec.json.decode(await self._client.call("memory"), type=dict[str, int])

    async def pulse(self) -> int:
        """Decode steps begun, and pieces of news: one comes with each layer that moved. While it
        loads, what it has said of that."""
        if not self._client.connected:
            # From its start it reads libraries and looks for devices; that goes on, or ends.
            raise NoAnswer("the worker does not listen yet")
        steps = (await self.memory())["steps"]
        return steps + self._client.news if self._ready.is_set() else self._child.lines

    async def place(self, placement: Mapping[int, str], *, settle_s: float = 0.0) -> Move:
        layers: dict[str, str] = {}
        for layer, place in placement.items():
            if (own := self._own(place)) is None:
                raise Conflict(f"layer {layer}: no device {place!r}")
            layers[str(layer)] = own
        said = await self._client.call_long(
            "place", more_s=settle_s, layers=layers, settle_s=settle_s
        )
        move = msgspec.json.decode(said, type=Move)
        short = move.short_of_memory
        return move if short is None else replace(move, short_of_memory=self._name(short))

    async def stop(self, grace_s: float = 10.0) -> None:
        # At once: whatever waits for it waits in vain, even where its process never ends.
        self._client.close()
        await self._child.stop(grace_s)
        await self._clear()


def _why_unreadable(options: LoadOptions) -> str | None:
    """Of a pipe, llama-server would wait for what is written into it."""
    try:
        files = [*files_to_read(options)]
    except GgufError as error:
        return str(error)
    for what, path in files:
        try:
            check_regular(path)
        except FileNotFoundError:
            return (
                f"its {what} does not exist: {path} (see `path` under "
                f'[models."{options.model}"] of the policies, and whether its disk is mounted)'
            )
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL
            return f"its {what} cannot be read: {path}: {reason_of(error)}"
    return None


def _why_no_backend(files: Sequence[Path]) -> str | None:
    """Opening a pipe to load it would wait for ever."""
    for file in files:
        try:
            check_regular(file)
        except OSError as error:
            return f"the backend {file} is not used: {reason_of(error)}"
    return None
