"""What is said to requests that are no HTTP, or ask for what HTTP has and nobody uses. They have no
path that could be known, so the answer is in OpenAI's shape.

What is wrong with them is not logged: it may be in the middle of a key or a prompt.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDictProxy

from proxy.api.middleware import REQUEST_ID, new_id
from proxy.api.paths import plain_path
from proxy.dialect.errors import error_body, error_headers
from proxy.errors import BadRequest, ProxyError

log = structlog.get_logger()

NOT_HTTP: Final = (
    "this is not HTTP/1.1 as it has to be: a line or header of the request is malformed"
)
TOO_LONG: Final = (
    "malformed: a line of the request's head, its address or a header, is longer than 64 KiB"
)
# Errors of whoever sends, which aiohttp tells of where it has nobody else to tell.
OF_CLIENTS: Final = (HttpProcessingError, web.RequestPayloadError)
CONTINUE: Final = "100-continue"
NO_HOST: Final = "invalid"  # which by RFC 2606 is no machine's name


class TolerantConnection(web.RequestHandler):
    """A connection on which anything may come. What begins with an underscore is aiohttp's."""

    __slots__ = ()

    def __init__(
        self, *args: Any, knows: Callable[[Mapping[str, str]], bool], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        assert self._request_factory is not None
        self._request_factory = _as_meant(self._request_factory, knows)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """An answer where no handler could give one."""
        if request.writer.output_size:
            raise ConnectionError("there is half an answer already")
        error: ProxyError
        request_id = new_id()
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            kind = type(exc).__name__
            log.info("malformed_request", status=status, kind=kind, request_id=request_id)
            error = BadRequest(TOO_LONG if isinstance(exc, LineTooLong) else NOT_HTTP)
        else:
            log.error("request_failed", exc_info=exc, request_id=request_id)
            error = ProxyError("an internal error; the log has the details")
        headers = {**error_headers(error), hdrs.CONNECTION: "close", REQUEST_ID: request_id}
        answer = web.Response(status=status, body=error_body(error, "openai"), headers=headers)
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        if isinstance(exc := kw.get("exc_info"), OF_CLIENTS):
            log.info("malformed_request", kind=type(exc).__name__)
        else:
            super().log_exception(*args, **kw)


def _as_meant(
    factory: Callable[..., web.BaseRequest], knows: Callable[[Mapping[str, str]], bool]
) -> Callable[..., web.BaseRequest]:
    """Requests for the path that is meant, before anybody looks at it."""

    def make(message: RawRequestMessage, *args: Any) -> web.BaseRequest:
        # What stands for a request that could not be read has no headers of this kind.
        if isinstance(message.headers, CIMultiDictProxy):
            if hdrs.EXPECT in message.headers:
                message = _without_expectations(message, is_known=knows(message.headers))
            sent = message.url.raw_path
            if (path := plain_path(sent)) != sent:
                url = message.url.with_path(path, encoded=True, keep_query=True)
                message = message._replace(url=url)
        try:
            return factory(message, *args)
        except ValueError:
            # A host in its target that no name can be written as (`http://xn--/`). aiohttp would
            # leave its connection open, and nobody would ever look at it again.
            return factory(message._replace(url=message.url.with_host(NO_HOST)), *args)

    return make


def _without_expectations(message: RawRequestMessage, *, is_known: bool) -> RawRequestMessage:
    """Only `100-continue` has ever been something to expect. HTTP lets a server overlook others;
    aiohttp refuses them before our own refusals could have the protocol's shape. Who is not known
    is not told to go on."""
    if is_known and all(each.lower() == CONTINUE for each in message.headers.getall(hdrs.EXPECT)):
        return message
    headers = message.headers.copy()
    headers.popall(hdrs.EXPECT)
    return message._replace(headers=CIMultiDictProxy(headers))
