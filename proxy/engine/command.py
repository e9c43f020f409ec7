"""A backend that is any OpenAI-speaking server, given as a command line: started, watched, never
moved live."""

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from proxy.catalog.gguf import GgufError
from proxy.catalog.gguf_reader import read_header
from proxy.engine.command_line import fill_in, fill_in_stop, names_pid
from proxy.engine.environment import with_own
from proxy.engine.files import refuse_pipes
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.ports import clock_ticks, free_port, ports_of, stranger_at
from proxy.engine.process import ChildProcess
from proxy.engine.ready import check_alive, paths_of, why_not_ready
from proxy.engine.stop_command import StopCommand
from proxy.engine.tensor_names import EXPERTS
from proxy.engine.types import CPU, Address, Device, Layer, LoadOptions, Move, Status
from proxy.errors import Conflict, Hangs, LoadFailed
from proxy.tasks import spawn
from proxy.threads import MODELS

log = structlog.get_logger()

FIRST_POLL_S = 0.05
SLOWEST_POLL_S = 1.0
# As long as the server prints something, it is loading; after so much silence it is taken for
# stuck, and after so many times of that whatever it prints.
STALL_S = 300.0
TALKING_TIMES: Final = 12
# A port may be taken by somebody else before the server takes it: then it gets another one.
PORTS_TRIED: Final = 3
TAKEN_GRACE_S: Final = 1.0
# What `docker stop` gives a container until it kills it, and some more; nothing where all is to end
# at once.
STOP_COMMAND_S: Final = 15.0
STOP_COMMAND_AT_ONCE_S: Final = 2.0
# What a command engine calls the place of experts that are not on the CPU: which device, only the
# server knows.
DEVICE: Final = "device"
WHY_NO_MOVES: Final = "the engine is a command: only a hosted one can move experts while it runs"
NOT_CONFINED: Final = "no: the engine is a command, and what it needs is not known"


