"""The policies as the rest of the proxy reads them: complete, checked, and never changed.

Sizes are bytes, durations seconds; `keep_alive_s` is `units.FOREVER` (infinity) where a
model is never unloaded. Every value is the effective one, so nobody outside looks up a default.
The attributes mirror `proxy.policy.fields`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from proxy.policy.patterns import best, is_pattern
from proxy.split import Split

Mode = Literal["generation", "embedding", "rerank"]


@dataclass(frozen=True, slots=True)
class Server:
    host: str  # or several, with commas between them
    port: int
    api_keys_file: Path | None
    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    remote_policies: bool
    max_queue: int
    timeout_s: float
    max_body_bytes: int
    max_bodies_bytes: int
    keep_prompts_bytes: int
    keep_responses_bytes: int
    warm_workers: int
    drain_s: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """`ollama_dir` of None: the places where Ollama keeps its store are to be tried."""

    dirs: tuple[Path, ...]
    ollama: bool
    ollama_dir: Path | None
    state: Path


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """`limit_bytes` of None: no limit. `memory` of None: the source is found by PCI bus id."""

    reserve_bytes: int
    limit_bytes: int | None
    attention: bool
    experts: bool
    memory: str | None


@dataclass(frozen=True, slots=True)
class Devices:
    """`named` has the devices with a table of their own, `others` is what holds for the rest."""

    reserve_bytes: int
    low_bytes: int
    settle_s: float
    rpc: tuple[str, ...]
    others: DevicePolicy
    named: Mapping[str, DevicePolicy]

    def for_device(self, name: str) -> DevicePolicy:
        """What holds for the device that llama.cpp calls `name`, in a table of its own or not."""
        return self.named.get(name, self.others)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`libdir` of None: llama-cpp-python's libraries. `threads` of None: llama.cpp's own choice."""

    libdir: Path | None
    backends: tuple[Path, ...]
    threads: int | None


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """What holds for one model. `path` of None: the catalogue knows the file by `name`.

    `dense_cpu_layers` is what holds in the place of `moe_cpu_layers` for a model without experts,
    None: nothing of it moves. `base` is the model that it is a variant of. `written` are the keys
    that its table sets, or its base's, while the others have their defaults; two policies are equal
    whatever that is.
    """

    name: str
    path: Path | None
    base: str | None
    aliases: tuple[str, ...]
    pinned: bool
    mode: Mode
    moe_cpu_layers: Split
    dense_cpu_layers: Split | None
    ctx: int
    ctx_step: int
    parallel: int | Literal["auto"]
    max_queue: int | None
    keep_alive_s: float
    hang_timeout_s: float
    engine: Literal["hosted", "command"]
    command: tuple[str, ...]
    ready_path: str
    stop_command: tuple[str, ...]
    load_timeout_s: float
    env: Mapping[str, str]
    confine: bool
    split: Literal["move", "separate"]
    tune: Literal["balanced", "prompt", "generation"]
    repack: Literal["auto", "on", "off"]
    moe_cache: int | Literal["auto"]  # bytes
    rpc: tuple[str, ...]  # or FLEET alone
    params: Mapping[str, object]
    args: tuple[str, ...]
    unsafe_args: bool
    written: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class Policies:
    """One whole, valid set of policies. `defaults` holds for models without a table (name "")."""

    server: Server
    catalog: Catalog
    devices: Devices
    engine: EngineOptions
    defaults: ModelPolicy
    models: Mapping[str, ModelPolicy]

    def own_name(self, name: str) -> str:
        """The name of the model that `name` is an alias of; any other name as it came."""
        for model in self.models.values():
            if name in model.aliases:
                return model.name
        return name

    def named_by_pattern(self, name: str) -> str | None:
        """The name of the model of which an alias with a star fits; None where none does."""
        owners = {
            alias: model.name
            for model in self.models.values()
            for alias in model.aliases
            if is_pattern(alias)
        }
        found = best(owners, name) if owners and name else None
        return None if found is None else owners[found]

    def for_model(self, name: str) -> ModelPolicy:
        """What holds for the model called `name`, or having it as an alias; defaults otherwise."""
        name = self.own_name(name)
        return self.models.get(name) or replace(self.defaults, name=name)
