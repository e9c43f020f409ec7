"""A fleet of three machines, each a Ray node of its own on this one, from its first command to its
last. The tests of this file are steps of one story, in their order."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.guard import HANG_S, LLAMA_S
from tests.support.policies import policies
from tests.support.ray_fleet import FLEET, NODES, SLOW_S, RayFleet, ray_fleet
from tests.support.serving import runs
from tests.support.streams import begin

pytestmark = [
    pytest.mark.llama,
    pytest.mark.story,
    # Not imported here: it is, by the commands.
    pytest.mark.skipif(
        find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
    ),
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[RayFleet]:
    with ray_fleet() as made:
        yield made


def ready(nodes: dict[str, dict[str, object]]) -> bool:
    return [name for name, each in nodes.items() if each["state"] == "ready"] == [*NODES]


def test_up_starts_ray_and_a_node_and_says_where_to_ask(fleet: RayFleet) -> None:
    said = fleet.start()

    assert f"a ready {fleet.front}" in said
    assert node_that_answers(fleet, "own-a") == "a"


def node_that_answers(fleet: RayFleet, model: str) -> str:
    """Asked at the front of the first machine."""
    question = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}
    answer = fleet.ask(fleet.front, "/v1/chat/completions", question)
    return str(answer["headers"]["X-Moe-Proxy-Node"])


def test_machines_that_join_get_a_node_each(fleet: RayFleet) -> None:
    said = fleet.join_by_up("b")
    fleet.join("c")

    nodes = fleet.until(ready, "three nodes are ready")

    # Each has a front, here at the next free ports; the files of policies came from the first.
    assert len({each["front"] for each in nodes.values()}) == 3
    assert f"use {nodes['b']['front']} on this machine" in said
    assert fleet.policy("b").read_bytes() == fleet.policy("a").read_bytes()
    assert node_that_answers(fleet, "own-c") == "c"
    # What Ray sets for its workers is not for a node: no card would be there, and one thread.
    (pid,) = fleet.pids("proxy.cli.main serve", of="b")
    env = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"CUDA_VISIBLE_DEVICES" not in env
    assert b"OMP_NUM_THREADS" not in env


def test_up_again_changes_nothing(fleet: RayFleet) -> None:
    before = {name: each["url"] for name, each in fleet.nodes().items()}

    said = fleet.fleet("up")

    assert all(f"{name} ready" in said for name in NODES)
    assert {name: each["url"] for name, each in fleet.nodes().items()} == before


def test_a_model_may_have_devices_of_other_nodes(fleet: RayFleet) -> None:
    url = fleet.nodes()["b"]["url"]
    before = fleet.ask(url, "/admin/state")["policies"]["generation"]
    fleet.policy("b").write_text(
        policies(
            {"own-b": {"rpc": "fleet"}},
            catalog={"ollama": False, "dirs": ["~/models"]},
            defaults={"ctx": 2048},
        )
    )
    eventually(
        lambda: fleet.ask(url, "/admin/state")["policies"]["generation"] > before, "it is in force"
    )

    assert node_that_answers(fleet, "own-b") == "b"

    eventually(
        lambda: [each["name"] for each in fleet.ask(url, "/admin/state")["devices"]] == ["RPC0"],
        "it has a device of another node's",
    )
    assert len(fleet.pids("proxy.fleet.rpc.giver")) == 1
    assert fleet.pids("proxy.fleet.rpc.giver", of="b") == []
    assert len(fleet.pids("proxy.fleet.rpc.taker", of="b")) == 1
    fleet.ask(url, "/admin/models/own-b/unload", {})
    eventually(lambda: not fleet.pids("proxy.fleet.rpc"), "nothing is lent any more")


def eventually(fact: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + SLOW_S
    while not fact():
        assert time.monotonic() < end_s, f"it never came to this: {what}"
        time.sleep(0.05)


def test_a_stranger_gets_nothing_of_a_node(fleet: RayFleet) -> None:
    url = fleet.nodes()["b"]["url"]

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/health", timeout=HANG_S)

    with refused.value as answer:
        assert answer.code == 401


def test_an_edit_on_one_machine_is_in_force_on_all(fleet: RayFleet) -> None:
    nodes = {name: each["url"] for name, each in fleet.nodes().items()}
    text = policies(
        {"shared": {"ctx": 1024}},
        catalog={"ollama": False, "dirs": ["~/models"]},
        defaults={"ctx": 2048},
    )
    began_s = time.monotonic()
    fleet.policy("b").write_text(text)

    took_s = {name: until_ctx(fleet, url, 1024) - began_s for name, url in nodes.items()}

    sys.stdout.write(f"{took_s}\n")  # for who looks at it: pytest -s
    assert max(took_s.values()) - took_s["b"] < 10


def until_ctx(fleet: RayFleet, url: str, ctx: int) -> float:
    """When a node has this context for its shared model."""
    end_s = time.monotonic() + HANG_S
    while time.monotonic() < end_s:
        models = fleet.ask(url, "/v1/models")["data"]
        if {each["id"]: each["meta"]["ctx"] for each in models}.get("shared") == ctx:
            return time.monotonic()
        time.sleep(0.02)
    raise AssertionError(f"{url} has not taken the edit")


def test_each_machine_has_a_device_of_its_own(fleet: RayFleet) -> None:
    own = {name: {"models": {"shared": {"rpc": [fleet.device()]}}} for name in NODES}
    text = policies(
        {"shared": {"ctx": 1024, "parallel": 4}},
        nodes=own,
        catalog={"ollama": False, "dirs": ["~/models"]},
        defaults={"ctx": 2048},
    )
    before = {name: each["url"] for name, each in fleet.nodes().items()}
    fleet.policy("c").write_text(text)

    def in_force(url: str) -> bool:
        models = {each["id"]: each for each in fleet.ask(url, "/v1/models")["data"]}
        return bool(models["shared"]["meta"]["parallel"] == 4)

    for url in before.values():
        eventually(lambda url=url: in_force(url), "it is in force")  # type: ignore[misc]
    for name in NODES:
        fleet.ask(fleet.front, "/admin/models/shared/load", {}, of=name)

    def seen() -> bool:
        """The front's picture is a moment behind."""
        state = fleet.ask(fleet.front, "/admin/state")
        devices = {(each["node"], each["name"]) for each in state["devices"]}
        splits = {
            each["node"]: each["moe_cpu_layers"]
            for each in state["backends"]
            if each["model"] == "shared" and each["state"] == "ready"
        }
        return devices == {(name, "RPC0") for name in NODES} and splits == dict.fromkeys(NODES, 0)

    eventually(seen, "all experts are on the device of each machine")


