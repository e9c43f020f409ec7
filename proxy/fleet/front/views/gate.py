"""Whether a client may go on following the fleet: a node tells its own events to it, with the
client's own key, as long as it may. What that node says is not looked at; what a front tells comes
from what it knows."""

import asyncio
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import web

from proxy.errors import ProxyError, reason_of
from proxy.fleet.front.nodes import FleetNode
from proxy.fleet.front.views.answers import NobodyAnswers, PassedOn, Said
from proxy.fleet.front.views.asking import LISTS_S, VIEWS, asked, home
from proxy.tasks import spawn

# A node looks at the key before each word, so it is to say some.
ASK: Final = "/admin/events?heartbeat=1"
SILENT_S: Final = 5.0
AGAIN_S: Final = 0.5


class Gate:
    """Open for the length of the block, unless the client's right ends before."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        # What changes:
        self._may = True
        self._task: asyncio.Task[None] | None = None

    def may_stay(self) -> bool:
        return self._may

    async def __aenter__(self) -> Self:
        """Raises PassedOn where a node refuses it, NobodyAnswers where there is none."""
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = spawn(self._stand(entered), name="gate of a follower")
        try:
            await entered
        except BaseException:
            self._task.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()

    async def _stand(self, entered: "asyncio.Future[None]") -> None:
        """While no node answers, there is nothing to tell, and nobody to say that it may not."""
        while self._may:
            news = self._request.app[VIEWS].nodes.until_news
            try:
                await self._hold(await home(self._request), entered)
                await asyncio.sleep(AGAIN_S)  # one that is about to end ends it each time at once
            except PassedOn as refusal:
                self._may = False
                if not entered.done():
                    entered.set_exception(refusal)
            except (ProxyError, OSError, aiohttp.ClientError) as error:
                if not entered.done():
                    entered.set_exception(_nobody(error))
                    return
                await news()

    async def _hold(self, node: FleetNode, entered: "asyncio.Future[None]") -> None:
        """Until the node has told all that it would."""
        async with asyncio.timeout(LISTS_S) as limit, asked(self._request, node, ASK) as answer:
            if answer.status != 200:
                raise PassedOn(Said(node.name, answer.status, answer.headers, await answer.read()))
            if not entered.done():
                entered.set_result(None)
            # One that hangs cannot say that the client may not go on: another one is asked then.
            loop = asyncio.get_running_loop()
            limit.reschedule(loop.time() + SILENT_S)
            async for _ in answer.content.iter_any():
                limit.reschedule(loop.time() + SILENT_S)


def _nobody(error: Exception) -> ProxyError:
    if isinstance(error, ProxyError):
        return error
    return NobodyAnswers(f"no machine of the fleet answers: {reason_of(error)}", retry_after_s=1.0)
