"""Ends a foreign server when we die in a way that leaves no time for it, as by SIGKILL: such a
server takes no notice of its stdin, and would keep its memory for ever."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from proxy.errors import reason_of
from proxy.tasks import spawn

log = structlog.get_logger()

# $1 is the process group, after it comes its stop command. EOF, unless "done" came before, is our
# death. A shell, since it costs next to nothing and whatever becomes of our own files is all the
# same to it.
_SCRIPT: Final = """
read -r word && [ "$word" = done ] && exit 0
group=$1; shift
[ $# -gt 0 ] && timeout -k 1 15 "$@"
kill -s TERM -- "-$group" || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -s 0 -- "-$group" || exit 0; done
kill -s KILL -- "-$group"
"""
# A shell that has nothing left to do ends at once.
REVOKED_S: Final = 5.0
_NOTHING: Final = asyncio.subprocess.DEVNULL


class LastWill:
    """For one start of a server, until `revoke`."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._end = spawn(process.wait(), name=f"{name}:last-will")

    @classmethod
    async def made(
        cls, group: int, stop_command: Sequence[str], env: Mapping[str, str], name: str
    ) -> "LastWill | None":
        """`env` is the stop command's. None where that cannot be: then the server has to be ended
        by hand, which is told."""
        try:
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", _SCRIPT, "moe-proxy-last-will", str(group), *stop_command),
                stdin=asyncio.subprocess.PIPE,
                stdout=_NOTHING,
                stderr=_NOTHING,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            log.warning("no_last_will", backend=name, why=reason_of(error))
            return None
        return cls(process, name)

    async def revoke(self) -> None:
        """The server is gone, and its number may be another's soon. May be called twice."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(b"done\n")
            stdin.close()
        await asyncio.wait((self._end,), timeout=REVOKED_S)
