"""A `ggml-rpc-server` for one connection: it listens nowhere, is handed that connection, and ends
with it."""

import os
import select
import socket
import subprocess
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from proxy.engine.environment import inherited
from proxy.engine.guardian import MARK, forget_group, keep_group
from proxy.engine.installed import program

NAME: Final = "ggml-rpc-server"
LIBRARY: Final = Path(__file__).with_name(f"_handed{EXTENSION_SUFFIXES[0]}")
# Of a client that has gone it hears by itself, unless it hangs or computes.
ENDS_WITHIN_S: Final = 2.0


def check_server() -> None:
    """Raises LookupError and OSError where none could be started."""
    program(NAME)
    if not LIBRARY.is_file():
        raise OSError(f"{LIBRARY.name} is missing; make setup builds it")


class Server:
    """Its process. One thread has it, but for `kill`, and it ends with that thread."""

    def __init__(self, connection: socket.socket, options: Sequence[str] = ()) -> None:
        """Starts it for this connection, which stays the caller's to close. Raises LookupError and
        OSError where that cannot be."""
        check_server()
        # Its calls wait, as those of a connection that it has accepted itself.
        connection.setblocking(True)
        handed = connection.fileno()
        self._process = subprocess.Popen(
            [program(NAME), "-H", "127.0.0.1", "-p", "1", *options],  # said, and never bound
            env=inherited(os.environ) | MARK | _handed(handed),
            pass_fds=(handed,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        keep_group(self._process.pid)

    def run(self, connection: socket.socket) -> None:
        """Returns when it has ended, which it does soon after the other side has closed."""
        ended = os.pidfd_open(self._process.pid)
        try:
            either = select.poll()
            either.register(ended, select.POLLIN)
            either.register(connection, select.POLLRDHUP)
            either.poll()
            only = select.poll()
            only.register(ended, select.POLLIN)
            only.poll(ENDS_WITHIN_S * 1000)
        finally:
            os.close(ended)
            self.kill()

    def kill(self) -> None:
        """Returns when it is gone. May be called again, and by any thread."""
        self._process.kill()
        self._process.wait()
        forget_group(self._process.pid)


def _handed(number: int) -> dict[str, str]:
    """Variables with which a server has this for its client."""
    return {
        "LD_PRELOAD": str(LIBRARY),
        "MOE_PROXY_HANDED_FD": str(number),
        "MOE_PROXY_HANDED_BY": str(os.getpid()),
    }
