"""What has a machine's part of a fleet: a replica in Ray Serve. It runs the machine's moe-proxy and
a front as children, and keeps to what the directory says.

Ray asks `check_health`, and puts another one in the place of a sick one; `__del__` is how it is
told to end.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.clock import RealClock
from proxy.errors import reason_of
from proxy.fleet.cluster import drain, machine, machines, policy_place
from proxy.fleet.cluster.children import Kept, Program, serving_url
from proxy.fleet.cluster.directory import Entry, Memory, News, Report, Setup, State
from proxy.fleet.cluster.link import Link
from proxy.fleet.cluster.node_api import NodeApi, NotAnswered
from proxy.fleet.cluster.policy_follower import PolicyFollower
from proxy.fleet.cluster.policy_sync import folder_of, own_files
from proxy.fleet.member import Members, line_of
from proxy.fleet.rpc.lender import lending_by_ray
from proxy.fleet.rpc.words import SOCKET_VARIABLE
from proxy.node.identity import identity_of
from proxy.node.names import FRONT_VARIABLE
from proxy.policy.load import load
from proxy.tasks import Loops, spawn
from proxy.threads import POLICIES

log = structlog.get_logger()

TELL_S: Final = 1.0
# Less than Ray waits for it.
HEALTH_S: Final = 2.0
# For what a proxy has to do after its drain.
LEAVING_S: Final = 35.0
GOODBYE_S: Final = 2.0
# What reads its folders of models, from disks that may be asleep, serves by then.
START_S: Final = 300.0
# Where nobody ran `fleet up`: then the policies of whoever is first here are the fleet's.
SEED_S: Final = 5.0
NODE: Final = (sys.executable, "-m", "proxy.cli.main", "serve", "--port", "0")
FRONT: Final = (sys.executable, "-m", "proxy.fleet.front")


class Supervisor:
    def __init__(
        self,
        host: str = machine.FRONT_HOST,
        port: int = machine.FRONT_PORT,
        front: Sequence[str] = FRONT,
    ) -> None:
        """Where fronts listen, unless something else was said for a machine; how one is started."""
        self._host, self._port, self._front_program = host, port, tuple(front)
        self._loops, self._stack = Loops(RealClock()), AsyncExitStack()
        self._link = Link()
        # What changes:
        self._name, self._address, self._setup = "", "", Setup()
        self._folder: Path | None = None
        self._policies: Path | None = None
        self._node: Kept | None = None
        self._front: Kept | None = None
        self._front_url: str | None = None
        self._url: str | None = None
        self._state: State = "starting"
        self._says = ""
        self._sick = ""
        self._elsewhere = ""  # where the policies are, where that is not as it was said
        self._heard = asyncio.Condition()
        self._begin = spawn(self._run(), name="supervisor")

    # --- what Ray asks ---

    async def check_health(self) -> None:
        """Raises RuntimeError for a node that does not answer, and for what ends us."""
        if self._begin.done() and not self._begin.cancelled() and (e := self._begin.exception()):
            raise RuntimeError(f"the supervisor cannot go on: {e}") from e
        if self._url is not None and not self._sick and self._state == "ready":
            try:
                await self._api.health(self._url, HEALTH_S)
            except NotAnswered as error:
                if self._url is not None and self._state == "ready":
                    log.error("fleet_node_sick", node=self._name, reason=str(error))
                    raise RuntimeError(f"the node does not answer: {error}") from error
        if self._node is not None and self._node.runs_for_s > START_S and self._url is None:
            self._sick = f"the node has not begun to serve within {START_S:.0f} s"
        if self._sick:
            raise RuntimeError(self._sick)

    async def __del__(self) -> None:
        """In order: nothing new comes, what runs ends, within the policies' time for that."""
        log.info("fleet_supervisor_ends", node=self._name)
        hung = not await self._answers()
        self._begin.cancel()
        url, self._url = self._url, None
        if url is not None:
            with suppress(Exception):  # it may be gone by now
                await self._link.tell(self._report(), within_s=GOODBYE_S)
        await self._stack.aclose()
        within_s = 0.0 if hung else await self._drain_s() + LEAVING_S
        await asyncio.gather(
            *(each.end(within_s) for each in (self._node, self._front) if each is not None)
        )
        log.info("fleet_supervisor_ended", node=self._name)

    # --- its life ---

    async def _run(self) -> None:
        """What it raises ends us, and Ray tries again."""
        try:
            await self._set_up()
        except Exception as error:
            self._says = f"cannot begin: {reason_of(error)}"
            log.exception("fleet_supervisor_cannot_begin")
            await self._tell_now()
            raise

    async def _set_up(self) -> None:
        """Up to where all of it goes."""
        import ray

        self._machine_env = env = machine.machine_env()
        self._machine = machines.own_machine()
        self._address = ray.util.get_node_ip_address()
        self._name = await self._link.ask("join", self._machine, machine.wanted_name(env))
        news = await anext(self._link.follow())
        self._key = news.memory.key
        self._setup = self._setup_in(news)
        self._folder = await asyncio.to_thread(machine.own_folder, env, self._name)
        key_file = await asyncio.to_thread(machine.write_key, self._folder, self._key)
        socket = await self._stack.enter_async_context(lending_by_ray(self._machine))
        self._env = machine.child_env(env, self._name, key_file) | {SOCKET_VARIABLE: str(socket)}
        self._api = NodeApi(identity_of(self._env))
        self._stack.push_async_callback(self._api.close)
        self._socket = await asyncio.to_thread(
            machine.front_socket, self._setup.host or "", self._setup.port or 0
        )
        self._stack.callback(self._socket.close)
        await self._background(self._tell, "tell")

        wanted = folder_of(self._setup.policies, self._env)
        if self._memory.policies is None:
            await self._seed(wanted)
        place = await policy_place.place(
            wanted,
            self._folder,
            self._fleet_policies,
            lambda folder: PolicyFollower(folder, self._env, partial(self._link.ask, "put")),
        )
        self._policies, self._elsewhere, follower = place.path, place.says, place.follower
        await self._background(follower.watch, "policy files")
        await self._background(partial(follower.tell_edits, self._fleet_policies), "policy edits")
        await self._background(partial(self._follow, follower), "news")

        self._front = Kept("front", self._front_program_now, self._folder / "front.log")
        self._front_url = machine.url_of_front(self._socket, self._address)
        self._front.tell(line_of(self._members))
        await self._background(self._front.run, "front")
        loop = asyncio.get_running_loop()
        self._node = Kept(
            "node",
            self._node_program,
            self._folder / "node.log",
            heard=self._heard_on(loop),
            ended=self._node_ended,
        )
        await self._background(self._keep_node, "node")

    async def _seed(self, wanted: Path) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SEED_S):
                return await self._link.seeded()
        await self._link.ask("seed", await POLICIES.run(own_files, wanted))
        await self._link.seeded()

    async def _follow(self, follower: PolicyFollower) -> None:
        async for news in self._link.follow():
            if news.memory.key != self._key:
                self._sick = "the fleet has another key now"
            if self._setup_in(news) != self._setup:
                self._sick = "it was set up in another way"
            assert self._front is not None
            self._front.tell(line_of(news.members))
            async with self._heard:
                self._heard.notify_all()
            await follower.heard(news.memory.policies or {})

    async def _keep_node(self) -> None:
        """The node runs; or it is emptied and ended, as long as it is to be drained."""
        while True:
            running = spawn(self._node_runs(), name="node runs")
            try:
                await self._until(draining=True)
                self._state = "draining"
                assert self._node is not None
                loop = asyncio.get_running_loop()
                end_s = loop.time() + (within_s := await self._drain_within_s())
                if self._node.child is not None:
                    await drain.empty(
                        self._name, lambda: self._members, self._api, within_s, self._say
                    )
            finally:
                running.cancel()
                await asyncio.wait((running,))
            # It would wait for as long again as its policies say.
            hurry_s = max(end_s - loop.time(), drain.HEARD_S)
            self._say(f"ends, {hurry_s + drain.ENDS_S:.0f} s at most")
            await self._node.end(hurry_s + drain.ENDS_S, hurry_s=hurry_s)
            self._state = "drained"
            self._say("")
            await self._until(draining=False)
            self._state = "starting"

    async def _node_runs(self) -> None:
        assert self._node is not None
        await self._node.run()

    async def _until(self, *, draining: bool) -> None:
        def is_so() -> bool:
            mark = self._memory.marks.get(self._name)
            return (mark is not None and mark.draining) is draining

        async with self._heard:
            await self._heard.wait_for(is_so)

    async def _tell(self) -> None:
        while True:
            with suppress(Exception):  # it is told again; the link logs what lasts
                await self._link.tell(self._report())
            await asyncio.sleep(TELL_S)

    # --- what is known ---

    def _report(self) -> Report:
        failing = [f"{each.loop}: {each.error}" for each in self._loops.degraded()]
        says = self._sick or self._says or "; ".join(failing)
        if self._state == "starting" and self._node is not None and self._node.failure:
            says = self._node.failure
        if self._front is not None and self._front.child is None and self._front.failure:
            says = f"front {self._front.failure}; {says}"
        says = "; ".join(filter(None, (says, self._elsewhere)))
        return Report(
            self._machine,
            self._name,
            self._state,
            self._url,
            self._front_url,
            says,
            str(self._folder or ""),
            self._address,
            self._told(),
        )

    @property
    def _news(self) -> News:
        assert self._link.news is not None
        return self._link.news

    @property
    def _memory(self) -> Memory:
        return self._news.memory

    @property
    def _members(self) -> Members:
        return self._news.members

    def _setup_in(self, news: News) -> Setup:
        told = news.memory.setups.get(self._machine)
        return machine.own_setup(told, self._machine_env, self._host, self._port)

    def _told(self) -> Setup | None:
        if self._link.news is None or self._setup_in(self._news) != self._setup:
            return None
        return self._memory.setups.get(self._machine)

    def _fleet_policies(self) -> dict[str, Entry]:
        return dict(self._memory.policies or {})

    def _say(self, text: str) -> None:
        self._says = text

    # --- its children ---

    async def _node_program(self) -> Program:
        self._state, self._url = "starting", None
        where = ("--host", self._address, "--policies", str(self._policies))
        env = self._env | {FRONT_VARIABLE: self._front_url or ""}
        return Program((*NODE, *where, "--log-format", "json"), env)

    async def _front_program_now(self) -> Program:
        number = self._socket.fileno()
        # Its host is what it is called by, where clients may call it.
        argv = (
            *(*self._front_program, "--fd", str(number), "--host", self._setup.host or ""),
            *("--drain-s", str(await self._drain_s()), "--log-format", "json"),
        )
        return Program(argv, self._env, (number,))

    def _heard_on(self, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def heard(line: str) -> None:
            if serving_url(line) is not None:  # else the loop would have all of its log
                loop.call_soon_threadsafe(self._said, line)

        return heard

    def _said(self, line: str) -> None:
        if (url := serving_url(line)) is not None:
            self._url = url
            if self._state == "starting":
                self._state = "ready"
            log.info("fleet_node_serves", node=self._name, url=url)
            spawn(self._tell_now(), name="tell")

    def _node_ended(self) -> None:
        self._url = None
        if self._state == "ready":
            self._state = "starting"
        spawn(self._tell_now(), name="tell")

    async def _tell_now(self) -> None:
        with suppress(Exception):  # it is told again within a second
            await self._link.tell(self._report(), within_s=GOODBYE_S)

    async def _answers(self) -> bool:
        """Whether the node does, where there is one."""
        if self._url is None:
            return True
        try:
            await self._api.health(self._url, HEALTH_S)
        except NotAnswered:
            return False
        return True

    async def _drain_s(self) -> float:
        loaded = await POLICIES.run(load, self._policies, self._env)
        return loaded.readable.server.drain_s if loaded.readable else LEAVING_S

    async def _drain_within_s(self) -> float:
        mark = self._memory.marks.get(self._name)
        within_s = mark.within_s if mark else None
        return await self._drain_s() if within_s is None else within_s

    async def _background(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        await self._stack.enter_async_context(self._loops.background(run, name=name))
