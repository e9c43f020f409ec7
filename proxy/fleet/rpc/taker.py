"""Where a backend finds the device that another machine lends it: a port on loopback, behind which
are a giver's address and token. `python -m proxy.fleet.rpc.taker`.

Only processes of its user are let in, and of these only the proxy that has asked for it and what
that has started. Reads a line of JSON from standard input, says its port in one, and ends when the
input does.
"""

import os
import socket
import ssl
import sys
import threading
from typing import Final

import msgspec
import structlog

from proxy.errors import reason_of
from proxy.fleet.rpc import passing, peers
from proxy.fleet.rpc.door import Door, Said
from proxy.fleet.rpc.giver import MOST_SERVED
from proxy.node.identity import BadIdentity, certificates_of

log = structlog.get_logger()

HERE: Final = "127.0.0.1"
CONNECTS_WITHIN_S: Final = 5.0


class Order(msgspec.Struct, frozen=True):
    """What it is told in its first line: where a giver is, its token, and the process of the proxy
    that it is for."""

    host: str
    port: int
    token: str  # in hexadecimal digits
    proxy: int


class Taker:
    """Listens for one backend. Its threads end with the process."""

    def __init__(self, order: Order, context: ssl.SSLContext | None = None) -> None:
        self._order, self._context = order, context
        self._places = threading.BoundedSemaphore(2 * MOST_SERVED)
        self.door = Door(socket.create_server((HERE, 0)), self._places, self._meet)

    def _meet(self, connection: socket.socket) -> None:
        try:
            with connection:
                if self._may(connection):
                    with self._giver() as giver:
                        passing.prepare(connection)
                        passing.pass_on(connection, giver, _nothing)
        except OSError as error:
            log.warning("rpc_giver_not_reached", host=self._order.host, error=str(error))
        except Exception:
            log.exception("rpc_session_failed")
        finally:
            self._places.release()

    def _may(self, connection: socket.socket) -> bool:
        end = peers.other_end(connection)
        if end is None:
            log.warning("rpc_stranger", why="it is gone, or of another machine")
            return False
        if end.uid != os.getuid() or not peers.is_of(end.inode, self._order.proxy):
            log.warning("rpc_stranger", uid=end.uid, port=end.local[1])
            return False
        return True

    def check(self) -> None:
        """Raises OSError where the giver is not reached: a backend could not say why. Nothing is
        started there for it, as it brings no token."""
        try:
            self._reached().close()
        except OSError as error:
            where = f"{self._order.host} at port {self._order.port}"
            raise OSError(
                f"the node that lends is not reached, {where}: {reason_of(error)}"
            ) from error

    def _reached(self) -> socket.socket:
        """A connection to the giver. Raises OSError."""
        address = (self._order.host, self._order.port)
        connection = socket.create_connection(address, timeout=CONNECTS_WITHIN_S)
        try:
            passing.prepare(connection)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_hostname=self._order.host)
        except BaseException:
            connection.close()
            raise
        return connection

    def _giver(self) -> socket.socket:
        """One that has brought the token. Raises OSError."""
        connection = self._reached()
        try:
            connection.sendall(bytes.fromhex(self._order.token))
        except BaseException:
            connection.close()
            raise
        return connection


def _nothing() -> None:
    """The giver ends what it has lent when it sees the end of the connection."""


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    try:
        certificates = certificates_of(os.environ)
        taker = Taker(order, certificates.of_client() if certificates else None)
        taker.check()
    except (BadIdentity, OSError) as error:
        Said(error=reason_of(error)).tell()
        return
    taker.door.serve_until_the_input_ends()


if __name__ == "__main__":
    main()
