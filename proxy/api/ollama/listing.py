"""`/api/tags`, `/api/show`, `/api/ps`: which models there are, what they are, which are loaded."""

import math
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from proxy.api.ollama.request import read_request, resolve
from proxy.api.services import SERVICES, Services
from proxy.api.wire import json_response
from proxy.catalog.entry import Entry
from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.gguf_reader import read_header
from proxy.catalog.summary import Summary
from proxy.dialect.ollama import models
from proxy.dialect.ollama.modelfile import modelfile
from proxy.dialect.ollama.options import SAMPLING
from proxy.dialect.ollama.requests import ShowBody, read
from proxy.dialect.ollama.times import NANOSECONDS, rfc3339
from proxy.engine.types import CPU
from proxy.errors import BadRequest, Busy, Hangs, ModelNotFound, ProxyError
from proxy.pool.state import Backend, BackendState
from proxy.routing.effective import served_ctx
from proxy.routing.resolver import Model
from proxy.split import plain
from proxy.threads import LISTS, MODELS

LOADED: Final = (BackendState.READY, BackendState.DRAINING)
EVERYTHING: Final = 1 << 22  # more elements than any vocabulary has
# A whole vocabulary is up to a hundred megabytes of Python's objects: only so many at once.
_verbose: Final = threading.BoundedSemaphore(2)


