"""How a giver and a taker let somebody in, and how they live: each connection on a thread, so many
at a time; the port is said in a line of JSON, and it ends when its input does."""

import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

log = structlog.get_logger()

NOT_ACCEPTED_S: Final = 0.05


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one of them says in its first line: where it listens, and how much of this machine's
    memory is promised there; or why it does not, for people."""

    port: int = 0
    size_bytes: int = 0
    error: str = ""

    def tell(self) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(self) + b"\n")
        sys.stdout.flush()


class Door:
    """A listening socket. Its threads end with the process."""

    def __init__(
        self,
        listener: socket.socket,
        places: threading.BoundedSemaphore,
        meet: Callable[[socket.socket], None],
    ) -> None:
        """`meet` has a connection that has got one of the `places`, and gives that back."""
        self._listener, self._places, self._meet = listener, places, meet

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def serve(self) -> None:
        """Returns when the listening socket is closed."""
        while self._listener.fileno() >= 0:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                # Of a client that has gone, or there are too many files: it listens on.
                log.warning("rpc_not_accepted", error=str(error))
                time.sleep(NOT_ACCEPTED_S)
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._meet, args=(connection,), daemon=True).start()
            except RuntimeError as error:  # there are too many
                log.warning("rpc_not_accepted", error=str(error))
                self._places.release()
                connection.close()

    def serve_until_the_input_ends(self, size_bytes: int = 0) -> None:
        threading.Thread(target=self.serve, daemon=True).start()
        Said(self.port, size_bytes).tell()
        while sys.stdin.buffer.read(1 << 16):
            pass
