"""A `ggml-rpc-server` for one connection: on loopback, with that one client, ended before it could
have another."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from proxy.engine.environment import inherited
from proxy.engine.guardian import MARK, forget_group, keep_group
from proxy.engine.installed import program
from proxy.fleet.rpc import peers

NAME: Final = "ggml-rpc-server"
STARTS_WITHIN_S: Final = 30.0  # a driver may take its time
LOOK_S: Final = 0.002
HERE: Final = "127.0.0.1"


class NotAlone(Exception):
    """Somebody else on this machine has connected to the server first."""


class Server:
    """Its process, and our connection to it. Not for several threads, but for `kill`."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        """Starts it and connects. Raises LookupError and OSError where that cannot be, NotAlone."""
        self.connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.connection.bind((HERE, 0))
        self.address = _free_address()
        host, port = self.address
        argv = [program(NAME), "-H", host, "-p", str(port), *options]
        self._process = subprocess.Popen(
            argv,
            env=inherited(os.environ) | MARK,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        keep_group(self._process.pid)
        try:
            self._connect()
            self.check_alone()
        except BaseException:
            self.kill()
            self.connection.close()
            raise

    def _connect(self) -> None:
        until = time.monotonic() + STARTS_WITHIN_S
        while self.connection.connect_ex(self.address):
            if self._process.poll() is not None:
                raise OSError(f"{NAME} has ended with {self._process.returncode}")
            if time.monotonic() > until:
                raise OSError(f"{NAME} has not begun to listen within {STARTS_WITHIN_S:g} s")
            time.sleep(LOOK_S)

    def check_alone(self) -> None:
        """Raises NotAlone. One that came first shows here, or keeps the server from answering us;
        one that comes later waits for its end."""
        if peers.others_at(self.address, self.connection.getsockname()):
            raise NotAlone(f"somebody else has connected to {NAME} at {self.address[0]}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Returns when it is gone. May be called again, and by any thread."""
        self._process.kill()
        self._process.wait()
        forget_group(self._process.pid)

    def close(self) -> None:
        """First its end, then that of our connection: it gets no other one in between."""
        self.kill()
        self.connection.close()


def _free_address() -> peers.Address:
    """On a loopback address of its own, which nobody can guess in time."""
    rest = (random.SystemRandom().randrange(1, 255) for _ in range(3))
    host = ".".join(("127", *map(str, rest)))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return host, port
