"""A machine lends its memory to one backend on another one: `python -m proxy.fleet.rpc.giver`.

An RPC server of llama.cpp trusts whoever reaches it. So nobody does but those who bring the token
that was made for this backend: each of their connections is handed to a server of its own, which
listens nowhere and ends with it. Others get not a byte.

Reads a line of JSON from standard input, says its port in one, and ends when the input does. What
it lends has ended with it, however it ends, and so has what it promised of the machine's memory.
"""

import argparse
import hmac
import os
import socket
import ssl
import sys
import threading
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from proxy.errors import reason_of
from proxy.fleet.rpc import passing
from proxy.fleet.rpc.door import Door, Said
from proxy.fleet.rpc.free import free_by_place
from proxy.fleet.rpc.promises import NotPromised, Promises
from proxy.fleet.rpc.server import Server, check_server
from proxy.node.identity import BadIdentity, certificates_of

log = structlog.get_logger()

TOKEN_BYTES: Final = 32
TOKEN_WITHIN_S: Final = 2.0  # and all of TLS
# Who reaches the port and says nothing has it for so long: so many at a time.
MOST_STRANGERS: Final = 64
# A client asks of its devices on one connection after the other, and then keeps one.
MOST_SERVED: Final = 8


class Order(msgspec.Struct, frozen=True):
    """What it is told in its first line."""

    token: str  # in hexadecimal digits
    size_bytes: int = 0  # so much of this machine's memory, if there is, but
    least_bytes: int = 0  # not less than this


class Giver:
    """Listens for one backend. Its threads end with the process."""

    def __init__(
        self,
        host: str,
        token: bytes,
        *,
        context: ssl.SSLContext | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """`options`: more of them for the server. Raises OSError."""
        self._token, self._context, self._options = token, context, options
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._strangers = threading.BoundedSemaphore(MOST_STRANGERS)
        listener = socket.create_server((host, 0), family=family)
        self.door = Door(listener, self._strangers, self._meet)
        self._served = threading.BoundedSemaphore(MOST_SERVED)

    def _meet(self, connection: socket.socket) -> None:
        try:
            try:
                friend = self._known(connection)
            finally:
                self._strangers.release()
            if friend is not None:
                with friend:
                    self._lend(friend)
        except Exception:
            log.exception("rpc_session_failed")
        finally:
            connection.close()

    def _known(self, connection: socket.socket) -> socket.socket | None:
        """The connection, if it brings the token in time, else None."""
        passing.prepare(connection)
        # The whole of it has this long, whatever drips in meanwhile. TLS takes the socket over.
        same = connection.dup()
        limit = threading.Timer(TOKEN_WITHIN_S, _shut, (same,))
        limit.start()
        try:
            connection.settimeout(TOKEN_WITHIN_S)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            said = b""
            while len(said) < TOKEN_BYTES and (more := connection.recv(TOKEN_BYTES - len(said))):
                said += more
        except (OSError, ValueError):
            said = b""
        finally:
            limit.cancel()
            same.close()
        if hmac.compare_digest(said, self._token):
            return connection
        connection.close()
        return None

    def _lend(self, client: socket.socket) -> None:
        if not self._served.acquire(blocking=False):
            log.warning("rpc_refused", why=f"it has {MOST_SERVED} connections")
            return
        try:
            if isinstance(client, ssl.SSLSocket):
                near, far = passing.pair()
                with near:
                    with far:
                        server = Server(far, self._options)
                    passing.pass_on(client, near, server.kill)
            else:
                # It has the connection itself: nobody is between them.
                Server(client, self._options).run(client)
        except (LookupError, OSError) as error:
            log.warning("rpc_not_lent", error=str(error))
        finally:
            self._served.release()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    token = bytes.fromhex(order.token)
    if len(token) != TOKEN_BYTES:
        sys.exit("a token has another length")
    try:
        check_server()
        certificates = certificates_of(os.environ)
        context = certificates.of_server() if certificates else None
        giver = Giver(arguments.host, token, context=context, options=arguments.options)
        _serve(giver, order)
    except (NotPromised, BadIdentity, LookupError, OSError) as error:
        Said(error=reason_of(error)).tell()


def _serve(giver: Giver, order: Order) -> None:
    if not order.size_bytes:
        giver.door.serve_until_the_input_ends()
        return
    promises = Promises(os.environ)
    with promises.made(free_by_place, order.size_bytes, order.least_bytes) as size_bytes:
        giver.door.serve_until_the_input_ends(size_bytes)


if __name__ == "__main__":
    main()
