"""Which model a name means: a name or alias of a policy, what the catalogue finds, or else an alias
with a star."""

import difflib
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from proxy.catalog.local import Catalog, Entry
from proxy.catalog.names import LONGEST_COMPARED, fold
from proxy.errors import BadRequest, ModelNotFound
from proxy.policy.model import ModelPolicy, Policies
from proxy.policy.patterns import is_pattern
from proxy.routing.effective import effective_policy
from proxy.routing.twins import can_share, shared_policy

# Clients choose how they spell a name: what was asked for longest ago is forgotten first.
NAMES_KEPT: Final = 4096

Basis = tuple[Policies, object]  # the policies, and the scan of the folders


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model that was found: its one name, its file, and what holds for it.

    Found anew after each change of policies or folders, so another object is another state of them.
    """

    name: str
    path: Path
    policy: ModelPolicy
    entry: Entry | None  # None where only a policy knows the model
    policies: Policies  # the set that all of this comes from: one request sees one set
    base: "Model | None" = None  # whose backend this shares, as a variant or another name of it

    @property
    def loaded_as(self) -> str:
        """The name under which its backend runs."""
        return self.base.name if self.base else self.name

    @property
    def takes_media(self) -> bool:
        """Whether pictures and sounds may have a way into it; where that is not known, the engine
        has to say."""
        known = self.entry is not None and self.policy.engine == "hosted"
        projector = self.entry and self.entry.projector
        return not known or projector is not None or "--mmproj" in self.policy.args

    def check_media(self) -> None:
        """Raise BadRequest for pictures and sounds where there is no way for them."""
        if not self.takes_media:
            raise BadRequest(
                f"{self.name} does not take images or audio: it has no projector (an mmproj file)",
                param="model",
            )


class Resolver:
    """Finds models. Reads policies and catalogue anew, so both may change at any time. May be asked
    on any thread."""

    def __init__(self, policies: Callable[[], Policies], catalog: Catalog) -> None:
        self._policies, self._catalog = policies, catalog
        self._lock = threading.Lock()
        # What changes, under the lock: what names came to, and the policies and the scan of the
        # folders that this comes from; another state of either is another object.
        self._found: LRUCache[str, Model] = LRUCache(NAMES_KEPT)
        self._basis: Basis = policies(), catalog.scan

    def all(self) -> list[Model]:
        """Every model there is, once, by name: the catalogue's and what only policies know."""
        found: dict[str, Model] = {}
        names = (*(entry.name for entry in self._catalog.list()), *self._policies().models)
        for name in names:
            # A policy may name a file that is not there.
            with suppress(ModelNotFound):
                model = self.resolve(name)
                found[model.name] = model
        return [found[name] for name in sorted(found)]

    def names(self) -> list[str]:
        """The names of all."""
        return [model.name for model in self.all()]

    def resolve(self, name: str) -> Model:
        """The model that `name` means: a name or alias of a policy, or what the catalogue finds.

        Raises ModelNotFound with the names that come close.
        """
        basis = self._policies(), self._catalog.scan
        with self._lock:
            if not _is_same(basis, self._basis):
                self._found.clear()
                self._basis = basis
            if (model := self._found.get(name)) is not None:
                return model
        model = self._resolve(name)
        with self._lock:
            # What took a while may come from a state that is over.
            if _is_same(basis, self._basis):
                self._found[name] = model
        return model

    def policy_for(self, name: str) -> ModelPolicy:
        """What holds for a model, its manifest counted in; also for one that is loaded, while its
        file is gone."""
        try:
            return self.resolve(name).policy
        except ModelNotFound:
            return self._policies().for_model(name)

    def knows(self, name: str) -> bool:
        """Whether there is a model that is called just so. Costs less than to find that there is
        none."""
        policies = self._policies()
        own = policies.own_name(name)
        return own in policies.models or self._catalog.find(own) is not None

    def _resolve(self, name: str) -> Model:
        policies = self._policies()
        own = policies.models.get(policies.own_name(name))
        entry = self._catalog.find(own.name if own else name)
        if own and own.base is not None and own.path is None:
            base = self.resolve(own.base)
            policy = effective_policy(own, base.entry)
            return replace(base, name=own.name, policy=policy, base=base)
        if own:
            own = effective_policy(own, entry)
            path = own.path or (entry and entry.path)
            if path or own.engine == "command":
                # A command may know its model by its own means; then the name is all there is to
                # fill in.
                return self._shared(Model(own.name, path or Path(own.name), own, entry, policies))
        elif entry:
            policy = effective_policy(self._policy_of(entry, policies), entry)
            return self._shared(Model(policy.name, entry.path, policy, entry, policies))
        elif (known := _other_spelling(name, policies)) is not None:
            return self.resolve(known)
        elif (known := policies.named_by_pattern(fold(name))) is not None:
            return self.resolve(known)
        raise ModelNotFound(self._not_found(name, policies), param="model")

    def _shared(self, model: Model) -> Model:
        """The model, as a variant of the first one with the same file that is loaded as it is."""
        entry = model.entry
        if entry is None:
            return model
        for twin in self._catalog.twins(entry):
            if twin is entry:
                break  # the others come after it, and look for it
            with suppress(ModelNotFound):
                base = self.resolve(twin.name)
                base = base.base or base
                # A policy may have given the twin's name to another file.
                if base.entry is None or base.entry is entry or base.entry.inodes != entry.inodes:
                    continue
                if can_share(entry, model.policy, base.entry, base.policy):
                    policy = shared_policy(model.policy, base.policy, entry)
                    return replace(model, path=base.path, policy=policy, base=base)
        return model

    def _policy_of(self, entry: Entry, policies: Policies) -> ModelPolicy:
        """The policy of a file, which may stand under another of its names."""
        for policy in policies.models.values():
            unnamed = policy.path is None and self._catalog.find(policy.name) == entry
            if unnamed or policy.name == entry.name:
                return policy
        return replace(policies.defaults, name=entry.name)

    def _not_found(self, name: str, policies: Policies) -> str:
        if (own := policies.own_name(name)) in policies.models:
            return (
                f"model {own!r} has a policy, but no file: give it a path, or put the file into a "
                "folder of [catalog] dirs"
            )
        shown = name if len(name) <= 80 else name[:80] + "..."
        return f"model {shown!r} not found{self.did_you_mean(name)}"

    def did_you_mean(self, name: str) -> str:
        """The end of the sentence that there is no such model; empty where no name comes close."""
        known = [
            known
            for policy in self._policies().models.values()
            for known in (policy.name, *policy.aliases)
            if not is_pattern(known)
        ]
        near = list(self._catalog.nearest(name))
        near += difflib.get_close_matches(name[:LONGEST_COMPARED], known, n=3)
        names = ", ".join(dict.fromkeys(near))
        return f"; did you mean {names}?" if names else ""


def _is_same(one: Basis, other: Basis) -> bool:
    return one[0] is other[0] and one[1] is other[1]


def _other_spelling(name: str, policies: Policies) -> str | None:
    """The name or alias of a policy that is meant: as in Ollama, upper and lower case make no
    difference, and `:latest` need not be there. (The catalogue does so by itself.)"""
    names = (known for own in policies.models.values() for known in (own.name, *own.aliases))
    return next((known for known in names if known != name and fold(known) == fold(name)), None)
