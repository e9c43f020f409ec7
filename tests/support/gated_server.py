"""A small server that speaks enough of the OpenAI API to be a backend, and waits at gates that a
test holds.

A gate is a named pipe: opening it waits until the test opens the other end. `--hold-load` is one
before it listens; a request's `"gates"` are one before the first byte and one before each further
piece of the answer. With `"stream"` the head goes out before all of them, and what it `"says"`
behind that; with `"cut"` the gates are in the middle of each event. With `"dies_at"` it crashes
before that piece; behind its gate, if that is the first.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

PIECES = 3
CRASH = "crash"
LENGTH = "content-length:"


async def pass_gate(gate: str | None) -> None:
    if gate == CRASH:
        os.abort()
    if gate:
        await asyncio.to_thread(Path(gate).read_bytes)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ", 2)[1]
        lengths = [line[15:] for line in head.splitlines() if line.lower().startswith(LENGTH)]
        length = int(lengths[0]) if lengths else 0
        body = json.loads(await reader.readexactly(length)) if length else {}
        if path == "/health":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        else:
            gates = [*body.get("gates", []), *[None] * PIECES]
            if (at := body.get("dies_at")) is not None:
                await pass_gate(gates[at] if at == 0 else None)
                gates[at] = CRASH
            if body.get("stream"):
                await stream(writer, gates, body.get("says", ""), cut=body.get("cut", False))
                return
            for number in range(PIECES):
                await pass_gate(gates[number])
                if number == 0:
                    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                writer.write(f"data: {number}\n\n".encode())
                await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the client left
    finally:
        writer.close()


async def stream(
    writer: asyncio.StreamWriter, gates: list[str | None], says: str, *, cut: bool
) -> None:
    """As llama-server streams: the head at once, events when there is something to tell."""
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n")
    writer.write(b"Content-Type: text/event-stream\r\n\r\n")
    if says:
        writer.write(b"%x\r\n%s\r\n" % (len(says), says.encode()))
    for number in range(PIECES):
        event = b'data: {"number": %d}\n\n' % number
        front, rest = (event[:9], event[9:]) if cut else (b"", event)
        if front:
            writer.write(b"%x\r\n%s\r\n" % (len(front), front))
        await writer.drain()
        await pass_gate(gates[number])
        writer.write(b"%x\r\n%s\r\n" % (len(rest), rest))
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--hold-load")
    parser.add_argument("--fail")
    parser.add_argument("--parallel", help="told by whoever counts slots; it serves all at once")
    given = parser.parse_args()
    print("loading", flush=True)  # noqa: T201 - what it says is a part of what is tested
    await pass_gate(given.hold_load)
    if given.fail and await asyncio.to_thread(Path(given.fail).exists):
        sys.exit("these are my last words")
    server = await asyncio.start_server(serve, "127.0.0.1", given.port)
    print("serving", flush=True)  # noqa: T201
    # It lives on then, and takes no connections.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, server.close)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
