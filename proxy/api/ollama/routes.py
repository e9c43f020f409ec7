"""Ollama's routes, but for those that change models on the disk."""

from functools import partial
from typing import Final

from aiohttp import web

from proxy.api.ollama import embedding, generation, listing
from proxy.api.ollama.request import CloudRefused, WarnOnce
from proxy.api.wire import json_response
from proxy.version import own_version

# Clients look for features by it: the version of Ollama whose API this is.
OLLAMA_VERSION: Final = "0.33.0"
# Routes that only serve Ollama's cloud, and what to call what they do.
CLOUD: Final = (
    ("POST", "/api/me", "an account"),
    ("POST", "/api/signout", "an account"),
    ("POST", "/api/experimental/web_search", "web search"),
    ("POST", "/api/experimental/web_fetch", "web fetch"),
    ("POST", "/api/web_search", "web search"),
    ("POST", "/api/web_fetch", "web fetch"),
)


def add_routes(router: web.UrlDispatcher) -> None:
    notes = WarnOnce()
    router.add_get("/", root)
    router.add_get("/api/version", version)
    router.add_get("/api/status", status)
    router.add_get("/api/tags", listing.tags)
    router.add_get("/api/ps", listing.ps)
    router.add_post("/api/show", listing.show)
    router.add_post("/api/generate", partial(generation.generate, notes))
    router.add_post("/api/chat", partial(generation.chat, notes))
    router.add_post("/api/embed", partial(embedding.embed, notes))
    router.add_post("/api/embeddings", partial(embedding.embeddings, notes))
    for method, path, what in CLOUD:
        router.add_route(method, path, partial(cloud, what))


async def root(request: web.Request) -> web.Response:
    """What clients ask to see whether anybody is there."""
    return web.Response(text="Ollama is running")


async def version(request: web.Request) -> web.Response:
    """Ollama's, for clients; beside it ours, as far as it is known."""
    return json_response({"version": OLLAMA_VERSION, "moe_proxy": own_version()})


async def status(request: web.Request) -> web.Response:
    return json_response({"cloud": {"disabled": True, "source": "config"}})


async def cloud(what: str, request: web.Request) -> web.Response:
    raise CloudRefused(what)
