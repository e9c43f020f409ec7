"""The composition root: builds every part in the order in which they need each other, and owns
their lifetimes.
"""

import asyncio
import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from proxy.api.sampling import busy_backends, slots_progress
from proxy.api.server import listen, make_runner
from proxy.api.services import Services
from proxy.balancer import Balancer
from proxy.bench.store import measured_floor
from proxy.capacity import capacity
from proxy.catalog.cursor import GgufError
from proxy.catalog.gguf import read_header
from proxy.catalog.local import Catalog
from proxy.catalog.store import Store, Stores
from proxy.catalog.watch import watch
from proxy.client import url_of
from proxy.clock import RealClock
from proxy.controller import Controller
from proxy.engine.command import CommandEngine
from proxy.engine.hosted import HostedEngine
from proxy.engine.logbook import LogBook
from proxy.engine.rpc_names import RpcNames
from proxy.engine.types import Device, Engine, LoadOptions, Mode
from proxy.errors import ModelNotFound
from proxy.host_memory import HostMemory
from proxy.live import LivePolicies
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.observe import log as logging
from proxy.observe.events import EventLog
from proxy.observe.notify import feed_watchdog, notify, watchdog_interval_s
from proxy.observe.rates import Rates
from proxy.placement.budget import Budget
from proxy.placement.needs import needs
from proxy.policy.diff import Changes
from proxy.policy.load import load
from proxy.policy.model import ModelPolicy, Policies
from proxy.policy.values import home_of
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.router import Ask, Router
from proxy.tasks import spawn

log = structlog.get_logger()

OLLAMA_PORT = 11434
# A Unix socket's path has at most 107 bytes; the rest is for "/", a backend's id and an ending.
LONGEST_RUNTIME_DIR = 80


class StartupError(Exception):
    """Why the proxy does not start, for people; one line or several."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says. None: as the policies say."""

    host: str | None = None
    port: int | None = None
    policies: Path | None = None
    log_format: logging.LogFormat = "console"
    log_level: str = "info"
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that serves."""

    services: Services
    url: str
    _runner: web.AppRunner

    async def drain(self) -> None:
        """Take no new connections, and let what runs end within the policies' drain time."""
        for site in list(self._runner.sites):
            await site.stop()
        server = self.services.policies.current.server
        log.info("draining", drain_s=server.drain_s, pool=repr(self.services.pool))
        await self.services.pool.drain(server.drain_s)


def main(settings: Settings) -> int:
    """Serve until a signal ends it; returns the exit status."""
    logging.setup(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_serve(settings))
        except StartupError as error:
            print(f"moe-proxy: {error}", file=sys.stderr)  # noqa: T201 - the log may be JSON for machines
            return 2
    return 0


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A whole proxy for the length of the block. Leaving it ends everything at once; call `drain`
    before.

    Raises StartupError for bad policies and for an address that cannot be listened on.
    """
    async with AsyncExitStack() as stack:
        events = EventLog()
        policies = _first_policies(settings, events)
        server = policies.current.server
        host = server.host if settings.host is None else settings.host
        port = server.port if settings.port is None else settings.port
        sockets = _listen(host, port)
        for sock in sockets:
            stack.callback(sock.close)

        logbook = LogBook()
        runtime_dir = _runtime_dir(settings.env)
        stack.callback(shutil.rmtree, runtime_dir, ignore_errors=True)

        pool = Pool(
            _engine_maker(runtime_dir, logbook, lambda: policies.current),
            max_queue=server.max_queue,
            clock=RealClock(),
            events=events,
        )
        stack.push_async_callback(_stop, pool)
        stores = Stores(home_of(settings.env))
        catalog = await asyncio.to_thread(
            Catalog,
            *_places(policies.current, stores),
            cache=policies.current.catalog.state / "headers.json",
        )
        _background(stack, watch(catalog), name="catalog")

        async def options_for(model: str, mode: Mode) -> LoadOptions:
            return (await router.plan(Ask(model), mode)).options

        def policy_of(model: str) -> ModelPolicy:
            try:
                return router.resolve(model).policy
            except ModelNotFound:  # its file is gone, but it is loaded
                return policies.current.for_model(model)

        def room_on_devices(rpc: Sequence[str]) -> Sequence[Budget]:
            return capacity(memory, ledger, policies.current, rpc)

        controller = Controller(
            pool=pool,
            policies=lambda: policies.current,
            policy_of=policy_of,
            options_for=options_for,
            events=events,
            clock=RealClock(),
        )
        stack.push_async_callback(controller.close)
        router = Router(
            policies=lambda: policies.current,
            catalog=catalog,
            pool=pool,
            controller=controller,
            capacity=room_on_devices,
        )
        rates = Rates(lambda: busy_backends(pool), slots_progress(pool))
        _background(stack, rates.run(), name="rates")

        async def ask_workers() -> list[Device]:
            return await balancer.ask_workers()

        async def measured(options: LoadOptions, devices: Sequence[Device]) -> int | None:
            state = policies.current.catalog.state
            floor = partial(measured_floor, state, options.path, devices, libdir=options.libdir)
            return await asyncio.to_thread(floor)

        memory = MemoryWatch(
            setting=lambda device: policies.current.devices.for_device(device).memory,
            ask_workers=ask_workers,
        )
        ledger = Ledger()
        balancer = Balancer(
            pool=pool,
            controller=controller,
            watch=memory,
            ledger=ledger,
            policies=lambda: policies.current,
            needs=_needs,
            measured=measured,
            use=rates.rate,
            events=events,
            clock=RealClock(),
        )
        host_memory = HostMemory(
            watch=memory,
            events=events,
            split_of=lambda model: policy_of(model).moe_cpu_layers,
            capacity=room_on_devices,
        )

        async def before_start(backend: Backend) -> None:
            await host_memory.check(backend)
            await balancer.make_way(backend)

        pool.before_start = before_start
        _background(stack, memory.run(), name="memory")

        policies.listeners += [
            _apply_server(pool),
            _apply_catalog(catalog, stores),
            controller.policies_changed,
        ]
        _background(stack, policies.follow(settings.policies, settings.env), name="policies")

        services = Services(
            policies=policies,
            catalog=catalog,
            pool=pool,
            router=router,
            splits=controller,
            events=events,
            logbook=logbook,
            rates=rates,
            memory=memory,
            ledger=ledger,
            started_s=time.monotonic(),
        )
        stack.callback(services.spares.close)
        runner = make_runner(services)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=1024).start()
        url = url_of(host, sockets[0].getsockname()[1])
        events.publish("serving", url=url, files=[str(file) for file in policies.newest.files])
        yield Running(services, url, runner)


async def _serve(settings: Settings) -> None:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with running(settings) as proxy:
        notify("READY=1", env=settings.env)
        watchdog_s = watchdog_interval_s(settings.env)
        watchdog = spawn(feed_watchdog(watchdog_s), name="watchdog") if watchdog_s else None
        received = await signals.get()
        log.info("stopping", signal=received.name)
        notify("STOPPING=1", env=settings.env)
        drain = spawn(proxy.drain(), name="drain")
        impatient = spawn(signals.get(), name="second signal")
        await asyncio.wait((drain, impatient), return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, impatient, watchdog):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _stop(pool: Pool) -> None:
    """End what still runs; nothing does after a drain."""
    if any(backend.state is not BackendState.GONE for backend in pool.backends()):
        await pool.drain(0.0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: asyncio's own loop is slower, nothing else
        return None
    return uvloop.new_event_loop


def _first_policies(settings: Settings, events: EventLog) -> LivePolicies:
    loaded = load(settings.policies, settings.env)
    if loaded.policies is None:
        problems = "\n".join(f"  {problem}" for problem in loaded.problems)
        raise StartupError(f"the policies have problems:\n{problems}")
    return LivePolicies(loaded, events=events)


def _listen(host: str, port: int) -> list[Any]:
    try:
        return listen(host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            holder = (
                "Ollama uses this port, and may be running"
                if port == OLLAMA_PORT
                else "another program uses it"
            )
            reason = f"{reason.lower()}: {holder}; stop it, or choose another port with --port"
        raise StartupError(f"cannot listen on {host}:{port}: {reason}") from error


def _runtime_dir(env: Mapping[str, str]) -> Path:
    """A new folder for the workers' sockets that only we can enter, with a short path."""
    wanted = env.get("XDG_RUNTIME_DIR", "")
    parent = (
        wanted
        if wanted and len(wanted) < LONGEST_RUNTIME_DIR - 20 and os.access(wanted, os.W_OK)
        else "/tmp"
    )
    return Path(tempfile.mkdtemp(prefix="moe-proxy-", dir=parent))


async def _needs(options: LoadOptions, devices: Sequence[str]) -> dict[str, int]:
    """What a model takes of each device before its experts come; nothing where that is not
    known."""
    if options.engine != "hosted":
        return {}
    try:
        header = await asyncio.to_thread(read_header, options.path)
    except (GgufError, OSError):
        return {}
    return needs(header, options, devices)


def _engine_maker(
    runtime_dir: Path, logbook: LogBook, policies: Callable[[], Policies]
) -> Callable[[str, LoadOptions], Engine]:
    rpc_names = RpcNames()

    def make(backend_id: str, options: LoadOptions) -> Engine:
        if options.engine == "command":
            return CommandEngine(backend_id, options, logbook=logbook)
        # A worker that was killed leaves its sockets, and the next of this id could not listen.
        for stale in runtime_dir.glob(f"{backend_id}.*"):
            stale.unlink()
        rpc_names.know(policies().devices.rpc)
        names = rpc_names.of(options.rpc)
        return HostedEngine(
            backend_id, options, runtime_dir=runtime_dir, logbook=logbook, names=names
        )

    return make


def _apply_server(pool: Pool) -> Callable[[Policies, Policies, Changes], Coroutine[Any, Any, None]]:
    async def apply(_: Policies, new: Policies, changes: Changes) -> None:
        pool.max_queue = new.server.max_queue
        if restart := [key for key in ("server.host", "server.port") if key in changes.keys]:
            log.warning("policy_needs_restart", keys=restart)

    return apply


def _apply_catalog(
    catalog: Catalog, stores: Stores
) -> Callable[[Policies, Policies, Changes], Coroutine[Any, Any, None]]:
    async def apply(_: Policies, new: Policies, changes: Changes) -> None:
        if any(key.startswith("catalog.") for key in changes.keys) or changes.models:
            await asyncio.to_thread(catalog.use, *_places(new, stores))

    return apply


def _places(
    policies: Policies, stores: Stores
) -> tuple[tuple[Path, ...], dict[str, Path], tuple[Store, ...]]:
    """Where the catalogue looks: folders, the files that policies name, our store and Ollama's."""
    named = {name: model.path for name, model in policies.models.items() if model.path}
    place = policies.catalog
    return place.dirs, named, stores.at(place.state, place.ollama_dir, ollama=place.ollama)


def _background(stack: AsyncExitStack, work: Coroutine[Any, Any, None], *, name: str) -> None:
    task = spawn(work, name=name)

    async def end() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)