class CommandEngine:
    """Keeps `proxy.engine.types.Engine` for a server that takes its port from its command line.

    `proxy.engine.command_line` says what is filled in there; `options.args` come after it.

    Whatever it starts ends with it, as far as that stays in its process group. What leaves that, a
    container above all, is for `options.stop_command`.
    """

    def __init__(
        self,
        backend_id: str,
        options: LoadOptions,
        *,
        log_buffer: LogBuffer,
        stall_s: float = STALL_S,
    ) -> None:
        """`stall_s`: how long it may say nothing while it loads; 0 for ever."""
        self._id = backend_id
        self._options = options
        self._log_buffer = log_buffer
        self._stall_s = stall_s or math.inf
        self._address: Address | None = None
        self._child: ChildProcess | None = None
        self._status = Status(block_count=0)
        self._stop_command: StopCommand | None = None
        self._ending: asyncio.Task[None] | None = None
        self._said = 0  # lines, but for what it says of our own questions
        self._serves = False

    @property
    def address(self) -> Address:
        if self._address is None:
            raise RuntimeError(f"{self._id} was never started")
        return self._address

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def live_moves(self) -> bool:
        return False

    @property
    def moves_by_reload(self) -> bool:
        return self._options.split is not None

    @property
    def why_no_moves(self) -> str | None:
        return WHY_NO_MOVES

    @property
    def confined(self) -> str | None:
        return NOT_CONFINED

    @property
    def cause(self) -> str | None:
        return self._child.cause if self._child else None

    async def start(self) -> None:
        """Spawn it and wait until it is ready. Raises LoadFailed."""
        await refuse_pipes(self._options)
        for _ in range(PORTS_TRIED):
            if self._ending is not None:
                raise LoadFailed(f"{self._id} was stopped before it was started")
            stranger = await self._start_at(free_port())
            if stranger is None:
                return
            log.warning("port_taken", backend=self._id, port=self.address.port, by=stranger)
            await self._end(self._started, self._stop_command, TAKEN_GRACE_S)
        raise self._started.load_failed(f"its port was taken by another program: {stranger}")

    async def _start_at(self, port: int) -> str | None:
        """Start it with this port, and wait until it is ready; who else has the port, if somebody
        does. Raises LoadFailed."""
        env = with_own(os.environ, self._options.env)
        argv = fill_in(self._options, port)
        self._address = Address(port=port)
        self._child = child = ChildProcess(
            argv, env, self._id, on_line=self._note, ends_at_eof=False
        )
        self._stop_command = None
        since_ticks = clock_ticks()
        await child.start()
        stop_argv = fill_in_stop(self._options, port, child.pid or 0)
        if stop_argv:
            self._stop_command = StopCommand(
                stop_argv, env, self._id, self._note, without_us=not self._stops_by_pid
            )
        with suppress(Hangs):  # nothing is known of it then
            self._status = await MODELS.run(_status, self._options)
        exit_ = spawn(child.wait(), name=f"{self._id}:exit")
        serving = spawn(self._until_ready(port), name=f"{self._id}:ready")
        try:
            await asyncio.wait({exit_, serving}, return_when=asyncio.FIRST_COMPLETED)
            # A healthy answer may also come from a stranger who took the port before our child.
            if stranger := await asyncio.to_thread(stranger_at, port, since_ticks):
                return stranger
            # Also where both came to pass: it cannot be ours that answers.
            if exit_.done():
                raise child.load_failed(_ended(argv[0], exit_.result()))
            if why := serving.result():
                elsewhere = await asyncio.to_thread(ports_of, child.pid or 0)
                if elsewhere and port not in elsewhere:
                    why += f"; it listens at port {elsewhere[0]}, and was told {port}"
                raise child.load_failed(f"{argv[0]} {why}")
            child.serves()
            self._serves = True
            return None
        finally:
            exit_.cancel()
            serving.cancel()
            await asyncio.gather(exit_, serving, return_exceptions=True)

    async def wait_exit(self) -> int:
        status = await self._started.wait()
        # What it ran for us elsewhere may live on.
        await self._clear_up(self._stop_command)
        return status

    def known(self) -> Status:
        """What the split that it was started with says; nobody can ask a foreign server.

        Nothing is known of a model that is no GGUF.
        """
        return self._status

    async def devices(self, tell: Callable[[], None] | None = None) -> Sequence[Device]:
        return ()

    async def pulse(self) -> int:
        """Whether it answers at all, by what told that it is ready."""
        if self._serves:
            await check_alive(self.address.port or 0, self._options.ready_path)
        return 0

    async def place(self, placement: Mapping[int, str], *, settle_s: float = 0.0) -> Move:
        raise Conflict(WHY_NO_MOVES)

    async def stop(self, grace_s: float = 10.0) -> None:
        """By its stop command, if it has one, and else by signals; those come in any case."""
        if self._child is None:
            return
        if self._ending is None or grace_s <= 0:
            end = self._end(self._child, self._stop_command, grace_s)
            self._ending = spawn(end, name=f"{self._id}:stop")
        await asyncio.shield(self._ending)

    async def _end(self, child: ChildProcess, stop: StopCommand | None, grace_s: float) -> None:
        if stop is not None and grace_s > 0 and child.pid is not None and child.returncode is None:
            if await stop.run(STOP_COMMAND_S):
                exit_ = spawn(child.wait(), name=f"{self._id}:exit")
                await asyncio.wait((exit_,), timeout=grace_s)
                exit_.cancel()
        await child.stop(grace_s)
        await self._clear_up(stop, STOP_COMMAND_S if grace_s > 0 else STOP_COMMAND_AT_ONCE_S)

    async def _clear_up(self, stop: StopCommand | None, bound_s: float = STOP_COMMAND_S) -> None:
        """Its process is gone without the stop command: whatever that one knows may not be."""
        # Its number may be somebody else's by now.
        if stop is not None and (stop.was_run or not self._stops_by_pid):
            await stop.run(bound_s)

    @property
    def _stops_by_pid(self) -> bool:
        return names_pid(self._options.stop_command)

    @property
    def _started(self) -> ChildProcess:
        if self._child is None:
            raise RuntimeError(f"{self._id} was never started")
        return self._child

    def _note(self, line: str) -> None:
        # Many a server has a line for each question, which is no sign of its own life.
        self._said += not any(f"GET {path}" in line for path in paths_of(self._options.ready_path))
        self._log_buffer.write(self._options.model, self._id, line)

    async def _until_ready(self, port: int) -> str | None:
        """None once it is ready; why not, when that has taken too long."""
        loop = asyncio.get_running_loop()
        began_s = silent_since_s = loop.time()
        poll_s, said = FIRST_POLL_S, self._said
        while why := await why_not_ready(port, self._options.ready_path, self._stall_s):
            now_s = loop.time()
            if self._said != said:
                said, silent_since_s = self._said, now_s
            elif now_s - silent_since_s > self._stall_s:
                return f"said nothing for {self._stall_s:g} s, and is not ready: {why}"
            if now_s - began_s > self._stall_s * TALKING_TIMES:
                return f"is not ready after {now_s - began_s:.0f} s: {why}"
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 1.5, SLOWEST_POLL_S)
        return None


def _ended(program: str, status: int) -> str:
    text = f"{program} ended while loading ({status})"
    if status == 0:
        text += ": it has to stay as long as its server does, not to start it in the background"
    return text


def _status(options: LoadOptions) -> Status:
    """Where the experts of each layer are, if the server does as the split tells it."""
    try:
        header = read_header(options.path)
    except (GgufError, OSError):
        return Status(block_count=0)
    if options.split is None:
        return Status(block_count=header.layers)
    experts_bytes: dict[int, int] = {}
    for tensor in header.tensors:
        if match := EXPERTS.match(tensor.name):
            index = int(match[1])
            experts_bytes[index] = experts_bytes.get(index, 0) + tensor.size_bytes
    layers = (
        Layer(index, CPU if index < options.split else DEVICE, size, attention_device=DEVICE)
        for index, size in sorted(experts_bytes.items())
    )
    return Status(block_count=header.layers, layers=tuple(layers))
