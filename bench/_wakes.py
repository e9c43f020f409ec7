"""Runs `moe-proxy` with an event loop that counts: how often it wakes, for whom, what each costs,
and what is handed over to threads. At SIGUSR2 it writes down what it has counted.

    python bench/_wakes.py FILE serve ...

For `bench.idle`, of this checkout or another one: what that does not have is not counted. The loop
is asyncio's own, whose callbacks can be seen; the timers and sockets are the same with uvloop.
"""

import asyncio
import json
import runpy
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

WAKES: "Counter[str]" = Counter()  # by who ran first when the loop woke
SPENT_NS: "Counter[str]" = Counter()  # by who ran
HANDED: "Counter[str]" = Counter()  # to threads, by what


def owner(handle: Any) -> str:
    """Whose doing a callback of the loop is: a task's name, or the function."""
    callback = handle._callback
    own = getattr(callback, "__self__", None)
    if isinstance(own, asyncio.Task):
        return f"task {own.get_name()}"
    for argument in handle._args or ():
        # A timer that wakes who sleeps: who that is stands in the future.
        if isinstance(argument, asyncio.Future):
            for waiting, _ in argument._callbacks or ():
                if isinstance(task := getattr(waiting, "__self__", None), asyncio.Task):
                    return f"task {task.get_name()}"
    if isinstance(task := getattr(own, "_task", None), asyncio.Task):  # a time limit
        return f"limit of {task.get_name()}"
    return str(getattr(callback, "__qualname__", None) or repr(callback).partition(" at 0x")[0])


def count_callbacks() -> None:
    handles: Any = asyncio.events.Handle
    loops: Any = asyncio.base_events.BaseEventLoop
    run, run_once = handles._run, loops._run_once
    first = [True]

    def _run(self: Any) -> None:
        who = owner(self)
        if first[0]:
            first[0] = False
            WAKES[who] += 1
        began = time.thread_time_ns()
        try:
            run(self)
        finally:
            SPENT_NS[who] += time.thread_time_ns() - began

    def _run_once(self: Any) -> None:
        # What is ready already needs no wake: it goes on with what the last one began.
        first[0] = not self._ready
        began = time.thread_time_ns()
        before = SPENT_NS.total()
        run_once(self)
        SPENT_NS["the loop itself"] += time.thread_time_ns() - began - SPENT_NS.total() + before
        if first[0]:
            WAKES["for nothing"] += 1

    handles._run, loops._run_once = _run, _run_once


def counted(owner: Any, name: str, what: Callable[..., str]) -> None:
    """Count the calls of a method that hands work to a thread."""
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        HANDED[what(*args, **kwargs)] += 1
        return original(*args, **kwargs)

    setattr(owner, name, call)


def called(function: Any) -> str:
    function = getattr(function, "func", function)
    return str(getattr(function, "__qualname__", function))


def count_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    counted(ThreadPoolExecutor, "submit", lambda _, function, *a, **k: called(function))
    with suppress(ImportError, AttributeError):
        from proxy.threads import Lane

        counted(Lane, "_put", lambda lane, job: f"{lane.name}: {called(job.call[0])}")
    with suppress(ImportError, AttributeError):
        from proxy.memory.reader import Reader

        counted(Reader, "ask", lambda reader, *_: f"memory: {reader.name}")
    with suppress(ImportError, AttributeError):
        threads = import_module("anyio.to_thread")
        counted(threads, "run_sync", lambda function, *a, **k: called(function))
    with suppress(ImportError, AttributeError):
        # Where we have it from, and where `awatch` does, which checkouts before had.
        modules: list[Any] = [
            import_module(f"watchfiles.{name}") for name in ("_rust_notify", "main")
        ]
        counting = partial(LookedAt, modules[0].RustNotify)
        for module in modules:
            module.RustNotify = counting


class LookedAt:
    """watchfiles' watcher: its thread looks for events by itself, once in each step."""

    def __init__(self, native: Callable[..., Any], *args: Any) -> None:
        self._native = native(*args)

    def __enter__(self) -> "LookedAt":
        self._native.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        return self._native.__exit__(*args)

    def close(self) -> None:
        self._native.close()

    def watch(self, debounce: int, step: int, timeout: int, stop: Any) -> Any:
        class Asked:
            """It is asked at each look."""

            @staticmethod
            def is_set() -> bool:
                HANDED[f"watchfiles' own looks, every {step} ms"] += 1
                return bool(stop.is_set())

        return self._native.watch(debounce, step, timeout, Asked)


def main() -> None:
    file = Path(sys.argv[1])

    def tell(*_: Any) -> None:
        found = {"wakes": WAKES, "spent_ns": SPENT_NS, "handed": HANDED}
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found | {"threads": threading.active_count()}))
        part.rename(file)

    sys.modules["uvloop"] = None  # type: ignore[assignment]
    # The folder of this file comes first, before the checkout that is meant.
    sys.path.pop(0)
    count_callbacks()
    count_threads()
    signal.signal(signal.SIGUSR2, tell)
    sys.argv = ["moe-proxy", *sys.argv[2:]]
    runpy.run_module("proxy.cli.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
