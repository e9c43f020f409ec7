"""Paths as clients build them, made those that they mean. Pure.

A base URL is given with `/v1` or `/api` or a slash at its end, and the client appends what it
always does. All that looks at a path, who may ask for it first of all, sees only what this makes
of it.
"""

import re
from typing import Final

# The last of several prefixes counts.
_PREFIXES: Final = re.compile(r"(?:/(?:v1|api))+(?=/(?:v1|api)/)")
_SLASHES: Final = re.compile(r"/{2,}")
# What belongs to others, behind their own prefix: a model's server, pages.
_THEIRS: Final = ("/upstream/", "/ui/")
# OpenAI's, asked for below Ollama's prefix, which has no such.
_BELOW_API: Final = frozenset(
    f"/api/{name}"
    for name in ("chat/completions", "completions", "responses", "messages", "models", "rerank")
)


def plain_path(path: str) -> str:
    """The path that is meant by `path`, which is as it was sent (with its escapes). The same object
    where it is that already."""
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if path.startswith(_THEIRS):
        return path
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if path.startswith(("/v1/v1/", "/v1/api/", "/api/v1/", "/api/api/")):
        path = _PREFIXES.sub("", path, count=1)
    if len(path) > 1 and path.endswith("/"):
        path = path[:-1]
    return "/v1" + path.removeprefix("/api") if path in _BELOW_API else path
