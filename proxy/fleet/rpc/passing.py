"""Bytes from one connection to another and back, until either side closes.

Without TLS the kernel hands them on, through a pipe: none of them comes into this process, and
threads that wait hold nobody up. With TLS they have to be read and written.
"""

import fcntl
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Final

PIPE_BYTES: Final = 1 << 20
CHUNK_BYTES: Final = 1 << 18
# With ourselves, where strangers on this machine may be in the way.
PAIRS_WITHIN_S: Final = 5.0
# A machine that is cut off says nothing: then the connection has to end by itself.
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)
WANTS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def prepare(connection: socket.socket) -> None:
    """For small messages that are waited for, and a peer that may be cut off."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in KEEPALIVE:
        connection.setsockopt(*option)


def pass_on(near: socket.socket, far: socket.socket, ended: Callable[[], None]) -> None:
    """Returns when either side has closed. `ended` is called once before the other one hears of
    that; it must not raise. Both sockets are shut down then, and not closed."""
    if isinstance(near, ssl.SSLSocket) or isinstance(far, ssl.SSLSocket):
        _in_turn(near, far)
        ended()
        _shut(near, far)
        return
    near.settimeout(None)
    far.settimeout(None)
    lock, over = threading.Lock(), False

    def finish() -> None:
        nonlocal over
        with lock:
            if not over:
                over = True
                ended()
                _shut(near, far)

    back = threading.Thread(target=_one_way, args=(far, near, finish), daemon=True)
    back.start()
    _one_way(near, far, finish)
    back.join()


def _shut(*connections: socket.socket) -> None:
    for connection in connections:
        try:
            # Of the connection itself: one with TLS has nothing to say any more.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        except OSError:
            continue


def _one_way(source: socket.socket, sink: socket.socket, finish: Callable[[], None]) -> None:
    out, into = os.pipe()
    try:
        try:
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # it is of the usual size, and works
        while count := os.splice(source.fileno(), into, PIPE_BYTES):
            while count:
                count -= os.splice(out, sink.fileno(), count)
    except OSError:
        pass
    finally:
        finish()
        os.close(out)
        os.close(into)


class _Way:
    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self.held = self._buffer[:0]

    def step(self) -> bool:
        """Whether anything went on. Raises EOFError when the source has closed, and OSError."""
        if not self.held:
            self.held = self._read()
        try:
            sent = self.sink.send(self.held) if self.held else 0
        except WANTS:
            return False
        self.held = self.held[sent:]
        return sent > 0

    def _read(self) -> memoryview:
        """As much as there is: with TLS a read gives one record, of 16 KiB at most."""
        count = 0
        try:
            while count < CHUNK_BYTES and (more := self.source.recv_into(self._buffer[count:])):
                count += more
        except WANTS:
            return self._buffer[:count]
        if not count:
            raise EOFError
        return self._buffer[:count]


def _in_turn(near: socket.socket, far: socket.socket) -> None:
    """The same on this thread, without an end of the connections."""
    near.setblocking(False)
    far.setblocking(False)
    there, back = _Way(near, far), _Way(far, near)
    try:
        while True:
            if any([there.step(), back.step()]):
                continue
            select.select(
                [way.source for way in (there, back) if not way.held],
                [way.sink for way in (there, back) if way.held],
                [],
            )
    except (EOFError, OSError):
        return


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection that nobody else has. Raises OSError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=PAIRS_WITHIN_S)
        while True:
            far, peer = listener.accept()
            if peer == near.getsockname():
                return near, far
            far.close()
