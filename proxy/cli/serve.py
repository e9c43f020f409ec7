"""The command `serve`: one proxy for the life of this process, and the signals that end it."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial

import structlog

from proxy.app import Running, Settings, running
from proxy.cli import output
from proxy.cli.client import ClientError, default_url
from proxy.cli.output import MISUSED, OK
from proxy.cli.text import greeting
from proxy.observe import log as logging
from proxy.observe.notify import feed_watchdog, notify, watchdog_interval_s
from proxy.startup import StartupError, allow_many_files
from proxy.tasks import spawn
from proxy.version import own_version

log = structlog.get_logger()

ENDING = (signal.SIGINT, signal.SIGTERM)


def main(settings: Settings) -> int:
    """Serve until a signal ends it; returns the exit status."""
    logging.setup(settings.log_format, settings.log_level)
    allow_many_files()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            hurried = runner.run(_serve(settings))
        except StartupError as error:
            output.error(error)
            return MISUSED
        if hurried:
            sys.stderr.flush()
            # A thread may be reading a large file to its end, which nobody wants to wait for now.
            os._exit(OK)
    return OK


async def _serve(settings: Settings) -> bool:
    """Returns whether somebody was in a hurry at the end."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with running(settings) as proxy:
        notify("READY=1", env=settings.env)
        if settings.log_format == "console":
            _greet(proxy, settings)
        async with _watchdog(proxy, settings):
            received = await signals.get()
            log.info("stopping", signal=received.name)
            notify("STOPPING=1", env=settings.env)
            drain = spawn(proxy.drain(), name="drain")
            second = spawn(signals.get(), name="second signal")
            await asyncio.wait((drain, second), return_when=asyncio.FIRST_COMPLETED)
            hurried = not drain.done()
            if hurried:
                # Whatever may hang from here on, a third signal ends it; workers then end
                # themselves.
                for number in ENDING:
                    loop.remove_signal_handler(number)
                    signal.signal(number, signal.SIG_DFL)
                log.info("killing", signal=second.result().name)
                await proxy.kill()
            await _cancel(drain)
            await _cancel(second)
    return hurried


def _greet(proxy: Running, settings: Settings) -> None:
    models = [entry.name for entry in proxy.services.catalog.list()]
    elsewhere = True
    with suppress(ClientError):
        # Where the other commands look, if they are not told.
        elsewhere = proxy.url != default_url(settings.env)
    output.info(greeting(own_version() or "", proxy.url, models, elsewhere=elsewhere))


def _watchdog(proxy: Running, settings: Settings) -> AbstractAsyncContextManager[None]:
    interval_s = watchdog_interval_s(settings.env)
    if interval_s is None:
        return nullcontext()
    return proxy.services.loops.background(partial(feed_watchdog, interval_s), name="watchdog")


async def _cancel(task: "asyncio.Task[object]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: asyncio's own loop is slower, nothing else
        return None
    return uvloop.new_event_loop
