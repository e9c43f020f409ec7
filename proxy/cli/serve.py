"""The command `serve`: one proxy for the life of this process, and what its signals do."""

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from typing import Final, NoReturn

import structlog

from proxy.app import Running, Settings, running
from proxy.cli.client import ClientError, default_url
from proxy.cli.example import example_of
from proxy.cli.output import FAILED, MISUSED, OK
from proxy.cli.signals import Signals, has_terminal
from proxy.cli.text import greeting
from proxy.errors import Hangs
from proxy.observe import log as logging
from proxy.observe.log_stream import LogStream
from proxy.service.journal import goes_to_journal
from proxy.service.notify import feed_watchdog, notify, watchdog_interval_s
from proxy.service.open_files import allow_many_files
from proxy.service.passed_sockets import VARIABLES
from proxy.startup import StartupError
from proxy.tasks import spawn
from proxy.threads import MODELS
from proxy.version import own_version

log = structlog.get_logger()

# For what is left to do after a drain, which takes no time unless something hangs.
LEAVING_S: Final = 30.0
# A terminal that closes tells a moment before it is gone.
CLOSING_S: Final = 1.0
LAST_WORDS_S: Final = 0.5


def main(settings: Settings) -> NoReturn:
    """Serve until a signal ends it, which ends this process."""
    # Who closes standard error wants no log.
    errors = sys.stderr.fileno() if sys.stderr else os.open(os.devnull, os.O_WRONLY)
    stream = LogStream(errors)
    signals = Signals(lambda: _last_words(stream))
    signals.hear()
    journal = goes_to_journal(sys.stderr.fileno(), settings.env)
    logging.setup(settings.log_format, settings.log_level, stream, journal=journal, for_good=True)
    # The watchdog's SIGABRT, or a crash in C code, says where every thread was.
    faulthandler.enable(errors)
    allow_many_files()
    for name in VARIABLES:
        os.environ.pop(name, None)  # they are ours, not our workers'
    status = _run(settings, signals, stream)
    stream.drain(CLOSING_S)
    # At once: the loop would wait for its threads, of which one may read a file that never comes.
    os._exit(status)


def _run(settings: Settings, signals: Signals, stream: LogStream) -> int:
    # Not closed, for the reason above.
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        runner.run(_serve(settings, signals, stream))
    except asyncio.CancelledError:
        return OK  # told to end before it served
    except StartupError as error:
        stream.write(f"moe-proxy: {error}\n")
        return MISUSED
    except BaseException:
        log.exception("crashed")
        return FAILED
    return OK


def _last_words(stream: LogStream) -> None:
    log.error("ended_without_waiting", hint="something did not end in time; workers are killed")
    stream.drain(LAST_WORDS_S)


async def _serve(settings: Settings, signals: Signals, stream: LogStream) -> None:
    """Raises StartupError, and CancelledError for a signal before it serves."""
    loop, starting = asyncio.get_running_loop(), asyncio.current_task()
    assert starting is not None
    heard: asyncio.Queue[signal.Signals] = asyncio.Queue()
    had_terminal = has_terminal()

    def give_up(number: signal.Signals) -> None:
        if number is not signal.SIGHUP or (had_terminal and not has_terminal()):
            loop.call_soon_threadsafe(starting.cancel)
        else:  # what it has read by now may be old; it is read again once it serves
            loop.call_soon_threadsafe(heard.put_nowait, number)

    signals.tell(give_up)
    async with running(settings) as proxy:
        signals.tell(lambda number: loop.call_soon_threadsafe(heard.put_nowait, number))
        notify("READY=1", env=settings.env)
        # What there is by now stays: else a request waits, now and then, while all of it is looked
        # through for what could go, which takes tens of milliseconds.
        gc.freeze()
        if settings.log_format == "console":
            stream.write(await _greeting(proxy, settings) + "\n")
        async with _watchdog(proxy, settings):
            received = await _until_ending(heard, proxy, settings, had_terminal)
            log.info("stopping", signal=received.name)
            notify("STOPPING=1", env=settings.env)
            drain = spawn(proxy.drain(), name="drain")
            second = spawn(_second(heard), name="second signal")
            await asyncio.wait((drain, second), return_when=asyncio.FIRST_COMPLETED)
            if not drain.done():
                log.info("killing", signal=second.result().name)
                await proxy.kill()
            signals.end_within(LEAVING_S)
            await _cancel(drain)
            await _cancel(second)


async def _until_ending(
    heard: "asyncio.Queue[signal.Signals]", proxy: Running, settings: Settings, had_terminal: bool
) -> signal.Signals:
    """The signal that is to end it. Until then, its files are read again where one asks for it."""
    while True:
        received = await heard.get()
        if received is not signal.SIGHUP:
            return received
        if had_terminal and await _terminal_closes():
            return received
        # Systemd takes this for the time of what it was told before, and waits for the end of it.
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}", env=settings.env)
        try:
            await proxy.reread()
        except Exception:
            log.exception("files_not_read_again")
        notify("READY=1", env=settings.env)


async def _second(heard: "asyncio.Queue[signal.Signals]") -> signal.Signals:
    """The next one that ends it; a terminal that is closed may say so twice."""
    while (received := await heard.get()) is signal.SIGHUP:
        pass
    return received


async def _terminal_closes() -> bool:
    """Whether the terminal is gone, or goes in this moment."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + CLOSING_S
    while has_terminal():
        if clock() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def _greeting(proxy: Running, settings: Settings) -> str:
    services, example = proxy.services, None
    models = services.resolver.all()
    if proxy.url.startswith("http:"):
        with suppress(Hangs):  # told as what degrades the proxy
            example = await MODELS.run(example_of, models, services.catalog.summary)
    elsewhere = True
    with suppress(ClientError):
        # Where the other commands look, if they are not told.
        elsewhere = proxy.url != default_url(settings.env)
    keys = services.policies.current.server.api_keys_file is not None
    return greeting(
        own_version(),
        proxy.url,
        [model.name for model in models],
        example.command(proxy.url, keys=keys) if example else None,
        elsewhere=elsewhere,
    )


def _watchdog(proxy: Running, settings: Settings) -> AbstractAsyncContextManager[None]:
    interval_s = watchdog_interval_s(settings.env)
    if interval_s is None:
        return nullcontext()
    feed = partial(feed_watchdog, interval_s, proxy.answers, settings.env)
    return proxy.services.loops.background(feed, name="watchdog")


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
