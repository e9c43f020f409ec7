"""Bodies that are sent packed (Content-Encoding), unpacked a piece at a time: what a few bytes
unpack to may be more than there is room for, and is counted before there is more.
"""

import zlib
from collections.abc import Iterator
from typing import Final

from proxy.errors import BadRequest

MOST_AT_ONCE: Final = 1 << 18
PLAIN: Final = frozenset({"", "identity"})
GZIP: Final = frozenset({"gzip", "x-gzip"})
DEFLATE: Final = "deflate"
# zlib's words for: gzip's head, zlib's, none.
_WITH_GZIP, _WITH_ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_ZLIB_METHOD: Final = 8  # in the lower half of zlib's first byte
NOT_KNOWN: Final = (
    "malformed: the body has a Content-Encoding that is not known here; gzip and deflate are"
)
BROKEN: Final = "malformed: the body is not what its Content-Encoding says that it is"


def unpacker_of(encoding: str) -> "Unpacker | None":
    """For a Content-Encoding; None where nothing is packed. Raises BadRequest."""
    encoding = encoding.strip().lower()
    if encoding in PLAIN:
        return None
    if encoding in GZIP or encoding == DEFLATE:
        return Unpacker(is_gzip=encoding != DEFLATE)
    raise BadRequest(NOT_KNOWN)


class Unpacker:
    """Unpacks one body."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        # What changes: who unpacks, once something has come.
        self._stream: zlib._Decompress | None = None

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        """What `packed` adds to the body. Raises BadRequest."""
        while packed:
            if self._stream is None or self._stream.eof:
                self._stream = self._begin(packed[0])  # gzip may have several parts
            try:
                piece = self._stream.decompress(packed, MOST_AT_ONCE)
            except zlib.error as error:
                raise BadRequest(BROKEN) from error
            packed = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece

    def end(self) -> None:
        """All has come. Raises BadRequest where that is not all of it."""
        if self._stream is not None and not self._stream.eof:
            raise BadRequest(BROKEN)

    def _begin(self, first: int) -> "zlib._Decompress":
        if self._is_gzip:
            return zlib.decompressobj(_WITH_GZIP)
        # Some send it without the head that HTTP asks for.
        return zlib.decompressobj(_WITH_ZLIB if first & 0xF == _ZLIB_METHOD else _BARE)
