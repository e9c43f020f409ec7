"""The front of a fleet as a process of its own: `python -m proxy.fleet.front --host H --port P`, or
`--fd N` for a socket that listens already. On standard input come the members, a line each time
that they change; its end is ours, after a drain, as is SIGTERM. A second signal does not wait."""

import argparse
import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from proxy.fleet.front.run import running
from proxy.fleet.member import Members, members_of
from proxy.node.identity import BadIdentity, Identity, identity_of
from proxy.observe import log as logging
from proxy.observe.log_stream import LogStream
from proxy.service.listening import listen
from proxy.service.open_files import allow_many_files
from proxy.tasks import spawn

log = structlog.get_logger()

DRAIN_S: Final = 60.0
CLOSING_S: Final = 1.0
MISUSED: Final = 2
END_OF_INPUT: Final = "end of input"
STDIN: Final = 0
CHUNK_BYTES: Final = 1 << 16
LONGEST_LINE: Final = 16 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    allow_many_files()  # a client is one, and so is what it asks a node for
    stream = LogStream(sys.stderr.fileno())
    logging.setup(options.log_format, options.log_level, stream)
    try:
        identity = identity_of(os.environ)
        sockets = _sockets(options)
    except (BadIdentity, OSError, ValueError) as error:
        stream.write(f"moe-proxy: {error}\n")
        stream.drain(CLOSING_S)
        return MISUSED
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(identity, sockets, options))
    stream.drain(CLOSING_S)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proxy.fleet.front", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11435)
    parser.add_argument("--fd", type=int, help="a socket that listens already")
    parser.add_argument("--drain-s", type=float, default=DRAIN_S)
    parser.add_argument("--log-format", choices=("console", "json"), default="console")
    parser.add_argument("--log-level", default="info")
    return parser


def _sockets(options: argparse.Namespace) -> list[socket.socket]:
    """Raises OSError."""
    if options.fd is not None:
        return [socket.socket(fileno=options.fd)]
    return listen(options.host, options.port)


async def _serve(
    identity: Identity, sockets: list[socket.socket], options: argparse.Namespace
) -> None:
    loop = asyncio.get_running_loop()
    ends: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ends.put_nowait, number.name)
    async with running(identity, sockets, options.host, inherited=options.fd is not None) as front:

        def take(line: bytes) -> None:
            try:
                members: Members = members_of(line)
            except ValueError as error:
                log.error("members_not_understood", why=str(error))
            else:
                front.nodes.set_members(members)

        def told(line: bytes) -> None:
            loop.call_soon_threadsafe(take, line)

        arguments = (told, partial(loop.call_soon_threadsafe, ends.put_nowait, END_OF_INPUT))
        threading.Thread(target=_read_members, args=arguments, daemon=True, name="members").start()
        log.info("stopping", signal=await ends.get())
        drain = spawn(front.drain(options.drain_s), name="drain")
        second = spawn(_second(ends), name="second signal")
        await asyncio.wait((drain, second), return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            log.info("killing", signal=second.result())
            await front.kill()
        for task in (drain, second):
            task.cancel()


async def _second(ends: "asyncio.Queue[str]") -> str:
    """The end of standard input may come with the first signal, and is none."""
    while (heard := await ends.get()) == END_OF_INPUT:
        pass
    return heard


def _read_members(told: Callable[[bytes], object], ended: Callable[[], object]) -> None:
    """Read lines until there is nobody who tells of members. On a thread of its own: what standard
    input is, is for others to say, and event loops take pipes alone."""
    rest = b""
    with suppress(RuntimeError):  # the loop may have ended before
        with suppress(OSError):
            while len(rest) <= LONGEST_LINE and (chunk := os.read(STDIN, CHUNK_BYTES)):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    told(line)
        ended()


if __name__ == "__main__":
    sys.exit(main())
