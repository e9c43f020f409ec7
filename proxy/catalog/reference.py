"""Full names of models, `host/namespace/model:tag`, with Ollama's defaults for what is left out.

Letters' case does not count when names are compared, and is kept when they are written.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

OLLAMA_HOST: Final = "registry.ollama.ai"
NAMESPACE: Final = "library"
LATEST: Final = "latest"
HUB_HOST: Final = "hf.co"
_HUB_HOSTS: Final = (HUB_HOST, "huggingface.co", "www.huggingface.co")

_HOST: Final = re.compile(r"\w[\w.:-]{0,349}", re.ASCII)
_NAMESPACE: Final = re.compile(r"\w[\w-]{0,79}", re.ASCII)
_MODEL: Final = re.compile(r"\w[\w.-]{0,79}", re.ASCII)
# Hugging Face allows dots in names of organisations, and longer names.
_HUB_PART: Final = re.compile(r"\w[\w.-]{0,199}", re.ASCII)


class BadName(ValueError):
    """A name that no model can have; the message is for people."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A model's full name. `scheme` says how its registry is reached."""

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = "https"

    @property
    def short(self) -> str:
        """The name without what is the default anyway; the tag is always there."""
        name = f"{self.model}:{self.tag}"
        if self.host.casefold() != OLLAMA_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        return name if self.namespace.casefold() == NAMESPACE else f"{self.namespace}/{name}"

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def path(self) -> PurePosixPath:
        """Where its manifest lies below a store's `manifests`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def folded(self) -> tuple[str, str, str, str]:
        """What two spellings of one name have in common."""
        host, namespace, model, tag = self.host, self.namespace, self.model, self.tag
        return host.casefold(), namespace.casefold(), model.casefold(), tag.casefold()

    @property
    def on_hub(self) -> bool:
        """Whether this is a repository of Hugging Face."""
        return self.host == HUB_HOST


def parse_reference(text: str) -> Reference:
    """The full name that `text` stands for. Raises BadName."""
    rest, tag = text.strip(), LATEST
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    scheme, separator, after = rest.partition("://")
    if separator:
        rest = after
    else:
        scheme = "https"
    parts = rest.rsplit("/", 2)
    defaults = [OLLAMA_HOST, NAMESPACE]
    host, namespace, model = defaults[: 3 - len(parts)] + parts
    if host.casefold() in _HUB_HOSTS:
        host = HUB_HOST
    reference = Reference(host, namespace, model, tag, scheme)
    if not _is_valid(reference):
        raise BadName(
            f"{text[:200]!r} is not a model's name; names are [host/][namespace/]model[:tag]"
        )
    return reference


def from_manifest_path(path: PurePosixPath) -> Reference:
    """The name of the manifest at `path` below a store's `manifests`. Raises BadName."""
    if len(path.parts) != 4:
        raise BadName(f"{path} is not where a manifest lies")
    reference = Reference(*path.parts)
    if not _is_valid(reference):
        raise BadName(f"{path} is not the name of a model")
    return reference


def _is_valid(reference: Reference) -> bool:
    namespace, part = (_HUB_PART, _HUB_PART) if reference.on_hub else (_NAMESPACE, _MODEL)
    return (
        reference.scheme in ("http", "https")
        and _HOST.fullmatch(reference.host) is not None
        and namespace.fullmatch(reference.namespace) is not None
        and part.fullmatch(reference.model) is not None
        and part.fullmatch(reference.tag) is not None
    )
