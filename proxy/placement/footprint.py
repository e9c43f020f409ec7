"""What a newcomer takes of each device before any of its experts come: what others have to make
room for. Pure."""

from collections.abc import Sequence
from itertools import pairwise

from proxy.catalog.gguf import Header
from proxy.engine.types import LoadOptions
from proxy.placement.estimate import DEFAULT_UBATCH, Settings, estimate

KEY_TYPE, VALUE_TYPE = ("--cache-type-k", "-ctk"), ("--cache-type-v", "-ctv")
UBATCH = ("--ubatch-size", "-ub")


def footprint(header: Header, options: LoadOptions, devices: Sequence[str]) -> dict[str, int]:
    """Device -> bytes of dense weights, KV cache, compute and expert cache, with all experts on
    the CPU.

    llama.cpp spreads layers by free memory; here they are taken as spread evenly, which is what
    that comes to on devices that are equally full. One for experts only has nothing before these.
    """
    devices = [device for device in devices if device not in options.no_attention]
    if not devices:
        return {}
    found = estimate(header, settings_of(options))
    every = range(len(found.layers))
    dense = sum(layer.dense for layer in found.layers) + found.output_bytes
    compute = found.compute_bytes(every, every)
    share = -(-(dense + found.kv_bytes) // len(devices))
    # A cache is there from the first moment on, and stays.
    needed = dict.fromkeys(devices, share + compute)
    needed[devices[0]] += options.cache_mib << 20
    return needed


def settings_of(options: LoadOptions) -> Settings:
    """What a model is loaded with, as the estimate wants it."""
    return Settings(
        ctx=options.ctx,
        parallel=options.parallel,
        key_type=_argument(options.args, KEY_TYPE) or "f16",
        value_type=_argument(options.args, VALUE_TYPE) or "f16",
        ubatch=ubatch_of(options.args) or options.ubatch or DEFAULT_UBATCH,
        per_token_outputs=options.mode != "generation",
        dense=options.dense,
    )


def ubatch_of(arguments: Sequence[str]) -> int | None:
    """The batch that llama-server's arguments ask for, if they do."""
    given = _argument(arguments, UBATCH) or ""
    return int(given) if given.isdecimal() else None


def _argument(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """The value of an option in llama-server's arguments; the last one counts."""
    found = [value for name, value in pairwise(arguments) if name in names]
    return found[-1] if found else None
