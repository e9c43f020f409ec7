"""What the proxy costs: first event and tokens per second, through it and straight from the
worker's socket.

All ways take turns within one run, against the same worker, so that whatever else the machine does
hits all of them. The third way is a relay that only copies bytes: what any process in between costs
on this machine, whatever it does. `--check` judges by what the proxy adds to that.

With `--before`, the proxy of another checkout takes its turns too: whether a change made requests
slower, at one and the same time.

    python -m bench.passthrough [--rounds N] [--streams N] [--check] [--before CHECKOUT]
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from tests.support.models import model
from tests.support.policies import policies

MOST_ADDED_S = 0.0005  # more than the relay does
LEAST_RATE = 0.95
START_S = 120.0
WARM_UP_ROUNDS = 5
BEFORE = "the proxy before"
END = b"\r\n0\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the worker: its socket, or the proxy's port."""

    name: str
    path: str | None = None
    port: int | None = None
    keeps: bool = False  # whether one connection serves many requests, as clients with a pool do

    async def connect(self) -> Connection:
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection("127.0.0.1", self.port)


@dataclass(frozen=True, slots=True)
class Times:
    """Of one streamed answer: seconds to its first byte, its first event, its end; its tokens."""

    first_byte_s: float
    first_event_s: float
    total_s: float
    tokens: int


