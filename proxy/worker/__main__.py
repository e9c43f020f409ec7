"""`python -m proxy.worker`: host one llama-server, with a control socket beside it. With `--wait`,
the rest of its arguments comes later.

Ends when llama-server does, when it is told to, or when its standard input ends: that is how it
notices that the proxy is gone, whatever became of it. One that is stopped notices nothing, so the
kernel is told to kill it then.
"""

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

from proxy.engine.order import WAIT
from proxy.worker.backends import BackendRefused, kinds, plugins
from proxy.worker.confine import confine, needs_of, prepare
from proxy.worker.control import Control
from proxy.worker.libraries import LlamaError, backends_in, default_libdir
from proxy.worker.server import EmbeddedServer
from proxy.worker.waiting import wait_for_order

# How long llama-server may take to finish once it is told to; its threads cannot be ended one by
# one. Nothing is lost by not waiting longer: whom it has not answered by then it never will.
TERMINATE_S = 3.0
ENDING = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def main() -> None:
    # Sent when the *thread* ends that has spawned us: it is the proxy's first one, which has the
    # event loop. Where the proxy is gone by now, standard input has ended.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parser = argparse.ArgumentParser(prog="python -m proxy.worker", description=__doc__)
    parser.add_argument(
        "--socket", required=True, help="Unix socket on which llama-server listens (*.sock)"
    )
    parser.add_argument("--control", required=True, help="Unix socket of the control protocol")
    parser.add_argument("--libdir", type=Path, help="folder with llama.cpp's libraries")
    parser.add_argument(
        "--backend", action="append", default=[], type=Path, metavar="FILE", help="one more of ggml"
    )
    parser.add_argument("--repack", choices=("auto", "on", "off"), default="auto")
    parser.add_argument(
        "--per-token-outputs", action="store_true", help="embedding and reranking servers"
    )
    parser.add_argument(
        "--fixed-split",
        type=int,
        metavar="N",
        help="load with --n-cpu-moe N (--n-cpu-ffn N with --dense) and without live moves",
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="a model without experts: its feed-forward weights move in their place",
    )
    parser.add_argument("--cache-mib", type=int, default=0, help="size of the expert cache")
    parser.add_argument(
        "--cached-layers", type=int, default=0, metavar="N", help="it has the first N layers"
    )
    parser.add_argument(
        "--no-attention", action="append", default=[], metavar="DEVICE", help="for experts only"
    )
    parser.add_argument(
        "--unconfined", metavar="WHY", help="keep every right that there is; WHY is told to people"
    )
    parser.add_argument("arguments", nargs="*", help="after --: llama-server's own arguments")
    arguments, llama = sys.argv[1:], None
    if arguments[:1] == [WAIT]:
        arguments, llama = wait_for_order(Path(arguments[1]))
    options = parser.parse_args(arguments)
    # In all threads, as they inherit it: one of ours waits for these, in the place of llama-server,
    # which would go on taking requests in that nobody answers, and might never end.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        libdir = options.libdir or default_libdir()
        # It starts processes, which nobody may who is confined.
        more = plugins(options.backend, libdir)
        # First of all: it holds for the threads that are made from here on.
        confined = f"no: {options.unconfined}" if options.unconfined else _confine(options, libdir)
        embedded = EmbeddedServer(
            libdir,
            options.socket,
            llama=llama,
            plugins=more,
            confined=confined,
            repack=options.repack,
            per_token_outputs=options.per_token_outputs,
            fixed_split=options.fixed_split,
            no_attention=options.no_attention,
            dense=options.dense,
            cache_mib=options.cache_mib,
            cached_layers=options.cached_layers,
        )
    except (BackendRefused, LlamaError, OSError) as error:
        sys.exit(f"worker: {error}")
    asyncio.run(_serve(embedded, options))


def _confine(options: argparse.Namespace, libdir: Path) -> str:
    """Returns how far, for people."""
    backends = (*backends_in(libdir), *kinds(options.backend))
    # The sockets are in a folder that is this worker's own.
    needs = needs_of(Path(options.control).parent, options.arguments, backends, os.environ)
    prepare(needs, backends)
    return confine(needs)


async def _serve(embedded: EmbeddedServer, options: argparse.Namespace) -> NoReturn:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    control = Control(embedded, stopping.set)
    server = await control.serve(options.control)
    for wait in (_wait_for_parent, _wait_for_signal):
        threading.Thread(target=wait, args=(loop, stopping), daemon=True, name="end").start()
    ended: asyncio.Future[int] = loop.create_future()

    def run() -> None:
        try:
            status = embedded.run(options.arguments)
        except Exception:  # whatever it is: the proxy would wait for a worker that is never ready
            traceback.print_exc()
            status = 1
        loop.call_soon_threadsafe(ended.set_result, status)

    # Daemons, both: llama-server may hang in a driver, and then the process has to end all the
    # same.
    threading.Thread(target=run, daemon=True, name="host").start()
    told = loop.create_task(stopping.wait(), name="stopping")
    await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
    # Nobody new: while it ends, llama-server takes requests in and never answers them.
    with contextlib.suppress(OSError):
        os.unlink(options.socket)
    if not ended.done():
        threading.Thread(target=embedded.terminate, daemon=True, name="terminate").start()
        await asyncio.wait((ended,), timeout=TERMINATE_S)
    server.close()
    sys.stdout.flush()
    # At once: llama.cpp's libraries have global destructors that fight over devices, and the loop
    # would wait for its threads, of which one may hang in a driver.
    # One that was told to end has not crashed, whatever became of llama-server on the way.
    os._exit(0 if told.done() else ended.result())


def _wait_for_parent(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    with contextlib.suppress(OSError):  # a stdin that cannot be read has no parent behind it
        while os.read(0, 4096):
            pass
    loop.call_soon_threadsafe(stopping.set)


def _wait_for_signal(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    signal.sigwait(ENDING)
    loop.call_soon_threadsafe(stopping.set)


main()
