"""How much of a model's header may be read and kept."""

from typing import Final

# The largest real vocabularies are a million strings: 262k tokens, and 515k merges.
MAX_STRINGS: Final = 1 << 21
# What a kept value takes at least, as a Python object with its place in a tuple.
OBJECT_BYTES: Final = 64


class Limits:
    """How much of all files of a model may be read and kept, so that neither time nor memory has
    no end."""

    def __init__(self, kept_bytes: int) -> None:
        # What changes: what is left of it.
        self._kept_bytes, self._strings = kept_bytes, MAX_STRINGS

    def keep(self, count: int, size_bytes: int) -> bool:
        """Whether `count` more values of `size_bytes` bytes together may be kept."""
        self._kept_bytes -= count * OBJECT_BYTES + size_bytes
        return self._kept_bytes >= 0

    def strings(self, count: int) -> bool:
        """Whether `count` more strings may be looked at."""
        self._strings -= count
        return self._strings >= 0
