"""What the handlers work with. `proxy.app` builds the parts and puts them together here."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web

from proxy.api.abilities import KnownAbilities
from proxy.api.body_budget import BodyBudget
from proxy.api.keys import ApiKeys
from proxy.api.open_requests import OpenRequests
from proxy.api.openai.kept import KeptResponses
from proxy.api.strangers import Strangers
from proxy.catalog.local import Catalog
from proxy.catalog.reference import BadName, parse_reference
from proxy.engine.log_buffer import LogBuffer
from proxy.errors import BadRequest, ModelNotFound
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.node.identity import Identity
from proxy.observe.events import EventLog
from proxy.observe.metrics import BackendNumbers, DeviceNumbers, KeyNumbers, Metrics
from proxy.observe.rates import Rates
from proxy.observe.traces import Traces
from proxy.policy.live import LivePolicies
from proxy.policy.model import ModelPolicy
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.routing.model_dirs import ModelDirs
from proxy.routing.planner import Planner
from proxy.routing.resolver import Model, Resolver
from proxy.routing.router import Router
from proxy.split import Split
from proxy.tasks import Loops
from proxy.upstream.open_calls import OpenCalls
from proxy.upstream.warm import WarmConnections

SERVING: Final = (BackendState.STARTING, BackendState.READY)


class Controller(Protocol):
    """Who moves experts."""

    async def operator(self, target: str, split: Split) -> object:
        """Set the split of a backend (by id) or of a model; returns once experts have moved."""


class Hangs(Protocol):
    """Who looks whether workers hang."""

    def answers(self, backend: Backend) -> bool:
        """Whether its worker answered when it was asked last."""


class Desired(Protocol):
    """What is known of the splits of backends."""

    def split(self, backend: Backend) -> Split | None:
        """What was asked for last, by whoever counts most."""

    def current(self, backend: Backend) -> int | None:
        """`moe_cpu_layers` as it is now, without asking the engine; None: not known."""

    def goal(self, backend: Backend) -> Mapping[int, str]:
        """Where each layer's experts are to be, as far as they were told to be somewhere."""

    def moving(self, backend: Backend) -> bool:
        """Whether experts are on their way."""

    def history(self, backend: Backend) -> list[dict[str, Any]]:
        """The last moves, oldest first."""


class WarmWorkers(Protocol):
    """Workers that wait for a model."""

    @property
    def wanted(self) -> int:
        """How many the policies want."""

    @property
    def ready(self) -> int: ...


class SplitTable(Protocol):
    """Who knows what other splits would give."""

    async def of(self, backend: Backend) -> dict[str, Any]:
        """{"least", "auto", "splits"} of a backend."""


class ModelPlans(Protocol):
    """Who knows where a model would go."""

    async def of(self, policy: ModelPolicy, path: Path, query: Mapping[str, str]) -> dict[str, Any]:
        """The plan of a model for what a URL's query asks."""


@dataclass(frozen=True)
class Services:
    """All parts, as the handlers see them. Times are monotonic seconds."""

    policies: LivePolicies
    catalog: Catalog
    resolver: Resolver
    pool: Pool
    planner: Planner
    router: Router
    desired: Desired
    controller: Controller
    events: EventLog
    loops: Loops
    log_buffer: LogBuffer
    rates: Rates
    memory: MemoryWatch
    ledger: Ledger
    dirs: ModelDirs
    hangs: Hangs
    calls: OpenCalls
    strangers: Strangers
    split_table: SplitTable
    plans: ModelPlans
    warm_workers: WarmWorkers
    started_s: float
    traces: Traces | None = None
    node: Identity = field(default_factory=Identity)
    warm: WarmConnections = field(default_factory=WarmConnections)
    keys: ApiKeys = field(default_factory=ApiKeys)
    bodies: BodyBudget = field(default_factory=BodyBudget)
    responses: KeptResponses = field(default_factory=KeptResponses)
    requests: OpenRequests = field(default_factory=OpenRequests)

    @cached_property
    def abilities(self) -> KnownAbilities:
        return KnownAbilities(self.catalog)

    def __post_init__(self) -> None:
        _ = self.metrics  # they count from now on

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(ServiceNumbers(self), self.events.listen)

    async def resolve(self, name: str) -> Model:
        """The model of this name; a file that came just now is found too. Raises ModelNotFound, and
        BadRequest for what no model can be called."""
        try:
            return self.resolver.resolve(name)
        except ModelNotFound:
            await self.dirs.look_again()
        try:
            return self.resolver.resolve(name)
        except ModelNotFound:
            check_name(name, self.resolver.did_you_mean(name))
            raise

    def only_model(self) -> str | None:
        """The model that is meant by whoever names none: the only one that is loaded, else the only
        one that there is. None where there are several."""
        serving = {b.options.model for b in self.pool.backends() if b.state in SERVING}
        loaded = set(filter(self.resolver.knows, serving))  # a file may be gone
        if len(loaded) == 1:
            return loaded.pop()
        there = {model.loaded_as for model in self.resolver.all()}
        return there.pop() if len(there) == 1 else None

    async def unload(self, model: Model, *, failed: bool = False) -> int:
        """Unload what serves `model`, once nobody uses it; returns how many, when they are gone.
        `failed`: what failed is struck off the list too, and may be tried again at once.

        A variant and its base share a backend: unloading one unloads the other.
        """
        backends = await self.router.backends_of(model, failed=failed)
        return sum(await asyncio.gather(*(self.pool.unload(b.id) for b in backends)))


class ServiceNumbers:
    """`proxy.observe.metrics.Numbers`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def backends(self) -> Iterator[BackendNumbers]:
        services = self._services
        for backend in services.pool.backends():
            yield BackendNumbers(
                id=backend.id,
                model=backend.options.model,
                state=str(backend.state),
                in_flight=backend.in_flight,
                waiting=backend.waiting_for_it,
                moe_cpu_layers=services.desired.current(backend),
                tokens_per_second=services.rates.rate(backend.id),
                held=backend.engine.known().held
                if backend.state in (BackendState.READY, BackendState.DRAINING)
                else {},
            )

    def devices(self) -> Iterator[DeviceNumbers]:
        ledger = self._services.ledger
        for name, reading in self._services.memory.latest().devices.items():
            yield DeviceNumbers(
                name=name,
                total=reading.total_bytes,
                free=reading.free_bytes,
                ours=ledger.ours(name),
                others=ledger.others(name),
            )

    def keys(self) -> Iterator[KeyNumbers]:
        for use in self._services.keys.usage():
            yield KeyNumbers(use["name"], use["requests"], use["refused"])

    def queue_length(self) -> int:
        return self._services.pool.queue_length

    def host_pressure(self) -> float | None:
        return self._services.memory.latest().host.pressure


def check_name(name: str, hint: str = "") -> None:
    """Raise BadRequest, in Ollama's words and with a `hint` behind them, for what cannot be a
    model's name."""
    try:
        parse_reference(name)
    except BadName as error:
        raise BadRequest(f"invalid model name{hint}", param="model") from error


SERVICES = web.AppKey("services", Services)
