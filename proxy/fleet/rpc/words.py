"""What a node's proxy and its supervisor say to each other about RPC servers: a line of JSON each,
over a Unix socket. What is lent is lent until the connection closes."""

from typing import Final, Literal

import msgspec

# For `moe-proxy serve` as a node: where its supervisor listens.
SOCKET_VARIABLE: Final = "MOE_PROXY_FLEET_SOCKET"
LONGEST_LINE: Final = 1 << 16
# Actors have to be started on other machines for it.
LENDS_WITHIN_S: Final = 60.0


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """`offers`: what could be lent. `lend`: RPC servers for `model`, with so much memory together,
    and on each this much more, which is to stay free."""

    what: Literal["offers", "lend"]
    model: str = ""
    size_bytes: int = 0
    reserve_bytes: int = 0


class Share(msgspec.Struct, frozen=True):
    """An RPC server at a local address, and how much of its memory is for whoever has asked."""

    address: str
    size_bytes: int


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`offers`: bytes that are free on each node; `lent` is what is lent now; or why not."""

    offers: tuple[int, ...] = ()
    lent: tuple[Share, ...] = ()
    error: str = ""
