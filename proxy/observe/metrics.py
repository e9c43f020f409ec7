"""Numbers for Prometheus: requests are counted as they end, everything else is read when it is
asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.observe.events import Event
from proxy.observe.lives import Lives
from proxy.observe.tally import Spread, Tally

# First bytes take from a millisecond (all cached) to minutes (a long prompt on a CPU, or a load).
FIRST_BYTE_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True, slots=True)
class BackendNumbers:
    """One backend at the moment of the scrape."""

    id: str
    model: str
    state: str
    in_flight: int
    waiting: int
    moe_cpu_layers: int | None
    tokens_per_second: float
    held: Mapping[str, Mapping[str, int]]  # device -> what for -> bytes


@dataclass(frozen=True, slots=True)
class DeviceNumbers:
    """One device at the moment of the scrape, in bytes; None: nobody says."""

    name: str
    total: int | None
    free: int | None
    ours: int | None
    others: int | None


@dataclass(frozen=True, slots=True)
class KeyNumbers:
    """What was made of one API key."""

    name: str
    requests: int
    refused: int


class Numbers(Protocol):
    """What is read when it is asked for."""

    def backends(self) -> Iterable[BackendNumbers]: ...
    def devices(self) -> Iterable[DeviceNumbers]: ...
    def keys(self) -> Iterable[KeyNumbers]: ...
    def queue_length(self) -> int: ...
    def host_pressure(self) -> float | None:
        """The share of the last seconds in which some task waited for memory, 0 to 1."""


class Metrics:
    """The numbers of one proxy; none is global, so that tests and several proxies do not meet."""

    def __init__(self, numbers: Numbers, listen: Callable[[Callable[[Event], None]], None]) -> None:
        """`listen` is the event log's."""
        self._numbers, self._lives = numbers, Lives()
        listen(self._lives)
        self._requests = Tally(
            "moe_proxy_requests",
            "Requests that ended, by path as routed, model and HTTP status.",
            ("path", "model", "status"),
        )
        self._first_byte_s = Spread(
            "moe_proxy_first_byte_seconds",
            "Time from a request to the first byte of its answer.",
            ("model",),
            FIRST_BYTE_BUCKETS_S,
        )
        self._bytes = Tally("moe_proxy_answer_bytes", "Bytes of engines' answers.", ("model",))
        self._tokens = Tally(
            "moe_proxy_tokens",
            "Tokens, by kind: read, cached (of prompts, and not read again), generated.",
            ("model", "kind"),
        )

    def count(
        self,
        path: str,
        model: str,
        status: int,
        bytes_sent: int,
        first_byte_s: float | None,
        tokens: tuple[int | None, int | None, int | None] = (None, None, None),
    ) -> None:
        """One request has ended. `path` is a route's and `model` one that exists, so that there are
        few of each. `tokens`: of the whole prompt, cached ones of these, generated ones.
        """
        self._requests.add((path, model, str(status)))
        if model:
            prompt, cached, generated = (count or 0 for count in tokens)
            self._bytes.add((model,), bytes_sent)
            self._tokens.add((model, "read"), max(prompt - cached, 0))
            self._tokens.add((model, "cached"), cached)
            self._tokens.add((model, "generated"), generated)
        if first_byte_s is not None:
            self._first_byte_s.add((model,), first_byte_s)

    def text(self) -> bytes:
        """Prometheus' text format. The first time loads its library."""
        from proxy.observe import exposition

        counted = (self._requests, self._first_byte_s, self._bytes, self._tokens)
        return exposition.text((*self._lives.tallies, *counted), self._numbers)