ASKED = [{"role": "user", "content": "say something, at some length, of what you know"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": ASKED, "max_tokens": 3}),
        ("/v1/completions", {"prompt": "once", "max_tokens": 3}),
        ("/v1/responses", {"input": "once", "max_output_tokens": 3}),
        ("/v1/messages", {"messages": ASKED, "max_tokens": 3}),
        ("/api/chat", {"messages": ASKED, "stream": False, "options": {"num_predict": 3}}),
        ("/api/generate", {"prompt": "once", "stream": False, "options": {"num_predict": 3}}),
        ("/tokenize", {"content": "once"}),
    ],
)
def test_every_protocol_is_spoken_through_a_front(
    fleet: RayFleet, path: str, body: dict[str, object]
) -> None:
    answer = fleet.ask(fleet.front, path, body | {"model": "shared"})

    assert answer["headers"]["X-Moe-Proxy-Node"] in NODES
    assert not answer.get("error")


def test_a_conversation_goes_on_where_its_prompt_is_cached(fleet: RayFleet) -> None:
    fronts = [each["front"] for each in fleet.nodes().values()]
    turns, nodes, cached = list(ASKED), set(), []
    for turn in range(3):
        question = {"model": "shared", "messages": turns, "max_tokens": 4}
        # Each front by itself comes to the same node.
        data = json.dumps(question).encode()
        request = urllib.request.Request(fronts[turn] + "/v1/chat/completions", data)
        with urllib.request.urlopen(request, timeout=LLAMA_S) as answer:
            nodes.add(answer.headers["X-Moe-Proxy-Node"])
            told = json.loads(answer.read())
        cached.append(told["timings"]["cache_n"])
        said = told["choices"][0]["message"]
        turns = [*turns, said, {"role": "user", "content": "and then?"}]

    assert len(nodes) == 1
    assert min(cached[1:]) > 10


def test_a_directory_that_is_begun_again_is_told_everything(fleet: RayFleet) -> None:
    key = fleet.home("b") / ".local" / "state" / "moe-proxy" / "fleet" / "b" / "key"
    before, (pid,) = key.read_text(), fleet.pids("ray::DirectoryActor", of="a")
    os.kill(pid, signal.SIGKILL)

    assert ready(fleet.nodes())  # nobody is forgotten meanwhile

    text = fleet.policy("a").read_text().replace("1024", "1280", 1)
    fleet.policy("a").write_text(text)
    for each in fleet.nodes().values():
        until_ctx(fleet, each["url"], 1280)
    assert key.read_text() == before
    (again,) = fleet.pids("ray::DirectoryActor", of="a")  # not where it would go with a machine
    assert again != pid


def test_a_front_that_ends_is_begun_again_at_the_same_address(fleet: RayFleet) -> None:
    (pid,) = fleet.pids("proxy.fleet.front", of="a")
    os.kill(pid, signal.SIGKILL)

    assert node_that_answers(fleet, "own-a") == "a"  # it has waited in the socket's queue


