"""What the small blobs of a model's manifest say: configuration, parameters, texts, messages.

They come from whoever made the model, so each is read up to a bound and taken only in the shape
that it should have. Anything else is this model's problem, and nobody else's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy.catalog import manifest as media
from proxy.catalog.entry import Message
from proxy.catalog.manifest import BadManifest, Layer, Manifest
from proxy.catalog.parameters import from_manifest
from proxy.files import decode_json, read_small

# All of a model's texts together; nothing real comes near.
MAX_TEXT_BYTES: Final = 16 << 20
MAX_MESSAGES: Final = 10_000
# What is looked at in a configuration.
_TEXTS: Final = (
    "model_format", "model_family", "model_type", "file_type", "remote_host", "remote_model",
)  # fmt: skip
_LONGEST: Final = 1000


class _Message(msgspec.Struct):
    role: str = ""
    content: str | None = None


class Contents:
    """Reads the blobs of one manifest. Everything raises OSError and ValueError."""

    def __init__(self, manifest: Manifest, blob: Callable[[str], Path]) -> None:
        """`blob` tells where the blob of a digest lies."""
        self._manifest, self._blob = manifest, blob
        # What changes: how much may still be read.
        self._left_bytes = MAX_TEXT_BYTES

    def check(self) -> None:
        """Read everything, for what it may raise."""
        self.config(), self.params(), self.messages()
        self.texts(media.SYSTEM, media.TEMPLATE, media.OLD_TEMPLATE, media.LICENSE)

    def config(self) -> dict[str, Any]:
        """The configuration, as far as anybody looks at it."""
        layer = self._manifest.config
        if layer is None or not layer.digest:
            return {}
        found: dict[str, Any] = decode_json(self._data(layer), dict[str, Any], "its configuration")
        texts = {name: found[name] for name in _TEXTS if _is_text(found.get(name))}
        families = found.get("model_families")
        if isinstance(families, list) and all(map(_is_text, families)):
            texts["model_families"] = families
        return texts

    def params(self) -> dict[str, Any]:
        """Parameters in Ollama's names. Raises BadParameter for what they cannot be."""
        layer = self._last(media.PARAMS)
        if layer is None:
            return {}
        found: dict[str, Any] | None = decode_json(
            self._data(layer), dict[str, Any] | None, "its parameters"
        )
        return from_manifest(found or {})

    def messages(self) -> tuple[Message, ...]:
        """What stands before each conversation."""
        layer = self._last(media.MESSAGES)
        if layer is None:
            return ()
        found: list[_Message] | None = decode_json(
            self._data(layer), list[_Message] | None, "its messages"
        )
        return tuple(Message(m.role, m.content or "") for m in (found or [])[:MAX_MESSAGES])

    def texts(self, *media_types: str) -> list[str]:
        """The texts of all layers of these types."""
        layers = [layer for kind in media_types for layer in self._manifest.of_type(kind)]
        return [self._data(layer).decode("utf-8", "replace") for layer in layers]

    def _last(self, media_type: str) -> Layer | None:
        layers = self._manifest.of_type(media_type)
        return layers[-1] if layers else None

    def _data(self, layer: Layer) -> bytes:
        data = read_small(self._blob(layer.digest), MAX_TEXT_BYTES)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise BadManifest("its texts together are longer than those of any real model")
        return data


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST
