"""The composition root: builds every part in the order in which they need each other, and owns
their lifetimes.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from proxy.api.hosts import own_names
from proxy.api.listener import Listener
from proxy.api.server import make_runner
from proxy.api.services import Services
from proxy.api.strangers import Strangers
from proxy.catalog.store import Stores
from proxy.catalog.watch import watch
from proxy.clock import RealClock
from proxy.control.assembly import Surroundings, assemble, floor_by_speed, footprint_by_header
from proxy.control.by_bench import share_by_bench
from proxy.control.hang_watch import HangWatch
from proxy.control.headroom import at_work, hold_memory, serving
from proxy.control.model_plan import ModelPlans
from proxy.control.pins import Pins
from proxy.control.room import Room
from proxy.control.slot_progress import busy_backends, noted, slots_progress
from proxy.control.speed_estimates import SpeedEstimates
from proxy.control.speed_learned import LearnedSpeeds
from proxy.control.split_table import SplitTable
from proxy.control.worker_devices import WorkerDevices
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.maker import engine_maker
from proxy.engine.types import LoadOptions, Mode
from proxy.engine.warm import WarmWorkers
from proxy.fleet.rpc.borrower import borrowing
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.observe import log as logging
from proxy.observe.events import EventLog
from proxy.observe.rates import Rates
from proxy.observe.record import Record
from proxy.observe.traces import tracing
from proxy.policy.diff import Changes
from proxy.policy.live import LivePolicies
from proxy.policy.model import Policies
from proxy.policy.values import home_of
from proxy.pool.hooks import Hooks
from proxy.pool.pool import Pool
from proxy.routing.model_dirs import ModelDirs, first_catalog
from proxy.routing.planner import Planner
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Resolver
from proxy.routing.router import Router
from proxy.slots.files import SlotFiles
from proxy.slots.keeper import PromptKeeper
from proxy.startup import (
    claim_state,
    first_policies,
    identity,
    listening_sockets,
    sockets_folder,
    sockets_from_systemd,
    urls_of,
)
from proxy.tasks import Loops
from proxy.upstream.open_calls import OpenCalls

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says. None: as the policies say."""

    host: str | None = None
    port: int | None = None
    policies: Path | None = None
    # Whether no other may have the same state folder, and commands are to find this one.
    alone: bool = False
    log_format: logging.LogFormat = "console"
    log_level: str = "info"
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that serves."""

    services: Services
    url: str
    _settings: Settings
    _host: str
    _listener: Listener
    _record: Record

    async def answers(self, within_s: float) -> bool:
        """Whether clients get an answer now."""
        return await self._listener.answers(within_s)

    async def reread(self) -> None:
        """Read anew what is in files: policies, keys, which models there are, and this machine's
        names. All of it is also noticed when it changes; but some file systems tell of no change,
        and people want to be sure."""
        services, settings = self.services, self._settings
        services.keys.forget()
        services.strangers.know(own_names(self._host))
        await services.policies.reread(settings.policies, settings.env)
        await services.dirs.look()
        services.events.publish("files_read_again", models=len(services.catalog.list()))

    async def drain(self) -> None:
        """Let what runs end within the policies' drain time. Whoever comes meanwhile is told to
        come again, by a 503 with Retry-After: a closed port would look like a proxy that is not
        there, for which few clients wait. Where systemd keeps the port open, they wait in its queue
        for our successor instead."""
        self._record.close()  # our successor may start meanwhile
        # Who follows them would do so for ever.
        self.services.events.close()
        self.services.log_buffer.close()
        await self._listener.leave()
        server = self.services.policies.current.server
        log.info(
            "draining",
            drain_s=server.drain_s,
            in_flight=sum(backend.in_flight for backend in self.services.pool.backends()),
            hint="a second signal ends it at once",
        )
        await self.services.pool.drain(server.drain_s)

    async def kill(self) -> None:
        """End every worker and every connection, whatever they are at."""
        await self._listener.let_nobody_in()
        await self.services.pool.kill()
        await self._listener.kill()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A whole proxy for the length of the block. Leaving it ends everything at once; call `drain`
    before.

    Raises StartupError for bad policies and for an address that cannot be listened on.
    """
    async with AsyncExitStack() as stack:
        node = identity(settings.env)
        clock = RealClock()
        loops = Loops(clock)
        events = EventLog()
        first = await first_policies(settings.policies, settings.env)
        policies = LivePolicies(first, events=events)
        server = policies.current.server
        host = server.host if settings.host is None else settings.host
        port = server.port if settings.port is None else settings.port
        state = policies.current.catalog.state
        record = await claim_state(state) if settings.alone else Record(None)
        stack.callback(record.close)
        keys = server.api_keys_file is not None or node.key is not None
        passed = sockets_from_systemd(settings.env, keys=keys)
        # On a thread: where the port is taken, who has it is asked for its name.
        sockets = passed or await asyncio.to_thread(listening_sockets, host, port, keys=keys)
        for sock in sockets:
            stack.callback(sock.close)

        log_buffer = LogBuffer()
        runtime = stack.enter_context(sockets_folder(settings.env))

        hooks = Hooks()
        slot_files = SlotFiles(runtime / "slots")
        warm = WarmWorkers()
        stack.push_async_callback(warm.end)
        pool = Pool(
            engine_maker(
                runtime,
                slot_files.folder,
                log_buffer,
                rpc_servers=lambda: policies.current.devices.rpc,
                stall_s=lambda name: policies.current.for_model(name).load_timeout_s,
                warm=warm,
                lent=lambda backend_id: borrower.lent(backend_id),
            ),
            hooks=hooks,
            max_queue=server.max_queue,
            clock=clock,
            events=events,
        )
        # Nothing is left after a drain.
        stack.push_async_callback(pool.kill)
        stores = Stores(home_of(settings.env))
        catalog = await first_catalog(policies.current, stores)
        await stack.enter_async_context(loops.background(partial(watch, catalog), name="catalog"))
        resolver = Resolver(lambda: policies.current, catalog)
        speeds = LearnedSpeeds(
            state=lambda: policies.current.catalog.state,
            devices_of=lambda backend: control.headroom.devices_of(backend),
            clock=clock,
        )
        hooks.subscribe(gone=speeds.gone)
        stack.push_async_callback(speeds.close)
        rates = Rates(
            lambda: busy_backends(pool),
            slots_progress(pool),
            clock=clock,
            wrote=noted(pool, lambda backend: control.desired.current(backend), speeds),
        )
        await stack.enter_async_context(loops.background(rates.run, name="rates"))
        dirs = ModelDirs(catalog, stores)
        ledger = Ledger()
        workers = WorkerDevices(lambda: serving(pool), clock)
        fleet = borrowing(settings.env, hooks, lambda o: room.lacking(o), lambda: policies.current)
        borrower = stack.enter_context(fleet)
        memory = MemoryWatch(
            setting=lambda device: policies.current.devices.for_device(device).memory,
            ask_workers=workers.ask_all,
            silent=workers.silent,
            holds=lambda: hold_memory(serving(pool)),
            at_work=lambda: at_work(serving(pool), control.desired.moving),
            **borrower.sources,
        )
        room = Room(memory, ledger, lambda: policies.current, borrower)
        share = share_by_bench(lambda: policies.current, lambda: control.headroom.devices())
        planner = Planner(catalog, room.on_devices, share, room.look)
        control = assemble(
            Surroundings(
                pool=pool,
                hooks=hooks,
                memory=memory,
                ledger=ledger,
                workers=workers,
                warm=warm,
                policies=lambda: policies.current,
                policy_of=resolver.policy_for,
                options_for=partial(_options_for, dirs, resolver, planner),
                capacity=room.on_devices,
                use=lambda backend: rates.rate(backend.id),
                events=events,
                loops=loops,
                clock=clock,
            ),
            footprint_of=footprint_by_header,
            measured=floor_by_speed(lambda: policies.current, clock),
        )
        stack.push_async_callback(control.controller.close)
        calls = OpenCalls()
        hangs = HangWatch(
            pool,
            calls=calls,
            moving=control.desired.moving,
            policy_of=resolver.policy_for,
            clock=clock,
        )
        hooks.subscribe(before_start=planner.caches.warn, gone=hangs.gone)
        await stack.enter_async_context(loops.background(hangs.run, name="hangs"))
        keeper = PromptKeeper(
            backends=pool.backends,
            files=slot_files,
            keep_bytes=lambda: policies.current.server.keep_prompts_bytes,
            events=events,
        )
        # Last: which files a model has is looked at when everything else is done.
        hooks.subscribe(
            before_start=keeper.before_start,
            loaded=keeper.loaded,
            before_stop=keeper.before_stop,
            gone=keeper.gone,
        )
        await stack.enter_async_context(loops.background(memory.run, name="memory"))
        await memory.fresh()  # whoever asks, from the first request on, finds the host's memory

        for follower in (
            _apply_server(pool, keeper),
            dirs.policies_changed,
            Pins(pool, lambda name: resolver.resolve(name).loaded_as).policies_changed,
            control.controller.policies_changed,
            control.warm.policies_changed,
            memory.policies_changed,
        ):
            policies.subscribe(follower)
        follow = partial(policies.follow, settings.policies, settings.env)
        await stack.enter_async_context(loops.background(follow, name="policies"))
        await stack.enter_async_context(loops.background(control.warm.run, name="warm workers"))

        traces = await stack.enter_async_context(tracing(settings.env))
        services = Services(
            policies=policies,
            catalog=catalog,
            resolver=resolver,
            pool=pool,
            planner=planner,
            router=Router(planner, pool, control.controller, keeper.arriving, rates.begin),
            desired=control.desired,
            controller=control.controller,
            events=events,
            loops=loops,
            log_buffer=log_buffer,
            rates=rates,
            memory=memory,
            ledger=ledger,
            dirs=dirs,
            hangs=hangs,
            calls=calls,
            strangers=Strangers(own_names(host)),
            plans=ModelPlans(memory, ledger, lambda: policies.current, pool.backends),
            split_table=SplitTable(
                desired=control.desired,
                headroom=control.headroom,
                speeds=speeds,
                estimates=SpeedEstimates(memory, lambda: any(b.in_flight for b in serving(pool))),
                state=lambda: policies.current.catalog.state,
            ),
            warm_workers=control.warm,
            started_s=time.monotonic(),
            traces=traces,
            node=node,
        )
        stack.callback(services.warm.close)
        runner = make_runner(services)
        listener = Listener(runner, sockets, inherited=bool(passed), node=node)
        stack.push_async_callback(runner.cleanup)
        await listener.start()
        urls = urls_of(host, sockets, passed=bool(passed), secure=bool(node.certificates))
        files = [str(file) for file in policies.newest.files]
        # Commands ask over TCP.
        record.say(next((each for each in urls if each.startswith("http")), ""), node.variables)
        events.publish("serving", url=urls[0], files=files, models=len(catalog.list()))
        yield Running(services, urls[0], settings, host, listener, record)


async def _options_for(
    dirs: ModelDirs, resolver: Resolver, planner: Planner, name: str, mode: Mode, moves: bool
) -> LoadOptions:
    """What a model would be loaded with now, if its experts can move or cannot."""
    await dirs.settled()  # a successor is loaded with the files that an edit has named
    model, request = resolver.resolve(name), ModelRequest(name)
    return await planner.load_options(model, request, mode, moves=moves)


def _apply_server(
    pool: Pool, keeper: PromptKeeper
) -> Callable[[Policies, Policies, Changes], Coroutine[Any, Any, None]]:
    async def apply(_: Policies, new: Policies, changes: Changes) -> None:
        pool.limit_queue(new.server.max_queue)
        keeper.trim()

    return apply
