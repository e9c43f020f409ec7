"""What is told while models are pulled and made: lines as Ollama's clients read them."""

from collections.abc import Callable
from typing import Any

from proxy.errors import ProxyError

Line = dict[str, Any]
Report = Callable[[Line], None]


class PullFailed(ProxyError):
    """A model could not be pulled or made; the message says why, and what is left."""

    status = 500
    code = "pull_failed"


class NotOffered(PullFailed):
    """Nobody offers a model of this name: there is none, or who may have it does not answer."""


def status(text: str) -> Line:
    return {"status": text}


def progress(digest: str, total: int, completed: int) -> Line:
    """How much of a blob is here. As with Ollama, `completed` is only there once something is."""
    line: Line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total}
    return line | {"completed": completed} if completed else line


def in_stream(line: Line) -> str:
    """What a later line replaces: the progress of one blob, else nothing."""
    return f"{line['status']} {line['digest']}" if "digest" in line else ""
