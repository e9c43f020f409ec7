"""What a node tells of itself, as the choice sees it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.choice import Asked, choose
from proxy.fleet.front.picture import EVERY_CTX, Models, in_flight, models_of, node_of
from proxy.fleet.state import Fleet

GB = 1 << 30
LAYER = {"index": 0, "experts": "CUDA0", "experts_bytes": GB, "home": "CUDA0"}
BACKEND: dict[str, Any] = {
    **{"id": "b1", "model": "m", "state": "ready", "ctx": 8192, "parallel": 2, "live_moves": True},
    **{"in_flight": 1, "waiting": 0, "pinned": False},
    "layers": [LAYER, LAYER | {"experts": "CPU"}],
    "bytes": {"CUDA0": {"weights": 3 * GB, "kv": GB}, "CPU": {"weights": GB}},
}
DEVICE = {"free_bytes": 5 * GB, "reserve_bytes": GB, "limit_bytes": None, "ours_bytes": 4 * GB}


def state(*backends: dict[str, Any], devices: Any = None) -> dict[str, Any]:
    return {
        "backends": {backend["id"]: backend for backend in backends},
        "memory": {"devices": devices or {}, "host": {"available_bytes": 9 * GB}},
    }


def listed(*entries: dict[str, Any]) -> Models:
    return models_of({"data": list(entries)})


def model(name: str, **meta: Any) -> dict[str, Any]:
    return {"id": name, "aliases": meta.pop("aliases", []), "meta": meta}


def test_what_is_loaded_and_how_busy_it_is() -> None:
    node = node_of("n", state(BACKEND), listed(model("m")), {}, draining=False)

    (loaded,) = node.loaded
    assert (loaded.model, loaded.ctx, loaded.slots, loaded.in_flight) == ("m", 8192, 2, 1)
    assert in_flight(state(BACKEND)) == {"m": 1}


def test_of_a_model_that_is_loaded_twice_the_one_that_writes_counts() -> None:
    embeds = BACKEND | {"id": "b2", "mode": "embedding", "parallel": 8}
    writes = BACKEND | {"mode": "generation"}

    for backends in ((writes, embeds), (embeds | {"id": "b0"}, writes)):
        (loaded,) = node_of("n", state(*backends), Models(), {}, draining=False).loaded
        assert loaded.slots == 2


def test_what_is_on_its_way_counts_at_once() -> None:
    node = node_of("n", state(BACKEND), listed(model("m")), {"m": 3}, draining=False)

    assert (node.loaded[0].in_flight, node.loaded[0].waiting) == (2, 2)
    gone = node_of("n", state(BACKEND), listed(model("m")), {"m": -5}, draining=False)
    assert gone.loaded[0].in_flight == 0


def test_a_model_that_was_asked_for_just_now_counts_as_loaded() -> None:
    """So that the next one for it goes there too, and not to a node of its own."""
    node = node_of("n", state(), listed(model("m", parallel=3)), {"m": 1}, draining=False)

    (loaded,) = node.loaded
    assert (loaded.slots, loaded.in_flight, loaded.ctx) == (3, 1, EVERY_CTX)
    assert node_of("n", state(), listed(model("m")), {"m": 0}, draining=False).loaded == ()


def test_what_is_being_loaded_has_its_memory_already() -> None:
    """So that of models that are asked for at the same moment not all go to one node."""
    moe = model("moe", size_bytes=3 * GB, moe_cpu_layers="auto")
    device = DEVICE | {"ours_bytes": 0}
    starts = BACKEND | {"model": "moe", "state": "starting", "layers": [], "bytes": {}}
    for backends, passed in (([], {"moe": 1}), ([starts], {})):
        told = state(*backends, devices={"CUDA0": device})
        node = node_of("n", told, listed(moe), passed, draining=False)
        assert node.free_bytes == GB
        assert node.movable_bytes == 3 * GB - 3 * GB // 8

    without = node_of("n", state(), listed(moe), {"moe": 1}, draining=False)
    assert (without.free_bytes, without.movable_bytes) == (6 * GB, 0)
    huge = listed(model("moe", size_bytes=90 * GB))
    assert node_of("n", state(), huge, {"moe": 1}, draining=False).free_bytes == 0


def test_models_that_are_asked_for_at_the_same_moment_are_shared_out() -> None:
    names = [f"m{number}" for number in range(6)]
    models = listed(*(model(name, size_bytes=2 * GB) for name in names))
    fleet, passed = Fleet(), {node: dict[str, int]() for node in ("n1", "n2", "n3")}
    told = state(devices={"CUDA0": DEVICE | {"ours_bytes": 0}})
    for node in passed:
        fleet.set_files(node, names)
    for name in names:
        for node, on_its_way in passed.items():
            fleet.update(node_of(node, told, models, on_its_way, draining=False))
        choice = choose(fleet, Asked(name, name.encode(), least_bytes=2 * GB))
        assert choice is not None
        assert choice.why == "room"
        passed[choice.node][name] = 1
    assert [len(on_its_way) for on_its_way in passed.values()] == [2, 2, 2]


def test_a_variant_shares_its_bases_backend() -> None:
    models = listed(model("m"), model("v", base="m"))

    node = node_of("n", state(BACKEND), models, {}, draining=False)

    assert {each.model: each.in_flight for each in node.loaded} == {"m": 1, "v": 1}


def test_what_ends_is_not_loaded() -> None:
    for word in ("draining", "stopping", "gone"):
        node = node_of("n", state(BACKEND | {"state": word}), Models(), {}, draining=False)
        assert node.loaded == ()


def test_memory_is_that_of_the_devices() -> None:
    idle = BACKEND | {"in_flight": 0}
    node = node_of("n", state(idle, devices={"CUDA0": DEVICE}), Models(), {}, draining=False)

    assert node.free_bytes == 4 * GB  # beside what is kept free
    assert node.movable_bytes == GB
    assert node.idle_bytes == 3 * GB  # all that it holds there, but what could move


def test_without_devices_it_is_ram() -> None:
    node = node_of("n", state(BACKEND | {"in_flight": 0}), Models(), {}, draining=False)

    assert (node.free_bytes, node.movable_bytes) == (9 * GB, 0)
    assert node.idle_bytes == GB


def test_who_is_busy_or_pinned_gives_nothing() -> None:
    devices = {"CUDA0": DEVICE}
    for backend in (BACKEND, BACKEND | {"in_flight": 0, "pinned": True}):
        node = node_of("n", state(backend, devices=devices), Models(), {}, draining=False)
        assert node.idle_bytes == 0


def test_a_limit_counts_what_is_ours() -> None:
    limited = DEVICE | {"limit_bytes": 6 * GB}
    node = node_of("n", state(devices={"CUDA0": limited}), Models(), {}, draining=False)

    assert node.free_bytes == 2 * GB


def test_names_as_a_node_itself_understands_them() -> None:
    models = listed(
        model("Qwen3-30B-A3B-Q4_K_M", aliases=["fast", "gpt-*"]), model("other"), {"id": 5}
    )

    def found(name: str) -> str | None:
        model = models.find(name)
        return model.name if model else None

    for name in ("Qwen3-30B-A3B-Q4_K_M", "qwen3-30b-a3b:q4_k_m", "Qwen3-30B-A3B", "fast", "gpt-4o"):
        assert found(name) == "Qwen3-30B-A3B-Q4_K_M"
    assert found("other:latest") == "other"
    assert found("nobody") is None


def test_how_much_of_a_model_has_to_be_on_a_device() -> None:
    models = listed(
        model("moe", size_bytes=8 * GB, moe_cpu_layers="auto"), model("dense", size_bytes=8 * GB)
    )

    assert models.models["moe"].least_bytes < models.models["dense"].least_bytes == 8 * GB


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from((*BACKEND, *DEVICE, "memory", "backends", "devices", "host", "data")),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(told=ODD, listed=ODD)
def test_a_node_of_another_version_may_tell_anything(told: Any, listed: Any) -> None:
    told = told if isinstance(told, dict) else {"backends": told}
    models = models_of(listed if isinstance(listed, dict) else {"data": listed})

    node = node_of("n", told, models, {"m": 1}, draining=False)

    assert node.free_bytes >= 0
