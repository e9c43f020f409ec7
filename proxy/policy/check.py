"""What keys ask of each other, once every single value is right, and what engines cannot have."""

from collections.abc import Mapping

from proxy.engine.command_line import OF_COMMAND, OF_STOP_COMMAND, not_filled_in
from proxy.engine.environment import missing
from proxy.engine.llama_args import refused_args, unsafe_args
from proxy.policy.merge import Settings
from proxy.policy.model import ModelPolicy, Policies
from proxy.policy.patterns import is_pattern, overlap, weight
from proxy.policy.problems import KeyPath, dotted, shown
from proxy.policy.units import format_size
from proxy.split import Layers


def check(settings: Settings, policies: Policies, env: Mapping[str, str]) -> None:
    """Report to `settings` where two keys contradict each other, and note there what a policy
    allows that is better known."""
    _check_aliases(settings, policies)
    _check_reserves(settings, policies)
    _check_bases(settings, policies)
    for model in policies.models.values():
        _check_command(settings, model, ("models", model.name))
        _check_ranges(settings, model, ("models", model.name))
        _check_args(settings, model, policies)
        _check_env(settings, model, ("models", model.name), env)
        _check_placeholders(settings, model, ("models", model.name))
    _check_command(settings, policies.defaults, ("defaults",))
    _check_ranges(settings, policies.defaults, ("defaults",))
    _check_env(settings, policies.defaults, ("defaults",), env)
    _check_placeholders(settings, policies.defaults, ("defaults",))


def _check_aliases(settings: Settings, policies: Policies) -> None:
    places: dict[str, KeyPath] = {name: ("models", name) for name in policies.models}
    for model in policies.models.values():
        for index, alias in enumerate(model.aliases):
            here = ("models", model.name, "aliases", index)
            if alias in places:
                settings.report(here, f"{shown(alias)} already names {dotted(places[alias])}")
                continue
            for other, there in places.items() if is_pattern(alias) else ():
                if there[1] != model.name and _rival(alias, other):
                    settings.report(
                        here,
                        f"{shown(alias)} could mean the same names as {shown(other)} of "
                        f"{dotted(there)}, and neither is longer",
                    )
            places[alias] = here


def _rival(alias: str, other: str) -> bool:
    """Whether two patterns could fit the same name and neither would win."""
    return is_pattern(other) and weight(alias) == weight(other) and overlap(alias, other)


def _check_bases(settings: Settings, policies: Policies) -> None:
    for model in policies.models.values():
        here: KeyPath = ("models", model.name, "base")
        if model.base is None or here in settings.spoiled:
            continue
        base = policies.models.get(policies.own_name(model.base))
        if base is model:
            settings.report(here, "a model cannot be a variant of itself")
        elif base and base.base is not None:
            settings.report(here, f"{shown(model.base)} is a variant itself, of {shown(base.base)}")


def _check_reserves(settings: Settings, policies: Policies) -> None:
    """Experts that leave below `low` and come back above `reserve` must not go round in circles."""
    devices = policies.devices
    low: KeyPath = ("devices", "low")
    reserves: dict[KeyPath, int] = {("devices", "reserve"): devices.reserve_bytes}
    for name, device in devices.named.items():
        reserves["devices", name, "reserve"] = device.reserve_bytes
    for path, reserve_bytes in reserves.items():
        # Where only one of the two is written down, that is the one to change.
        place = path if path in settings.origins else low
        inherited = len(path) == 3 and place == low
        if inherited or {path, low} & settings.spoiled or devices.low_bytes <= reserve_bytes:
            continue
        sizes = f"{format_size(devices.low_bytes)} is above {format_size(reserve_bytes)}"
        settings.report(place, f"devices.low must not be above {dotted(path)}; {sizes}")


def _check_command(settings: Settings, model: ModelPolicy, table: KeyPath) -> None:
    command: KeyPath = (*table, "command")
    engine: KeyPath = (*table, "engine")
    place = command if command in settings.origins else engine
    if place not in settings.origins or {command, engine} & settings.spoiled:
        return
    if model.engine == "command" and not any("{port}" in part for part in model.command):
        settings.report(place, f'engine "command" needs {dotted(command)} with {{port}} in it')


def _check_ranges(settings: Settings, model: ModelPolicy, table: KeyPath) -> None:
    """Ranges of layers are reached by moving weights: where a split is loaded, it is a number."""
    if model.engine != "command" and model.split != "separate":
        return
    why = 'engine "command"' if model.engine == "command" else 'split = "separate"'
    for key, option in (("moe_cpu_layers", "--n-cpu-moe"), ("dense_cpu_layers", "--n-cpu-ffn")):
        split, value = (*table, key), getattr(model, key)
        if split not in settings.origins or split in settings.spoiled:
            continue
        if isinstance(value, Layers):
            settings.report(
                split,
                f"with {why} the split is given at the start, and llama.cpp's {option} takes only "
                f"a number, no ranges ({value})",
            )


def _check_args(settings: Settings, model: ModelPolicy, policies: Policies) -> None:
    args: KeyPath = ("models", model.name, "args")
    engine: KeyPath = ("models", model.name, "engine")
    unsafe: KeyPath = ("models", model.name, "unsafe_args")
    if model.engine != "hosted" or {args, engine, unsafe} & settings.spoiled:
        return
    base = model.base and policies.models.get(policies.own_name(model.base))
    for index, why in refused_args(model.args):
        if args in settings.origins:
            settings.report((*args, index), why)
        elif base and base.engine != "hosted":  # else it is told of the base itself
            settings.report(engine, f"args of {shown(model.base)}: {why}")
    for index, why in unsafe_args(model.args):
        needs = f"{why}; {dotted(unsafe)} = true allows it"
        if args in settings.origins:
            if model.unsafe_args:
                settings.note((*args, index), f"allowed by unsafe_args: {why}")
            else:
                settings.report((*args, index), needs)
        elif base and not model.unsafe_args and (base.unsafe_args or base.engine != "hosted"):
            place = unsafe if unsafe in settings.origins else engine
            settings.report(place, f"args of {shown(model.base)}: {needs}")


def _check_placeholders(settings: Settings, model: ModelPolicy, table: KeyPath) -> None:
    for key, known in (("command", OF_COMMAND), ("stop_command", OF_STOP_COMMAND)):
        own: KeyPath = (*table, key)
        if own not in settings.origins or own in settings.spoiled:
            continue
        for index, part in enumerate(getattr(model, key)):
            for name in not_filled_in(part, known):
                words = ", ".join(f"{{{one}}}" for one in known)
                settings.note(
                    (*own, index), f"{{{name}}} stays as it is; what is filled in is {words}"
                )


def _check_env(
    settings: Settings, model: ModelPolicy, table: KeyPath, env: Mapping[str, str]
) -> None:
    if (*table, "engine") in settings.spoiled:
        return
    if model.engine == "hosted" and table != ("defaults",):  # which a model may yet inherit
        for key in ("env", "ready_path", "stop_command"):
            if (*table, key) in settings.origins:
                settings.note(
                    (*table, key), 'only engine "command" takes it; a hosted model has args'
                )
    cache: KeyPath = (*table, "moe_cache")
    if model.engine == "command" and cache in settings.origins:
        settings.note(cache, 'only hosted models have it; engine "command" has arguments')
    own: KeyPath = (*table, "env")
    if model.engine == "hosted" or own not in settings.origins or own in settings.spoiled:
        return
    for name in missing(env, model.env.items()):
        settings.note((*own, name), f"the proxy has no variable {model.env[name]}: it is left out")
