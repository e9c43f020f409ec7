"""`GET /v1/models`: what there is, in OpenAI's shape. The answer is ours, no engine is asked."""

from typing import Any

from aiohttp import web

from proxy.api.services import SERVICES
from proxy.api.wire import json_response
from proxy.routing.resolver import Model
from proxy.split import plain

OWNER = "moe-proxy"


def add_routes(router: web.UrlDispatcher) -> None:
    for prefix in ("/v1/models", "/models"):
        router.add_get(prefix, list_models)
        router.add_get(prefix + "/{name:.+}", show_model)


async def list_models(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    await services.dirs.look_again()
    entries = [_entry(model) for model in services.resolver.all()]
    return json_response({"object": "list", "data": entries})


async def show_model(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    return json_response(_entry(await services.resolve(request.match_info["name"])))


def _entry(model: Model) -> dict[str, Any]:
    policy, entry = model.policy, model.entry
    return {
        "id": model.name,
        "object": "model",
        "created": int(entry.modified_at) if entry else 0,
        "owned_by": OWNER,
        "aliases": list(policy.aliases),
        "meta": {
            "base": model.base.name if model.base else None,  # whose backend it shares
            "ctx": policy.ctx,
            "parallel": policy.parallel,
            "moe_cpu_layers": plain(policy.moe_cpu_layers),
            "size_bytes": entry.size_bytes if entry else None,
        },
    }
