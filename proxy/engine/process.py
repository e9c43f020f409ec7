"""One child process: spawned in a group of its own, its output read line by line, ended step by
step."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from proxy.engine.guardian import MARK, forget_group, keep_group
from proxy.engine.last_words import ERRORS, LastWords, is_error, level_of
from proxy.engine.line_reader import LineReader
from proxy.errors import LoadFailed
from proxy.tasks import spawn

log = structlog.get_logger()

# Warnings of llama.cpp's that are right for a server of its own, and mean nothing behind us: our
# sockets are in a folder that only we can enter, and the mapped file and the buffers' sizes are as
# we want them.
NO_CAUSE_FOR_ALARM = (
    "security: no API key is set",
    "tensor overrides to CPU are used with mmap",
    "does not match expectation of",
    # A prompt that is cached as a whole, as when somebody asks for another answer.
    "need to evaluate at least 1 token",
    "n_past was set to",
    # A client that left.
    "stop: cancel task",
)
TERM_GRACE_S = 3.0
TO_END_BY = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
# Only one that hangs in the kernel, as in a driver, outlives SIGKILL by so much.
KILLED_S = 30.0
# After the whole group has been killed, only a process that left the group can still hold the pipe.
OUTPUT_GRACE_S = 1.0


_blocked: set[int] = set()
_starting = 0


@contextlib.contextmanager
def _open_to_signals() -> Iterator[None]:
    """While a child is started. `serve` hears signals on a thread of its own and blocks them in all
    others, and with asyncio's own loop a child begins as the thread is that starts it: it would
    never get SIGTERM."""
    global _blocked, _starting
    if not _starting:
        _blocked = {*signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_END_BY)} & TO_END_BY
    _starting += 1
    try:
        yield
    finally:
        _starting -= 1
        if not _starting:
            signal.pthread_sigmask(signal.SIG_BLOCK, _blocked)


class ChildProcess:
    """A program that we started, from its spawn until it is reaped.

    Its stdin is a pipe into which nothing is written but what `tell` does. EOF there means "end
    yourself": it comes when we say so, and also, from the kernel, when we die in whatever way. A
    program that takes no notice of
    its stdin is made with `ends_at_eof=False` and gets SIGTERM instead.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        name: str,
        *,
        on_line: Callable[[str], None] | None = None,
        ends_at_eof: bool = True,
        killed_s: float = KILLED_S,
    ) -> None:
        """`env` is all of its environment: nothing of ours comes with it unasked. `on_line` is
        called with each line of output."""
        self.argv = tuple(argv)
        self.name = name
        self.words = LastWords()
        self.lines = 0  # how many came so far: whoever waits sees by it that something goes on
        self._env = dict(env)
        self._on_line = on_line
        self._ends_at_eof = ends_at_eof
        self._killed_s = killed_s
        self._log = log.bind(backend=name)
        self._process: asyncio.subprocess.Process | None = None
        self._exit: asyncio.Task[int] | None = None
        self._stop: asyncio.Task[None] | None = None
        self._unwanted = False  # told to stop before it was there

    def __repr__(self) -> str:
        return f"<ChildProcess {self.name} pid={self.pid} returncode={self.returncode}>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def unwanted(self) -> bool:
        """Whether it was told to stop."""
        return self._unwanted or self._stop is not None

    def hand_over(self, name: str, on_line: Callable[[str], None]) -> None:
        """From now on it is another's, and what it says goes there; what it said until now is
        forgotten."""
        self.name, self._on_line, self._log = name, on_line, log.bind(backend=name)
        self.words, self.lines = LastWords(), 0

    def tell(self, line: bytes) -> None:
        """Write to its standard input. Where it is gone, that is lost."""
        if self._process and self._process.stdin and not self._process.stdin.is_closing():
            self._process.stdin.write(line)

    @property
    def returncode(self) -> int | None:
        """The exit status once it is gone (negative: the signal that ended it)."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Spawn it. Raises LoadFailed if the program cannot be run at all."""
        if self._unwanted:
            raise LoadFailed(f"{self.name} was stopped before it was started")
        # A pipe of our own rather than asyncio's: it can be closed although a stray descendant
        # keeps its end.
        ours, theirs = os.pipe()
        transport, output = await asyncio.get_running_loop().connect_read_pipe(
            lambda: LineReader(self._say), os.fdopen(ours, "rb", buffering=0)
        )
        try:
            # start_new_session makes it the leader of its own group: what it starts in turn ends
            # with it, and a Ctrl-C in our terminal reaches us alone, so that we can drain.
            with _open_to_signals():
                self._process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    env=self._env | MARK,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=theirs,
                    stderr=theirs,
                    start_new_session=True,
                )
        except OSError as error:
            transport.close()
            raise LoadFailed(f"cannot run {self.argv[0]}: {error.strerror}") from error
        except BaseException:
            transport.close()
            raise
        finally:
            os.close(theirs)
        # However we end, its whole group ends with us.
        keep_group(self._process.pid)
        # No await since the spawn: nothing can come in between and leave it unwatched.
        self._exit = spawn(self._reap(self._process, output, transport), name=f"{self.name}:reap")
        if self._unwanted:
            self._stop = spawn(self._ladder(0.0), name=f"{self.name}:stop")

    async def wait(self) -> int:
        """The exit status, when it is gone and its last line has been read."""
        if self._exit is None:
            raise RuntimeError(f"{self.name} was never started")
        return await asyncio.shield(self._exit)

    async def stop(self, grace_s: float = 10.0) -> None:
        """End it, and return when it is gone; without grace it is killed, also where a stop is
        under way. May be called twice; cancelling the caller does not stop the stop."""
        if self._exit is None:
            self._unwanted = True
            return
        if self._stop is None:
            self._stop = spawn(self._ladder(grace_s), name=f"{self.name}:stop")
        elif grace_s <= 0 and self.returncode is None:
            self._signal(signal.SIGKILL)
        await asyncio.shield(self._stop)

    def load_failed(self, what: str) -> LoadFailed:
        """The error for a load that did not succeed: `what` happened, why it did as far as that is
        known, and the child's last words."""
        cause = self.cause
        because = f": {cause}" if cause else ""
        words = self.words.quoted()
        said = "" if words == f"worker: {cause}" else f"\n{words}"  # once is enough
        return LoadFailed(f"{what}{because}{said}", killed=self._killed_from_outside)

    @property
    def cause(self) -> str | None:
        """Why it has ended, in words for people; None where nobody knows."""
        return self.words.cause(self.returncode) if self._stop is None else None

    @property
    def _killed_from_outside(self) -> bool:
        # A crash of its own doing (SIGABRT, SIGSEGV) would only come again.
        return self._stop is None and self.returncode in (-signal.SIGKILL, -signal.SIGTERM)

    async def _ladder(self, grace_s: float) -> None:
        if grace_s <= 0:
            await self._kill()
            return
        # 1. EOF: the worker finishes what it is at and goes. Others do not notice, and are not
        # waited for.
        self._close_stdin()
        if self._ends_at_eof and await self._gone_within(grace_s):
            return
        # 2. SIGTERM to the group: the leader may be a shell whose child is the server.
        self._signal(signal.SIGTERM)
        if await self._gone_within(TERM_GRACE_S if self._ends_at_eof else grace_s):
            return
        # 3. SIGKILL: a server stuck in a driver call answers nothing else. 4. Reap.
        self._log.warning("child_killed", pid=self.pid)
        await self._kill()

    async def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        while not await self._gone_within(self._killed_s):
            # It still has its memory, so nobody is told that it is gone; but people are told why
            # they wait.
            self._log.error(
                "child_outlives_kill", pid=self.pid, hint="the kernel has it, see dmesg"
            )

    async def _gone_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _close_stdin(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        # The group's number is the leader's pid, and stays taken as long as any member lives.
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _reap(
        self,
        process: asyncio.subprocess.Process,
        output: LineReader,
        transport: asyncio.ReadTransport,
    ) -> int:
        status = await process.wait()
        # What the leader left behind has nobody to serve any more, and would hold memory and the
        # pipe.
        self._signal(signal.SIGKILL)
        forget_group(process.pid)
        self._close_stdin()
        await asyncio.wait([output.ended], timeout=OUTPUT_GRACE_S)
        transport.close()
        self._log.info("child_gone", pid=process.pid, status=status)
        return status

    def serves(self) -> None:
        """It serves: what it has said until now is not why it will end."""
        self.words.serves()

    def _speak(self, text: str) -> Callable[..., object]:
        """The log's method for one line: what is mere information is for who looks for it."""
        level = level_of(text)
        alarming = level == "W" or (level in ERRORS and is_error(text))
        is_alarm = alarming and not any(words in text for words in NO_CAUSE_FOR_ALARM)
        name = "warning" if is_alarm else "debug"
        speak: Callable[..., object] = getattr(self._log, name)
        return speak

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self.lines += 1
        self.words.add(text)
        self._speak(text)("child_says", line=text)
        if self._on_line:
            self._on_line(text)
