"""What differs on one machine of a fleet: `[nodes.NAME]`."""

from pathlib import Path

import pytest

from proxy.node.names import NODE_VARIABLE, usable_name
from proxy.policy.load import load
from proxy.policy.nodes import node_of
from proxy.policy.overrides import Override, overrides
from proxy.split import Split, parse_split
from tests.policy.conftest import LoadText, Valid

BASE = """
[server]
port = 1000
[catalog]
dirs = ["/here"]
[devices]
reserve = "1GiB"
settle = "3s"
[models."gpt-oss:20b"]
ctx = 1024
moe_cpu_layers = 3
params = { temperature = 1.0, chat_template_kwargs = { thinking = true, depth = 2 } }
"""
ATTIC = """
[nodes.attic.server]
port = 2000
[nodes.attic.catalog]
dirs = ["there", "~/models"]
[nodes.attic.devices]
reserve = "2GiB"
[nodes.attic.devices.CUDA1]
experts = false
[nodes.attic.models."gpt-oss:20b"]
moe_cpu_layers = "full"
params = { top_k = 3, chat_template_kwargs = { depth = 5 } }
[nodes.attic.models.own]
path = "own.gguf"
"""


def split(value: object) -> Split:
    found = parse_split(value)
    assert found is not None
    return found


def test_on_the_node_of_that_name_its_keys_count(valid: Valid, tmp_path: Path) -> None:
    policies = valid(BASE + ATTIC, MOE_PROXY_NODE="attic")

    assert policies.server.port == 2000
    assert policies.catalog.dirs == (tmp_path / "there", tmp_path / "home" / "models")
    assert (policies.devices.reserve_bytes, policies.devices.settle_s) == (2 << 30, 3)
    assert not policies.devices.for_device("CUDA1").experts
    assert policies.devices.for_device("CUDA1").reserve_bytes == 2 << 30
    gpt = policies.models["gpt-oss:20b"]
    assert (gpt.ctx, gpt.moe_cpu_layers) == (1024, split("full"))
    assert gpt.written == {"ctx", "moe_cpu_layers", "params"}
    assert policies.models["own"].path == tmp_path / "own.gguf"


def test_tables_merge_and_values_take_their_place(valid: Valid) -> None:
    policies = valid(BASE + ATTIC, MOE_PROXY_NODE="attic")

    assert policies.models["gpt-oss:20b"].params == {
        "temperature": 1.0,
        "chat_template_kwargs": {"thinking": True, "depth": 5},
        "top_k": 3,
    }


def test_on_all_others_they_have_no_effect(valid: Valid) -> None:
    with_part = valid(BASE + ATTIC, MOE_PROXY_NODE="cellar")

    assert with_part == valid(BASE, MOE_PROXY_NODE="cellar")
    assert "own" not in with_part.models


@pytest.mark.parametrize("node", ["attic", "cellar"])
@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("[nodes.attic.devices]\nreserve = 'x'", 2, "nodes.attic.devices.reserve", "not allowed"),
        ("[nodes.attic.devices]\nresreve = 1", 2, "nodes.attic.devices.resreve", "mean reserve?"),
        ("[nodes.attic]\nctx = 1", 2, "nodes.attic.ctx", "mean defaults.ctx?"),
        ("[nodes.attic.devcies]", 1, "nodes.attic.devcies", "did you mean devices?"),
        ("[nodes.attic.nodes.cellar]", 1, "nodes.attic.nodes", "cannot be within nodes"),
        ("[node.attic]", 1, "node", "did you mean nodes?"),
        ("nodes = 3", 1, "nodes", "use a table"),
        ("[nodes]\nattic = 3", 2, "nodes.attic", "use a table"),
        ("[nodes.Attic]", 1, "nodes.Attic", "cannot be a node's name; use a to z"),
        ("[nodes.'a.b'.server]", 1, 'nodes."a.b"', "cannot be a node's name"),
        ("[nodes.-a]", 1, "nodes.-a", "cannot be a node's name"),
        ("[nodes.attic.models.qwen3.5]", 1, "nodes.attic.models.qwen3.5", "[nodes.attic.models."),
        ("[nodes.attic.models.a:b]", 1, "", 'quotes: [nodes.attic.models."a:b"]'),
        (
            "[nodes.attic.models.m]\nargs = ['--port', '1']",
            2,
            "nodes.attic.models.m.args[0]",
            "use server.host and server.port",
        ),
        (
            "devices.reserve = '1GiB'\n[nodes.attic.devices]\nlow = '2GiB'",
            1,
            "devices.reserve",
            "2GiB is above 1GiB; so it is on node attic",
        ),
        (
            "devices.low = '1GiB'\ndevices.reserve = '2GiB'\nnodes.attic.devices.reserve = 5",
            3,
            "nodes.attic.devices.reserve",
            "devices.low must not be above",
        ),
    ],
)
def test_what_is_wrong_for_one_is_told_on_all(
    load_text: LoadText, node: str, text: str, line: int, key: str, message: str
) -> None:
    loaded = load_text(text, MOE_PROXY_NODE=node)

    assert [(found.line, found.key) for found in loaded.problems] == [(line, key)]
    assert message in loaded.problems[0].message
    assert loaded.policies is None


