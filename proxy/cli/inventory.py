"""What models there are on this machine's disks, as `serve` would find them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.catalog.local import Catalog
from proxy.catalog.store import Stores
from proxy.observe.log import errors_only
from proxy.policy.model import Policies
from proxy.policy.values import home_of
from proxy.routing.model_dirs import model_dirs
from proxy.routing.resolver import Resolver
from proxy.text import in_words

PLACES: Final = {
    "policy": "of policies",
    "folder": "in folders",
    "own": "pulled or made here",
    "ollama": "of Ollama",
}


@dataclass(frozen=True, slots=True)
class Inventory:
    """The names of models, each with where it comes from, and the files that are no models, each
    with why."""

    sources: Mapping[str, str]
    unusable: Mapping[str, str]

    def __str__(self) -> str:
        """How many there are, and where, if not only in policies."""
        counts = Counter(self.sources.values())
        where = [f"{counts[source]} {place}" for source, place in PLACES.items() if counts[source]]
        listed = f" ({', '.join(where)})" if set(counts) - {"policy"} else ""
        return in_words(len(self.sources), "model") + listed


def catalog_of(policies: Policies, env: Mapping[str, str]) -> Catalog:
    """Looks into folders and stores; reads no model."""
    with errors_only():  # what is no model is told by whoever asks
        return Catalog(*model_dirs(policies, Stores(home_of(env))))


def inventory(policies: Policies, env: Mapping[str, str]) -> Inventory:
    """Blocking, as long as a disk takes to list its folders."""
    catalog = catalog_of(policies, env)
    models = Resolver(lambda: policies, catalog).all()
    sources = {
        model.name: "policy"
        if model.name in policies.models or model.entry is None
        else model.entry.source
        for model in models
    }
    return Inventory(sources, catalog.problems)
