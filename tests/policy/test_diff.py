from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.diff import Changes, diff
from proxy.policy.load import parse
from proxy.policy.model import Policies
from proxy.policy.schema import Effect
from proxy.policy.sources import Sources


def policies(text: str) -> Policies:
    loaded = parse(Sources(((Path("/p.toml"), text.encode()),)), {"HOME": "/home"})
    assert loaded.problems == ()
    assert loaded.policies is not None
    return loaded.policies


def changes(old: str, new: str) -> Changes:
    return diff(policies(old), policies(new))


def changed_models(change: Changes) -> dict[str, tuple[str, ...]]:
    return {name: model.keys for name, model in change.models.items()}


MODELS = "models.a.ctx = 1\nmodels.b.parallel = 2\n"


def test_only_the_edited_model_appears() -> None:
    found = changes(MODELS, MODELS + "models.a.moe_cpu_layers = 3")

    assert changed_models(found) == {"a": ("moe_cpu_layers",)}
    change = found.models["a"]
    assert (change.moves(), change.reload) == (True, ())
    assert (change.old.moe_cpu_layers, change.new.moe_cpu_layers) == ("auto", 3)
    assert found.for_model("b") is None
    assert found.for_model("c") is None
    assert found.defaults_changed is None
    assert found.keys == {}


def test_weights_of_a_model_without_experts_move_by_their_own_key() -> None:
    """The first time and the last time it is set, what is loaded can move or not move any more."""
    unset, some, more = ("", "models.a.dense_cpu_layers = 3", "models.a.dense_cpu_layers = 'auto'")
    for old, new, remade in ((unset, some, True), (some, more, False), (more, unset, True)):
        change = changes(MODELS + old, MODELS + new).models["a"]
        assert change.keys == ("dense_cpu_layers",)
        assert change.reload == ()
        assert (change.moves(), change.moves(dense=True)) == (False, not remade)
        assert change.makes_movable == remade


@pytest.mark.parametrize(
    ("edit", "reload"),
    [
        ("params = { temperature = 1 }", ()),
        ("keep_alive = '1s'", ()),
        ("aliases = ['x']", ()),
        ("ctx = 7", ("ctx",)),
        ("parallel = 7", ("parallel",)),
        ("args = ['x']", ("args",)),
        ("path = '/x'", ("path",)),
        ("mode = 'rerank'", ("mode",)),
        ("engine = 'command'\ncommand = ['{port}']", ("engine", "command")),
        ("repack = 'on'", ("repack",)),
    ],
)
def test_how_a_change_takes_effect(edit: str, reload: tuple[str, ...]) -> None:
    change = changes("[models.a]", f"[models.a]\n{edit}").models["a"]

    assert (change.moves(), change.reload) == (False, reload)


def test_a_default_concerns_those_that_inherit_it() -> None:
    found = changes(MODELS, MODELS + "defaults.ctx = 5")

    assert changed_models(found) == {"b": ("ctx",)}
    unnamed = found.for_model("c")
    assert unnamed is not None
    assert (unnamed.old.name, unnamed.new.name, unnamed.keys) == ("c", "c", ("ctx",))
    assert (unnamed.old.ctx, unnamed.new.ctx) == (8192, 5)
    assert found.for_model("a") is None


def test_writing_down_what_holds_anyway_changes_nothing() -> None:
    found = changes(MODELS, MODELS + "models.b.ctx = 8192\n[models.c]\nkeep_alive = '300s'")

    assert not found


def test_a_table_that_comes_or_goes_is_compared_with_the_defaults() -> None:
    added = changes("", "models.a.ctx = 5")
    removed = changes("models.a.ctx = 5\ndefaults.parallel = 1", "defaults.parallel = 1")

    assert changed_models(added) == changed_models(removed) == {"a": ("ctx",)}
    assert (added.models["a"].new.ctx, removed.models["a"].new.ctx) == (5, 8192)
    assert removed.models["a"].new.name == "a"


def test_the_alias_of_a_removed_model_says_nothing_about_its_name() -> None:
    found = changes("models.a.ctx = 5", "models.b = { aliases = ['a'], ctx = 6 }")

    assert found.models["a"].new.ctx == 8192


def test_a_changed_default_that_a_new_table_outweighs() -> None:
    found = changes("", "defaults.ctx = 5\nmodels.a.ctx = 8192")

    assert found.for_model("a") is None
    assert found.for_model("b") is not None


def test_keys_outside_of_models() -> None:
    found = changes(
        "[devices.CUDA0]\nlimit = '1GiB'\n[devices.CUDA1]\nreserve = '1GiB'",
        "server = { port = 1, max_queue = 2 }\nengine.threads = 3\ncatalog.dirs = ['/m']\n"
        "devices.reserve = '2GiB'\n[devices.CUDA1]\nreserve = '1GiB'\nattention = false",
    )

    assert found.keys == {
        "server.port": Effect.RESTART,
        "server.max_queue": Effect.LIVE,
        "catalog.dirs": Effect.LIVE,
        "devices.reserve": Effect.LIVE,
        "engine.threads": Effect.RELOAD,
        "devices.CUDA0.reserve": Effect.LIVE,
        "devices.CUDA0.limit": Effect.LIVE,
        "devices.CUDA1.attention": Effect.RELOAD,
    }
    assert not found.models


def test_equal_numbers_of_another_type_are_a_change_of_params() -> None:
    found = changes("models.a.params = { x = 1 }", "models.a.params = { x = true }")

    assert changed_models(found) == {"a": ("params",)}


def test_the_order_of_params_is_no_change() -> None:
    assert not changes("models.a.params = { x = 1, y = 2 }", "models.a.params = { y = 2, x = 1 }")


LINES = st.lists(
    st.sampled_from([
        "server.port = 1", "devices.reserve = '1GiB'", "devices.X.limit = 1", "defaults.ctx = 3",
        "defaults.moe_cpu_layers = 'full'", "models.a.ctx = 5", "models.b.params = { x = 1 }",
        "models.a.aliases = ['z']", "models.c.keep_alive = -1", "engine.threads = 2",
    ]),
    unique=True,
)  # fmt: skip


@given(LINES)
def test_equal_policies_differ_in_nothing(lines: list[str]) -> None:
    text = "\n".join(lines)

    found = diff(policies(text), policies("\n".join(reversed(lines))))

    assert not found
    assert found.for_model("a") is None


@given(LINES, LINES)
def test_what_does_not_appear_is_the_same_before_and_after(
    before: list[str], after: list[str]
) -> None:
    old, new = policies("\n".join(before)), policies("\n".join(after))

    found = diff(old, new)

    for name in ("a", "b", "c", "unnamed"):
        change = found.for_model(name)
        if change is None:
            assert old.for_model(name) == new.for_model(name)
        else:
            assert (change.old, change.new) == (old.for_model(name), new.for_model(name))
