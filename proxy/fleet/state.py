"""What is known of the machines of a fleet, as each told last: plain values, and their index."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that a node has loaded, or loads. `in_flight` have one of its `slots`, `waiting` are
    in its line."""

    model: str
    ctx: int  # that one conversation may use
    slots: int
    in_flight: int = 0
    waiting: int = 0

    @property
    def is_free(self) -> bool:
        return self.in_flight + self.waiting < self.slots

    @property
    def line(self) -> float:
        """How many wait for each slot."""
        return max(self.in_flight + self.waiting - self.slots, 0) / self.slots


@dataclass(frozen=True, slots=True)
class Node:
    """A machine. Bytes are of the memory of its devices, or of its RAM where it has none."""

    name: str
    loaded: tuple[Loaded, ...] = ()
    free_bytes: int = 0
    # Experts that could leave devices, whose models then go on answering.
    movable_bytes: int = 0
    # What idle models that are not pinned hold beside those, and would give with their end.
    idle_bytes: int = 0
    draining: bool = False


class Fleet:
    """The nodes, and which of them have what. Grows and shrinks with them."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        # By a model's name: the nodes that have it loaded, and as what; and those with its file.
        self._loaded: dict[str, dict[str, Loaded]] = {}
        self._files: dict[str, set[str]] = {}
        self._files_of: dict[str, frozenset[str]] = {}

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._nodes

    def update(self, node: Node) -> None:
        """What a node told just now takes the place of what it told before."""
        self._unlist(node.name)
        self._nodes[node.name] = node
        for loaded in node.loaded:
            self._loaded.setdefault(loaded.model, {})[node.name] = loaded

    def set_files(self, node: str, models: Iterable[str]) -> None:
        """The names of all models whose file a node has; seldom told, and long."""
        before, now = self._files_of.pop(node, frozenset()), frozenset(models)
        for model in before - now:
            self._files[model].discard(node)
            if not self._files[model]:
                del self._files[model]
        for model in now - before:
            self._files.setdefault(model, set()).add(node)
        if now:
            self._files_of[node] = now

    def remove(self, name: str) -> None:
        """A node is gone, with all that it had."""
        self._unlist(name)
        self._nodes.pop(name, None)
        self.set_files(name, ())

    def with_model(self, model: str) -> Mapping[str, Loaded]:
        """The nodes that have it loaded, and as what."""
        return self._loaded.get(model, {})

    def with_file(self, model: str) -> Iterable[Node]:
        return (self._nodes[name] for name in self._files.get(model, ()) if name in self._nodes)

    def models(self) -> Iterable[str]:
        """All names that exist, which is where their file does."""
        return self._files.keys()

    def _unlist(self, name: str) -> None:
        before = self._nodes.get(name)
        for loaded in before.loaded if before else ():
            there = self._loaded[loaded.model]
            there.pop(name, None)
            if not there:
                del self._loaded[loaded.model]
