"""Says at a terminal how it stands while a command waits for a model: it loads, or has to wait for
room first."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import quote, urlsplit

from proxy.cli.client import Client, ClientError
from proxy.text import gib

Json = dict[str, Any]

# What is there at once needs no words.
AFTER_S: Final = 1.0
EVERY_S: Final = 0.5
CLEAR: Final = "\r\033[K"
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


@contextmanager
def waiting_for(
    client: Client,
    model: str,
    to: TextIO | None = None,
    *,
    after_s: float = AFTER_S,
    every_s: float = EVERY_S,
) -> Iterator[Callable[[], None]]:
    """Within the block it is told how it stands, until what is given is called; nothing where `to`,
    standard error unless something else is named, is no terminal."""
    over, said = threading.Event(), threading.Event()
    out = to or sys.stderr

    def show(text: str) -> None:
        if not over.is_set():
            said.set()
            out.write(CLEAR + text)
            out.flush()

    shown = threading.Thread(
        target=_show,
        args=(client, model, show, over, after_s, every_s),
        daemon=True,
        name="loading",
    )

    def end() -> None:
        if not over.is_set():
            over.set()
            # It may be asking the proxy; then it shows nothing more.
            shown.join(every_s)
            if said.is_set():
                out.write(CLEAR)
                out.flush()

    if not out.isatty():
        yield lambda: None
        return
    shown.start()
    try:
        yield end
    finally:
        end()


def _show(
    client: Client,
    model: str,
    show: Callable[[str], None],
    over: threading.Event,
    after_s: float,
    every_s: float,
) -> None:
    began_s, name, size = time.monotonic(), model, None
    if over.wait(after_s):
        return
    with suppress(ClientError, KeyError, TypeError):
        told = client.get(f"/v1/models/{quote(model, safe='/:')}")
        name, size = told["meta"]["base"] or told["id"], told["meta"]["size_bytes"]
    here = urlsplit(client.url).hostname in LOOPBACK
    while not over.is_set():
        backends: list[Json] = []
        with suppress(ClientError, KeyError, TypeError):
            backends = client.get("/admin/state")["backends"]
        text = how_it_stands(
            [each for each in backends if each["model"] == name],
            model,
            time.monotonic() - began_s,
            size,
            resident_bytes if here else lambda _: None,
        )
        show(text)
        over.wait(every_s)


def how_it_stands(
    backends: list[Json],
    model: str,
    waited_s: float,
    size_bytes: int | None,
    resident: Callable[[int], int | None],
) -> str:
    """`backends`: the model's. `resident`: how much of a process is in memory."""
    since = f"{waited_s:.0f} s"
    loading = next((each for each in backends if each["state"] == "starting"), None)
    if any(each["state"] == "ready" for each in backends):
        return f"{model} is loaded; waiting for its answer, {since}"
    if loading is None or loading["pid"] is None:
        return f"waiting until {model} has room, {since}"
    there = resident(loading["pid"])
    if not there or not size_bytes:
        return f"loading {model}, {since}"
    # A worker has more than the model, and reads what stays on disk only when it is needed.
    return f"loading {model}, {since}: {gib(min(there, size_bytes))} of {gib(size_bytes)} in memory"


def resident_bytes(pid: int) -> int | None:
    """How much of a process of this machine is in memory; None where that is not to be seen."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
