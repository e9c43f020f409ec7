"""Where the catalogue looks, by the policies."""

from pathlib import Path

from proxy.catalog.store import Store, Stores
from proxy.policy.model import Policies


def model_dirs(
    policies: Policies, stores: Stores
) -> tuple[tuple[Path, ...], dict[str, Path], tuple[Store, ...]]:
    """Folders, the files that policies name, our store and Ollama's."""
    named = {name: model.path for name, model in policies.models.items() if model.path}
    place = policies.catalog
    return place.dirs, named, stores.at(place.state, place.ollama_dir, ollama=place.ollama)
