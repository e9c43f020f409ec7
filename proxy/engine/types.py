"""What the pool knows of an engine: how one is asked for, what it answers, and the protocol each
kind keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Mode = Literal["generation", "embedding", "rerank"]
DeviceKind = Literal["cpu", "gpu", "igpu", "accel"]
CPU = "CPU"
# In the place of addresses in `LoadOptions.rpc`: servers that the fleet lends for each start.
FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Everything that decides what is loaded: the key of a backend (two requests with equal ones
    share it).

    The expert split is not part of it for a hosted engine, since it can change at any moment;
    `split` is set only where a split needs a process of its own (engine "command", or the policy's
    `split = "separate"`).
    """

    model: str  # the catalogue's name, also the `model` in the engine's answers
    path: Path  # the GGUF, or the first file of a split one
    mode: Mode = "generation"
    ctx: int = 8192  # tokens that one conversation may use
    parallel: int = 4  # conversations at once
    engine: Literal["hosted", "command"] = "hosted"
    # argv of a command engine, and of what stops it, as proxy/engine/command_line.py fills them in.
    command: tuple[str, ...] = ()
    stop_command: tuple[str, ...] = ()
    ready_path: str = "/health"  # what of a command engine tells that it is ready
    # Variables of a command engine, as with_own() of proxy/engine/environment.py takes them. No
    # log shows them.
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    args: tuple[str, ...] = ()  # more llama-server arguments
    unsafe_args: bool = False  # whether those may be that do more than serve a model
    projector: Path | None = None  # the image or audio part that goes with the model
    adapters: tuple[Path, ...] = ()  # LoRA adapters
    template: Path | None = None  # a Jinja chat template in the place of the model's own
    # llama.cpp RPC servers used as devices, host:port; or FLEET alone
    rpc: tuple[str, ...] = ()
    no_attention: tuple[str, ...] = ()  # devices that are for experts only
    repack: Literal["auto", "on", "off"] = "auto"
    libdir: Path | None = None
    backends: tuple[Path, ...] = ()  # of ggml, beside those in libdir
    confine: bool = True  # whether a hosted worker is kept from all that it need not do
    threads: int | None = None
    split: int | None = None
    # For a model without experts: its feed-forward weights are what moves, in their place.
    dense: bool = False
    # Tokens of a prompt that are computed at once; None: the engine's own choice. It changes no
    # answer, so a backend with another one serves as well.
    ubatch: int | None = None
    # llama.cpp's expert cache: its size, 0 for none, and how many layers, counted from the first,
    # it has. Those never move. Like the batch, it is how something is computed.
    cache_mib: int = 0
    cached_layers: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens: a Unix socket, or a TCP port on loopback."""

    socket: str | None = None
    port: int | None = None

    @property
    def origin(self) -> str:
        """The URL to put before a path. A Unix socket needs a host name too, which is not looked
        at."""
        return f"http://127.0.0.1:{self.port}" if self.port else "http://worker"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that has experts: where they are now, and how large they are.

    Of a model that is loaded with `dense`, its feed-forward weights count as such.
    """

    index: int
    experts: str  # "CPU" or a device's name; mapped or repacked is the worker's business
    experts_bytes: int
    attention_device: str  # the device that has this layer's attention, or "CPU"


@dataclass(frozen=True, slots=True)
class Device:
    """A device as llama.cpp reports it. Unknown memory is None."""

    name: str
    description: str
    kind: DeviceKind
    total_bytes: int | None
    free_bytes: int | None
    device_id: str | None = None  # PCI bus id, where it has one


@dataclass(frozen=True, slots=True)
class Move:
    """What one change of placement did."""

    layers: int  # how many layers' experts changed their place
    staged_s: float  # copying in the background
    gate_s: float  # the longest time that decode steps were held
    short_of_memory: str | None = None  # the device that had no room for the rest, if so
    superseded: bool = False  # another target came before this one was reached
    settled: bool = True  # nothing is left to repack


@dataclass(frozen=True, slots=True)
class Status:
    """What an engine holds right now."""

    block_count: int  # the model's layers, with and without experts
    layers: tuple[Layer, ...] = ()
    # device -> kind ("weights", "kv", "compute", "experts", and "cache" where there is one) ->
    # bytes, as far as the engine reports them
    held: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    settled: bool = True
    # Layers that an expert cache has: whatever is planned is planned of `layers`, and they are not
    # among those.
    cached: tuple[int, ...] = ()

    @property
    def moe_cpu_layers(self) -> int:
        """N as in `--n-cpu-moe N`: the experts of all layers below N are on the CPU. 0 for a model
        without any."""
        if not self.layers and not self.cached:
            return 0
        on_cpu = [layer.index for layer in self.layers if layer.experts == CPU]
        if len(on_cpu) == len(self.layers):
            return self.block_count
        return max((*on_cpu, *self.cached), default=-1) + 1


class Engine(Protocol):
    """A started or starting backend process. All methods belong to the event loop that made it."""

    @property
    def address(self) -> Address: ...

    @property
    def pid(self) -> int | None: ...

    @property
    def live_moves(self) -> bool:
        """Whether experts can move while it runs."""

    @property
    def moves_by_reload(self) -> bool:
        """Whether another split needs another process: live moves are not possible, but there is
        something to move."""

    @property
    def why_no_moves(self) -> str | None:
        """The reason why not, for people."""

    @property
    def confined(self) -> str | None:
        """From what its process is kept, for people, or "no: " and why it is not; None as long as
        that is not known."""

    async def start(self) -> None:
        """Spawn and wait until it serves. Raises LoadFailed with the engine's own last words."""

    async def wait_exit(self) -> int:
        """The exit status, once the process is gone (negative: the signal that ended it)."""

    @property
    def cause(self) -> str | None:
        """Why its process has ended, in words for people; None where it has not, was told to, or
        nobody knows."""

    def known(self) -> Status:
        """The status as last heard of, without asking."""

    async def devices(self, tell: Callable[[], None] | None = None) -> Sequence[Device]:
        """As the engine reports them now. Raises NoAnswer where it hangs, BackendDied where it is
        gone. `tell` is called where they show something else later, once, until this is asked
        again; the engine looks four times a second for it."""

    async def pulse(self) -> int:
        """How much it has done so far, counted in whatever it counts: of interest is only whether
        that has changed. 0 where it cannot tell. Returns at once unless the worker is silent:
        raises NoAnswer, or BackendDied where nobody will answer any more."""

    async def place(self, placement: Mapping[int, str], *, settle_s: float = 0.0) -> Move:
        """Move each named layer's experts to "CPU" or to a device. Returns when that is done, was
        superseded by a later call, or memory ran out; waits up to `settle_s` more for repacking to
        finish. Raises Conflict where `live_moves` is False or the placement cannot be, NoAnswer
        where the engine hangs, BackendDied where it ended meanwhile."""

    async def stop(self, grace_s: float = 10.0) -> None:
        """End the process: politely, then not. Returns when it is gone; safe to call twice."""
