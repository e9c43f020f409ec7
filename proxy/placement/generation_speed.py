"""How long a token takes where nobody has measured it, from what of the weights it reads. Pure.

A token is made one at a time, and every weight that it needs is read for it once: that bounds how
fast it can be, more than arithmetic does. The KV cache is not counted, and grows with the context.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from proxy.catalog.gguf import Header
from proxy.engine.types import CPU, Status
from proxy.placement.assign import placement
from proxy.placement.estimate import Settings, estimate

# Place ("CPU" or a device) -> bytes, or bytes a second.
Bytes = Mapping[str, int]
Rates = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TokenReads:
    """Bytes of weights that one token reads, by layer: `dense` where the attention is, `moving`
    where the split has it. `output` is read with the last layer."""

    dense: tuple[int, ...]
    moving: tuple[int, ...]
    output: int


def token_reads(header: Header, *, dense: bool = False) -> TokenReads | None:
    """Of a layer's experts it is the share that a token uses. `dense`: feed-forward weights move in
    the place of experts, and are read whole. None where the header does not say how many experts
    are used."""
    made = estimate(header, Settings(ctx=1, dense=dense))
    moving = []
    for layer, work in zip(made.layers, made.work, strict=True):
        if dense or not layer.experts:
            moving.append(layer.experts)
        elif 0 < work.used <= work.experts:
            moving.append(layer.experts * work.used // work.experts)
        else:
            return None
    return TokenReads(tuple(layer.dense for layer in made.layers), tuple(moving), made.output_bytes)


def reads_at(reads: TokenReads, status: Status, split: int) -> dict[str, int]:
    """Where a token reads how much at this split. A layer in which nothing moves is taken to be
    where the one before it is."""
    there = placement(status, split)
    homes = {layer.index: layer.attention_device for layer in status.layers}
    home = next(iter(homes.values()), CPU)
    found: dict[str, int] = {}
    for index, (dense, moving) in enumerate(zip(reads.dense, reads.moving, strict=True)):
        home = homes.get(index, home)
        for place, size in ((home, dense), (there.get(index, home), moving)):
            found[place] = found.get(place, 0) + size
    found[home] = found.get(home, 0) + reads.output
    return {place: size for place, size in found.items() if size}


def least_seconds(reads: Bytes, rates: Rates) -> float | None:
    """What reading takes, one place after the other: no token takes less, unless caches hold what
    it reads. None where the rate of one of the places is not known."""
    if not all(place in rates for place in reads):
        return None
    return sum(size / rates[place] for place, size in reads.items())


def seconds_from(measured: float, there: Bytes, here: Bytes, rates: Rates) -> float | None:
    """A token's seconds where it reads `here`, given what was `measured` where it reads `there`.

    Only what is read elsewhere, or not any more, changes them. Of devices whose rate is not known
    it is not counted: they are much faster than main memory. None without that one's rate, and
    where no time would be left.
    """
    if CPU not in rates:
        return None
    seconds = measured
    for place in set(chain(there, here)) & set(rates):
        # Whatever a rate was measured to be, all that was read has been read in that time.
        rate = max(rates[place], there.get(place, 0) / measured)
        seconds += (here.get(place, 0) - there.get(place, 0)) / rate
    return seconds if seconds > 0 else None
