"""Passes a request to the node that is chosen for it, and the answer back, both as they come. Until
a byte of the answer is out, another node may be asked."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web

from proxy.api.middleware import REQUEST_ID
from proxy.api.wire import BACKEND_HEADER
from proxy.dialect.errors import said_by_engine
from proxy.errors import BackendDied, Busy, ProxyError, reason_of
from proxy.fleet.front.answer import Answer
from proxy.fleet.front.asked import Wanted
from proxy.fleet.front.away import RETRY_AFTER_S
from proxy.fleet.front.body import RequestBody
from proxy.fleet.front.chooser import Chooser, Chosen
from proxy.fleet.front.hung import HungWatch, Passing
from proxy.fleet.front.ids import of_fleet
from proxy.fleet.front.newcomers import look_for
from proxy.fleet.front.nodes import FleetNode, Nodes
from proxy.fleet.front.numbers import FrontNumbers
from proxy.fleet.front.refused import Refusal, in_stream, is_refusal, most_useful, wait_of
from proxy.fleet.front.responses import response_id
from proxy.node.names import (
    CLIENT_HEADER,
    DRAINING_HEADER,
    KEY_HEADER,
    NODE_HEADER,
    REFUSES_HEADER,
)
from proxy.tasks import spawn
from proxy.upstream.call import HOP_BY_HOP, end_to_end
from proxy.upstream.connection import BrokenAnswer, EngineConnection

log = structlog.get_logger()

REQUEST_ONLY_OURS: Final = HOP_BY_HOP | {"content-length", "expect"}
ANSWER_ONLY_OURS: Final = HOP_BY_HOP | {DRAINING_HEADER.lower(), REFUSES_HEADER.lower()}
BACKEND: Final = BACKEND_HEADER.lower()
# Of a node that is about to end: it takes nobody any more, or has ended what it was at.
GOING: Final = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})
FLEET: Final = KEY_HEADER.lower()
# How long a front that knows of no node that answers waits for one, as it does at its start.
NOBODY_S: Final = 3.0


class Elsewhere(Exception):
    """This node does not answer, or refuses, and another one may be asked."""

    def __init__(self, why: object) -> None:
        super().__init__(str(why))
        self.refusal = why if isinstance(why, Refusal) else None


class Forward:
    """Passes one front's requests on."""

    def __init__(
        self,
        nodes: Nodes,
        chooser: Chooser,
        hung: HungWatch,
        own: Mapping[str, str],
        numbers: FrontNumbers,
    ) -> None:
        """`own`: what is said beside each request: the fleet's key, the names of this machine."""
        self._nodes, self._chooser, self._hung = nodes, chooser, hung
        self._numbers = numbers
        self._own = list(own.items())

    async def pass_on(
        self,
        request: web.Request,
        wanted: Wanted,
        body: RequestBody,
        answer: Answer,
        request_id: str,
    ) -> web.StreamResponse:
        """Raises ProxyError as long as nothing of the answer is out, and ConnectionResetError."""
        pinned = request.headers.get(NODE_HEADER)
        before = self._chooser.before(wanted)
        tried: dict[str, str] = {}
        refusals: list[Refusal] = []
        while (chosen := await self._choose(wanted, pinned, tried)) is not None:
            self._chooser.remember(wanted, chosen.node.name)
            try:
                with self._nodes.passing(chosen.node, chosen.model):
                    return await self._ask(request, wanted, body, answer, chosen, request_id)
            except Elsewhere as why:
                if why.refusal is not None:
                    refusals.append(why.refusal)
                    self._chooser.refused(chosen, wanted, why.refusal)
                tried[chosen.node.name] = str(why)
                self._numbers.retried(chosen.node.name)
                log.warning(
                    "asked_elsewhere", node=chosen.node.name, why=str(why), request_id=request_id
                )
                if body.is_spent:
                    break
        told = most_useful(refusals, others_failed=len(refusals) < len(tried))
        if told is None:
            raise _nobody(tried)
        self._chooser.remember(wanted, before)  # what it has read there may be of use again
        return await answer.refuse(told)

    async def _choose(
        self, wanted: Wanted, pinned: str | None, tried: dict[str, str]
    ) -> Chosen | None:
        """Waits a moment where it is not known yet who there is."""

        def ready() -> bool:
            if pinned is not None:
                return self._nodes.is_ready(pinned)
            return self._nodes.are_ready_for(wanted.models)

        if not tried and not ready():
            with suppress(TimeoutError):
                async with asyncio.timeout(NOBODY_S):
                    while not ready():
                        await self._nodes.until_news()
        if pinned is None and not tried:
            await look_for(self._nodes, wanted.models)
        return self._chooser.choose(wanted, pinned, tried)

    def _are_others(self, wanted: Wanted, pinned: str | None, node: str) -> bool:
        return pinned is None and self._chooser.choose(wanted, None, (node,)) is not None

    async def _ask(
        self,
        request: web.Request,
        wanted: Wanted,
        body: RequestBody,
        answer: Answer,
        chosen: Chosen,
        request_id: str,
    ) -> web.StreamResponse:
        """Raises Elsewhere as long as another node may be asked, else as `pass_on`."""
        node = chosen.node
        try:
            connection = await node.link.connect()
        except OSError as error:
            raise Elsewhere(f"it takes no connections: {reason_of(error)}") from error
        may_repeat = wanted.may_repeat and body.is_whole
        others = partial(self._are_others, wanted, request.headers.get(NODE_HEADER), node.name)
        passing = Passing(node, connection, others, may_repeat=may_repeat)
        done = self._hung.add(passing)
        upload: asyncio.Task[None] | None = None
        try:
            message = self._message(request, body, request_id)
            sending = connection.send(message, has_no_body=request.method == "HEAD")
            if not body.is_whole:
                upload = spawn(_upload(connection, body), name="upload")
            if not await sending:
                raise BrokenAnswer(connection.why_broken)
            return await self._relay(request, wanted, answer, chosen, passing)
        except BrokenAnswer as error:
            if answer.has_begun:
                return await answer.fail(_died(node, str(error)))
            if not may_repeat:
                raise _died(node, str(error)) from error
            raise Elsewhere(str(error)) from error
        finally:
            done()
            if upload is not None:
                upload.cancel()
            connection.abort()

    async def _relay(
        self,
        request: web.Request,
        wanted: Wanted,
        answer: Answer,
        chosen: Chosen,
        passing: Passing,
    ) -> web.StreamResponse:
        """Raises Elsewhere and BrokenAnswer."""
        node, upstream = passing.node, passing.connection
        status, reason = upstream.status, upstream.reason
        if NODE_HEADER not in upstream.headers and status == HTTPStatus.UNAUTHORIZED:
            raise Elsewhere("it does not take this fleet's key")
        refuses = is_refusal(
            status,
            upstream.headers,
            expected=bool(chosen.model or wanted.item),
            may_repeat=passing.may_repeat,
        )
        goes = status in GOING and DRAINING_HEADER in upstream.headers
        if goes and (refuses or passing.may_repeat):
            raise Elsewhere("it is about to end")
        headers = [
            (key, of_fleet(node.name, value) if key.lower() == BACKEND else value)
            for key, value in end_to_end(upstream.headers, ANSWER_ONLY_OURS)
        ]
        if refuses and not wanted.home:  # what belongs together stays so
            body, wait_s = await upstream.read(), wait_of(upstream.headers)
            raise Elsewhere(Refusal(node.name, status, reason, headers, body, wait_s))
        if answer.response is not None and not _streams(upstream):
            # Another node has begun a stream before it went; a status has no place any more.
            return await answer.fail(said_by_engine(await upstream.read(), status))
        looks = request.path.rstrip("/").endswith("/responses")
        while chunk := await upstream.read_chunk():
            if looks and (made := response_id(chunk)):
                self._chooser.remember_response(made, node.name)
                looks = False
            if not answer.has_begun and (said := in_stream(chunk)) is not None:
                event = said[1] + await upstream.read()
                refusal = Refusal(node.name, status, reason, headers, event, said[0], is_event=True)
                raise Elsewhere(refusal)
            await answer.write(chunk, status, reason, headers)
            passing.has_begun = answer.has_begun
        if status < HTTPStatus.BAD_REQUEST:
            self._chooser.answered(chosen, wanted)
        return await answer.end(status, reason, headers)

    def _message(self, request: web.Request, body: RequestBody, request_id: str) -> list[bytes]:
        """The request as it came, but for what is between the client and us, or us and the node."""
        lines = [f"{request.method} {request.raw_path} HTTP/1.1", "Connection: close"]
        headers = end_to_end(request.headers, REQUEST_ONLY_OURS)
        lines += [
            f"{name}: {value}" for name, value in headers if not name.lower().startswith(FLEET)
        ]
        lines += [f"{name}: {value}" for name, value in self._own]
        lines.append(f"{CLIENT_HEADER}: {request.remote or ''} {id(request.protocol):x}")
        if REQUEST_ID not in request.headers:
            lines.append(f"{REQUEST_ID}: {request_id}")
        if (length := body.length) is None:
            lines.append("Transfer-Encoding: chunked")
        elif length or request.method not in ("GET", "HEAD", "OPTIONS"):
            lines.append(f"Content-Length: {length}")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        if not body.kept:
            return [head]
        return [head, body.kept if length is not None else framed(body.kept)]


async def _upload(connection: EngineConnection, body: RequestBody) -> None:
    """Send what follows what was kept. Who reads the answer learns of what goes wrong."""
    frames = body.length is None
    try:
        async for chunk in body.rest():
            await connection.write(framed(chunk) if frames else chunk)
        if frames:
            await connection.write(framed(b""))
    except ConnectionResetError:
        pass  # it may have said why
    except ProxyError as error:
        connection.break_off(error.message)


def framed(chunk: bytes) -> bytes:
    """A piece of a body of unknown length; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


def _streams(upstream: EngineConnection) -> bool:
    return upstream.headers.get("Content-Type", "").startswith("text/event-stream")


def _died(node: FleetNode, why: str) -> BackendDied:
    return BackendDied(f"the node {node.name!r} went away: {why}")


def _nobody(tried: Iterable[str]) -> Busy:
    names = ", ".join(tried)
    what = f"asked: {names}" if names else "none answers"
    return Busy(
        f"no machine of this fleet can answer now ({what}); try again in a moment",
        retry_after_s=RETRY_AFTER_S,
    )
