"""The proxy's side: RPC servers of other nodes for the models whose policy says `rpc = "fleet"`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog

from proxy.engine.lent import LentServer
from proxy.engine.types import FLEET, LoadOptions
from proxy.errors import LoadFailed
from proxy.fleet.rpc.held import RAM
from proxy.fleet.rpc.promises import OwnPromises
from proxy.fleet.rpc.words import LENDS_WITHIN_S, LONGEST_LINE, SOCKET_VARIABLE, Answer, Ask
from proxy.memory.promised import Sources, sources_beside
from proxy.policy.model import Policies
from proxy.pool.hooks import Hooks
from proxy.pool.state import Backend

log = structlog.get_logger()

# Its own bound is behind the supervisor's, which tells why.
LENT_WITHIN_S: Final = LENDS_WITHIN_S + 5.0
OFFERED_WITHIN_S: Final = 5.0
NO_FLEET: Final = (
    'its policy says rpc = "fleet", and this is no node of a fleet: start it with moe-proxy fleet '
    "up, or name servers"
)

# The bytes that this machine's own devices have too little for a model, and what is to stay free of
# each other one; None: not known.
Lacking = Callable[[LoadOptions], Awaitable[tuple[int, int] | None]]


class Borrower:
    """One for the proxy. Called before a backend is started, and when it is gone."""

    def __init__(self, socket: Path | None, lacking: Lacking, sources: Sources) -> None:
        """`socket`: where this node's supervisor listens; None: there is none."""
        self.sources = sources
        self._socket, self._lacking = socket, lacking
        # What changes: by backend, its start and what was lent for it, and the connection by which
        # it is; and the bytes that each node had free, as of the last look.
        self._loans: dict[str, tuple[int, tuple[LentServer, ...], asyncio.StreamWriter]] = {}
        self._offers: Sequence[int] = ()

    def lent(self, backend_id: str) -> Sequence[LentServer]:
        """What is lent for a backend now."""
        return self._loans[backend_id][1] if backend_id in self._loans else ()

    def offered(self, rpc: Sequence[str]) -> Mapping[str, int]:
        """Devices that a model with these `rpc` could have beside those of this machine, by names
        that stand for them until they are there, with the bytes of each."""
        if FLEET not in rpc:
            return {}
        return {f"RPC-{number}": size for number, size in enumerate(self._offers)}

    async def look(self, options: LoadOptions) -> None:
        """Before a load is planned: what the fleet could give. It is nothing where it does not
        say."""
        if FLEET not in options.rpc or self._socket is None:
            return
        try:
            async with asyncio.timeout(OFFERED_WITHIN_S):
                answer, writer = await self._ask(self._socket, Ask("offers"))
            writer.close()
            self._offers = answer.offers
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("no_offers", error=str(error) or type(error).__name__)
            self._offers = ()

    async def before_start(self, backend: Backend) -> None:
        """Have lent what it lacks. Raises LoadFailed."""
        options = backend.options
        if options.engine != "hosted" or FLEET not in options.rpc:
            return
        self._end(backend.id)
        if self._socket is None:
            raise LoadFailed(f"model {options.model!r} cannot be loaded: {NO_FLEET}")
        lacking = await self._lacking(options)
        if lacking is None or not lacking[0]:
            return  # it has room here, or what is wrong with its file others will say
        ask = Ask("lend", options.model, *lacking)
        try:
            async with asyncio.timeout(LENT_WITHIN_S):
                answer, writer = await self._ask(self._socket, ask)
        except TimeoutError:
            raise LoadFailed(self._why(options, "the fleet has not answered")) from None
        except (OSError, ValueError) as error:
            why = f"the fleet does not answer: {str(error) or type(error).__name__}"
            raise LoadFailed(self._why(options, why)) from error
        if answer.error:
            writer.close()
            raise LoadFailed(self._why(options, answer.error))
        servers = tuple(LentServer(each.address, each.size_bytes) for each in answer.lent)
        self._loans[backend.id] = backend.generation, servers, writer

    def gone(self, backend: Backend) -> None:
        """It has ended: what was lent for it is not any more."""
        loan = self._loans.get(backend.id)
        if loan is not None and loan[0] == backend.generation:
            self._end(backend.id)

    def close(self) -> None:
        for backend_id in list(self._loans):
            self._end(backend_id)

    def _end(self, backend_id: str) -> None:
        if (loan := self._loans.pop(backend_id, None)) is not None:
            loan[2].close()

    @staticmethod
    def _why(options: LoadOptions, why: str) -> str:
        return f"model {options.model!r} cannot be loaded over the fleet: {why}"

    @staticmethod
    async def _ask(socket: Path, ask: Ask) -> tuple[Answer, asyncio.StreamWriter]:
        """The connection stays open, if it did not raise OSError or ValueError, or was
        cancelled."""
        reader, writer = await asyncio.open_unix_connection(socket, limit=LONGEST_LINE)
        try:
            writer.write(msgspec.json.encode(ask) + b"\n")
            line = await reader.readline()
            if not line:
                raise OSError("it has hung up")
            return msgspec.json.decode(line, type=Answer), writer
        except BaseException:
            writer.close()
            raise


def _reserve_bytes(policies: Policies) -> int:
    """Whoever lends does not know devices by the names of the policies: the largest holds."""
    devices = policies.devices
    return max([devices.reserve_bytes, *(each.reserve_bytes for each in devices.named.values())])


@contextmanager
def borrowing(
    env: Mapping[str, str], hooks: Hooks, lacking: Lacking, policies: Callable[[], Policies]
) -> Iterator[Borrower]:
    """For the length of the block, with what is said in `env`. Others make way for a load only if
    it can be. What its machine has promised to others, and they have not taken yet, is not the
    node's own any more: its memory is read by the borrower's `sources`."""
    socket = Path(env[SOCKET_VARIABLE]) if env.get(SOCKET_VARIABLE) else None
    own = OwnPromises(env, lambda: _reserve_bytes(policies()))
    borrower = Borrower(socket, lacking, sources_beside(own.open, RAM) if socket else Sources())
    hooks.subscribe(before_start=borrower.before_start, gone=borrower.gone)
    try:
        yield borrower
    finally:
        borrower.close()
        own.close()