@pytest.mark.parametrize("who", ["proxy.cli.main serve", "ray::ServeReplica"])
def test_a_node_or_supervisor_that_hangs_is_replaced(fleet: RayFleet, who: str) -> None:
    before = fleet.nodes()["b"]["url"]
    (pid,) = fleet.pids(who, of="b")
    os.kill(pid, signal.SIGSTOP)

    fleet.until(
        lambda nodes: ready(nodes) and nodes["b"]["url"] != before, "another one in its place"
    )

    assert not runs(pid)


def test_a_drain_costs_no_request(fleet: RayFleet) -> None:
    """Streams of its models go on to their end; the model that it alone had is loaded elsewhere."""
    question = {
        "model": "shared",
        "stream": True,
        "max_tokens": 400,
        "messages": [{"role": "user", "content": "count"}],
    }
    answer = fleet.ask(fleet.front, "/v1/chat/completions", question | {"stream": False})
    leaving = answer["headers"]["X-Moe-Proxy-Node"]
    ends: list[str] = []
    streams = [
        threading.Thread(target=lambda: ends.append(last_of(fleet.front, question)))
        for _ in range(4)
    ]
    for stream in streams:
        stream.start()
    drain = subprocess.Popen(
        (*FLEET, "drain", leaving),
        env=fleet.env("a"),
        cwd=fleet.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    ends.extend(last_of(fleet.front, question | {"max_tokens": 3}) for _ in range(10))
    said, _ = drain.communicate(timeout=LLAMA_S)
    for stream in streams:
        stream.join()

    assert drain.returncode == 0
    assert f"{leaving} drained" in said
    assert ends == ["data: [DONE]"] * 14
    nodes = fleet.nodes()
    assert nodes[leaving]["url"] is None
    loaded = [each["model"] for n in nodes.values() if n["node"] for each in n["node"]["backends"]]
    assert "shared" in loaded
    assert f"{leaving} ready" in fleet.fleet("drain", leaving, "--undo")


def last_of(url: str, question: dict[str, object]) -> str:
    """The last line of a stream."""
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(question).encode())
    with urllib.request.urlopen(request, timeout=LLAMA_S) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line]
    return str(lines[-1])


def test_a_machine_is_lost_under_many_streams(fleet: RayFleet) -> None:
    """It is no member any more and leaves nothing; who had no byte of it is answered by another."""
    served = fleet.pids("proxy.cli.main serve", of="c")
    for name in NODES:
        fleet.ask(fleet.front, "/admin/models/shared/load", {}, of=name)
    streams = begin(fleet.front, "shared", count=16, length=300)
    eventually(
        lambda: any(each.node == "c" and each.body.count(b"\n") > 6 for each, _ in streams),
        "c is in the middle of an answer",
    )
    fleet.kill_machine("c")
    began_s = time.monotonic()
    for _, thread in streams:
        thread.join(LLAMA_S)

    for each, _ in streams:
        assert not each.problem, each
        assert each.is_whole or (each.node == "c" and each.ends_with_an_error), each
    nodes = fleet.until(lambda nodes: "c" not in nodes, "it is no member")
    assert [nodes[name]["state"] for name in "ab"] == ["ready", "ready"]
    assert node_that_answers(fleet, "shared") in "ab"
    sys.stdout.write(f"whole again after {time.monotonic() - began_s:.1f} s, with all streams\n")
    end_s = time.monotonic() + HANG_S
    while any(map(runs, served)):
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_a_machine_whose_ray_has_ended_joins_again_by_itself(fleet: RayFleet) -> None:
    """As it does where the first machine has begun again, or it was cut off for long."""
    before = fleet.nodes()["b"]["url"]
    (pid,) = fleet.pids("raylet/raylet", of="b")
    os.kill(pid, signal.SIGKILL)

    fleet.until(
        lambda nodes: (
            [nodes[name]["state"] for name in "ab" if name in nodes] == ["ready", "ready"]
            and nodes["b"]["url"] != before
        ),
        "it is one of the fleet again",
    )
    assert node_that_answers(fleet, "own-b") == "b"


def test_who_is_not_there_cannot_be_drained(fleet: RayFleet) -> None:
    assert "there is no node 'c' in this fleet; there is a, b" in fleet.fleet(
        "drain", "c", fails=True
    )


def test_down_leaves_nothing_of_ours(fleet: RayFleet) -> None:
    fleet.fleet("down")

    assert fleet.pids("proxy.") == fleet.pids("proxy.fleet.cluster.keeper", of="b")  # Ray's there
    assert fleet.pids(of="a") == []

    fleet.fleet("down", "--here", of="b")
    assert fleet.pids() == []
