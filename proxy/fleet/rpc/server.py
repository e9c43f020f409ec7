"""A `ggml-rpc-server` for one connection: on loopback, with that one client, ended before it could
have another."""

import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy.engine.environment import inherited
from proxy.engine.guardian import MARK, forget_group, keep_group
from proxy.engine.installed import program
from proxy.fleet.rpc import peers

NAME: Final = "ggml-rpc-server"
STARTS_WITHIN_S: Final = 30.0  # a driver may take its time
LOOK_S: Final = 0.005
HERE: Final = "127.0.0.1"


class Server:
    """Its process, and our connection to it. Not for several threads, but for `kill`."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        """Starts it and connects. Raises LookupError and OSError where that cannot be."""
        self.connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.connection.bind((HERE, 0))
        self.address = HERE, _free_port()
        argv = [program(NAME), "-H", HERE, "-p", str(self.address[1]), *options]
        self._process = subprocess.Popen(
            argv,
            env=inherited(os.environ) | MARK | let_in(self.connection.getsockname()[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        keep_group(self._process.pid)
        try:
            self._connect()
        except BaseException:
            self.kill()
            self.connection.close()
            raise

    def _connect(self) -> None:
        """Once it listens, and not by trying: an attempt that fails gives our port up."""
        until = time.monotonic() + STARTS_WITHIN_S
        while (listener := peers.listener(self.address)) is None:
            if self._process.poll() is not None:
                raise OSError(f"{NAME} has ended with {self._process.returncode}")
            if time.monotonic() > until:
                raise OSError(f"{NAME} has not begun to listen within {STARTS_WITHIN_S:g} s")
            time.sleep(LOOK_S)
        # Whoever else may have taken the port meanwhile is not given the weights.
        if not peers.is_of(listener.inode, self._process.pid):
            raise OSError(f"another program listens where {NAME} was to")
        self.connection.settimeout(STARTS_WITHIN_S)
        self.connection.connect(self.address)

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


def let_in(port: int) -> dict[str, str]:
    """Variables with which a server accepts nobody but who has this port of loopback. Raises
    OSError where that cannot be."""
    library = Path(__file__).with_name(f"_onlyclient{sysconfig.get_config_var('EXT_SUFFIX')}")
    if not library.is_file():
        raise OSError(f"{library.name} is missing; make setup builds it")
    return {"LD_PRELOAD": str(library), "MOE_PROXY_ONLY_PORT": str(port)}


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HERE, 0))
        port: int = probe.getsockname()[1]
    return port
