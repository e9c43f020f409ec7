"""What the workers of all nodes say, each line with its node."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack, suppress
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp import web

from proxy.api.wire import start_stream
from proxy.errors import ProxyError, reason_of
from proxy.fleet.front.ids import of_fleet
from proxy.fleet.front.nodes import FleetNode
from proxy.fleet.front.views.answers import PassedOn, Said, sorted_out, text_of
from proxy.fleet.front.views.asking import (
    LISTS_S,
    VIEWS,
    add_heads,
    ask_all,
    asked,
    those,
    until_known,
)
from proxy.tasks import spawn

# Nodes that have broken off are looked for so often.
AGAIN_S: Final = 0.5
LONGEST_LINE: Final = 1 << 20
NO_HISTORY: Final = "no-history"


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/logs", recent)
    router.add_get("/logs/stream", stream, allow_head=False)
    router.add_get("/logs/stream/{model:.+}", stream, allow_head=False)
    router.add_get("/logs/{model:.+}", recent)


async def recent(request: web.Request) -> web.StreamResponse:
    answers = await ask_all(request, method="GET", read=text_of)
    lines = (
        of_fleet(node, line)
        for node, text in answers.read.items()
        for line in text.splitlines(keepends=True)
    )
    response = web.Response(text="".join(lines))
    add_heads(response, answers)
    return response


async def stream(request: web.Request) -> web.StreamResponse:
    """Until the client leaves, or may not follow any more. A node that comes back is followed
    again."""
    async with AsyncExitStack() as stack:
        merge = _Merge(request, stack)
        await until_known(request.app[VIEWS].nodes)
        told = await asyncio.gather(*map(merge.open, those(request)))
        without = sorted_out(told, text_of).missing
        merge.response = await start_stream(request, "text/plain; charset=utf-8")
        with suppress(PassedOn):
            await merge.run(without)
    return merge.response


class _Merge:
    """The streams of several nodes, as one."""

    def __init__(self, request: web.Request, stack: AsyncExitStack) -> None:
        self._request, self._stack = request, stack
        self.response: web.StreamResponse
        # What changes: the streams that are open, and which process each node was last.
        self._open: dict[str, aiohttp.ClientResponse] = {}
        self._was: dict[str, object] = {}
        self._runs = False

    async def open(self, node: FleetNode) -> Said:
        """Begin to follow a node. What it has said before is told as the client has asked, and of
        one that comes later all of it, but not twice."""
        if not node.answers:
            return Said(node.name, why="does not answer")
        target = self._request.rel_url
        instance = (node.state.get("proxy") or {}).get("instance")
        if self._runs:
            known = self._was.get(node.name) == instance
            target = target.with_query({NO_HISTORY: ""} if known else None)
        try:
            async with asyncio.timeout(LISTS_S):
                way = asked(self._request, node, target.raw_path_qs)
                answer = await self._stack.enter_async_context(way)
                if answer.status != HTTPStatus.OK:
                    return Said(node.name, answer.status, answer.headers, await answer.read())
        except (OSError, aiohttp.ClientError) as error:
            return Said(node.name, why=reason_of(error))
        self._open[node.name], self._was[node.name] = answer, instance
        return Said(node.name, answer.status, answer.headers)

    async def run(self, without: Collection[str]) -> None:
        """Follow all that there are, but for those. Raises PassedOn for a client that may not go
        on."""
        copying: dict[str, asyncio.Task[None]] = {}
        self._runs = True
        try:
            while not self._request.app[VIEWS].front.leaving.is_set():
                for name, answer in self._open.items():
                    copying[name] = spawn(self._copy(name, answer), name=f"log of {name}")
                self._open.clear()
                await asyncio.sleep(AGAIN_S)
                gone = [
                    node
                    for node in self._nodes()
                    if node.answers and node.name not in without and _is_over(copying, node.name)
                ]
                for said in await asyncio.gather(*map(self.open, gone)):
                    if said.is_refusal:
                        raise PassedOn(said)
        finally:
            for task in copying.values():
                task.cancel()

    def _nodes(self) -> list[FleetNode]:
        with suppress(ProxyError):  # the one that is named may be silent just now
            return those(self._request)
        return []

    async def _copy(self, node: str, answer: aiohttp.ClientResponse) -> None:
        rest = b""
        with suppress(OSError, aiohttp.ClientError):
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                if lines:
                    prefix = of_fleet(node, "").encode()
                    text = b"".join(b"%s%s\n" % (prefix, line) for line in lines)
                    await self.response.write(text)


def _is_over(copying: Mapping[str, "asyncio.Task[None]"], name: str) -> bool:
    task = copying.get(name)
    return task is None or task.done()
