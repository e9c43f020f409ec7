"""What becomes of a node's models when it is drained, and when it is empty."""

from typing import Any

import pytest

from proxy.fleet.cluster import drain
from proxy.fleet.cluster.drain import Told, busy, empty, moves
from proxy.fleet.cluster.node_api import NodeApi, NotAnswered
from proxy.fleet.front.picture import models_of
from proxy.fleet.member import Member, Members

GIB = 1 << 30
MEMBERS = Members((Member("a", "http://a"), Member("b", "http://b"), Member("c", "http://c")))


def backend(model: str, *, in_flight: int = 0, waiting: int = 0, state: str = "ready") -> Any:
    return {
        "id": model,
        "model": model,
        "state": state,
        "ctx": 4096,
        "parallel": 2,
        "in_flight": in_flight,
        "waiting": waiting,
        "bytes": {},
        "layers": [],
        "pinned": False,
        "live_moves": True,
    }


def state(*backends: Any, free: int = 8 * GIB, requests: int = 0) -> dict[str, Any]:
    device = {"name": "gpu", "free_bytes": free, "reserve_bytes": 0, "limit_bytes": None}
    return {
        "backends": list(backends),
        "devices": [device],
        "host": {"available_bytes": 8 * GIB, "limit_bytes": None},
        "requests": [{}] * requests,
    }


def told(*models: str, **options: Any) -> Told:
    """A node that has the files of all these; of `loaded`, also in memory."""
    loaded = [backend(name) for name in options.pop("loaded", ())]
    data = [{"id": name, "meta": {"size_bytes": GIB, "base": name}} for name in models]
    return Told(state(*loaded, **options), models_of({"data": data}))


def test_what_others_have_loaded_too_goes_nowhere() -> None:
    fleet = {"a": told("m", loaded=["m"]), "b": told("m", loaded=["m"])}

    assert moves(fleet, "a", ()) == {}


def test_what_only_it_has_goes_to_the_one_with_room() -> None:
    fleet = {"a": told("m", loaded=["m"]), "b": told("m", free=0), "c": told("m")}

    assert moves(fleet, "a", ()) == {"m": "c"}


def test_what_nobody_else_has_the_file_of_stays() -> None:
    fleet = {"a": told("m", loaded=["m"]), "b": told("other")}

    assert moves(fleet, "a", ()) == {"m": None}


def test_nothing_goes_to_one_that_drains_too() -> None:
    fleet = {"a": told("m", loaded=["m"]), "b": told("m", loaded=["m"]), "c": told("m")}

    assert moves(fleet, "a", {"b"}) == {"m": "c"}
    assert moves(fleet, "a", {"b", "c"}) == {"m": None}


def test_one_that_ends_already_is_not_moved() -> None:
    node = Told(state(backend("m", state="stopping")), models_of({"data": []}))

    assert moves({"a": node, "b": told("m")}, "a", ()) == {}


def test_who_waits_for_a_model_to_load_is_a_request_too() -> None:
    assert busy(state(backend("m", in_flight=2, waiting=1))) == 3
    assert busy(state(requests=2)) == 2
    assert busy(state()) == 0


class Nodes(NodeApi):
    """Answers in their place; a node that has nothing more to say goes on saying the last."""

    def __init__(self, **answers: list[dict[str, Any] | None]) -> None:
        self.answers = answers
        self.loads: list[str] = []

    async def get(self, url: str, path: str, within_s: float) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "m", "meta": {"base": "m", "size_bytes": 1}}]}
        its = self.answers[url.removeprefix("http://")]
        answer = its.pop(0) if len(its) > 1 else its[0]
        if answer is None:
            raise NotAnswered("gone")
        return answer

    async def load(self, url: str, model: str, within_s: float) -> None:
        self.loads.append(f"{url} {model}")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "QUIET_S", 0.05)
    monkeypatch.setattr(drain, "LOOK_S", 0.01)


async def test_it_is_empty_once_its_last_request_has_ended_and_its_models_are_elsewhere() -> None:
    busy_ones = [state(backend("m", in_flight=count)) for count in (2, 2, 1)]
    nodes = Nodes(a=[*busy_ones, state(backend("m"))], b=[state()], c=[None])
    said: list[str] = []

    await empty("a", lambda: MEMBERS, nodes, 600, said.append)

    assert nodes.loads == ["http://b m"]
    assert said[0] == "has others load m (b)"
    assert [each.partition(",")[0] for each in said[1:]] == [
        "waits for 2 requests",
        "waits for 1 request",
    ]


async def test_one_that_is_never_empty_is_given_up() -> None:
    nodes = Nodes(a=[state(backend("m", in_flight=1))], b=[state()], c=[state()])

    await empty("a", lambda: MEMBERS, nodes, 0.2, lambda text: None)


async def test_one_that_does_not_answer_is_waited_for_as_long_and_said_so() -> None:
    said: list[str] = []

    await empty("a", lambda: MEMBERS, Nodes(a=[None], b=[state()], c=[state()]), 0.2, said.append)

    assert said[0] == "does not answer: gone"
