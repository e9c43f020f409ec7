"""The ways to a worker that `bench.passthrough` compares: its own socket, and through what may
stand in between, each a process of its own."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench._asking import Connection, ask, request
from proxy.engine.ports import free_port
from tests.support.policies import policies

START_S = 120.0
# The engine's threads wait by spinning; on a machine with few cores, with one for each of these
# nobody else would get to run.
THREADS = max(1, (os.cpu_count() or 2) - 1)
NGINX_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
# Nothing is written, nothing is held back, and connections to the worker are kept.
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream worker {{ server unix:{worker}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://worker;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the worker: its socket, or the port of what stands before it."""

    name: str
    path: str | None = None
    port: int | None = None
    keeps: bool = False  # whether one connection serves many requests, as clients with a pool do
    pid: int | None = None  # who stands in between
    over: str | None = None  # the way that it is compared with; None: straight to the worker
    lines: str = ""  # that a request's head has to have there, each with its end

    async def connect(self) -> Connection:
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def served(
    path: Path, streams: int, checkout: Path, name: str
) -> AsyncIterator[tuple[Way, Way]]:
    """The proxy of a checkout in a process of its own, with its worker loaded: straight to the
    worker, and through the proxy."""
    with tempfile.TemporaryDirectory(prefix="mp") as folder, socket.socket() as probe:
        file = Path(folder, "policies.toml")
        model = {"path": path, "parallel": streams, "ctx": 512, "keep_alive": -1}
        file.write_text(policies({"bench": model}, engine={"threads": THREADS}))
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
        through = Way(name, port=port, keeps=True, pid=process.pid)
        try:
            async with asyncio.timeout(START_S):
                await until_it_listens(process, through)
                await ask(await through.connect(), request(1, "hi"))
            worker = next(Path(folder).glob("*/b1/server.sock"), None)
            if worker is None:
                raise SystemExit("the model is in no worker of ours: `make setup` builds it")
            # llama-server closes the connection after each stream, so that way cannot keep one.
            yield Way("straight to the worker", path=str(worker)), through
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def relayed(worker: str) -> AsyncIterator[Way]:
    """A process that copies bytes between a port and the worker's socket, and does nothing else."""
    port = free_port()
    command = (sys.executable, "-m", "bench._relay", worker, str(port))
    async with _between("a relay that copies bytes", port, *command) as way:
        yield way


@contextlib.asynccontextmanager
async def through_nginx(worker: str) -> AsyncIterator[Way | None]:
    """nginx between a port and the worker's socket; None where it is not installed."""
    program = shutil.which("nginx", path=NGINX_PLACES)
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ng") as folder:
        port, file = free_port(), Path(folder, "nginx.conf")
        file.write_text(NGINX.format(folder=folder, worker=worker, port=port))
        command = (program, "-e", f"{folder}/error.log", "-p", folder, "-c", str(file))
        async with _between("nginx, connection kept", port, *command, keeps=True) as way:
            yield way


@contextlib.asynccontextmanager
async def _between(name: str, port: int, *command: str, keeps: bool = False) -> AsyncIterator[Way]:
    process = await asyncio.create_subprocess_exec(*command)
    way = Way(name, port=port, keeps=keeps, pid=process.pid)
    try:
        async with asyncio.timeout(START_S):
            await until_it_listens(process, way)
        yield way
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_it_listens(process: asyncio.subprocess.Process, way: Way) -> None:
    while process.returncode is None:
        try:
            _, writer = await way.connect()
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"{way.name} ended with status {process.returncode}")
