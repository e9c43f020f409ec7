"""What a node tells of itself, as the choice looks at it. Pure: JSON in, plain values out.

What is missing or of another shape counts as nothing: a node may be of another version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from proxy.catalog.names import fold, spellings
from proxy.engine.types import CPU
from proxy.fleet.state import Loaded, Node

JSON = Mapping[str, Any]

# A backend that takes requests, or will in a moment.
READY: Final = "ready"
SERVES: Final = frozenset({"starting", READY})
# Of a backend that does not say how many conversations it takes at once; and what `auto` comes to.
ONE_SLOT: Final = 1
AUTO_SLOTS: Final = 4
# What of a model of experts has to be on a device at least, by rule of thumb.
LEAST_OF_EXPERTS: Final = 8
GENERATION: Final = "generation"
EVERY_CTX: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a node could load. `base` is the name under which its backend runs."""

    name: str
    base: str
    least_bytes: int = 0
    parallel: int = ONE_SLOT
    aliases: tuple[str, ...] = ()
    size_bytes: int = 0


class Models:
    """The models of a node, by all the names that they go by."""

    def __init__(self, models: Iterable[Model] = ()) -> None:
        self.models = {model.name: model for model in models}
        # By the name under which a model is loaded: the others that share its backend.
        self.variants: dict[str, list[str]] = {}
        for model in self.models.values():
            if model.name != model.base:
                self.variants.setdefault(model.base, []).append(model.name)
        self._names: dict[str, str] = {}
        self._patterns: list[tuple[str, str]] = []
        for model in self.models.values():
            for alias in model.aliases:
                if "*" in alias:
                    self._patterns.append((alias, model.name))
                else:
                    self._names.setdefault(fold(alias), model.name)
        for name in self.models:
            self._names[fold(name)] = name
        for name in self.models:
            for spelling in spellings(name):
                self._names.setdefault(fold(spelling), name)

    def find(self, name: str) -> Model | None:
        """The model that a name means, as the node itself would find it in all likelihood."""
        found = self.models.get(name)
        if found is None and (known := self._names.get(fold(name))) is not None:
            found = self.models[known]
        if found is None:
            for pattern, model in self._patterns:
                if fnmatchcase(name, pattern):
                    return self.models[model]
        return found


def models_of(told: JSON) -> Models:
    """`told` is the node's answer to `/v1/models`."""
    return Models(
        _model(entry) for entry in _list(told.get("data")) if isinstance(entry.get("id"), str)
    )


def _model(entry: JSON) -> Model:
    meta = _table(entry.get("meta"))
    size = _whole(meta.get("size_bytes"))
    # Of a dense model nothing can be left in RAM without its layers being computed there.
    has_experts = meta.get("moe_cpu_layers") is not None
    base = meta.get("base")
    aliases = entry.get("aliases")
    return Model(
        name=entry["id"],
        base=base if isinstance(base, str) else entry["id"],
        least_bytes=size // LEAST_OF_EXPERTS if has_experts else size,
        parallel=_whole(meta.get("parallel")) or AUTO_SLOTS,
        aliases=tuple(each for each in aliases if isinstance(each, str))
        if isinstance(aliases, list)
        else (),
        size_bytes=size,
    )


def node_of(
    name: str, state: JSON, models: Models, passed: Mapping[str, int], *, draining: bool
) -> Node:
    """`state` is what patches have made of the node's live state; `passed` is how many requests for
    a model have been passed to it beyond what it tells, less than none where some have ended."""
    backends = [each for each in _table(state.get("backends")).values() if isinstance(each, dict)]
    told = _loaded(backends)
    loaded: dict[str, Loaded] = {}
    for base in {*told, *(each for each in passed if passed[each] > 0)}:
        known = told.get(base)
        slots = known.slots if known else _parallel(models, base)
        before = known.in_flight + known.waiting if known else 0
        now = max(before + passed.get(base, 0), 0)
        loaded[base] = Loaded(
            base, known.ctx if known else EVERY_CTX, slots, min(now, slots), max(now - slots, 0)
        )
    own = tuple(loaded.values())
    others = tuple(
        replace(each, model=name)
        for each in loaded.values()
        for name in models.variants.get(each.model, ())
    )
    memory = _table(state.get("memory"))
    devices = [each for each in _table(memory.get("devices")).values() if isinstance(each, dict)]
    free = sum(map(_free, devices)) if devices else _ram(_table(memory.get("host")))
    on_devices = bool(devices)
    movable = sum(map(_movable, backends)) if on_devices else 0
    # What is being loaded takes all that it can have, and does not show yet: whoever is chosen next
    # would go to the same node.
    ready = {each.get("model") for each in backends if each.get("state") == READY}
    for model in filter(None, map(models.models.get, loaded.keys() - ready)):
        takes = min(model.size_bytes, free)
        free -= takes
        if on_devices:
            movable += max(takes - model.least_bytes, 0)
    return Node(
        name,
        loaded=own + others,
        free_bytes=free,
        movable_bytes=movable,
        idle_bytes=sum(_idle(each, on_devices=on_devices) for each in backends),
        draining=draining,
    )


def in_flight(state: JSON) -> dict[str, int]:
    """Model -> how many requests a node says that it has for it, served and waiting."""
    backends = [each for each in _table(state.get("backends")).values() if isinstance(each, dict)]
    return {name: each.in_flight + each.waiting for name, each in _loaded(backends).items()}


def _loaded(backends: Iterable[JSON]) -> dict[str, Loaded]:
    found: dict[str, Loaded] = {}
    for backend in backends:
        model = backend.get("model")
        if backend.get("state") not in SERVES or not isinstance(model, str):
            continue
        each = Loaded(
            model,
            _whole(backend.get("ctx")) or EVERY_CTX,
            _whole(backend.get("parallel")) or ONE_SLOT,
            _whole(backend.get("in_flight")),
            _whole(backend.get("waiting")),
        )
        if model in found and backend.get("mode") != GENERATION:
            continue  # loaded twice: what it is asked for most counts
        found[model] = each
    return found


def _parallel(models: Models, base: str) -> int:
    model = models.models.get(base)
    return model.parallel if model else ONE_SLOT


def _free(device: JSON) -> int:
    free = _whole(device.get("free_bytes")) - _whole(device.get("reserve_bytes"))
    if limit := _whole(device.get("limit_bytes")):
        free = min(free, limit - _whole(device.get("ours_bytes")))
    return max(free, 0)


def _ram(host: JSON) -> int:
    available, limit = _whole(host.get("available_bytes")), _whole(host.get("limit_bytes"))
    return min(available, limit) if limit else available


def _movable(backend: JSON) -> int:
    """Bytes of experts that are on a device and could leave it."""
    if backend.get("live_moves") is not True:
        return 0
    return sum(
        _whole(layer.get("experts_bytes"))
        for layer in _list(backend.get("layers"))
        if layer.get("experts") not in (None, CPU)
    )


def _idle(backend: JSON, *, on_devices: bool) -> int:
    """What the end of a backend that nobody uses would give beside that."""
    busy = _whole(backend.get("in_flight")) or _whole(backend.get("waiting"))
    if busy or backend.get("pinned") or backend.get("state") not in SERVES:
        return 0
    held = sum(
        _whole(count)
        for device, kinds in _table(backend.get("bytes")).items()
        if on_devices is (device != CPU)
        for count in _table(kinds).values()
    )
    return max(held - _movable(backend), 0) if on_devices else held


def _table(value: Any) -> JSON:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[JSON]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
