"""Who lends, by Ray: an actor on each of the nodes that do, which has a giver there.

Ray ends an actor with the process that has started it, and a giver ends with its actor: what is
lent ends with the supervisor that has asked for it. Ray is imported in functions, as the package
has to be there without it.
"""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.fleet.cluster.machine import machine_env
from proxy.fleet.cluster.machines import chosen
from proxy.fleet.rpc import giver
from proxy.fleet.rpc.free import free_bytes
from proxy.fleet.rpc.helper import helper
from proxy.fleet.rpc.lending import Giver, NothingLent, lending
from proxy.text import gib

log = structlog.get_logger()

# Less than this is not worth a machine: the network costs more than the layer gives.
LEAST_BYTES: Final = 1 << 30
# For a node to say what it has, where Ray may have to start a process for it.
SAYS_WITHIN_S: Final = 8.0


class Host:
    """On the node that lends: an actor of Ray's."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def lend(self, token: str) -> tuple[str, int]:
        """Where."""
        import ray

        host = ray.util.get_node_ip_address()
        env, order = machine_env(), giver.Order(token)  # Ray hides the cards from its actors
        arguments = ("--host", host, "--", "-t", str(cpu_count() or 1))
        return host, await self._stack.enter_async_context(helper("giver", order, arguments, env))

    async def end(self) -> None:
        await self._stack.aclose()


def offered() -> int:
    """On a node: what it could lend. Its cards are hidden from nobody who only looks."""
    return free_bytes()


@dataclass(frozen=True, slots=True)
class RayLoan:
    givers: Sequence[Giver]
    hosts: Sequence[Any]

    async def end(self) -> None:
        """Each with what it has lent: told first, as that is sooner."""
        import ray

        for host in self.hosts:
            host.end.remote()
        for host in self.hosts:
            ray.kill(host)


class RayLender:
    """Keeps `lending.Lender`. One for each supervisor, on the machine that is `own` to Ray."""

    def __init__(self, own: str) -> None:
        self._own = own

    async def offers(self) -> Sequence[int]:
        return [size for size in (await self._free()).values() if size >= LEAST_BYTES]

    async def lend(self, model: str, size_bytes: int, reserve_bytes: int) -> RayLoan:
        import ray

        free = await self._free()
        shares = shared_out(free, size_bytes, reserve_bytes)
        hosts: list[Any] = []
        try:
            for node in shares:
                where = _on(node)
                hosts.append(ray.remote(Host).options(num_cpus=0, **where).remote())
            tokens = [secrets.token_hex(giver.TOKEN_BYTES) for _ in hosts]
            told = [host.lend.remote(token) for host, token in zip(hosts, tokens, strict=True)]
            places = await asyncio.gather(*told)
        except BaseException:
            await RayLoan((), hosts).end()
            raise
        givers = [
            Giver(host, port, token, size)
            for (host, port), token, size in zip(places, tokens, shares.values(), strict=True)
        ]
        return RayLoan(givers, hosts)

    async def _free(self) -> dict[str, int]:
        """Node -> what it could lend. Who does not say in time lends nothing."""
        import ray

        others = chosen(await asyncio.to_thread(ray.nodes)) - {self._own}
        asked = {
            node: ray.remote(offered).options(num_cpus=0, max_retries=0, **_on(node)).remote()
            for node in sorted(others)
        }

        async def answer(node: str) -> int:
            try:
                async with asyncio.timeout(SAYS_WITHIN_S):
                    return int(await asked[node])
            except Exception as error:
                log.warning("node_offers_nothing", ray_node=node, error=str(error) or "no answer")
                return 0

        return dict(zip(asked, await asyncio.gather(*map(answer, asked)), strict=True))


@asynccontextmanager
async def lending_by_ray(own: str) -> AsyncIterator[Path]:
    """For a supervisor: where its node asks, for the length of the block."""
    # A socket's path has 107 bytes at most, and those of homes may be long.
    with tempfile.TemporaryDirectory(prefix="moe-rpc-") as folder:
        socket = Path(folder) / "lend"
        async with lending(socket, RayLender(own)):
            yield socket


def shared_out(free: Mapping[str, int], size_bytes: int, reserve_bytes: int = 0) -> dict[str, int]:
    """How much of which node, of as few as will do: all of it, or what there is, and of each the
    reserve. Pure. Raises NothingLent where that is nothing."""
    least = min(size_bytes, LEAST_BYTES)
    shares: dict[str, int] = {}
    left = size_bytes
    for node in _largest_first(free):
        usable = free[node] - reserve_bytes
        if left <= 0 or usable < least:
            break
        shares[node] = min(usable, left) + reserve_bytes
        left -= usable
    if not shares:
        if not free:
            raise NothingLent("there is no other node in the fleet")
        most = max(free.values())
        raise NothingLent(
            f"no other node has {gib(least + reserve_bytes)} free, the most has {gib(most)}; "
            f"it lacks {gib(size_bytes)} here"
        )
    return shares


def _largest_first(free: Mapping[str, int]) -> Iterable[str]:
    return sorted(free, key=lambda node: (-free[node], node))


def _on(node: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
