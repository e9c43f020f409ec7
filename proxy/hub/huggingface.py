"""Which files of a Hugging Face repository make up a model, and where they are.

The answers come from `huggingface_hub` (endpoint, tokens, offline mode as its users know them). The
bytes are fetched by `proxy.hub.fetch`: the library begins a cut download again from nothing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from proxy.catalog import names
from proxy.catalog.manifest import MAX_LAYER_BYTES, BadManifest, hex_of, is_name
from proxy.catalog.parts import PART
from proxy.catalog.reference import LATEST, Reference
from proxy.errors import reason_of
from proxy.hub.fetch import Remote
from proxy.hub.progress import NotOffered, PullFailed
from proxy.hub.registry import NotInRegistry

# What is taken where nobody says which, best first; then whatever there is.
PREFERRED: Final = ("q4_k_m", "mxfp4", "mxfp4_moe", "q4_0", "q5_k_m", "q8_0")
PREFERRED_PROJECTOR: Final = ("f16", "bf16", "q8_0", "f32")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a repository; `digest` is empty where the repository tells none."""

    path: str
    digest: str
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class Choice:
    """What makes up a model: the parts in order, and its projector."""

    parts: tuple[File, ...]
    projector: File | None


def choose(files: Sequence[File], tag: str) -> Choice:
    """The files that `tag` means: a quantisation, a file's name, or `latest` for the usual one.

    Raises PullFailed that names what there is. Pure.
    """
    ggufs = [file for file in files if file.name.lower().endswith(".gguf")]
    projectors = [file for file in ggufs if names.is_projector(file.name)]
    groups: dict[str, list[File]] = {}
    for file in ggufs:
        if not names.is_projector(file.name) and "imatrix" not in file.name.lower():
            stem = str(PurePosixPath(file.path).with_name(names.stem_of(file.name)))
            groups.setdefault(stem, []).append(file)
    if not groups:
        raise PullFailed("this repository has no GGUF file; llama.cpp needs one")
    by_tag = {_tag_of(stem): stem for stem in sorted(groups, reverse=True)}
    chosen = _stem_for(tag.casefold(), by_tag, groups)
    if chosen is None:
        there = ", ".join(sorted(by_tag))
        raise PullFailed(f"there is no {tag!r} in this repository; it has {there}")
    return Choice(_whole(groups[chosen]), _projector(projectors))


def _tag_of(stem: str) -> str:
    path = PurePosixPath(stem)
    quant = names.split_quant(path.name)[1]
    if quant is None and path.parent.name:
        quant = names.split_quant(f"x-{path.parent.name}")[1]
    return (quant or path.name).casefold()


def _stem_for(
    tag: str, by_tag: Mapping[str, str], groups: Mapping[str, Sequence[File]]
) -> str | None:
    if tag.endswith(".gguf"):
        named = (s for s, files in groups.items() if tag in (f.name.casefold() for f in files))
        return next(named, None)
    if tag != LATEST:
        return by_tag.get(tag)
    usual = next((by_tag[quant] for quant in PREFERRED if quant in by_tag), None)
    return usual or by_tag[min(by_tag)]


def _whole(files: Sequence[File]) -> tuple[File, ...]:
    """The parts in order. Raises PullFailed if one is missing."""
    parts = sorted(files, key=lambda file: file.name)
    match = PART.fullmatch(parts[0].name)
    if match and int(match["parts"]) != len(parts):
        raise PullFailed(f"the repository has {len(parts)} of {int(match['parts'])} parts of it")
    return tuple(parts)


def _projector(projectors: Sequence[File]) -> File | None:
    def rank(file: File) -> tuple[int, str]:
        stem = names.stem_of(file.name)
        quant = (names.split_quant(stem)[1] or "").casefold()
        known = quant in PREFERRED_PROJECTOR
        return PREFERRED_PROJECTOR.index(quant) if known else len(PREFERRED_PROJECTOR), file.path

    return min(projectors, key=rank, default=None)


def list_files(reference: Reference) -> tuple[str, list[File]]:
    """The repository's commit and files. Blocking. Raises NotInRegistry, NotOffered."""
    # It takes a while to import, and most proxies never pull.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    repository = f"{reference.namespace}/{reference.model}"
    endpoint = _endpoint()
    try:
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True, timeout=30)
    except RepositoryNotFoundError as error:
        raise NotInRegistry(
            f"pull model manifest: file does not exist: {endpoint} has no {repository}, or it is "
            "private (then $HF_TOKEN has to be set)"
        ) from error
    except OfflineModeIsEnabled as error:
        raise NotOffered("$HF_HUB_OFFLINE is set, so nothing can be pulled") from error
    except HfHubHTTPError as error:
        raise NotOffered(f"{endpoint} refuses {repository}: {error}") from error
    except Exception as error:
        # Its HTTP library's errors are not part of its interface; all that is left is the network.
        raise NotOffered(
            f"cannot reach {endpoint}: {reason_of(error)}; is this machine online?"
        ) from error
    files = [
        File(item.rfilename, f"sha256:{item.lfs.sha256}" if item.lfs else "", item.size or 0)
        for item in info.siblings or ()
    ]
    return info.sha or "main", files


def remote_of(reference: Reference, commit: str, file: File) -> Remote:
    """Where a file is. Raises PullFailed for one whose digest is not known."""
    from huggingface_hub import get_token, hf_hub_url

    if not file.digest:
        raise PullFailed(f"{file.path} cannot be verified: its repository tells no digest of it")
    try:
        hex_of(file.digest)
    except BadManifest as error:
        raise PullFailed(f"{file.path[:200]!r} cannot be verified: {error}") from error
    if not 0 <= file.size <= MAX_LAYER_BYTES or not is_name(file.name):
        raise PullFailed(f"{file.path[:200]!r} has an impossible size or name")
    repository = f"{reference.namespace}/{reference.model}"
    url = hf_hub_url(repository, file.path, revision=commit, endpoint=_endpoint())
    token = get_token()
    return Remote(
        url, file.digest, file.size, {"Authorization": f"Bearer {token}"} if token else {}
    )


def host_of_endpoint() -> str:
    """Where repositories are asked for."""
    return _endpoint().partition("://")[2].partition("/")[0]


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
