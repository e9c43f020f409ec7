"""Steps over a vocabulary's strings: compiled, as each header has hundreds of thousands, and the
same in Python, for where nothing was built."""

import struct
from typing import Final

_LENGTH: Final = struct.Struct("<Q")


def skip_whole_plainly(buffer: bytes, used: int, count: int) -> tuple[int, int]:
    """Step over up to `count` strings that begin at `used` and lie in `buffer` to their last byte.

    Returns where the next one begins, and how many are left of `count`.
    Raises ValueError where `used` is not within the buffer.
    """
    if not 0 <= used <= len(buffer):
        raise ValueError("what is used is not within the buffer")
    unpack, size, end = _LENGTH.unpack_from, _LENGTH.size, len(buffer)
    while count > 0 and used + size <= end:
        after = used + size + unpack(buffer, used)[0]
        if after > end:
            break
        used, count = after, count - 1
    return used, count


try:
    from proxy.catalog._strings import skip_whole
except ImportError:
    skip_whole = skip_whole_plainly

__all__ = ["skip_whole", "skip_whole_plainly"]
