"""Speaks with registries in Ollama's way: a manifest by name, blobs by digest."""

import ipaddress
from typing import Final

import aiohttp

from proxy.catalog.contents import MAX_TEXT_BYTES
from proxy.catalog.manifest import (
    MANIFEST,
    MODEL,
    TENSOR,
    TEXTS,
    BadManifest,
    Manifest,
    parse_manifest,
)
from proxy.catalog.reference import Reference
from proxy.errors import BadRequest
from proxy.hub.fetch import Remote, describe_response, unreachable
from proxy.hub.progress import NotOffered, PullFailed

MAX_MANIFEST_BYTES: Final = 4 << 20
# Each may be a request, also where it is nothing.
MAX_LAYERS: Final = 2000
TIMEOUT: Final = aiohttp.ClientTimeout(total=60, sock_connect=30)


class NotInRegistry(NotOffered):
    """There is no model of this name."""


async def read_manifest(
    session: aiohttp.ClientSession, reference: Reference, *, insecure: bool
) -> tuple[bytes, Manifest]:
    """The manifest as the registry has it, byte by byte, and what it says.

    Raises NotInRegistry, NotOffered, PullFailed, and BadRequest for plain HTTP that nobody asked
    for.
    """
    url = f"{_base(reference, insecure=insecure)}/manifests/{reference.tag}"
    try:
        async with session.get(url, headers={"Accept": MANIFEST}, timeout=TIMEOUT) as answer:
            if answer.status == 404:
                raise NotInRegistry(
                    f"pull model manifest: file does not exist: there is no {reference.full}"
                )
            if answer.status != 200:
                raise NotOffered(
                    f"pull model manifest: {reference.host}: {describe_response(answer)}"
                )
            data = await answer.content.read(MAX_MANIFEST_BYTES + 1)
            while len(data) <= MAX_MANIFEST_BYTES and (
                more := await answer.content.read(MAX_MANIFEST_BYTES)
            ):
                data += more
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NotOffered(f"pull model manifest: {unreachable(url, error)}") from error
    try:
        manifest = parse_manifest(data)
    except BadManifest as error:
        raise PullFailed(f"pull model manifest: {reference.host}: {error}") from error
    _check(reference, manifest)
    return data, manifest


def _check(reference: Reference, manifest: Manifest) -> None:
    """Raises PullFailed for what is a manifest, and none of a model that we could have."""
    if manifest.of_type(TENSOR):
        raise PullFailed(
            f"{reference.short} is kept as single tensors, which only Ollama's own engine reads; "
            "pull a GGUF of it"
        )
    if not manifest.of_type(MODEL):
        raise PullFailed(f"pull model manifest: {reference.host}: it names no model's file")
    if len(manifest.layers) > MAX_LAYERS:
        raise PullFailed(f"pull model manifest: {reference.host}: {len(manifest.layers)} layers")
    for layer in manifest.all_layers():
        if layer.media_type in TEXTS and layer.size > MAX_TEXT_BYTES:
            raise PullFailed(
                f"pull model manifest: {reference.host}: a text of {layer.size} bytes is larger "
                "than any real one"
            )


def blobs_of(reference: Reference, manifest: Manifest, *, insecure: bool) -> list[Remote]:
    """Where the blobs of a manifest are."""
    base = _base(reference, insecure=insecure)
    return [
        Remote(f"{base}/blobs/{layer.digest}", layer.digest.lower(), layer.size)
        for layer in manifest.all_layers()
    ]


def _base(reference: Reference, *, insecure: bool) -> str:
    local = _is_loopback(reference.host)
    if reference.scheme == "http" and not (insecure or local):
        raise BadRequest('insecure protocol http: say "insecure": true if that is what you want')
    scheme = "http" if insecure or local else "https"
    return f"{scheme}://{reference.host}/v2/{reference.namespace}/{reference.model}"


def _is_loopback(host: str) -> bool:
    name = host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
