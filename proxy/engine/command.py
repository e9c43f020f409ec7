"""A backend that is any OpenAI-speaking server, given as a command line: started, watched, never
moved live."""

import asyncio
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp

from proxy.catalog.gguf import GgufError
from proxy.catalog.gguf_reader import read_header
from proxy.engine.environment import with_own
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.process import ChildProcess
from proxy.engine.tensor_names import EXPERTS
from proxy.engine.types import CPU, Address, Device, Layer, LoadOptions, Move, Status
from proxy.errors import Conflict, NoAnswer, reason_of
from proxy.tasks import spawn

HEALTH_PATHS: Final = ("/health", "/v1/models")
HEALTH_QUESTION: Final = (
    f"GET {HEALTH_PATHS[0]} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n".encode()
)
FIRST_POLL_S = 0.05
SLOWEST_POLL_S = 1.0
POLL_TIMEOUT_S = 5.0
# As long as the server prints something, it is loading; after so much silence it is taken for
# stuck.
STALL_S = 300.0
# What a command engine calls the place of experts that are not on the CPU: which device, only the
# server knows.
DEVICE: Final = "device"
WHY_NO_MOVES: Final = "the engine is a command: only a hosted one can move experts while it runs"
NOT_CONFINED: Final = "no: the engine is a command, and what it needs is not known"


class CommandEngine:
    """Keeps `proxy.engine.types.Engine` for a server that takes its port from its command line.

    In each argument of `options.command`, `{port}`, `{model}` (the file), `{name}`, `{ctx}`,
    `{parallel}` and `{moe_cpu_layers}` are filled in; `options.args` come after them.
    """

    def __init__(
        self,
        backend_id: str,
        options: LoadOptions,
        *,
        log_buffer: LogBuffer,
        stall_s: float = STALL_S,
    ) -> None:
        self._id = backend_id
        self._options = options
        self._log_buffer = log_buffer
        self._stall_s = stall_s
        self._address: Address | None = None
        self._child: ChildProcess | None = None
        self._status = Status(block_count=0)
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

    async def start(self) -> None:
        """Spawn it and wait until it answers a health check. Raises LoadFailed."""
        port = free_port()
        self._address = Address(port=port)
        self._child = child = ChildProcess(
            fill_in(self._options, port),
            with_own(os.environ, self._options.env),
            self._id,
            on_line=self._note,
            ends_at_eof=False,
        )
        await child.start()
        self._status = await asyncio.to_thread(_status, self._options)
        exit_ = spawn(child.wait(), name=f"{self._id}:exit")
        serving = spawn(self._until_serving(child, self._address.origin), name=f"{self._id}:health")
        try:
            await asyncio.wait({exit_, serving}, return_when=asyncio.FIRST_COMPLETED)
            # Looked at first: a healthy answer may also come from a stranger who took the port
            # before our child.
            if exit_.done():
                raise child.load_failed(f"{child.argv[0]} ended while loading ({exit_.result()})")
            if not serving.result():
                raise child.load_failed(f"{child.argv[0]} said nothing for {self._stall_s:g} s")
            child.quiet()
            self._serves = True
        finally:
            exit_.cancel()
            serving.cancel()
            await asyncio.gather(exit_, serving, return_exceptions=True)

    async def wait_exit(self) -> int:
        return await self._started.wait()

    def known(self) -> Status:
        """What the split that it was started with says; nobody can ask a foreign server.

        Nothing is known of a model that is no GGUF.
        """
        return self._status

    async def devices(self) -> Sequence[Device]:
        return ()

    async def pulse(self) -> int:
        """Whether it answers at all, by the first path that a health check asks for: with whatever
        status, as some servers have none."""
        if not self._serves:
            return 0
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.address.port)
                try:
                    writer.write(HEALTH_QUESTION)
                    if await reader.read(1):
                        return 0
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise NoAnswer(f"the server does not answer: {reason_of(error)}") from error
        raise NoAnswer("the server closes connections without an answer")

    async def place(self, placement: Mapping[int, str], *, settle_s: float = 0.0) -> Move:
        raise Conflict(WHY_NO_MOVES)

    async def stop(self, grace_s: float = 10.0) -> None:
        if self._child:
            await self._child.stop(grace_s)

    @property
    def _started(self) -> ChildProcess:
        if self._child is None:
            raise RuntimeError(f"{self._id} was never started")
        return self._child

    def _note(self, line: str) -> None:
        self._log_buffer.write(self._options.model, self._id, line)

    async def _until_serving(self, child: ChildProcess, origin: str) -> bool:
        """Whether it serves; False once it has been silent for too long."""
        loop = asyncio.get_running_loop()
        poll_s, lines, silent_since = FIRST_POLL_S, child.lines, loop.time()
        timeout = aiohttp.ClientTimeout(total=POLL_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not await _healthy(session, origin):
                if child.lines != lines:
                    lines, silent_since = child.lines, loop.time()
                elif loop.time() - silent_since > self._stall_s:
                    return False
                await asyncio.sleep(poll_s)
                poll_s = min(poll_s * 1.5, SLOWEST_POLL_S)
        return True


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


async def _healthy(session: aiohttp.ClientSession, origin: str) -> bool:
    for path in HEALTH_PATHS:
        try:
            async with session.get(origin + path) as answer:
                if answer.status != 404:  # some servers have no /health
                    return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
    return False


def fill_in(options: LoadOptions, port: int) -> list[str]:
    """The command line. Only known placeholders are touched: JSON in an argument keeps its
    braces."""
    values = {
        "port": port,
        "model": options.path,
        "name": options.model,
        "ctx": options.ctx,
        "parallel": options.parallel,
        "moe_cpu_layers": options.split or 0,
    }
    placeholder = re.compile(r"\{(" + "|".join(values) + r")\}")
    filled = [placeholder.sub(lambda m: str(values[m[1]]), part) for part in options.command]
    return [*filled, *options.args]


def free_port() -> int:
    """A port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
