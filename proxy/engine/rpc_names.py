"""One name for each RPC device, whichever worker uses it.

llama.cpp numbers RPC devices within a process: what is RPC0 to one worker may be RPC1 to another
one that was given other servers. Outside the workers each server keeps the number that it was given
first.
"""

from collections.abc import Sequence


class RpcNames:
    """Numbers servers in the order in which they become known, those of `[devices] rpc` first."""

    def __init__(self) -> None:
        self._servers: list[str | None] = []  # what changes; None: a number that is free again

    def know(self, servers: Sequence[str]) -> None:
        for server in servers:
            if server in self._servers:
                continue
            if None in self._servers:
                self._servers[self._servers.index(None)] = server
            else:
                self._servers.append(server)

    def forget(self, servers: Sequence[str]) -> None:
        """There will be none at these addresses again: the next ones have their numbers."""
        self._servers = [None if server in servers else server for server in self._servers]

    def of(self, servers: Sequence[str]) -> dict[str, str]:
        """A worker's own name -> the one used outside, for a worker with these servers.

        Read, not tried: a server that offers several devices shifts the numbers of those behind it.
        """
        self.know(servers)
        return {f"RPC{i}": f"RPC{self._servers.index(server)}" for i, server in enumerate(servers)}
