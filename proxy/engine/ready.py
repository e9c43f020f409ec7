"""Asks a foreign server whether it is there and well."""

import asyncio
import re
from typing import Final

from proxy.errors import NoAnswer, NotServing, reason_of

# A policy's `ready_path` where it takes connections, and more cannot be asked of it.
NO_PATH: Final = "none"
USUAL: Final = "/health"
# Some servers have no page for it, but all have this one.
INSTEAD: Final = "/v1/models"
ASK_TIMEOUT_S: Final = 5.0
OK, NOT_FOUND, SERVER_ERROR = 200, 404, 500
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)")
_STATUS_BYTES: Final = len(b"HTTP/1.1 200")


def paths_of(path: str) -> tuple[str, ...]:
    """What may be asked where a policy says `path`, one after the other."""
    if path == NO_PATH:
        return ()
    return (USUAL, INSTEAD) if path == USUAL else (path,)


async def status_of(port: int, path: str, timeout_s: float = ASK_TIMEOUT_S) -> int:
    """The status of the answer to `path`; with NO_PATH, 200 where there is a connection.

    Raises NotServing where nobody listens, and NoAnswer where there is no answer that makes sense,
    or not in time. Read to the status and no further: the rest may never end.
    """
    question = f"GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n".encode()
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                if path == NO_PATH:
                    return OK
                writer.write(question)
                line = await reader.readexactly(_STATUS_BYTES)
            finally:
                writer.transport.abort()
    except ConnectionRefusedError as error:
        raise NotServing("it takes no connections") from error
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise NoAnswer("it closes connections without an answer") from error
    except TimeoutError as error:
        raise NoAnswer(f"it has not answered {path} for {timeout_s:g} s") from error
    except OSError as error:
        raise NoAnswer(f"it does not answer: {reason_of(error)}") from error
    match = _STATUS.fullmatch(line)
    if match is None:
        raise NoAnswer(f"what it answers to {path} is no HTTP")
    return int(match[1])


async def why_not_ready(port: int, path: str, timeout_s: float = ASK_TIMEOUT_S) -> str | None:
    """Why a server that starts is not ready, for people; None once it is. Only 200 means that."""
    timeout_s = min(timeout_s, ASK_TIMEOUT_S)
    try:
        status = await status_of(port, path, timeout_s)
        if status == NOT_FOUND and path == USUAL:
            path = INSTEAD
            status = await status_of(port, path, timeout_s)
    except (NotServing, NoAnswer) as error:
        return error.message
    return None if status == OK else f"it answers {path} with status {status}"


async def check_alive(port: int, path: str) -> None:
    """Of a server that was ready: any status will do but those of a server that is at fault itself.
    Raises NotServing and NoAnswer."""
    status = await status_of(port, path)
    if status >= SERVER_ERROR:
        raise NoAnswer(f"it answers {path} with status {status}")
