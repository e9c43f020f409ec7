"""Whether the prompts that one backend holds are of use to another. Pure.

llama-server checks a saved slot only for its layout: architecture, layers, types and widths. A slot
of another model of the same shape, or one that was computed otherwise, would be taken without a
word and continued wrongly. So all that decides what is in a slot has to be the same here.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from proxy.catalog.gguf import Header
from proxy.engine.arguments import saves_slots
from proxy.engine.llama_args import option_of
from proxy.engine.types import LoadOptions
from proxy.placement.attention import CACHELESS, GUESSED, attention_of

KV_BYTES: Final = 2  # of one element, unless args say otherwise
# A shorter prompt is read again in the time that it takes to ask.
FEWEST_TOKENS: Final = 256
NO_PLACE: Final = "requests have taken all slots that it could be in"
ADAPTERS: Final = frozenset(("--lora", "--lora-scaled", "--lora-init-without-apply"))
UNIFIED: Final = frozenset(("-kvu", "--kv-unified"))
# Tensors of models that turn their keys otherwise where the context is large.
LONG_ROPE: Final = "rope_factors_long"

# What tells one file from another, for each file that a model is loaded from.
Stamp: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """What llama-server tells of a slot: the place of one conversation."""

    id: int
    busy: bool
    speculative: bool
    task: int | None  # of the last request, counting up; None: no request has used it yet
    tokens: int | None  # how much of a conversation it holds; None: it does not say


def files_of(parts: Iterable[Path], options: LoadOptions) -> tuple[Path, ...]:
    """The files that decide what is computed. `parts`: those of the model itself."""
    return (*parts, *((options.projector,) if options.projector else ()))


def why_not_kept(options: LoadOptions, header: Header) -> str | None:
    """Why a model's prompts cannot be taken out of its worker; None where they can."""
    if not saves_slots(options):
        return "only a hosted model's slots can be saved, into a folder of the proxy's"
    if options.adapters or ADAPTERS & set(map(option_of, options.args)):
        return "a request may have been answered with other scales of the adapters"
    if header.architecture in CACHELESS | GUESSED:
        return f"it is not known what a slot of architecture {header.architecture!r} needs"
    full = "--swa-full" in map(option_of, options.args)
    if not full and any(layer.window for layer in attention_of(header)):
        return (
            "llama-server does not go on with a saved slot where layers see a sliding window, "
            'unless args has "--swa-full"'
        )
    return None


def why_not_taken(old: LoadOptions, new: LoadOptions, header: Header) -> str | None:
    """Why what was computed with `old` is not what `new` would have computed, or does not fit in;
    None where it is and does. Both are of the same files."""
    if old.args != new.args:
        return "args are others"
    if (old.libdir, old.backends) != (new.libdir, new.backends):
        return "llama.cpp is another one"
    unified = UNIFIED & set(map(option_of, new.args))
    if old.parallel != new.parallel and not unified:
        return "parallel is another one, by which llama-server divides its cache"
    same_length = (old.ctx, old.parallel) == (new.ctx, new.parallel)
    if not same_length and any(LONG_ROPE in tensor.name for tensor in header.tensors):
        return "this model turns its keys otherwise in another ctx"
    return None


def why_not_this(slot: Slot, new: LoadOptions, place: int | None) -> str | None:
    """Why one slot cannot be brought into this place of a worker with `new`, where others can."""
    if slot.speculative:
        return "the draft model's part of a slot cannot be saved"
    if slot.tokens is not None and slot.tokens >= new.ctx:
        return f"it is too long for a ctx of {new.ctx}"
    return NO_PLACE if place is None else None


def worth_saving(
    slots: Iterable[Slot], *, done: Mapping[int, int | None], filled: Set[int], last: bool
) -> list[Slot]:
    """The slots with enough in them, the last used first. `passed_on`: slot -> the task as of which
    it has been saved before. `filled`: slots that were restored. `last`: also those that are busy,
    since nobody waits for their answers any more."""
    found = [
        slot
        for slot in slots
        if (last or not slot.busy)
        and (slot.id in filled if slot.tokens is None else slot.tokens >= FEWEST_TOKENS)
        and not (slot.id in done and done[slot.id] == slot.task)
    ]
    return sorted(found, key=lambda slot: -1 if slot.task is None else slot.task, reverse=True)


def unused(slots: Iterable[Slot], filled: Set[int]) -> list[int]:
    """The slots into which a conversation can be put without loss, the best first: llama-server
    gives a new conversation the last one of those that were never used."""
    return sorted(slot.id for slot in slots if slot.task is None and slot.id not in filled)


def bytes_a_token(header: Header) -> int:
    """How large a slot is at most for each token in it, but for a small part that is as large for
    one token as for many; quantised caches are smaller."""
    layers = attention_of(header)
    return KV_BYTES * sum(x.key_width + x.value_width + x.indexer_width for x in layers)
