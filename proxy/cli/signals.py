"""The signals of `serve`, heard on a thread of their own: whatever the others wait for, a disk that
is gone or a driver that hangs, somebody hears them.

INT and TERM end it: the first one in order, the second one soon, the third one now. HUP has it read
its files again, unless the terminal that it was started from has been closed.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM)
# After the second signal, for workers to be ended and sockets to be closed. What is not done by
# then the guardian does (proxy/engine/guardian.py).
HURRY_S: Final = 4.0

Tell = Callable[[signal.Signals], object]


class Signals:
    """From `hear` on, who is told of signals is whoever has said so last; a thread tells."""

    def __init__(self, last: Callable[[], None]) -> None:
        """`last` is called right before the process is ended without more ado; it must not wait
        long."""
        self._last = last
        # What changes: who is told, what nobody was told of yet, and how often it was to end.
        self._lock = threading.RLock()  # a handler may run within whatever has it
        self._tell: Tell | None = None
        self._untold: list[signal.Signals] = []
        self._endings = 0

    def hear(self) -> None:
        """Begin; to be called before there are other threads, which would get the signals."""
        heard = {*ENDING}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            heard.add(signal.SIGHUP)
        for number in heard:
            # One that was ignored, as by a shell in the background, would never come; and while a
            # child is started, they are not blocked (proxy/engine/process.py).
            signal.signal(number, lambda number, _: self._heard(signal.Signals(number)))
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)

        def wait() -> None:
            while True:
                self._heard(signal.Signals(signal.sigwait(heard)))

        threading.Thread(target=wait, daemon=True, name="signals").start()

    def tell(self, tell: Tell) -> None:
        """From now on `tell` is called, on another thread, and also of what came before anybody
        was."""
        with self._lock:
            self._tell, untold = tell, self._untold
            self._untold = []
        for number in untold:
            tell(number)

    def end_within(self, seconds: float) -> None:
        """End the process after this time, if it has not ended by itself."""

        def wait() -> None:
            time.sleep(seconds)
            self.end_now()

        threading.Thread(target=wait, daemon=True, name="end").start()

    def end_now(self) -> None:
        self._last()
        os._exit(1)

    def _heard(self, number: signal.Signals) -> None:
        with self._lock:
            self._endings += number in ENDING
            endings, tell = self._endings, self._tell
            if tell is None:
                self._untold.append(number)
        if number in ENDING and endings == 2:
            self.end_within(HURRY_S)
        if number in ENDING and endings > 2:
            self.end_now()
        elif tell is not None:
            tell(number)


def has_terminal() -> bool:
    """Whether this process belongs to a terminal that is there: a closed one belongs to nobody."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