def test_two_files_may_speak_of_one_node_but_not_of_the_same_key(
    tmp_path: Path, env: dict[str, str]
) -> None:
    env[NODE_VARIABLE] = "attic"
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.toml").write_text("nodes.attic.server.port = 1")
    (tmp_path / "p" / "b.toml").write_text("nodes.attic.server.host = '::1'\nserver.port = 2")
    good = load(tmp_path / "p", env)
    (tmp_path / "p" / "c.toml").write_text("nodes.attic.server.port = 1")
    bad = load(tmp_path / "p", env)

    assert good.policies
    assert (good.policies.server.host, good.policies.server.port) == ("::1", 1)
    (problem,) = bad.problems
    assert problem.key == "nodes.attic.server.port"
    assert problem.message == f"is already set at {tmp_path}/p/a.toml:1"


def test_only_of_this_machine_it_is_told_what_may_be_a_mistake(load_text: LoadText) -> None:
    text = """
    [devices]
    reserve = 512
    low = 1
    [nodes.attic.catalog]
    dirs = ["/not/here"]
    [nodes.attic.models.m]
    engine = "command"
    command = ["serve", "{port}", "{what}"]
    env = { TOKEN = "$TOKEN" }
    """
    keys = [
        [
            [note.key for note in loaded.notes],
            [place.key for _, place in loaded.named],
            [place.key for _, place in loaded.programs],
        ]
        for loaded in (load_text(text, MOE_PROXY_NODE=name) for name in ("cellar", "attic"))
    ]

    of_all = ["devices.reserve", "devices.low"]
    table = "nodes.attic.models.m"
    assert keys[0] == [of_all, [], []]
    assert keys[1] == [
        [*of_all, f"{table}.command[2]", f"{table}.env.TOKEN"],
        ["nodes.attic.catalog.dirs[0]"],
        [f"{table}.command[0]"],
    ]


def test_a_part_of_a_table_is_told_of_where_it_stands(load_text: LoadText) -> None:
    loaded = load_text(
        'models.m = {engine = "command", command = ["a{port}"], env = {A = "$A"}}\n'
        'nodes.attic.models.m.env = {B = "b"}',
        MOE_PROXY_NODE="attic",
    )

    assert [(note.line, note.key) for note in loaded.notes] == [(1, "models.m.env.A")]
    assert loaded.policies
    assert loaded.policies.models["m"].env == {"A": "$A", "B": "b"}


def test_a_good_value_here_does_not_heal_a_bad_one_for_all(load_text: LoadText) -> None:
    text = "server.port = 'x'\nnodes.attic.server.port = 1"

    for node in ("attic", "cellar"):
        assert [p.key for p in load_text(text, MOE_PROXY_NODE=node).problems] == ["server.port"]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("attic", "attic"),
        ("Attic_PC.lan", "attic-pc"),
        ("10.0.0.1", "10"),
        ("", "node"),
        ("_.lan", "node"),
        ("x" * 80, "x" * 56),
    ],
)
def test_without_a_variable_it_is_the_hosts_short_name(host: str, name: str) -> None:
    assert usable_name(host) == name
    assert node_of({}, host or "-") == name
    assert node_of({NODE_VARIABLE: " cellar "}, host) == "cellar"


def test_a_variable_that_names_no_node_is_told(load_text: LoadText) -> None:
    (problem,) = load_text("", MOE_PROXY_NODE="Attic.lan").problems

    assert (problem.file, problem.key) == ("environment", NODE_VARIABLE)
    assert '"Attic.lan" is not allowed; use a to z' in problem.message


def test_what_a_node_overrides_is_told_as_it_is_written(
    load_text: LoadText, tmp_path: Path
) -> None:
    loaded = load_text(
        '[nodes.attic.devices]\nreserve = "2GiB"\n[nodes.cellar.devices]\nreserve = 1073741824\n'
        '[nodes.attic.models."a:b"]\nparams = { top_k = 3 }\n',
        MOE_PROXY_NODE="attic",
    )

    file = tmp_path / "policies.toml"
    assert [*overrides(loaded)] == [
        Override("devices.reserve", '"2GiB"', f"{file}:2"),
        Override('models."a:b".params', "{ top_k = 3 }", f"{file}:6"),
    ]
