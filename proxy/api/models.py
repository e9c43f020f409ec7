"""`GET /v1/models`: what there is, in OpenAI's shape and in Anthropic's at once, with the length of
context under the names that clients look for. The answer is ours, no engine is asked."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from proxy.api.services import SERVICES
from proxy.api.wire import json_response
from proxy.catalog.summary import Summary
from proxy.dialect.ollama.models import capabilities, modified
from proxy.errors import Hangs
from proxy.routing.effective import served_ctx, served_split
from proxy.routing.resolver import Model
from proxy.split import plain
from proxy.threads import LISTS, MODELS

OWNER: Final = "moe-proxy"
SUMMARIES_S: Final = 5.0  # how long a list waits for what stands in the files


def add_routes(router: web.UrlDispatcher) -> None:
    for prefix in ("/v1/models", "/models"):
        router.add_get(prefix, list_models)
        router.add_get(prefix + "/{name:.+}", show_model)


async def list_models(request: web.Request) -> web.Response:
    """All on one page, the newest first."""
    services = request.app[SERVICES]
    await services.dirs.look_again()
    summaries: Mapping[str, Summary] = {}
    # Names are better than nothing where a disk does not answer, or hundreds of files are new.
    with suppress(Hangs, TimeoutError):
        async with asyncio.timeout(SUMMARIES_S):
            summaries = await LISTS.run(services.catalog.summaries)
    found = services.resolver.all()
    entries = [
        _entry(model, summaries.get(model.entry.name) if model.entry else None) for model in found
    ]
    entries.sort(key=lambda entry: entry["created"], reverse=True)
    names = [entry["id"] for entry in entries]
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return json_response({"object": "list", "data": entries, "has_more": False, **ends})


async def show_model(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    model = await services.resolve(request.match_info["name"])
    summary = await MODELS.run(services.catalog.summary, model.entry) if model.entry else None
    return json_response(_entry(model, summary))


def _entry(model: Model, summary: Summary | None) -> dict[str, Any]:
    policy, entry = model.policy, model.entry
    summary = summary or Summary()
    ctx = served_ctx(policy, summary.context_length)
    # None of a model of which nothing can be moved.
    split = served_split(policy, dense=bool(summary.architecture) and not summary.expert_count)
    return {
        "id": model.name,
        "object": "model",
        "created": int(entry.modified_at) if entry else 0,
        "owned_by": OWNER,
        # What Anthropic's clients read.
        "type": "model",
        "display_name": model.name,
        "created_at": modified(entry),
        "aliases": list(policy.aliases),
        "context_length": ctx,
        "max_model_len": ctx,
        "capabilities": capabilities(entry, summary, policy.args) if entry else [],
        "meta": {
            "base": model.base.name if model.base else None,  # whose backend it shares
            "mode": policy.mode,
            "ctx": policy.ctx,
            # llama-server's names.
            "n_ctx": ctx,
            "n_ctx_train": summary.context_length or None,
            "parallel": policy.parallel,
            "moe_cpu_layers": None if split is None else plain(split),
            "size_bytes": entry.size_bytes if entry else None,
        },
    }
