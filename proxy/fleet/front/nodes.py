"""The nodes of a fleet, as a front knows them: who is a member, what each told last, whether it
answers, and what this front has passed to it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import structlog

from proxy.errors import NotFound
from proxy.fleet.front.away import SHOWN, Away, has_left
from proxy.fleet.front.follow import Follower
from proxy.fleet.front.link import Link
from proxy.fleet.front.picture import Model, Models, in_flight, node_of
from proxy.fleet.member import Member, Members
from proxy.fleet.state import Fleet
from proxy.node.identity import Identity
from proxy.tasks import spawn

log = structlog.get_logger()

NEWCOMER_S: Final = 0.5
NO_MODELS: Final = Models()


class FleetNode:
    """One node. Others read it; `Nodes` changes it."""

    def __init__(self, member: Member, link: Link) -> None:
        self.member, self.link = member, link
        self.joined_s = asyncio.get_running_loop().time()
        self.follower: Follower
        # What changes: requests that this front has passed on and that have not ended, by the name
        # under which their model is loaded; and those of them that its last word counts already.
        self.passed: Counter[str] = Counter()
        self._told: dict[str, int] = {}
        self._passed_when_told: Counter[str] = Counter()
        self.requests = 0

    def __repr__(self) -> str:
        return f"<FleetNode {self.name} answers={self.answers}>"

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def state(self) -> Mapping[str, Any]:
        """Its live state, by topic: `proxy`, `memory`, `backends` by id, `requests` by id."""
        return self.follower.state

    @property
    def models(self) -> Models:
        return self.follower.models or NO_MODELS

    @property
    def model_list(self) -> Mapping[str, Any]:
        """Its answer to /v1/models."""
        return self.follower.model_list

    @property
    def answers(self) -> bool:
        return self.follower.answers

    @property
    def draining(self) -> bool:
        return self.member.draining or self.follower.proxy.get("draining") is True

    @property
    def may_be_asked(self) -> bool:
        return self.answers and not self.draining

    @property
    def load(self) -> int:
        """Requests of this front that it is at, and those that it tells of."""
        told = sum(self._told.values()) - sum(self._passed_when_told.values())
        return self.requests + max(told, 0)

    def hangs_for_s(self, now_s: float) -> float:
        """For how long it has been silent beyond what is usual; 0 where it is not."""
        since_s = self.follower.hangs_since_s
        return 0.0 if since_s is None else max(now_s - since_s, 0.0)

    def take_word(self) -> None:
        """It has told something: what it counts, and what of it is ours."""
        now = in_flight(self.state)
        if now != self._told:
            self._told, self._passed_when_told = now, self.passed.copy()

    def passed_since(self) -> dict[str, int]:
        """By model, what this front has passed to it beyond what it has told; below 0 what has
        ended since."""
        found = {}
        for model in {*self.passed, *self._passed_when_told}:
            now, then = self.passed[model], self._passed_when_told[model]
            told = self._told.get(model, 0)
            found[model] = max(told + now - then, now) - told
        return found


class Nodes:
    """All of them. `async with` follows what they tell."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.fleet = Fleet()
        # What changes:
        self._nodes: dict[str, FleetNode] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._listeners: list[Callable[[str], None]] = []
        self._hearers: list[Callable[[str, str, dict[str, Any]], None]] = []
        self._news = asyncio.Event()
        self._files: dict[str, Models] = {}  # as the fleet has them
        self._away = Away()

    async def __aenter__(self) -> Self:
        tls = self._identity.client_tls
        self._session = aiohttp.ClientSession(
            headers=self._identity.own_headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=3.0),
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit=0),
            trust_env=False,
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.set_members(Members())
        assert self._session is not None
        await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """For questions of the fleet's own: it brings the key, and is let in everywhere."""
        assert self._session is not None
        return self._session

    def __iter__(self) -> Iterator[FleetNode]:
        """By name, whether they answer or not."""
        return iter([self._nodes[name] for name in sorted(self._nodes)])

    def get(self, name: str) -> FleetNode | None:
        return self._nodes.get(name)

    def named(self, name: str) -> FleetNode:
        """The one that somebody asks for by its name, whether it answers or not. Raises Busy for
        one that has left lately, as one that is started again does, and NotFound."""
        if (node := self._nodes.get(name)) is not None:
            return node
        if self._away.has(name):
            raise has_left(name)
        there = ", ".join(each.name for each in self) or "none"
        raise NotFound(f"there is no node {name[:SHOWN]!r} in this fleet; there is {there}")

    def answering(self) -> list[FleetNode]:
        """Those that can be asked now, by name; also those that drain."""
        return [node for node in self if node.answers]

    def set_members(self, members: Members) -> None:
        """From now on these are the nodes."""
        wanted = {member.name: member for member in members.nodes}
        self._away.forget(wanted, asyncio.get_running_loop().time())
        for name, node in list(self._nodes.items()):
            if name not in wanted or wanted[name].url != node.member.url:
                self._drop(name)
        for name, member in wanted.items():
            known = self._nodes.get(name)
            if known is None:
                try:
                    self._add(member)
                except ValueError as error:
                    log.error("node_not_usable", node=name, why=str(error))
            elif known.member != member:
                known.member = member
                self._tell(known)

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have it called with a node's name whenever something of that has changed."""
        self._listeners.append(listener)

    def hear(self, hearer: Callable[[str, str, dict[str, Any]], None]) -> None:
        """Have it called with each event of each node: the node's name, the kind, the fields. Kind
        "state" is all of its live state; one with a "patch" has been put on that already."""
        self._hearers.append(hearer)

    def are_ready_for(self, models: Iterable[str]) -> bool:
        """Whether it is known who is to be asked for one of these models. A newcomer is waited for,
        since it may have what it takes: for a moment, or as long as nobody else has the model. So
        is one that had the model, alone, and cannot be asked since a moment."""
        unknown = [node for node in self._nodes.values() if not node.follower.was_tried]
        if not any(node.may_be_asked for node in self._nodes.values()):
            return False
        now_s = asyncio.get_running_loop().time()
        if any(node.joined_s > now_s - NEWCOMER_S for node in unknown):
            return False
        wanted = [*models]
        if any(self.find(name) is not None for name in wanted):
            return True
        return not (unknown and wanted) and not self._away.may_be_back_soon(wanted, now_s)

    def is_ready(self, name: str) -> bool:
        """Whether it is known of the node that somebody asks for whether it can be asked: not of a
        newcomer, of one that cannot since a moment, nor before any are known."""
        node = self._nodes.get(name)
        if node is not None and (node.answers or not node.follower.was_tried):
            return node.answers
        now_s = asyncio.get_running_loop().time()
        return bool(self._nodes) and not self._away.went_just_now(name, now_s)

    async def until_news(self) -> None:
        """Return when something has changed."""
        await self._news.wait()

    def find(self, name: str) -> Model | None:
        """The model that a name means, where any node that can be asked has it."""
        for node in self:
            if node.may_be_asked and (model := node.models.find(name)) is not None:
                return model
        return None

    def away_with(self, model: str) -> list[str]:
        """The nodes that had it when they were heard last, and cannot be asked now; also those that
        have left lately."""
        return self._away.having(model)

    @contextmanager
    def passing(self, node: FleetNode, model: str) -> Iterator[None]:
        """A request is with a node meanwhile, for a model (by the name under which it is loaded) or
        for none ("")."""
        node.requests += 1
        if model:
            node.passed[model] += 1
            self._count(node)
        try:
            yield
        finally:
            node.requests -= 1
            if model:
                node.passed[model] -= 1
                if not node.passed[model]:
                    del node.passed[model]
                self._count(node)

    def _add(self, member: Member) -> None:
        node = FleetNode(member, Link(member.url, self._identity))
        node.follower = Follower(
            *(member.name, node.link.url, self.session, lambda: self._told(node)),
            lambda kind, fields: self._heard(node, kind, fields),
        )
        self._nodes[member.name] = node
        self._tasks[member.name] = spawn(node.follower.run(), name=f"node {member.name}")
        # Whoever waits for it looks again then.
        asyncio.get_running_loop().call_later(NEWCOMER_S + 0.05, self._say, member.name)
        log.info("node_joined", node=member.name, url=member.url)
        self._tell(node)

    def _drop(self, name: str) -> None:
        node = self._nodes.pop(name)
        self._away.went(name, node.models, asyncio.get_running_loop().time())
        self._tasks.pop(name).cancel()
        node.link.close()
        self.fleet.remove(name)
        self._files.pop(name, None)
        log.info("node_left", node=name)
        self._say(name)

    def _told(self, node: FleetNode) -> None:
        if self._nodes.get(node.name) is node:
            if not node.answers:
                node.link.forget()
            node.take_word()
            self._tell(node)

    def _heard(self, node: FleetNode, kind: str, fields: dict[str, Any]) -> None:
        if self._nodes.get(node.name) is node:
            for hearer in self._hearers:
                hearer(node.name, kind, fields)

    def _tell(self, node: FleetNode) -> None:
        self._count(node)
        if node.may_be_asked:
            self._away.is_back(node.name)
        else:
            self._away.went(node.name, node.models, asyncio.get_running_loop().time())
        files = node.models if node.may_be_asked else NO_MODELS
        if files is not self._files.get(node.name, NO_MODELS):  # seldom, and there may be many
            self._files[node.name] = files
            self.fleet.set_files(node.name, files.models)
        self._say(node.name)

    def _count(self, node: FleetNode) -> None:
        if self._nodes.get(node.name) is not node:
            return
        if not node.may_be_asked:
            self.fleet.remove(node.name)
            self._files.pop(node.name, None)
            return
        passed = node.passed_since()
        self.fleet.update(node_of(node.name, node.state, node.models, passed, draining=False))

    def _say(self, name: str) -> None:
        for listener in self._listeners:
            listener(name)
        self._news.set()
        self._news = asyncio.Event()