def request(max_tokens: int, prompt: str) -> bytes:
    body = json.dumps(
        {
            "model": "bench",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + body


async def ask(connection: Connection, message: bytes) -> Times:
    """Send one request and read its answer to the end."""
    reader, writer = connection
    started_s = time.perf_counter()
    writer.write(message)
    answer = await reader.read(1 << 16)
    first_byte_s = time.perf_counter() - started_s
    parts = [answer]
    tail = answer
    while b"data:" not in answer:
        answer = await reader.read(1 << 16)
        if not answer:
            raise SystemExit(f"the answer ended early: {parts!r}")
        parts.append(answer)
        tail = (tail + answer)[-16:]
    first_event_s = time.perf_counter() - started_s
    while not tail.endswith(END):
        part = await reader.read(1 << 16)
        if not part:
            raise SystemExit(f"the answer ended early: {b''.join(parts)[-300:]!r}")
        parts.append(part)
        tail = (tail + part)[-16:]
    total_s = time.perf_counter() - started_s
    whole = b"".join(parts)
    if not whole.startswith(b"HTTP/1.1 200"):
        raise SystemExit(whole[:500].decode(errors="replace"))
    return Times(first_byte_s, first_event_s, total_s, whole.count(b'"content":"'))


async def firsts(ways: list[Way], rounds: int) -> dict[str, list[Times]]:
    """One-token answers, one request at a time."""
    message = request(1, "hi")
    taken: dict[str, list[Times]] = {way.name: [] for way in ways}
    kept = {way.name: await way.connect() for way in ways if way.keeps}
    for number in range(-WARM_UP_ROUNDS, rounds):
        # Who goes first takes turns too: the next one finds warmer caches.
        for way in ways if number % 2 else reversed(ways):
            connection = kept.get(way.name) or await way.connect()
            times = await ask(connection, message)
            if not way.keeps:
                connection[1].close()
            if number >= 0:
                taken[way.name].append(times)
    for _, writer in kept.values():
        writer.close()
    return taken


async def rates(ways: list[Way], rounds: int, streams: int, tokens: int) -> dict[str, list[float]]:
    """Tokens per second over all of `streams` answers at once, one value for each round."""
    per_second: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            connections = [await way.connect() for _ in range(streams)]
            started_s = time.perf_counter()
            answers = await asyncio.gather(
                *(
                    ask(connection, request(tokens, f"story {stream}"))
                    for stream, connection in enumerate(connections)
                )
            )
            wall_s = time.perf_counter() - started_s
            per_second[way.name].append(sum(answer.tokens for answer in answers) / wall_s)
            for _, writer in connections:
                writer.close()
    return per_second


@contextlib.asynccontextmanager
async def served(
    path: Path, streams: int, checkout: Path, name: str
) -> AsyncIterator[tuple[Way, Way]]:
    """The proxy of a checkout in a process of its own, with its worker loaded: straight to the
    worker, and through the proxy."""
    with tempfile.TemporaryDirectory(prefix="mp") as folder, socket.socket() as probe:
        file = Path(folder, "policies.toml")
        # The engine's threads wait by spinning; on a machine with few cores, with one for each of
        # these nobody else would get to run.
        threads = max(1, (os.cpu_count() or 2) - 1)
        model = {"path": path, "parallel": streams, "ctx": 512, "keep_alive": -1}
        file.write_text(policies({"bench": model}, engine={"threads": threads}))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        cli = "proxy.cli.main" if (checkout / "proxy/cli/main.py").exists() else "proxy.cli"
        command = ("-m", cli, "serve", "--port", str(port), "--policies", str(file))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command, "--log-format", "json"),
            cwd=checkout,
            # A state folder is one proxy's.
            env=os.environ
            | {"HOME": folder, "XDG_RUNTIME_DIR": folder, "PYTHONPATH": str(checkout)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        through = Way(name, port=port, keeps=True)
        try:
            async with asyncio.timeout(START_S):
                await _until_it_listens(process, through)
                await ask(await through.connect(), request(1, "hi"))
            worker = next(Path(folder).glob("*/b1/server.sock"))
            # llama-server closes the connection after each stream, so that way cannot keep one.
            yield Way("straight to the worker", path=str(worker)), through
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def relayed(worker: str) -> AsyncIterator[Way]:
    """A process that copies bytes between a port and the worker's socket, and does nothing else."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ("-m", "bench.passthrough", "--relay", worker, str(port))
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    way = Way("a relay that copies bytes", port=port)
    try:
        async with asyncio.timeout(START_S):
            await _until_it_listens(process, way)
        yield way
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Copies(asyncio.Protocol):
    """One end of a relayed connection; whatever comes is written to the other one."""

    def __init__(self, worker: str | None = None, other: asyncio.Transport | None = None) -> None:
        self._worker, self._other = worker, other
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._worker is not None:
            self._here = cast(asyncio.Transport, transport)
            self._connecting = asyncio.ensure_future(self._connect(self._worker))

    async def _connect(self, worker: str) -> None:
        loop = asyncio.get_running_loop()
        made = await loop.create_unix_connection(lambda: Copies(other=self._here), worker)
        self._other = made[0]
        for data in self._early:
            self._other.write(data)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self._other is not None:
            self._other.close()


async def relay(worker: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Copies(worker), "127.0.0.1", port)
    await server.serve_forever()


async def _until_it_listens(process: asyncio.subprocess.Process, way: Way) -> None:
    while process.returncode is None:
        try:
            _, writer = await way.connect()
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"the proxy ended with status {process.returncode}")


def compared(now: list[Times], before: list[Times]) -> str:
    """What a change did to the first event, pair by pair, and how sure that is."""
    pairs = list(zip(now, before, strict=True))
    added_ms = [1000 * (new.first_event_s - old.first_event_s) for new, old in pairs]
    ratio = statistics.median(new.first_event_s / old.first_event_s for new, old in pairs)
    low, _, high = statistics.quantiles(added_ms, n=4)
    return (
        f"against the proxy before, the first event comes {statistics.median(added_ms):+.3f} ms "
        f"later (middle half of the pairs {low:+.3f} to {high:+.3f}), a ratio of {ratio:.3f}"
    )


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="requests each way, first byte")
    parser.add_argument("--rate-rounds", type=int, default=5, help="rounds each way, tokens/s")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each stream")
    parser.add_argument("--layers", type=int, default=12, help="of the generated model")
    parser.add_argument("--model", type=Path, help="another GGUF than the generated one")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"fail above {MOST_ADDED_S * 1000} ms more than the relay, below {LEAST_RATE} of the "
        "tokens/s",
    )
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="another checkout, to compare with"
    )
    parser.add_argument("--relay", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.relay:
        await relay(arguments.relay[0], int(arguments.relay[1]))
    path = arguments.model or model(layers=arguments.layers)
    async with contextlib.AsyncExitStack() as stack:
        here = served(path, arguments.streams, Path.cwd(), "proxy, connection kept")
        straight_way, through_way = await stack.enter_async_context(here)
        bare_way = await stack.enter_async_context(relayed(straight_way.path or ""))
        ways = [straight_way, through_way, bare_way]
        if arguments.before:
            old = served(path, arguments.streams, arguments.before.resolve(), BEFORE)
            ways.append((await stack.enter_async_context(old))[1])
        taken = await firsts(ways, arguments.rounds)
        per_second = await rates(
            ways[:2], arguments.rate_rounds, arguments.streams, arguments.tokens
        )
    straight, through, bare, *_ = names = [way.name for way in ways]
    title = f"tokens/s, {arguments.streams} streams"
    print(f"{'':24}{'first byte, median':>20}{'first event':>16}{title:>24}")
    for name in names:
        byte_ms = statistics.median(times.first_byte_s for times in taken[name]) * 1000
        event_ms = statistics.median(times.first_event_s for times in taken[name]) * 1000
        rate = f"{statistics.median(per_second[name]):.1f}" if name in per_second else "-"
        print(f"{name:24}{byte_ms:17.3f} ms{event_ms:13.3f} ms{rate:>24}")
    # Neighbours in time are compared, so that what slows the machine for a while is in both.
    pairs = list(zip(taken[through], taken[straight], strict=True))
    added_s = statistics.median(slow.first_byte_s - fast.first_byte_s for slow, fast in pairs)
    event_s = statistics.median(slow.first_event_s - fast.first_event_s for slow, fast in pairs)
    kept = statistics.median(
        slow / fast for slow, fast in zip(per_second[through], per_second[straight], strict=True)
    )
    floor_s = statistics.median(
        slow.first_event_s - fast.first_event_s
        for slow, fast in zip(taken[bare], taken[straight], strict=True)
    )
    print(f"a relay that only copies bytes adds {floor_s * 1000:.3f} ms to the first event")
    print(
        f"the proxy adds {added_s * 1000:.3f} ms to the first byte, {event_s * 1000:.3f} ms to the "
        f"first event, and keeps {kept:.3f} of tokens/s"
    )
    if arguments.before:
        print(compared(taken[through], taken[BEFORE]))
    # The head waits for the first event, so that is what a client waits for.
    missed = event_s - floor_s > MOST_ADDED_S or kept < LEAST_RATE
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
