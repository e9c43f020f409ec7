"""One name for each RPC device, whichever worker uses it.

llama.cpp numbers RPC devices within a process: what is RPC0 to one worker may be RPC1 to another
one that was given other servers. Outside the workers each server keeps the number that it was given
first.
"""

from collections.abc import Sequence


class RpcNames:
    """Numbers servers in the order in which they become known, those of `[devices] rpc` first."""

    def __init__(self) -> None:
        self._servers: list[str] = []  # what changes

    def know(self, servers: Sequence[str]) -> None:
        self._servers += [server for server in servers if server not in self._servers]

    def of(self, servers: Sequence[str]) -> dict[str, str]:
        """A worker's own name -> the one used outside, for a worker with these servers.

        Read, not tried: a server that offers several devices shifts the numbers of those behind it.
        """
        self.know(servers)
        return {f"RPC{i}": f"RPC{self._servers.index(server)}" for i, server in enumerate(servers)}
