"""What a worker that waits without a model is told, and what it says: both sides know it.

It is started as `python -m proxy.worker --wait LIBDIR`, loads llama.cpp's libraries, and says
WAITS. Then one line comes on its standard input, an `Order`; it says TAKEN, and goes on as one that
was started with these arguments. At the end of that input, it ends.
"""

from typing import Final

import msgspec

WAIT: Final = "--wait"
WAITS: Final = "a worker without a model: waits"
TAKEN: Final = "a worker without a model: has one now"


class Order(msgspec.Struct, frozen=True):
    """The arguments of `python -m proxy.worker`, and variables beside those that it has."""

    arguments: list[str]
    env: dict[str, str] = {}

    def line(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"
