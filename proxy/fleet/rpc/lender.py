"""Who lends, by Ray: an actor on each of the nodes that do, which has a giver there.

Ray ends an actor with the process that has started it, and a giver ends with its actor: what is
lent ends with the supervisor that has asked for it. Ray is imported in functions, as the package
has to be there without it.
"""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.fleet.cluster.machine import machine_env
from proxy.fleet.cluster.machines import wanted
from proxy.fleet.rpc import giver
from proxy.fleet.rpc.free import free_by_place
from proxy.fleet.rpc.helper import Refused, begun
from proxy.fleet.rpc.lending import Giver, NothingLent, lending
from proxy.fleet.rpc.promises import Promises
from proxy.text import gib

log = structlog.get_logger()

# Less than this is not worth a machine: the network costs more than the layer gives.
LEAST_BYTES: Final = 1 << 30
# For a node to say what it has, where Ray may have to start a process for it.
SAYS_WITHIN_S: Final = 8.0
# Where that is only for a plan, which waits less long (borrower.OFFERED_WITHIN_S): one node that
# hangs must not hide the others.
OFFERS_WITHIN_S: Final = 4.0
# And to lend it.
BEGINS_WITHIN_S: Final = 30.0
# How often nodes are asked anew, where some have less than they have said.
MOST_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Lends:
    """Where a node does, and how much; or why not."""

    host: str = ""
    port: int = 0
    size_bytes: int = 0
    why: str = ""


