"""What an edit of the policies comes to for one backend that runs: whoever applies it asks, and
whoever wants to know before. Pure."""

from dataclasses import dataclass

from proxy.policy.diff import Changes


@dataclass(frozen=True, slots=True)
class Consequence:
    """`reload` are the changed keys that it would be loaded with; `anew`: it is loaded anew, which
    it is without any of these where its weights can move from now on, or cannot any more. `splits`:
    it is to have another split. `moves`: where its experts are is decided anew."""

    reload: tuple[str, ...]
    anew: bool
    splits: bool
    moves: bool


def consequence(changes: Changes, model: str, *, dense: bool, by_replacing: bool) -> Consequence:
    """Of a backend of `model`, loaded with `LoadOptions.dense` or not; `by_replacing`: another
    split takes another process."""
    change = changes.for_model(model)
    reload = change.reload if change is not None else ()
    reload += tuple(key for key in changes.keys if _is_for_all(key))
    splits = change is not None and change.moves(dense=dense)
    if splits and by_replacing:
        reload += ("dense_cpu_layers" if dense else "moe_cpu_layers",)
    anew = bool(reload) or (change is not None and change.makes_movable)
    devices = any(key.partition(".")[0] == "devices" for key in changes.keys)
    return Consequence(reload, anew, splits, splits or devices)


def _is_for_all(key: str) -> bool:
    """Whether a changed key outside of models changes what every model is loaded with."""
    return key.startswith("engine.") or key.endswith(".attention")
