"""Patches that make one value of another."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.api.merge_patch import difference

values = st.recursive(
    st.none() | st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def merged(value: Any, patch: Any) -> Any:
    """RFC 7396, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    made = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), change)
    return made


def without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: without_none(inner) for key, inner in value.items() if inner is not None}


@given(old=objects, new=objects)
def test_the_patch_makes_the_new_one_of_the_old_one(old: Any, new: Any) -> None:
    assert without_none(merged(old, difference(old, new))) == without_none(new)


def test_only_what_differs_is_in_it() -> None:
    old = {"a": {"b": 1, "c": [1], "d": None}, "e": 5, "f": None}
    new = {"a": {"b": 2, "c": [1], "d": None}, "g": None}

    assert difference(old, new) == {"a": {"b": 2}, "e": None}
    assert difference(new, new) == {}
