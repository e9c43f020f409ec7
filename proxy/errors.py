"""Every error a client can be told about: what went wrong, with which HTTP status, and when to try
again.

Inner parts raise these; `proxy.dialect.errors` renders them in the shape of each protocol.
Nobody decides anything by the text of a message.
"""

import os
import re
from typing import Final

FIRST_ERROR: Final = 400
TOO_MANY: Final = 429
UNAVAILABLE: Final = 503
_NUMBERS: Final = re.compile(r"\[Errno -?\d+\] ")


class ProxyError(Exception):
    """An error with its own HTTP answer. `param` names the field of the request that is to blame,
    if one is."""

    status = 500
    code = "internal_error"
    by_engine = False  # an engine says so, and not we
    elsewhere = False  # it is this machine that cannot, or has not; another of its fleet may

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class BadRequest(ProxyError):
    """The request itself is wrong: not JSON, a missing or unknown field, a value that is not
    allowed."""

    status = 400
    code = "invalid_request_error"


class MissingParameter(BadRequest):
    """A field that has to be there is not."""

    code = "missing_required_parameter"


class EmptyArray(BadRequest):
    """A list that has to have something in it is empty."""

    code = "empty_array"


class Unsupported(BadRequest):
    """A field asks for what is not done here."""

    code = "unsupported_parameter"


class Unauthorized(ProxyError):
    """An API key is required and was missing or wrong."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ProxyError):
    """Who asks may not: a web page, under a name that is not this machine's, or with a key whose
    scope is too small."""

    status = 403
    code = "forbidden"


class TooManyRequests(ProxyError):
    """The API key has made as many requests as it may. Carries `retry_after_s`."""

    status = 429
    code = "rate_limit_exceeded"


class NotFound(ProxyError):
    """No such path, backend or file."""

    status = 404
    code = "not_found_error"


class ModelNotFound(NotFound):
    """The model named in the request is in no catalogue."""

    code = "model_not_found"
    elsewhere = True


class ResponseNotFound(NotFound):
    """The response that is asked for is not kept."""

    elsewhere = True


class ItemNotFound(NotFound):
    """An item that a request refers to is not kept."""

    code = "item_not_found"
    elsewhere = True


class PreviousNotFound(BadRequest):
    """The response that a request goes on from is not kept."""

    code = "previous_response_not_found"
    elsewhere = True


class MethodNotAllowed(ProxyError):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class TooSlow(ProxyError):
    """The body of the request did not come in time."""

    status = 408
    code = "request_timeout"


class Conflict(ProxyError):
    """What is asked for cannot be done in the present state (a split on a backend that cannot
    move)."""

    status = 409
    code = "conflict"


class PinnedInTheWay(Conflict):
    """A model cannot be loaded as long as another one, which is pinned, is."""

    elsewhere = True


class ChangedMeanwhile(ProxyError):
    """What a request would replace is not what it says it was (`If-Match`)."""

    status = 412
    code = "changed_meanwhile"


class BodyTooLarge(ProxyError):
    """The body is larger than `server.max_body`."""

    status = 413
    code = "request_too_large"


class LoadFailed(ProxyError):
    """The model could not be loaded; the message carries the engine's own last words.

    `killed`: the process was ended from outside while it loaded, so that trying again is worth it.
    """

    status = 500
    code = "model_load_failed"
    elsewhere = True

    def __init__(
        self, message: str, *, killed: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.killed = killed


class LoadRefused(ProxyError):
    """The model could not be loaded a moment ago, and is not tried again before `retry_after_s`;
    the message carries why it failed."""

    status = 503
    code = "model_load_failed"
    elsewhere = True


class BackendDied(ProxyError):
    """The worker went away before the first byte of the answer, and once more on the retry."""

    status = 502
    code = "backend_error"

    def because(self, cause: str | None) -> None:
        """What its process said of its end, which is known a moment later; None: nothing."""
        if cause:
            self.message = f"{self.message}: {cause}"


class KillsWorkers(ProxyError):
    """Two workers crashed over this request, and nobody else can be to blame: it is not asked
    again for a while."""

    status = 400
    code = "request_kills_workers"


class Suspected(ProxyError):
    """A worker crashed over this request, and others use the next one: it has to come again."""

    status = 503
    code = "backend_error"


class NotServing(BackendDied):
    """Nobody takes connections where the worker should: dead to all, though its process may
    live. `asked`: it had got the request before, over another connection."""

    def __init__(self, message: str, *, asked: bool = False) -> None:
        super().__init__(message)
        self.asked = asked
        self.elsewhere = not asked


class NoAnswer(ProxyError):
    """The worker runs, and does not answer the proxy itself: it hangs, as in a driver."""

    status = 504
    code = "backend_timeout"
    elsewhere = True


class Hangs(ProxyError):
    """A disk does not answer; `degraded` in /admin/state says what waits for it."""

    status = 503
    code = "storage_timeout"
    elsewhere = True


class CutShort(ProxyError):
    """The request was ended before its answer was; what was computed for it has ended too."""


class Cancelled(CutShort):
    """Somebody at the proxy ended it. Clients ask no second time where they did something wrong,
    and so this is told."""

    status = 400
    code = "request_cancelled"


class DeadlinePassed(CutShort):
    """The request has taken as long as it may."""

    status = 504
    code = "deadline_exceeded"


class EngineSaid(ProxyError):
    """The engine answered with an error, or with what is none of the answer that was asked for,
    where that is told in another way than by passing it on."""

    code = "engine_error"
    by_engine = True

    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status if status >= FIRST_ERROR else BackendDied.status
        self.code = code or self.code
        self.elsewhere = is_busy(status)


class ContextExceeded(EngineSaid):
    """The prompt has more `tokens` than a conversation may (`ctx`)."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, status: int, tokens: int, ctx: int) -> None:
        super().__init__(message, status=status)
        self.tokens = tokens
        self.ctx = ctx


class Busy(ProxyError):
    """The queue is full, or the proxy is draining. Carries `retry_after_s`."""

    status = 503
    code = "server_busy"
    elsewhere = True


class Interrupted(Busy):
    """The proxy ends in the middle of what was asked for."""

    elsewhere = False


def is_busy(status: int) -> bool:
    """Whether an engine says by this status that it has no place now. It knows of no API keys, so
    that it means its own."""
    return status in (TOO_MANY, UNAVAILABLE)


def reason_of(error: BaseException) -> str:
    """Why something failed, for the end of a sentence: what the system says, without the numbers
    that Python and libraries put before it."""
    # Where aiohttp and urllib keep what the system said.
    cause = getattr(error, "os_error", None) or getattr(error, "reason", None) or error
    if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
        return os.strerror(cause.errno).lower()
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return _NUMBERS.sub("", text) or type(cause).__name__