class Host:
    """On the node that lends: an actor of Ray's."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def lend(self, token: str, size_bytes: int, least_bytes: int) -> Lends:
        """So much, or as much as others have not been promised meanwhile, but not less than
        that."""
        import ray

        host = ray.util.get_node_ip_address()
        env = machine_env()  # Ray hides the cards from its actors
        order = giver.Order(token, size_bytes, least_bytes)
        arguments = ("--host", host, "--", "-t", str(cpu_count() or 1))
        try:
            said = await self._stack.enter_async_context(begun("giver", order, arguments, env))
        except (Refused, OSError) as error:
            return Lends(host, why=str(error))
        return Lends(host, said.port, said.size_bytes)

    async def end(self) -> None:
        await self._stack.aclose()


def offered() -> int:
    """On a node: what it could lend. Its cards are hidden from nobody who only looks."""
    return max([0, *Promises(machine_env()).left(free_by_place).values()])


@dataclass(frozen=True, slots=True)
class RayLoan:
    givers: list[Giver]
    hosts: list[Any]

    async def end(self) -> None:
        _end(self.hosts)


class RayLender:
    """Keeps `lending.Lender`. One for each supervisor, on the machine that is `own` to Ray."""

    def __init__(self, own: str) -> None:
        self._own = own

    async def offers(self) -> Sequence[int]:
        free, _ = await self._free(within_s=OFFERS_WITHIN_S)
        return [size for size in free.values() if size >= LEAST_BYTES]

    async def lend(self, model: str, size_bytes: int, reserve_bytes: int) -> RayLoan:
        loan, left = RayLoan([], []), size_bytes
        lending: set[str] = set()
        try:
            # What a node says that it has may be promised to another load before it is asked for
            # it: then others may have it.
            refused = ""
            for _ in range(MOST_ROUNDS):
                free, silent = await self._free(but=lending)
                try:
                    shares = shared_out(free, left, reserve_bytes, silent)
                except NothingLent:
                    if loan.givers:
                        break
                    raise
                least = min(left, LEAST_BYTES) + reserve_bytes
                lent, refused = await self._have_lend(loan, shares, least)
                left -= sum(size - reserve_bytes for size in lent.values())
                lending |= lent.keys()
                if lent == shares or left <= 0:
                    break
            if not loan.givers:
                raise NothingLent(f"no other node has lent anything: {refused}")
        except BaseException:
            await loan.end()
            raise
        return loan

    async def _have_lend(
        self, loan: RayLoan, shares: Mapping[str, int], least_bytes: int
    ) -> tuple[dict[str, int], str]:
        """Which nodes do, and how much; and why another one does not. All of it becomes a part of
        `loan`, also when this is cancelled."""
        import ray

        refused: list[str] = []

        async def asked(node: str, size: int) -> int:
            host = ray.remote(Host).options(num_cpus=0, **_on(node)).remote()
            loan.hosts.append(host)
            token = secrets.token_hex(giver.TOKEN_BYTES)
            try:
                async with asyncio.timeout(BEGINS_WITHIN_S):
                    said: Lends = await host.lend.remote(token, size, least_bytes)
            except TimeoutError:
                said = Lends(why=f"one has not begun to within {BEGINS_WITHIN_S:g} s")
            except Exception as error:  # Ray's own are long, and for the log
                log.warning("node_does_not_lend", ray_node=node, error=str(error))
                said = Lends(why=f"one is lost ({type(error).__name__})")
            if said.why:
                refused.append(said.why)
                _end([host])
                return 0
            loan.givers.append(Giver(said.host, said.port, token, said.size_bytes))
            return said.size_bytes

        sizes = await asyncio.gather(*(asked(node, size) for node, size in shares.items()))
        lent = {node: size for node, size in zip(shares, sizes, strict=True) if size}
        return lent, "; ".join(refused)

    async def _free(
        self, but: Collection[str] = (), within_s: float = SAYS_WITHIN_S
    ) -> tuple[dict[str, int], int]:
        """Node -> what it could lend; and how many do not say in time, which lend nothing."""
        import ray

        others = await asyncio.to_thread(wanted) - {self._own} - {*but}
        asked = {
            node: ray.remote(offered).options(num_cpus=0, max_retries=0, **_on(node)).remote()
            for node in sorted(others)
        }

        async def answer(node: str) -> int | None:
            try:
                async with asyncio.timeout(within_s):
                    size: int = await asked[node]
                    return size
            except Exception as error:
                log.warning("node_offers_nothing", ray_node=node, error=str(error) or "no answer")
                return None

        said = dict(zip(asked, await asyncio.gather(*map(answer, asked)), strict=True))
        free = {node: size for node, size in said.items() if size is not None}
        return free, len(said) - len(free)


@asynccontextmanager
async def lending_by_ray(own: str) -> AsyncIterator[Path]:
    """For a supervisor: where its node asks, for the length of the block."""
    # A socket's path has 107 bytes at most, and those of homes may be long.
    with tempfile.TemporaryDirectory(prefix="moe-rpc-") as folder:
        socket = Path(folder) / "lend"
        async with lending(socket, RayLender(own)):
            yield socket


def shared_out(
    free: Mapping[str, int], size_bytes: int, reserve_bytes: int = 0, silent: int = 0
) -> dict[str, int]:
    """How much of which node, of as few as will do: all of it, or what there is, and of each the
    reserve. `silent`: how many more have not said what they have. Pure. Raises NothingLent where
    that is nothing."""
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
        not_said = f"{silent} did not say what they have within {SAYS_WITHIN_S:g} s"
        if not free:
            alone = "there is no other node in the fleet"
            raise NothingLent(f"of the other nodes, {not_said}" if silent else alone)
        most = max(free.values())
        raise NothingLent(
            f"no other node has {gib(least + reserve_bytes)} free, the most has {gib(most)}; "
            f"it lacks {gib(size_bytes)} here" + (f"; {not_said}" if silent else "")
        )
    return shares


def _largest_first(free: Mapping[str, int]) -> Iterable[str]:
    return sorted(free, key=lambda node: (-free[node], node))


def _end(hosts: Iterable[Any]) -> None:
    """Each with what it has lent: told first, as that is sooner."""
    import ray

    for host in hosts:
        host.end.remote()
    for host in hosts:
        ray.kill(host)


def _on(node: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