async def tags(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    await services.dirs.look_again()
    try:
        summaries = await LISTS.run(services.catalog.summaries)
    except Hangs:  # a disk does not answer: names are better than nothing
        summaries = {}
    entries = _tags(services, summaries)
    return json_response({"models": entries})


async def show(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = read(await read_request(request), ShowBody)
    name = body.model or body.name or ""
    if not name.strip():
        raise BadRequest("model is required", param="model")
    missing = f"model '{models.display_name(name)}' not found"
    model, _ = await resolve(services, name, missing=missing)
    if not body.verbose:
        return json_response(await MODELS.run(_show, services, model, body))
    if not _verbose.acquire(blocking=False):
        raise Busy("others are just being shown everything", retry_after_s=1.0)
    try:
        return json_response(await MODELS.run(_show, services, model, body))
    finally:
        _verbose.release()


async def ps(request: web.Request) -> web.Response:
    """What is loaded, the one that stays longest first."""
    services = request.app[SERVICES]
    loaded = [backend for backend in services.pool.backends() if backend.state in LOADED]
    now_s = time.time()
    loaded.sort(key=lambda backend: _expires_s(backend, now_s), reverse=True)
    names = [backend.options.model for backend in loaded]
    known = await MODELS.run(_known, services, names)
    shown = [_running(services, each, *known[each.options.model], now_s) for each in loaded]
    return json_response({"models": shown})


def _tags(services: Services, summaries: Mapping[str, Summary]) -> list[dict[str, Any]]:
    # As in Ollama, the youngest first.
    found = sorted(
        services.resolver.all(),
        key=lambda model: model.entry.modified_at if model.entry else 0.0,
        reverse=True,
    )
    return [
        models.tag(
            model.name,
            model.entry,
            summaries.get(model.entry.name, Summary()) if model.entry else Summary(),
            model.policy.args,
            variant=model.policy.base is not None,
        )
        for model in found
    ]


def _show(services: Services, model: Model, body: ShowBody) -> dict[str, Any]:
    entry, params = model.entry, _parameters(model)
    header, summary = None, Summary()
    if entry is not None:
        summary = services.catalog.summary(entry)
        header = _header(services, model, verbose=bool(body.verbose))
    template = models.template_of(entry, header) if entry and header else ""
    answer: dict[str, Any] = {}
    if entry and entry.licenses:
        answer["license"] = "\n".join(entry.licenses)
    answer["modelfile"] = modelfile(
        model.name, entry, _own_parameters(model), has_template=summary.template
    )
    if params:
        answer["parameters"] = models.parameters(params)
    if template:
        answer["template"] = template
    if system := body.system or (entry.system if entry else None):
        answer["system"] = system
    answer["details"] = models.details(entry, summary)
    if entry and entry.messages:
        answer["messages"] = [{"role": m.role, "content": m.content} for m in entry.messages]
    answer["model_info"] = models.model_info(header) if header else {}
    if header and body.verbose:
        answer["tensors"] = models.tensors(header)
    words = models.capabilities(entry, summary, model.policy.args) if entry else []
    answer["capabilities"] = words
    answer["modified_at"] = models.modified(entry)
    # Ours, after Ollama's: `details` and `model_info` have the context that it was trained for.
    answer["context_length"] = served_ctx(model.policy, summary.context_length)
    return answer


def _header(services: Services, model: Model, *, verbose: bool) -> Header | None:
    entry = model.entry
    if entry is None:
        return None
    try:
        if verbose:
            return read_header(entry.path, keep=EVERYTHING)
        return services.catalog.header(entry)
    except (GgufError, OSError) as error:
        raise ProxyError(f"the file of {model.name} cannot be read: {error}") from error


def _parameters(model: Model) -> dict[str, Any]:
    """What somebody has set for requests to this model, and for how it is loaded."""
    policy = model.policy
    split = plain(policy.moe_cpu_layers)
    by_policy = {"moe_cpu_layers": split} if "moe_cpu_layers" in policy.written else {}
    return {**_own_parameters(model), **by_policy}


def _own_parameters(model: Model) -> dict[str, Any]:
    """What of that a Modelfile should say, in Ollama's names. Where experts are is this machine's
    business, and no PARAMETER to Ollama, so it is only there where the model's own one said it."""
    policy = model.policy
    own = dict(model.entry.params) if model.entry else {}
    set_by_policy = {
        name: policy.params[target]
        for name, (_, target) in SAMPLING.items()
        if target in policy.params
    }
    ctx = {"num_ctx": policy.ctx} if "ctx" in policy.written else {}
    return {**own, **set_by_policy, **ctx}


def _known(services: Services, names: Iterable[str]) -> dict[str, tuple[Entry | None, Summary]]:
    """What the catalogue knows of these models; it may have to read their files."""
    found: dict[str, tuple[Entry | None, Summary]] = {}
    for name in names:
        entry = None
        with suppress(ModelNotFound):  # its file may be gone while it is loaded
            entry = services.resolver.resolve(name).entry
        found[name] = entry, services.catalog.summary(entry) if entry else Summary()
    return found


def _running(
    services: Services, backend: Backend, entry: Entry | None, summary: Summary, now_s: float
) -> dict[str, Any]:
    options = backend.options
    status = backend.engine.known()
    sizes = {device: sum(kinds.values()) for device, kinds in status.held.items()}
    size = sum(sizes.values()) or (entry.size_bytes if entry else 0)
    name = models.display_name(options.model)
    return {
        "name": name,
        "model": name,
        "size": size,
        "digest": models.digest(options.model, entry),
        "details": models.details(entry, summary),
        "expires_at": _expires(backend, now_s),
        "size_vram": sum(held for device, held in sizes.items() if device != CPU),
        "context_length": options.ctx,
        "moe_cpu_layers": services.desired.current(backend),
        "block_count": status.block_count or summary.layers,
        "backend": backend.id,
    }


def _expires(backend: Backend, now_s: float) -> str:
    """When it goes; for ever is as far as the calendar."""
    at_s = _expires_s(backend, now_s)
    return models.NEVER if math.isinf(at_s) else rfc3339(round(at_s * NANOSECONDS))


def _expires_s(backend: Backend, now_s: float) -> float:
    """The same in seconds since the epoch: from now on while it is in use."""
    if backend.expires_at is not None:
        return backend.expires_at.timestamp()
    return now_s + backend.ttl_s
