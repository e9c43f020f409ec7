"""Reads the little-endian numbers and strings of a GGUF header, whatever the file turns out to be.

Its counterpart `proxy.catalog.gguf_reader` knows what they mean.
"""

import struct
from io import FileIO
from pathlib import Path
from typing import Final

from proxy.catalog.gguf import GgufError
from proxy.catalog.limits import Limits
from proxy.catalog.strings import skip_whole

# The largest real vocabularies (262k tokens) make headers of 20 MB.
MAX_HEADER_BYTES: Final = 128 << 20
MAX_STRING_BYTES: Final = 16 << 20
READ_BYTES: Final = 1 << 20


class Cursor:
    """Reads forward through a buffer of `read_bytes`; no step goes beyond the end of the file."""

    def __init__(
        self,
        path: Path,
        file: FileIO,
        size: int,
        limits: Limits,
        *,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self.path = path
        self._limits = limits
        self._read_bytes = read_bytes
        self.size = size
        self._file = file
        self._end = min(size, MAX_HEADER_BYTES)
        # The state: the buffer, the file position of its first byte, and how much of it is used up.
        self._buffer = b""
        self._base = 0
        self._used = 0

    @property
    def position(self) -> int:
        return self._base + self._used

    def error(self, what: str) -> GgufError:
        return GgufError(f"{self.path}: byte {self.position}: {what}")

    def take(self, count: int, what: str) -> bytes:
        self._need(count, what)
        data = self._buffer[self._used : self._used + count]
        self._used += count
        return data

    def number(self, format: str, what: str) -> int:
        value: int = struct.unpack("<" + format, self.take(struct.calcsize("<" + format), what))[0]
        return value

    def counter(self, what: str, most: int, *, each: int) -> int:
        """A count of things of at least `each` bytes, checked before anybody loops over it."""
        count = self.number("Q", what)
        if count > most or count * each > self._end - self.position:
            raise self.error(f"{what}: {count} are more than the file can hold")
        return count

    def string(self, what: str) -> str:
        length = self.number("Q", what)
        if length > MAX_STRING_BYTES:
            raise self.error(f"{what}: a string of {length} bytes is too long")
        self.keep(1, length, what)
        return self.take(length, what).decode("utf-8", "replace")

    def keep(self, count: int, size_bytes: int, what: str) -> None:
        """To be called before `count` values of `size_bytes` bytes together are kept."""
        if not self._limits.keep(count, size_bytes):
            raise self.error(f"{what}: this is more metadata than any real model has")

    def skip(self, count: int, what: str) -> None:
        self._check(count, what)
        if self._used + count <= len(self._buffer):
            self._used += count
            return
        self._base, self._used, self._buffer = self.position + count, 0, b""
        self._file.seek(self._base)

    def skip_strings(self, count: int, what: str) -> None:
        """Skip over strings, of which a vocabulary has hundreds of thousands."""
        if not self._limits.strings(count):
            raise self.error(f"{what}: these are more texts than any real model has")
        while count:
            self._used, count = skip_whole(self._buffer, self._used, count)
            if count:
                # The next one reaches beyond the buffer: what is beyond it is skipped in the file.
                self.skip(self.number("Q", what), what)
                count -= 1

    def _check(self, count: int, what: str) -> None:
        if count > self._end - self.position:
            cut = "the file ends" if self._end == self.size else "the header is too long"
            raise self.error(f"{what}: {count} bytes are wanted, but {cut} at byte {self._end}")

    def _need(self, count: int, what: str) -> None:
        if self._used + count <= len(self._buffer):
            return
        self._check(count, what)
        rest = self._buffer[self._used :]
        self._base, self._used = self.position, 0
        wanted = max(count, self._read_bytes)
        chunks = [rest]
        have = len(rest)
        while have < wanted and (chunk := self._file.read(wanted - have)):
            chunks.append(chunk)
            have += len(chunk)
        self._buffer = b"".join(chunks)
        if have < count:
            raise self.error(f"{what}: the file became shorter while it was read")
