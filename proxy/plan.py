"""The command `plan`: finds the model and the budgets, reads the header, plans. Loads nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.catalog.gguf import GgufError, Header, read_header
from proxy.catalog.local import Catalog
from proxy.client import Client
from proxy.errors import BadRequest, ModelNotFound
from proxy.placement.budget import Budget
from proxy.placement.commandline import server_args
from proxy.placement.estimate import Settings
from proxy.placement.kv import KV_TYPES
from proxy.placement.plan import Plan, Tune, plan
from proxy.policy.load import load
from proxy.policy.model import Policies
from proxy.policy.units import parse_size
from proxy.split import AUTO, Split, resolve

# What a single device is called where nobody said so.
UNNAMED = "GPU"
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Question:
    """What the command line asks. None: as the policies say. `vram` has whole devices' sizes."""

    model: str
    vram: Mapping[str, int]
    ctx: int | None = None
    parallel: int | None = None
    kv_type: str | None = None
    ubatch: int | None = None
    tune: Tune = "balanced"
    split: Split = AUTO
    policies: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    plan: Plan
    model: str
    args: tuple[str, ...]


def answer(question: Question) -> Answer:
    """The plan for a question.

    Raises BadRequest for what is set up wrongly, ModelNotFound with near names.
    """
    if not question.vram:
        raise BadRequest("no device is known; say --vram 12GiB, or load a model first")
    loaded = load(question.policies, os.environ)
    if loaded.policies is None:
        raise BadRequest("; ".join(map(str, loaded.problems)))
    policies = loaded.policies
    name, path = _model(question.model, policies)
    policy = policies.for_model(name)
    kv_type = question.kv_type or "f16"
    if kv_type not in KV_TYPES:
        raise BadRequest(f"KV type {kv_type!r} is unknown; use {', '.join(KV_TYPES)}")
    header = _header(path)
    settings = Settings(
        ctx=question.ctx or policy.ctx,
        parallel=question.parallel or policy.parallel,
        key_type=kv_type,
        value_type=kv_type,
        per_token_outputs=policy.mode != "generation",
    )
    try:
        made = plan(
            header,
            settings,
            budgets_of(question.vram, policies),
            tune=question.tune,
            ubatch=question.ubatch,
            cpu_layers=_cpu_layers(question.split, header),
            host_free_bytes=host_free_bytes(),
        )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    rpc = policies.devices.rpc if any(name.startswith("RPC") for name in question.vram) else ()
    return Answer(made, name, tuple(server_args(made, path, rpc=rpc)))


def budgets_of(vram: Mapping[str, int], policies: Policies) -> list[Budget]:
    """What the policies leave of each device: its reserve stays free, its limit is kept."""
    budgets = []
    for name, size in vram.items():
        rules = policies.devices.for_device(name)
        usable = max(size - rules.reserve_bytes, 0)
        if rules.limit_bytes is not None:
            usable = min(usable, rules.limit_bytes)
        budgets.append(
            Budget(
                name,
                usable,
                attention=rules.attention,
                experts=rules.experts,
                # An RPC server is never sent weights for one batch.
                streams_weights=not name.startswith("RPC"),
            )
        )
    return budgets


def parse_vram(text: str) -> dict[str, int]:
    """Devices and their sizes: "12GiB", or "CUDA0=12GiB,RPC0=8GiB" in llama.cpp's order.

    Raises ValueError that says what is allowed.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.rpartition("=")
        name = name.strip() or UNNAMED
        if name in found:
            raise ValueError(f"{name} is given twice; name each device: CUDA0=12GiB,CUDA1=8GiB")
        found[name] = parse_size(size)
    return found


def devices_of_proxy(client: Client) -> dict[str, int]:
    """The devices of a running proxy, with what is free on them and what the proxy itself holds."""
    devices = client.get("/admin/state")["devices"]
    return {
        device["name"]: device["free_bytes"] + (device["ours_bytes"] or 0)
        for device in devices
        if device["free_bytes"] is not None
    }


def host_free_bytes() -> int | None:
    """The RAM that programs could still have; None where the system does not say."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    kilobytes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(count) * 1024 for count in kilobytes), None)


def _model(name: str, policies: Policies) -> tuple[str, Path]:
    """The model's name and file: a file of this name, or the catalogue's."""
    if name.lower().endswith(".gguf") and Path(name).exists():
        path = Path(name).resolve()
        named = (m.name for m in policies.models.values() if m.path and m.path.resolve() == path)
        return next(named, path.stem), path
    own = policies.resolve(name)
    files = {model.name: model.path for model in policies.models.values() if model.path}
    catalog = Catalog(policies.catalog.dirs, files)
    entry = catalog.find(own)
    if entry is None:
        near = ", ".join(catalog.nearest(own))
        raise ModelNotFound(
            f"no model {name!r}" + (f"; did you mean {near}?" if near else " and no such file")
        )
    return entry.name, entry.path


def _cpu_layers(split: Split, header: Header) -> int | None:
    return None if split == AUTO else resolve(split, header.layers)


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except (OSError, GgufError) as error:
        raise BadRequest(str(error)) from None
