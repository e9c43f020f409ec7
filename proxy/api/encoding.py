"""Undoes the `Content-Encoding` of a body, bit by bit: what is small may stand for much.

aiohttp would do it as the bytes come, and would go on with what nobody wants any more.
"""

import zlib
from collections.abc import Iterator
from typing import Final

from proxy.errors import BadRequest

PIECE_BYTES: Final = 1 << 18
GZIP: Final = 16 + zlib.MAX_WBITS
# How a body in zlib's format begins; some that call it "deflate" leave that format out.
_METHOD: Final = 0x0F
_DEFLATED: Final = 8
_PLAIN: Final = ("", "identity")


class Decoder:
    """Of one body."""

    def __init__(self, encoding: str) -> None:
        """`encoding` as the header has it. Raises BadRequest for one that is not known."""
        name = encoding.strip().lower()
        if name not in (*_PLAIN, "gzip", "deflate"):
            raise BadRequest(
                "malformed: the body has a Content-Encoding that is not known here; gzip and "
                "deflate are"
            )
        self.is_plain = name in _PLAIN
        # What changes: what undoes it, from its first byte on; several may stand one after another.
        self._is_gzip = name == "gzip"
        self._undo: zlib._Decompress | None = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes stand for, in pieces of a bounded size. Raises BadRequest."""
        if self.is_plain:
            yield data
            return
        while data:
            if self._undo is None or self._undo.eof:
                self._undo = zlib.decompressobj(GZIP if self._is_gzip else _bits(data))
            try:
                piece = self._undo.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise _broken() from error
            data = self._undo.unused_data if self._undo.eof else self._undo.unconsumed_tail
            if piece:
                yield piece

    def end(self) -> None:
        """It was the whole body. Raises BadRequest."""
        if self._undo is not None and not self._undo.eof:
            raise _broken()


def _bits(data: bytes) -> int:
    return zlib.MAX_WBITS if data[0] & _METHOD == _DEFLATED else -zlib.MAX_WBITS


def _broken() -> BadRequest:
    return BadRequest("the body is broken: not what its headers say that it is")
