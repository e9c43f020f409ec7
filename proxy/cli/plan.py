"""The command `plan`: finds the model, what holds for it and the budgets, reads the header, plans.

Loads nothing. Everything is as `serve` would have it, except for what the command line says.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.gguf_reader import read_header
from proxy.cli.client import Client
from proxy.cli.inventory import catalog_of
from proxy.control.capacity import budgets_of
from proxy.engine.types import LoadOptions
from proxy.errors import BadRequest
from proxy.memory.host import available_host_bytes
from proxy.placement.commandline import server_args
from proxy.placement.estimate import Settings
from proxy.placement.footprint import settings_of, ubatch_of
from proxy.placement.kv import KV_TYPES
from proxy.placement.plan import Plan, Tune, plan
from proxy.placement.ubatch import choose_ubatch
from proxy.policy.load import load
from proxy.policy.model import ModelPolicy, Policies
from proxy.policy.units import parse_size
from proxy.routing.resolver import Resolver
from proxy.split import AUTO, Split, cpu_layers

# What a single device is called where nobody said so.
UNNAMED = "GPU"


@dataclass(frozen=True, slots=True)
class Question:
    """What the command line asks. None: as the policies say. `vram` has whole devices' sizes."""

    model: str
    vram: Mapping[str, int]
    ctx: int | None = None
    parallel: int | None = None
    kv_type: str | None = None
    ubatch: int | None = None
    tune: Tune | None = None
    split: Split | None = None
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
    policy, path = _model(question.model, policies)
    header = _header(path)
    settings = _settings(question, policy, header)
    moves = policy.dense_cpu_layers if settings.dense else policy.moe_cpu_layers
    split = next(split for split in (question.split, moves, AUTO) if split is not None)
    given = None if split == AUTO else len(cpu_layers(split, header.layers))
    budgets, tune = budgets_of(question.vram, policies), question.tune or policy.tune
    try:
        made = plan(
            header,
            settings,
            budgets,
            ubatch=question.ubatch
            or ubatch_of(policy.args)
            or choose_ubatch(tune, header, settings, budgets, given),
            cpu_layers=given,
            host_free_bytes=available_host_bytes(),
        )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    rpc = policy.rpc if any(name.startswith("RPC") for name in question.vram) else ()
    return Answer(made, policy.name, tuple(server_args(made, path, rpc=rpc)))


def _settings(question: Question, policy: ModelPolicy, header: Header) -> Settings:
    """What `serve` would load the model with, and over that what the question says."""
    ctx = question.ctx or policy.ctx
    settings = settings_of(
        LoadOptions(
            policy.name,
            header.files[0],
            mode=policy.mode,
            ctx=min(ctx, header.context_length or ctx),
            parallel=question.parallel or policy.parallel,
            args=policy.args,
            dense=not header.is_moe and policy.dense_cpu_layers is not None,
        )
    )
    if question.kv_type is not None:
        settings = replace(settings, key_type=question.kv_type, value_type=question.kv_type)
    for kind in (settings.key_type, settings.value_type):
        if kind not in KV_TYPES:
            raise BadRequest(f"KV type {kind!r} is unknown; use {', '.join(KV_TYPES)}")
    return settings


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


def _model(name: str, policies: Policies) -> tuple[ModelPolicy, Path]:
    """What holds for a model, and its file: a file of this name, or the one that `serve` finds."""
    if name.lower().endswith(".gguf") and Path(name).exists():
        path = Path(name).resolve()
        named = (m for m in policies.models.values() if m.path and m.path.resolve() == path)
        return next(named, replace(policies.defaults, name=path.stem)), path
    model = Resolver(lambda: policies, catalog_of(policies, os.environ)).resolve(name)
    return model.policy, model.path


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except (OSError, GgufError) as error:
        raise BadRequest(str(error)) from None
