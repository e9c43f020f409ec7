"""What is different between two JSON values, as a JSON merge patch (RFC 7396), and what such a
patch makes of a value. Pure."""

from collections.abc import Mapping
from typing import Any


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The patch that makes `new` of `old`: what has changed, and None for what is gone. Lists are
    replaced as a whole. What is None counts as not there, as in any merge patch."""
    patch: dict[str, Any] = {key: None for key, was in old.items() if _is_gone(was, new.get(key))}
    for key, now in new.items():
        was = old.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            if inner := difference(was, now):
                patch[key] = inner
        elif now is not None and now != was:
            patch[key] = now
    return patch


def applied(old: Any, patch: Any) -> Any:
    """What `patch` makes of `old`, which stays as it is."""
    if not isinstance(patch, Mapping):
        return patch
    now = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            now.pop(key, None)
        else:
            now[key] = applied(now.get(key), value)
    return now


def _is_gone(was: Any, now: Any) -> bool:
    return was is not None and now is None
