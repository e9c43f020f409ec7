"""Follows what one node tells of itself, for as long as it is a member."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp
import msgspec
import structlog

from proxy.api.merge_patch import applied
from proxy.errors import reason_of
from proxy.fleet.front.picture import Models, models_of

log = structlog.get_logger()

# It says something each second; one that is silent for longer is not asked any more.
SILENT_S: Final = 3.0
HEARTBEAT_S: Final = 1
# Who was held up himself has what came meanwhile, and has not looked at it yet.
LATE_S: Final = 0.2
FIRST_PAUSE_S: Final = 0.05
MOST_PAUSE_S: Final = 1.0
MODELS_S: Final = 60.0
MOST_EVENT_BYTES: Final = 64 << 20
STATE: Final = "state"
EVENTS: Final = f"/admin/events?state&heartbeat={HEARTBEAT_S}&after="
MODELS: Final = "/v1/models"

State = dict[str, Any]


class Silent(Exception):
    """It is there, and says nothing."""


class Follower:
    """What a node told last. `told` is called whenever something of it has changed, `heard` for
    each event, with its kind and its fields."""

    def __init__(
        self,
        name: str,
        url: str,
        session: aiohttp.ClientSession,
        told: Callable[[], None],
        heard: Callable[[str, State], None],
    ) -> None:
        self.name, self.url = name, url
        self._session, self._told, self._heard = session, told, heard
        # What changes: what it has told, whether it does so now, and since when it hangs.
        self.state: State = {}
        self.models: Models | None = None
        self.model_list: State = {}
        self.is_there = False
        self.hangs_since_s: float | None = None
        self._last_event = 0  # what came before is not told again
        self._asked_for: object = None
        self._wanted = asyncio.Event()
        self._problem = ""
        self._left = False  # it has said that it says no more
        self.was_tried = False  # it is known whether it answers

    @property
    def answers(self) -> bool:
        """Whether it can be asked, as far as is known now."""
        return self.is_there and self.models is not None

    @property
    def proxy(self) -> State:
        """What it tells of itself as a whole."""
        found = self.state.get("proxy")
        return found if isinstance(found, dict) else {}

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow_state(), name=f"state of {self.name}")
                    tasks.create_task(self._follow_models(), name=f"models of {self.name}")
            except Exception:
                log.exception("node_not_followed", node=self.name)
            await asyncio.sleep(MOST_PAUSE_S)

    def know(self, model: State) -> None:
        """It has this model too, which has come since it told its list."""
        self.model_list = {**self.model_list, "data": [*self.model_list.get("data", ()), model]}
        self.models = models_of(self.model_list)
        self._told()

    async def _follow_state(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async for kind, data in self._events():
                    pause_s = FIRST_PAUSE_S
                    self._take(kind, data)
                self._left = True  # as it does where it drains: what it is at goes on
                self._lost("it has ended the stream of its events", hangs=False)
            except Silent:
                self._lost("it does not answer", hangs=True)
            except (OSError, aiohttp.ClientError, ValueError) as error:
                hangs = isinstance(error, TimeoutError)
                self._lost(reason_of(error), hangs=hangs)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)

    def _take(self, kind: str, data: State) -> None:
        if kind == STATE:
            if _instance(self.state) != _instance(data):
                self._last_event = 0  # another process counts anew
            self.state = data
            if not self.is_there:
                log.info("node_answers", node=self.name, url=self.url)
            self.is_there, self.hangs_since_s, self._problem = True, None, ""
            self._left = False
        elif "patch" in data and kind in self.state:
            self.state = {**self.state, kind: applied(self.state[kind], data["patch"])}
        proxy = self.proxy
        basis = proxy.get("instance"), proxy.get("models_seen"), str(proxy.get("policies"))
        if basis != self._asked_for:
            self._asked_for = basis
            self._wanted.set()
        if isinstance(number := data.get("id"), int):
            self._last_event = max(number, self._last_event)
        self._heard(kind, data)
        if kind == STATE or "patch" in data:
            self._told()

    def _lost(self, why: str, *, hangs: bool) -> None:
        loop = asyncio.get_running_loop()
        self.was_tried = True
        if hangs and not self._left:
            self.hangs_since_s = self.hangs_since_s or loop.time()
        elif self.is_there:
            self.hangs_since_s = None
        if self.is_there or why != self._problem:
            log.warning("node_does_not_answer", node=self.name, url=self.url, why=why)
        self.is_there, self._problem = False, why
        self._told()

    async def _events(self) -> AsyncIterator[tuple[str, State]]:
        """Raises Silent, OSError, ClientError and ValueError."""
        async with (
            asyncio.timeout(SILENT_S) as limit,
            self._session.get(f"{self.url}{EVENTS}{self._last_event}") as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"it refuses to tell: HTTP {answer.status}")
            limit.reschedule(None)
            rest = bytearray()
            while chunk := await self._more(answer):
                rest += chunk
                if len(rest) > MOST_EVENT_BYTES:
                    raise ValueError("an event of it has no end")
                if chunk.endswith(b"\n\n") or b"\n\n" in rest:
                    *frames, last = bytes(rest).split(b"\n\n")
                    rest = bytearray(last)
                    for frame in frames:
                        if (event := _event(frame)) is not None:
                            yield event

    async def _more(self, answer: aiohttp.ClientResponse) -> bytes:
        for within_s in (SILENT_S, LATE_S):
            try:
                async with asyncio.timeout(within_s):
                    return await answer.content.readany()
            except TimeoutError:
                pass
        raise Silent

    async def _follow_models(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                async with (
                    asyncio.timeout(MODELS_S),
                    self._session.get(self.url + MODELS) as answer,
                ):
                    told = msgspec.json.decode(await answer.read())
                    if answer.status != 200 or not isinstance(told, dict):
                        raise ValueError(f"no list of models: HTTP {answer.status}")
            except (OSError, aiohttp.ClientError, ValueError) as error:
                log.debug("models_not_told", node=self.name, why=str(error))
                self._wanted.set()
                await asyncio.sleep(MOST_PAUSE_S)
                continue
            self.model_list, self.models = told, models_of(told)
            self.was_tried = True
            self._told()


def _instance(state: State) -> object:
    proxy = state.get("proxy")
    return proxy.get("instance") if isinstance(proxy, dict) else None


def _event(frame: bytes) -> tuple[str, State] | None:
    """The kind and the fields of a frame; None for a comment. Raises ValueError."""
    kind, data = "", b""
    for line in frame.split(b"\n"):
        if line.startswith(b"event: "):
            kind = line[7:].decode()
        elif line.startswith(b"data: "):
            data = line[6:]
    if not data:
        return None
    fields = msgspec.json.decode(data)
    return (kind, fields) if isinstance(fields, dict) else None
