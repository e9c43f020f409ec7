"""What a stream says while there is nothing to say: clients take no notice of it, and nobody in
between takes the connection to be dead. Pure.
"""

from typing import Final

from proxy.dialect.errors import dialect_of

# As Anthropic's API does it, at any place between two events.
PING: Final = b'event: ping\ndata: {"type": "ping"}\n'


def sign_of_life(path: str, told: str = "") -> bytes:
    """For a stream that was asked for at `path`. `told` is for people: one line."""
    comment = f": {told}\n".encode() if told else b""
    if dialect_of(path) == "anthropic":
        return comment + PING + b"\n"
    return (comment or b":\n") + b"\n"


def is_comment(chunk: bytes) -> bool:
    """Whether a piece of a stream is nothing but such: an engine says them too."""
    if not chunk.startswith(b":") or not chunk.endswith((b"\n\n", b"\r\n\r\n")):
        return False
    return all(line[:1] in (b":", b"", b"\r") for line in chunk.split(b"\n"))
