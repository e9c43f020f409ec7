"""A server for command engines that misbehaves on order.

`--how FILE` has one of HOW. The first process takes the order and the file with it: the next one
behaves, so that a test can see that all is well again.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
SICK = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
STREAM = OK + b"Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
LOADS = ("exits", "daemonizes", "silent", "talks", "loading", "elsewhere", "mute")
SERVES = (
    *("hangs", "hangs on requests", "head only", "stops in the middle", "closes", "garbage"),
    *("endless head", "broken chunks", "refuses", "sick", "floods", "forks", "ignores SIGTERM"),
    *("busy", "nonsense"),
)
HOW = (*LOADS, *SERVES)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - what it says is a part of what is tested


async def for_ever() -> None:
    await asyncio.Event().wait()


class Server:
    def __init__(self, how: str) -> None:
        self.how, self.requests = how, 0
        self.server: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ", 2)[1]
            if path in ("/health", "/v1/models"):
                await self.health(writer)
            elif path == "/slots":
                await self.slots(writer)
            else:
                await self.request(writer, reader)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    async def health(self, writer: asyncio.StreamWriter) -> None:
        if self.how == "mute" or (self.how == "hangs" and self.requests):
            await for_ever()
        sick = self.how == "loading" or (self.how in ("sick", "busy") and self.requests)
        writer.write(SICK if sick else OK + b"Content-Length: 2\r\n\r\nok")

    async def slots(self, writer: asyncio.StreamWriter) -> None:
        if self.how in SERVES and self.requests:
            await for_ever()
        writer.write(OK + b"Content-Length: 2\r\n\r\n[]")

    async def request(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self.requests += 1
        if self.how == "refuses" and self.server is not None:
            self.server.close()
        if self.how in ("closes", "refuses"):
            return
        if self.how in ("hangs", "hangs on requests"):
            await for_ever()
        if self.how == "garbage":
            writer.write(bytes(range(256)) * 1000)
            return
        if self.how == "endless head":
            writer.write(OK)
            while True:
                writer.write(b"X: %s\r\n" % (b"x" * 1000))
                await writer.drain()
        if self.how == "nonsense":
            writer.write(OK + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]")
            return
        streams = b'"stream"' in await reader.read(1 << 16)
        if self.how == "head only":
            writer.write(STREAM)
            await for_ever()
        if not streams:
            body = json.dumps(WHOLE).encode()
            kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(OK + kind + body)
            return
        writer.write(STREAM + CHUNK)
        if self.how == "stops in the middle":
            await for_ever()
        if self.how == "broken chunks":
            writer.write(b"xyz\r\n" + CHUNK)
            return
        for _ in range(20 if self.how == "busy" else 0):
            writer.write(CHUNK)
            await writer.drain()
            await asyncio.sleep(0.3)
        writer.write(CHUNK + b"0\r\n\r\n")


def prints_endlessly() -> None:
    for number in itertools.count():
        say(f"line {number}")


def forks() -> None:
    """A child that is a zombie soon, and one that stays."""
    if os.fork() == 0:
        os._exit(0)
    if os.fork() == 0:
        time.sleep(600)


def daemonizes(note: Path) -> None:
    """Nobody is left in the group, and the session is another; its number is noted."""
    noted, notes = os.pipe()
    if os.fork():
        os.close(notes)
        os.read(noted, 1)  # nothing: everybody else has closed it
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    note.write_text(str(os.getpid()))
    os.close(notes)


def order(file: Path | None) -> str:
    try:
        how = file.read_text() if file else ""
    except FileNotFoundError:
        return ""
    if file:
        file.unlink()
    assert how in HOW
    return how


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--how", type=Path)
    given = parser.parse_args()
    how = order(given.how)
    say("loading")
    match how:
        case "exits":
            sys.exit(0)
        case "daemonizes":
            daemonizes(given.how.with_name("pid"))
        case "silent":
            await for_ever()
        case "talks":
            while True:
                say("still loading")
                await asyncio.sleep(0.05)
        case "elsewhere":
            with socket.create_server(("127.0.0.1", 0)):
                await for_ever()
        case "forks":
            forks()
        case "ignores SIGTERM":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = Server(how)
    server.server = await asyncio.start_server(server.serve, "127.0.0.1", given.port)
    say("serving")
    if how == "floods":
        await asyncio.to_thread(prints_endlessly)
    await for_ever()


if __name__ == "__main__":
    asyncio.run(main())
