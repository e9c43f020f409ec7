"""Which requests change the machine rather than use it, so that not every key may make them."""

from typing import Final
from urllib.parse import unquote

# What is changed by Ollama's API, and by llama-server's. `/api/generate` and the like load and
# unload models as they need them.
_CHANGES: Final = frozenset(
    {
        *("/api/pull", "/api/create", "/api/copy", "/api/delete", "/api/push"),
        *("/api/blobs/{digest}", "/lora-adapters", "/slots/{id}"),
    }
)
# Paths of llama-server, whatever stands before them.
_ANSWERS: Final = (
    "/completions", "/completion", "/responses", "/messages", "/infill", "/tokenize",
    "/detokenize", "/apply-template", "/embeddings", "/embedding", "/rerank", "/reranking",
    "/count_tokens", "/input_tokens", "/audio/transcriptions",
)  # fmt: skip
_LOOKS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# And those where a GET is more than a look: one has programs listed and run, the other asks whom it
# is told to.
_DOES: Final = ("/tools", "/cors-proxy")


def needs_admin(method: str, route: str, path: str) -> bool:
    """Whether a request needs the scope `admin`. `route` is how the application writes the `path`
    that was asked for, empty for one that it has not; `path` is as it was sent."""
    if route == "/unload" or route.startswith("/admin/policies/"):
        return True  # they also have what is asked of them by GET
    if route.startswith("/upstream/"):
        # As the model's server reads it, which knows %uXXXX too, and then as it was sent.
        if "%u" in path.lower() or unquote(path).rstrip("/").endswith(_DOES):
            return True
        return method not in _LOOKS and not _is_use(path)
    if method in _LOOKS:
        return False
    return route.startswith("/admin/") or route in _CHANGES


def _is_use(path: str) -> bool:
    """Whether a path to a model's own server is one of those that answer: others save and erase
    its slots, or change its settings."""
    return path.endswith(_ANSWERS)


def acts_on_slots(method: str, path: str) -> bool:
    """Whether a request to a model's own server would save, restore or erase a slot. `path` is as
    it was sent; llama-server decodes it, in ways of its own too (%uXXXX)."""
    if method in _LOOKS:
        return False
    return "%u" in path.lower() or "slots" in unquote(path).split("/")
