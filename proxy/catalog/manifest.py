"""Manifests as Ollama's store and registry keep them: a model is a list of blobs by digest."""

import hashlib
import re
from typing import Final

import msgspec

from proxy.files import BadJson, decode_json

MODEL: Final = "application/vnd.ollama.image.model"
PROJECTOR: Final = "application/vnd.ollama.image.projector"
ADAPTER: Final = "application/vnd.ollama.image.adapter"
TEMPLATE: Final = "application/vnd.ollama.image.template"
SYSTEM: Final = "application/vnd.ollama.image.system"
PARAMS: Final = "application/vnd.ollama.image.params"
MESSAGES: Final = "application/vnd.ollama.image.messages"
LICENSE: Final = "application/vnd.ollama.image.license"
TENSOR: Final = "application/vnd.ollama.image.tensor"
CONFIG: Final = "application/vnd.docker.container.image.v1+json"
MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
# What a model was called `template` in the first releases of Ollama.
OLD_TEMPLATE: Final = "application/vnd.ollama.image.prompt"

# Those that are read whole.
TEXTS: Final = frozenset({CONFIG, TEMPLATE, OLD_TEMPLATE, SYSTEM, PARAMS, MESSAGES, LICENSE})

# No model comes near: a petabyte.
MAX_LAYER_BYTES: Final = 1 << 50
MAX_NAME: Final = 255
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


class BadManifest(ValueError):
    """Not a manifest; the message is for people."""


class Layer(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One blob. `name` is the file name that a part of a split model has to have."""

    media_type: str
    digest: str
    size: int
    from_: str = msgspec.field(default="", name="from")
    name: str = ""


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """A model."""

    config: Layer | None = None
    layers: tuple[Layer, ...] = ()
    schema_version: int = 2
    media_type: str = MANIFEST

    def all_layers(self) -> tuple[Layer, ...]:
        """The layers, and the configuration where there is one, each blob once."""
        config = (self.config,) if self.config and self.config.digest else ()
        return tuple({layer.digest: layer for layer in (*self.layers, *config)}.values())

    def of_type(self, media_type: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.media_type == media_type)

    @property
    def size_bytes(self) -> int:
        return sum(layer.size for layer in (*self.layers, *([self.config] if self.config else ())))


def parse_manifest(data: bytes) -> Manifest:
    """Raises BadManifest for what is none, and for layers whose digest is not a SHA-256."""
    try:
        manifest: Manifest = decode_json(data, Manifest, "this is not a manifest")
    except BadJson as error:
        raise BadManifest(str(error)) from error
    for layer in (*manifest.layers, *manifest.all_layers()):
        hex_of(layer.digest)
        if not 0 <= layer.size <= MAX_LAYER_BYTES or not is_name(layer.name):
            raise BadManifest(f"layer {layer.digest} has an impossible size or name")
    return manifest


def is_name(name: str) -> bool:
    """Whether a part of a split model can be called so: in its own folder, and nowhere else."""
    return (
        name.isprintable()
        and "/" not in name
        and not name.startswith(".")
        and len(name.encode()) <= MAX_NAME
    )


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest)


def hex_of(digest: str) -> str:
    """The 64 digits of a digest, in lower case. Raises BadManifest."""
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise BadManifest(f"{digest[:100]!r} is not a digest; sha256: and 64 digits are")
    return match[1].lower()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
