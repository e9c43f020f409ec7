"""What a request is told that gets no lease. Pure."""

import math

from proxy.errors import Busy, LoadFailed, LoadRefused, PinnedInTheWay, ProxyError
from proxy.pool.effects import Fail, NotYet, Refuse

# A load takes seconds to minutes: a client that comes back sooner finds the same queue.
FULL_RETRY_AFTER_S = 5.0
# Not longer, however many wait: many of them may leave.
LONGEST_RETRY_AFTER_S = 300.0
# By then a supervisor has usually started the next proxy.
DRAINING_RETRY_AFTER_S = 10.0


def error_of(effect: Refuse | NotYet | Fail) -> ProxyError:
    """The error that tells of it, and when to come again."""
    match effect:
        case Refuse(_, "full", wait_s):
            text = "server busy: too many requests are waiting for a model"
            after_s = FULL_RETRY_AFTER_S if wait_s is None else max(wait_s, 1.0)
            return Busy(text, retry_after_s=min(after_s, LONGEST_RETRY_AFTER_S))
        case Refuse(_, "pinned", _, model):
            return PinnedInTheWay(pinned(model))
        case Refuse():
            text = "server busy: it is shutting down"
            return Busy(text, retry_after_s=DRAINING_RETRY_AFTER_S)
        case NotYet(_, failure, wait_s):
            times = "" if failure.count == 1 else f" {failure.count} times in a row"
            text = f"the model failed{times} and is tried again in {math.ceil(wait_s)} s"
            return LoadRefused(f"{text}: {failure.reason}", retry_after_s=wait_s)
        case Fail(_, message, wait_s):
            return LoadFailed(message, retry_after_s=wait_s or None)


def pinned(model: str) -> str:
    """What keeps a model from being loaded that needs a server which the pinned `model` uses."""
    return f"{model} is pinned and uses the same rpc server; unpin or unload it first"
