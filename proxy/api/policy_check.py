"""What a policy file would change if it had another text: found out before anything is written."""

from collections.abc import Sequence
from typing import Any

from proxy.api.policy_files import parsed_with
from proxy.policy.consequence import consequence
from proxy.policy.diff import Changes, diff
from proxy.policy.live import problem_to_json, until_restart
from proxy.policy.load import Loaded
from proxy.policy.model import Policies
from proxy.pool.state import Backend, BackendState

SERVING = (BackendState.STARTING, BackendState.READY)


def check_policy_file(
    newest: Loaded, name: str, text: bytes, *, every_key: bool
) -> tuple[list[dict[str, Any]], Loaded]:
    """What is wrong with `text` as the file `name`, also what may not be set over HTTP, and what
    the whole set would be. Raises NotFound."""
    forbidden, loaded = parsed_with(newest, name, text, every_key=every_key)
    return [problem_to_json(problem) for problem in (*forbidden, *loaded.problems)], loaded


def effects(
    current: Policies, new: Policies, backends: Sequence[Backend], nodes: Sequence[str] = ()
) -> dict[str, Any]:
    """What comes of `new` in the place of `current`: for what is loaded, "stays", "moves" or
    "restarts"; which other models it changes, and which keys wait for the next start; for which
    other `nodes` of a fleet alone it changes something. Pure."""
    now = until_restart(current, new)
    changes, waiting = diff(current, now), diff(now, new)
    serving = [backend for backend in backends if backend.state in SERVING]
    loaded = {backend.options.model for backend in serving}
    return {
        "changes": bool(changes or waiting or nodes),
        "backends": [_fate(changes, backend) for backend in serving],
        "models": sorted(changes.models.keys() - loaded),
        "defaults": list(changes.defaults_changed.keys) if changes.defaults_changed else [],
        "keys": sorted(changes.keys),
        "next_start": sorted(waiting.keys),
        "nodes": list(nodes),
    }


def _fate(changes: Changes, backend: Backend) -> dict[str, Any]:
    model, dense = backend.options.model, backend.options.dense
    by_replacing = backend.splits_by_replacing
    what = consequence(changes, model, dense=dense, by_replacing=by_replacing)
    change = changes.for_model(model)
    fate = "restarts" if what.anew else "moves" if what.moves else "stays"
    keys = sorted({*(change.keys if change else ()), *what.reload})
    return {"id": backend.id, "model": model, "fate": fate, "keys": keys}
