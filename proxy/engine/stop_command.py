"""The program that a policy names to stop a server, as `docker stop` does; run once."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from proxy.engine.guardian import forget_command, keep_command
from proxy.engine.process import ChildProcess
from proxy.errors import LoadFailed
from proxy.tasks import spawn

log = structlog.get_logger()


class StopCommand:
    """For one start of a server."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        name: str,
        on_line: Callable[[str], None],
        *,
        without_us: bool,
    ) -> None:
        """`env` is all of its environment. `without_us`: run it also where we are killed first."""
        self._child = ChildProcess(argv, env, f"{name}:stop", on_line=on_line, ends_at_eof=False)
        self._run: asyncio.Task[bool] | None = None
        self._order = keep_command(argv, env) if without_us else ""

    @property
    def was_run(self) -> bool:
        return self._run is not None

    async def run(self, bound_s: float) -> bool:
        """Whether it did what it is for, as it says. It is killed after `bound_s`; who asks again
        gets what came of the one run, and may have less patience."""
        if self._run is None:
            self._run = spawn(self._once(), name=f"{self._child.name}:run")
        await asyncio.wait((self._run,), timeout=bound_s)
        if not self._run.done():
            log.warning("stop_command_killed", backend=self._child.name, after_s=bound_s)
            await self._child.stop(0.0)
        return await asyncio.shield(self._run)

    async def _once(self) -> bool:
        try:
            return await self._end_of_it()
        finally:
            forget_command(self._order)

    async def _end_of_it(self) -> bool:
        try:
            await self._child.start()
        except LoadFailed as error:
            log.warning("stop_command_failed", backend=self._child.name, why=error.message)
            return False
        status = await self._child.wait()
        if status != 0:
            why = self._child.load_failed(f"{self._child.argv[0]} ended with {status}").message
            log.warning("stop_command_failed", backend=self._child.name, why=why)
        return status == 0
