"""Streams of a front's three protocols, read on threads: what each got, and how it ended."""

import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final

from tests.support.guard import LLAMA_S

# By the path: what a stream that is whole has near its end, and what the last line of one begins
# with that was broken off.
PROTOCOLS: Final = {
    "/v1/chat/completions": (b"data: [DONE]", b'data: {"error":'),
    "/v1/messages": (b'"type":"message_stop"}', b'data: {"type":"error"'),
    "/api/chat": (b'"done":true', b'{"error":'),
}


@dataclass
class Read:
    """What has come of one. `node` is "" until the head is there."""

    path: str
    node: str = ""
    body: bytes = b""
    problem: str = ""

    @property
    def is_whole(self) -> bool:
        return PROTOCOLS[self.path][0] in self.body[-1000:]

    @property
    def ends_with_an_error(self) -> bool:
        return self.body.rstrip().rpartition(b"\n")[2].startswith(PROTOCOLS[self.path][1])


def asked(path: str, model: str, number: int, length: int) -> dict[str, Any]:
    """A conversation of its own for each number."""
    messages = [{"role": "user", "content": f"this is conversation {number}"}]
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    if path.startswith("/api/"):
        return body | {"options": {"num_predict": length}}
    return body | {"max_tokens": length}


def begin(url: str, model: str, count: int, length: int) -> list[tuple[Read, threading.Thread]]:
    """So many at once, the protocols in turn."""
    paths, begun = [*PROTOCOLS], []
    for number in range(count):
        read = Read(paths[number % len(paths)])
        body = asked(read.path, model, number, length)
        thread = threading.Thread(target=_read, args=(read, url, body), daemon=True)
        thread.start()
        begun.append((read, thread))
    return begun


def _read(read: Read, url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url + read.path, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=LLAMA_S) as answer:
            read.node = answer.headers["X-Moe-Proxy-Node"] or "?"
            while line := answer.readline():
                read.body += line
    except (OSError, HTTPException, urllib.error.HTTPError) as error:
        read.problem = repr(error)
