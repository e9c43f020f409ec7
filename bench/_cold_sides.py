"""The sides of `bench.cold`: whoever is asked for a model that is not loaded, and says when the
first token came.

All by plain blocking sockets, so that what is measured has the machine for itself.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from proxy.engine.guardian import forget_group, keep_group
from proxy.engine.installed import program
from proxy.engine.ports import free_port
from tests.support.policies import policies

GUARD_S = 600.0  # one answer, from a slow disk too
POLL_S = 0.001
CTX = 4096
PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the beginning to the first token, and how many of them went by before the
    request was sent (of a server that is started for it)."""

    first_token_s: float
    ready_s: float = 0.0


class Side(Protocol):
    """One way to have a model loaded."""

    @property
    def name(self) -> str: ...

    def rest(self) -> None:
        """Wait until nothing is loaded, and what is to be there beforehand is."""

    def cold(self, prompt: str) -> Times:
        """From nothing to the first token of an answer; then nothing is loaded again."""


@dataclass(frozen=True, slots=True)
class Plain:
    """llama-server started by hand, and asked as soon as it is ready."""

    name: str
    model: Path
    threads: int
    more: Sequence[str] = ()
    read_ahead: bool = False  # whether somebody reads the file in large pieces meanwhile

    def rest(self) -> None: ...

    def cold(self, prompt: str) -> Times:
        port = free_port()
        own = ("--fit", "off", "-c", str(CTX), "-np", "1", "-t", str(self.threads))
        argv = (program("llama-server"), "-m", str(self.model), "--host", "127.0.0.1")
        started = time.perf_counter()
        if self.read_ahead:
            threading.Thread(target=read_ahead, args=(self.model,), daemon=True).start()
        with child(*argv, "--port", str(port), "--no-webui", "--metrics", *own, *self.more) as it:
            until_ready(it, port)
            ready = time.perf_counter() - started
            first_event(port, prompt)
            return Times(time.perf_counter() - started, ready)


@dataclass(frozen=True, slots=True)
class Proxied:
    """A request to a proxy that runs and has nothing loaded."""

    name: str
    port: int

    def cold(self, prompt: str) -> Times:
        started = time.perf_counter()
        first_event(self.port, prompt)
        took = time.perf_counter() - started
        self._call("POST", "/admin/models/bench/unload")
        return Times(took)

    def rest(self) -> None:
        deadline = time.monotonic() + GUARD_S
        while time.monotonic() < deadline:
            state = json.loads(self._call("GET", "/admin/state"))
            loaded = [x for x in state["backends"] if x["state"] != "gone"]
            warm = state.get("warm_workers", {"ready": 0, "wanted": 0})
            if not loaded and warm["ready"] >= warm["wanted"]:
                return
            time.sleep(0.05)
        raise SystemExit(f"{self.name} did not come to rest")

    def _call(self, method: str, path: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=GUARD_S) as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        head_bytes, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head_bytes[:20]:
            raise SystemExit(answer.decode(errors="replace"))
        return body


@contextlib.contextmanager
def proxied(
    name: str,
    model: Path,
    *,
    threads: int,
    server: dict[str, Any] | None = None,
    devices: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> Iterator[Proxied]:
    """A proxy of its own, in a process of its own, with the model and nothing loaded."""
    with tempfile.TemporaryDirectory(prefix="mp") as folder:
        file, port = Path(folder, "policies.toml"), free_port()
        table = {"path": model, "parallel": 1, "ctx": CTX, "keep_alive": -1} | (more or {})
        tables = {"engine": {"threads": threads}, "server": server or {}, "devices": devices or {}}
        file.write_text(policies({"bench": table}, **tables))
        argv = (sys.executable, "-m", "proxy.cli.main", "serve", "--port", str(port))
        env = {"HOME": folder, "XDG_RUNTIME_DIR": folder}
        with child(*argv, "--policies", str(file), "--log-format", "json", **env) as process:
            until_ready(process, port)
            yield Proxied(name, port)


@contextlib.contextmanager
def rpc_device(threads: int) -> Iterator[str]:
    """A device with memory of its own, as `host:port`."""
    port = free_port()
    argv = (program("ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", str(threads))
    with child(*argv) as process:
        deadline = time.monotonic() + GUARD_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.05)
            else:
                yield f"127.0.0.1:{port}"
                return
        raise SystemExit("ggml-rpc-server does not listen")


@contextlib.contextmanager
def child(*argv: str, **env: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with the block, or with us."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | env,
        start_new_session=True,
    )
    keep_group(process.pid)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        forget_group(process.pid)


def until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + GUARD_S
    question = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with status {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=GUARD_S) as connection:
                connection.sendall(question)
                if connection.recv(64).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass  # it does not listen yet
        time.sleep(POLL_S)
    raise SystemExit(f"{process.args!r} is not ready")


def first_event(port: int, prompt: str) -> None:
    """Ask for one token, as a stream, and return when it is there."""
    body = json.dumps(
        {
            "model": "bench",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
            "stream": True,
        }
    ).encode()
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_S) as connection:
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
        answer = b""
        # Comments that a waiting client is sent begin with a colon.
        while b"\ndata:" not in answer:
            part = connection.recv(1 << 16)
            if not part or (len(answer) > 12 and not answer.startswith(b"HTTP/1.1 200")):
                raise SystemExit(f"no answer: {(answer + part)[:500]!r}")
            answer += part


def read_ahead(file: Path) -> None:
    """Have the kernel read all of a file, in its order, as fast as the disk does."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        for offset in range(0, size, PIECE_BYTES):
            os.posix_fadvise(opened.fileno(), offset, PIECE_BYTES, os.POSIX_FADV_WILLNEED)
            os.pread(opened.fileno(), 1, min(offset + PIECE_BYTES, size) - 1)


def drop_from_memory(files: Sequence[Path]) -> None:
    """Have the kernel forget these files' pages, and nothing else."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
