from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.fields import FIELDS
from proxy.policy.load import Loaded, load, parse
from proxy.policy.reference import literal
from proxy.policy.sources import Sources
from tests.policy.conftest import LoadText, Valid

EVERYTHING = """
[server]
host = "0.0.0.0"
port = 8080
api_keys_file = "keys.txt"
hosts = ["LLM.example.com."]
origins = ["https://chat.example.com/", "chrome-extension://*", "null"]
remote_policies = true
max_queue = 9
timeout = "5m"
max_body = "1MiB"
max_bodies = "8MiB"
keep_prompts = "8GiB"
keep_responses = "1MiB"
warm_workers = 2
drain = "1m"
[catalog]
dirs = ["/models", "~/models", "more"]
ollama = false
ollama_dir = "store"
state = "~/state"
[devices]
reserve = "1GiB"
low = "128MiB"
settle = 3
rpc = ["10.0.0.2:50052", "[::1]:1"]
[devices.CUDA1]
reserve = "2GiB"
limit = "10GiB"
attention = false
experts = true
memory = "nvml:GPU-1"
[engine]
libdir = "lib"
backends = ["lib/libggml-vulkan.so"]
threads = 8
[defaults]
moe_cpu_layers = "full"
dense_cpu_layers = "partial"
ctx = 4096
ctx_step = 1024
parallel = 2
keep_alive = -1
hang_timeout = "1m"
max_queue = 4
engine = "hosted"
command = ["x", "{port}"]
ready_path = "none"
stop_command = ["y"]
load_timeout = "1m"
env = { GIVEN = "0" }
confine = false
split = "separate"
tune = "prompt"
repack = "off"
moe_cache = 0
[models."gpt-oss:120b"]
path = "gpt.gguf"
base = "plain"
aliases = ["gpt-4o", "big"]
pinned = true
rpc = ["10.0.0.3:50052"]
moe_cpu_layers = 24
dense_cpu_layers = 3
ctx = 16384
ctx_step = 1
parallel = 1
max_queue = 3
keep_alive = 0
hang_timeout = 0
engine = "command"
command = ["serve", "--port={port}", ""]
ready_path = "/ready?now"
stop_command = ["end", "{pid}"]
load_timeout = 0
env = { GIVEN = "1" }
confine = true
split = "move"
tune = "generation"
repack = "on"
moe_cache = "4GiB"
mode = "embedding"
params = { temperature = 1.0, stop = ["a"], deep = { x = true } }
args = ["--flag", ""]
unsafe_args = true
[models.plain]
"""


def lines_and_keys(loaded: Loaded) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.key) for problem in loaded.problems]


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ('"0.0.0.0"', "0.0.0.0"),
        ('"127.0.0.1,::1"', "127.0.0.1, ::1"),
        ('["127.0.0.1", " 192.168.1.5"]', "127.0.0.1, 192.168.1.5"),
    ],
)
def test_it_may_listen_on_several_addresses(text: str, host: str, valid: Valid) -> None:
    assert valid(f"[server]\nhost = {text}\n").server.host == host


@pytest.mark.parametrize("text", ["[]", '""', '["a", ""]', '"a,,b"', '"a b"', "1", '[["a"]]'])
def test_what_is_no_address_is_told(text: str, load_text: LoadText) -> None:
    loaded = load_text(f"[server]\nhost = {text}\n")

    assert lines_and_keys(loaded) == [(2, "server.host")]
    assert "an address or a name, or a list of them" in loaded.problems[0].message


def test_every_key_is_read(valid: Valid, tmp_path: Path, env: dict[str, str]) -> None:
    policies = valid(EVERYTHING)

    home = Path(env["HOME"])
    server, catalog, devices = policies.server, policies.catalog, policies.devices
    assert (server.host, server.port, server.max_queue) == ("0.0.0.0", 8080, 9)
    assert server.api_keys_file == tmp_path / "keys.txt"
    assert server.hosts == ("llm.example.com",)
    assert server.origins == ("https://chat.example.com", "chrome-extension://*", "null")
    assert server.remote_policies is True
    assert (server.max_body_bytes, server.drain_s) == (2**20, 60.0)
    assert server.max_bodies_bytes == 2**23
    assert server.keep_prompts_bytes == 2**33
    assert server.keep_responses_bytes == 2**20
    assert server.warm_workers == 2
    assert catalog.dirs == (Path("/models"), home / "models", tmp_path / "more")
    assert (catalog.ollama, catalog.ollama_dir) == (False, tmp_path / "store")
    assert catalog.state == home / "state"
    assert (devices.reserve_bytes, devices.low_bytes, devices.settle_s) == (2**30, 2**27, 3.0)
    assert devices.rpc == ("10.0.0.2:50052", "[::1]:1")
    cuda1 = devices.for_device("CUDA1")
    assert (cuda1.reserve_bytes, cuda1.limit_bytes) == (2 * 2**30, 10 * 2**30)
    assert (cuda1.attention, cuda1.experts, cuda1.memory) == (False, True, "nvml:GPU-1")
    assert policies.engine.libdir == tmp_path / "lib"
    assert policies.engine.backends == (tmp_path / "lib/libggml-vulkan.so",)
    assert policies.engine.threads == 8
    model = policies.for_model("big")
    assert model.name == "gpt-oss:120b"
    assert model.path == tmp_path / "gpt.gguf"
    assert model.base == "plain"
    assert (model.aliases, model.mode) == (("gpt-4o", "big"), "embedding")
    assert (model.moe_cpu_layers, model.ctx, model.parallel) == (24, 16384, 1)
    assert (policies.defaults.hang_timeout_s, model.hang_timeout_s) == (60.0, 0.0)
    assert (server.timeout_s, policies.defaults.max_queue, model.max_queue) == (300.0, 4, 3)
    assert (model.keep_alive_s, model.engine) == (0.0, "command")
    assert model.command == ("serve", "--port={port}", "")
    assert model.stop_command == ("end", "{pid}")
    assert (model.ready_path, model.load_timeout_s) == ("/ready?now", 0.0)
    assert (policies.defaults.ready_path, policies.defaults.load_timeout_s) == ("none", 60.0)
    assert (model.env, model.confine, model.unsafe_args) == ({"GIVEN": "1"}, True, True)
    assert (model.split, model.repack, model.args) == ("move", "on", ("--flag", ""))
    assert (model.moe_cache, policies.defaults.moe_cache) == (4 << 30, 0)
    assert (model.tune, policies.defaults.tune) == ("generation", "prompt")
    assert (model.dense_cpu_layers, policies.defaults.dense_cpu_layers) == (3, "auto")
    assert model.params == {"temperature": 1.0, "stop": ["a"], "deep": {"x": True}}


def test_every_key_is_in_the_example_above() -> None:
    content = tomli.loads(EVERYTHING)
    content["devices"]["*"] = content["devices"]["CUDA1"]
    content["models"]["*"] = content["models"]["gpt-oss:120b"]

    for field in FIELDS:
        here = content
        for part in field.path:
            assert part in here, field.key
            here = here[part]


def test_a_variant_has_what_its_base_sets(valid: Valid) -> None:
    policies = valid(
        """
        [defaults]
        ctx = 100
        parallel = 3
        [models.base]
        path = "base.gguf"
        aliases = ["other"]
        ctx = 200
        params = { temperature = 1.0 }
        [models.variant]
        base = "base"
        moe_cpu_layers = 7
        """
    )

    model = policies.for_model("variant")

    assert (model.base, model.path, model.aliases) == ("base", None, ())
    assert (model.ctx, model.parallel, model.moe_cpu_layers) == (200, 3, 7)
    assert model.params == {"temperature": 1.0}
    assert model.written >= {"base", "moe_cpu_layers", "ctx", "params"}
    assert policies.for_model("base").moe_cpu_layers == "auto"
    assert policies.for_model("base").dense_cpu_layers is None
    assert policies.for_model("unheard-of").written == frozenset()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[models.a]\nbase = "a"', "a variant of itself"),
        ('[models.a]\nbase = "c"\n[models.b]\nbase = "x"\naliases = ["c"]', "variant itself, of"),
        ('[models.a]\nbase = "c"\naliases = ["c"]', "a variant of itself"),
        ("[models.a]\nbase = 1", "a string"),
    ],
)
def test_bases_that_cannot_be(text: str, message: str, tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "p.toml").write_text(text)

    (problem,) = load(tmp_path / "p.toml", env).problems

    assert problem.key == "models.a.base"
    assert message in problem.message


def test_what_is_not_set_is_inherited(valid: Valid) -> None:
    policies = valid(EVERYTHING)

    plain, unnamed = policies.for_model("plain"), policies.for_model("unheard-of")
    for model in (plain, unnamed):
        assert (model.moe_cpu_layers, model.ctx, model.parallel) == (-1, 4096, 2)
        assert (model.keep_alive_s, model.engine) == (float("inf"), "hosted")
        assert (model.split, model.repack) == ("separate", "off")
        assert (model.path, model.aliases, model.mode, model.args) == (None, (), "generation", ())
    assert (plain.name, unnamed.name) == ("plain", "unheard-of")
    assert "plain" in policies.models
    assert policies.devices.for_device("CUDA0").reserve_bytes == 2**30
    assert policies.devices.for_device("CUDA0").limit_bytes is None


def test_without_files_the_defaults_hold(env: dict[str, str]) -> None:
    loaded = load(None, env)

    assert (loaded.problems, loaded.files) == ((), ())
    assert loaded.policies is not None
    assert (loaded.policies.server.host, loaded.policies.server.port) == ("127.0.0.1", 11434)
    assert loaded.policies.for_model("any").moe_cpu_layers == "auto"
    assert loaded.policies.catalog.state == Path(env["HOME"], ".local/share/moe-proxy")


def test_resolve(valid: Valid) -> None:
    policies = valid("[models.a]\naliases = ['b']")

    assert [policies.own_name(name) for name in ("a", "b", "c")] == ["a", "a", "c"]


def test_all_problems_at_once_with_their_lines(load_text: LoadText) -> None:
    loaded = load_text("""\
surprise = 1
[server]
port = 99999
hots = "x"
max_body = 0
[defaults]
ctx = "many"
num_cpu_moe = 3
moe_cpu_layers = -2
engine = "vllm"
[models."a:b"]
aliases = [
  "x",
  3,
  "y?z",
]
keep_alive = "5 parsecs"
params = { temperature = nan, x = { y = [1,
  1979-05-27] } }
args = "--flag"
[catalog]
dirs = [""]
reserve = 3
ollama = "yes"
[devices]
rpc = ["host:99999"]
CUDA9 = 3
[devices.CUDA1]
memory = "magic"
[models]
foo = 3
[models."what?"]
[engine.threads]
""")

    assert loaded.policies is None
    assert lines_and_keys(loaded) == [
        (1, "surprise"),
        (3, "server.port"),
        (4, "server.hots"),
        (5, "server.max_body"),
        (7, "defaults.ctx"),
        (8, "defaults.num_cpu_moe"),
        (9, "defaults.moe_cpu_layers"),
        (10, "defaults.engine"),
        (14, 'models."a:b".aliases[1]'),
        (15, 'models."a:b".aliases[2]'),
        (17, 'models."a:b".keep_alive'),
        (18, 'models."a:b".params.temperature'),
        (19, 'models."a:b".params.x.y[1]'),
        (20, 'models."a:b".args'),
        (22, "catalog.dirs[0]"),
        (23, "catalog.reserve"),
        (24, "catalog.ollama"),
        (26, "devices.rpc[0]"),
        (27, "devices.CUDA9"),
        (29, "devices.CUDA1.memory"),
        (31, "models.foo"),
        (32, 'models."what?"'),
        (33, "engine.threads"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server.port = 99999", "99999 is not allowed; use an integer from 0 to 65535"),
        ("server.port = true", "true is not allowed; use an integer from 0 to 65535"),
        ("defaults.ctx = 1.5", "1.5 is not allowed; use an integer from 1 up"),
        ("server.hots = 1", "unknown key; did you mean hosts?"),
        ("defaults.num-gpu-moe = 1", "unknown key; known here: moe_cpu_layers, dense_cpu_layers"),
        ("defaults.n_cpu_moe = 1", "unknown key; did you mean moe_cpu_layers?"),
        ("default.ctx = 1", "unknown key; did you mean defaults?"),
        ("catalog.reserve = 1", "unknown key; did you mean devices.reserve?"),
        ("models.a.reserve = 1", "unknown key; did you mean devices.reserve?"),
        ("server = 3", "3 is not allowed; use a table"),
        ("models = 3", "3 is not allowed; use a table"),
        ("[[server]]", "a list is not allowed; use a table"),
        ("models.a = 3", "3 is not allowed; use a table"),
        ("server.port = {}", "a table is not allowed; use an integer"),
        ("defaults.split = 'x'", '"x" is not allowed; use "move", "separate"'),
        ("models.'*'.ctx = 1", '"*" cannot be a name'),
        ("models.a.path = 'a\\nb'\nx.y = 1", "unknown key; known here: server, catalog"),
        ("server.hosts = ['a:80']", '"a:80" is not allowed; use a list of host names'),
        ("server.hosts = ['*.a']", '"*.a" is not allowed; use a list of host names'),
        ("server.origins = ['a.com']", '"a.com" is not allowed; use a list of "scheme://host'),
        ("server.origins = ['http://a/b']", '"http://a/b" is not allowed; use a list of'),
        ("catalog.dirs = ['~nobody-of-this-name/x']", "is not allowed; use a list of paths"),
        ("defaults.moe_cpu_layers = '" + "9" * 5000 + "'", "... is not allowed; use an integer"),
        ("defaults.tune = 'fast'", '"fast" is not allowed; use "balanced", "prompt", "generation"'),
        ("defaults.moe_cpu_layers = '7-3'", 'or the layers themselves as ranges ("0-11,20")'),
        (
            "[models.a]\nsplit = 'separate'\nmoe_cpu_layers = '2-3'",
            'with split = "separate" the split is given at the start',
        ),
        (
            "[models.a]\nsplit = 'separate'\ndense_cpu_layers = '2-3'",
            "llama.cpp's --n-cpu-ffn takes only a number",
        ),
        (
            "[models.a]\nengine = 'command'\ncommand = ['{port}']\nmoe_cpu_layers = '2-3'",
            'with engine "command" the split is given at the start',
        ),
        ("server.port = " + "9" * 4000, "this integer is not allowed"),
    ],
)
def test_what_a_problem_says(load_text: LoadText, text: str, message: str) -> None:
    (problem,) = load_text(text).problems

    assert message in problem.message
    assert problem.line == text.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\n[server\nhost = 1", 2),
        ("[server]\nport = 1\nport = 2", 3),
        ("[server]\nport =", 2),
        ("\n\nx = [", 3),
        ("a = 1\nb = '''\n\n", 2),
        ("[server]\nhost = '\xff'", 2),
        ("a = 1\nb = " + "[" * 60 + "]" * 60, 2),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(
    tmp_path: Path, env: dict[str, str], text: str, line: int
) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(text.encode("latin-1"))

    loaded = load(file, env)

    assert loaded.policies is None
    assert [(p.file, p.line, p.key) for p in loaded.problems] == [(str(file), line, "")]


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 100_000])
def test_what_python_gives_up_on_is_a_problem(load_text: LoadText, text: str) -> None:
    assert load_text(text).policies is None


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "windows.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\nhost = 2\r\n")

    assert lines_and_keys(load(file, env)) == [(3, "server.host")]


def test_names_and_aliases_are_unique(load_text: LoadText) -> None:
    loaded = load_text("""\
[models.a]
aliases = ["b", "c"]
[models.b]
aliases = ["c", "d", "d", "b"]
""")

    assert [str(problem).partition(": ")[2] for problem in loaded.problems] == [
        'models.a.aliases[0]: "b" already names models.b',
        'models.b.aliases[0]: "c" already names models.a.aliases[1]',
        'models.b.aliases[2]: "d" already names models.b.aliases[1]',
        'models.b.aliases[3]: "b" already names models.b',
    ]
    assert [problem.line for problem in loaded.problems] == [2, 4, 4, 4]


def test_patterns_that_could_mean_the_same_name_are_told(load_text: LoadText) -> None:
    """Where one is longer it wins, and a model may have any of its own."""
    loaded = load_text("""\
[models.a]
aliases = ["claude-*", "gpt-*", "x*y", "*", "*o*", "o*"]
[models.b]
aliases = ["claude-*", "*-gpt", "claude-haiku*", "x*z", "GPT-**", "gpt-4"]
""")

    assert [str(problem).partition(": ")[2] for problem in loaded.problems] == [
        'models.b.aliases[0]: "claude-*" already names models.a.aliases[0]',
        'models.b.aliases[1]: "*-gpt" could mean the same names as "gpt-*" of models.a.aliases[1], '
        "and neither is longer",
        'models.b.aliases[4]: "GPT-**" could mean the same names as "gpt-*" of '
        "models.a.aliases[1], and neither is longer",
    ]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("devices.reserve = '1MiB'", [(1, "devices.reserve")]),
        ("devices.low = '1GiB'", [(1, "devices.low")]),
        ("devices.low = '1GiB'\ndevices.reserve = '1MiB'", [(2, "devices.reserve")]),
        ("[devices.CUDA0]\nreserve = 0", [(2, "devices.CUDA0.reserve")]),
        ("devices.low = '1GiB'\n[devices.CUDA0]", [(1, "devices.low")]),
        ("devices.low = 'x'\ndevices.reserve = 0", [(1, "devices.low")]),
        ("devices.low = 0\ndevices.reserve = 0", []),
    ],
)
def test_low_is_not_above_reserve(
    load_text: LoadText, text: str, places: list[tuple[int, str]]
) -> None:
    assert lines_and_keys(load_text(text)) == places


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("models.a.engine = 'command'", [(1, "models.a.engine")]),
        ("models.a.engine = 'command'\nmodels.a.command = ['x']", [(2, "models.a.command")]),
        ("models.a.engine = 'command'\nmodels.a.command = 'x'", [(2, "models.a.command")]),
        ("defaults.engine = 'command'\nmodels.a.ctx = 1", [(1, "defaults.engine")]),
        ("models.a.engine = 'command'\ndefaults.command = ['x', '{port}']", []),
        ("models.a.command = ['not used']", []),
    ],
)
def test_a_command_needs_a_port(
    load_text: LoadText, text: str, places: list[tuple[int, str]]
) -> None:
    assert lines_and_keys(load_text(text)) == places


def test_a_folder_is_one_document(tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "b.toml").write_text("[models.x]\nctx = 2\n[catalog]\ndirs = ['d']")
    (folder / "a.toml").write_text("[models.x]\nparallel = 3\n[server]\nport = 1")
    (folder / ".#a.toml").symlink_to("nowhere")
    (folder / "c.txt").write_text("not toml")

    loaded = load(folder, env)

    assert loaded.files == (folder / "a.toml", folder / "b.toml")
    assert loaded.policies is not None
    model = loaded.policies.for_model("x")
    assert (model.ctx, model.parallel, loaded.policies.server.port) == (2, 3, 1)
    assert loaded.policies.catalog.dirs == (folder / "d",)


def test_a_key_set_twice_names_both_places(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "a.toml").write_text("[server]\nport = 1")
    (tmp_path / "b.toml").write_text("\n[server]\nport = 1\nhost = 'x'")

    (problem,) = load(tmp_path, env).problems

    assert (problem.file, problem.line) == (str(tmp_path / "b.toml"), 3)
    assert problem.key == "server.port"
    assert f"{tmp_path / 'a.toml'}:2" in problem.message


TOML_PIECES = st.sampled_from(
    ["[server]", "[models.a]", "[models]", "[[models]]", "[devices]", "[devices.x]", "\n", "=", ",",
     "port", "ctx", "aliases", "params", "path", "reserve", " = ", "1", "-1", '"auto"', "'x'", "[",
     "]", "{", "}", "nan", "1979-05-27", '"""', "#", "\\u0000", '"\\u0000"', "true", "a.b", '"~x/"']
)  # fmt: skip


@given(st.text() | st.lists(TOML_PIECES, max_size=30).map("".join) | st.binary())
def test_load_never_raises(text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")

    loaded = parse(Sources(((Path("a.toml"), data),)), {"HOME": "/home"})

    assert (loaded.policies is None) == bool(loaded.problems)


VALUES = st.recursive(
    st.integers() | st.floats() | st.booleans() | st.text(max_size=5)
    | st.sampled_from(["1GiB", "5m", "auto", "hosted", "nvml", "h:1", "command", "~"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([field.key for field in FIELDS]), VALUES, max_size=8))
def test_any_value_for_any_key_is_taken_or_told(settings: dict[str, object]) -> None:
    text = "\n".join(
        f"{key.replace('*', 'name')} = {literal(value).replace('Infinity', 'inf').lower()}"
        for key, value in settings.items()
    )

    loaded = parse(Sources(((Path("a.toml"), text.encode()),)), {"HOME": "/home"})

    assert (loaded.policies is None) == bool(loaded.problems)
    assert all(problem.line for problem in loaded.problems)
    assert not any("TOML" in problem.message for problem in loaded.problems)


@pytest.mark.parametrize(
    ("head", "hint"),
    [
        ("[models.gpt-oss:120b]", 'put the name in quotes: [models."gpt-oss:120b"]'),
        ("[models.org/model]", 'put the name in quotes: [models."org/model"]'),
        ("[models.qwen3.5]", 'a name with a dot needs quotes: [models."qwen3.5"]'),
    ],
)
def test_a_name_without_its_quotes(head: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(f"{head}\nctx = 1024\n")

    (problem,) = load(tmp_path, {}).problems

    assert problem.message.endswith(hint)


def test_a_model_may_have_the_fleets_devices(valid: Valid, load_text: LoadText) -> None:
    policies = valid("devices.rpc = ['a:1']\nmodels.m.rpc = 'fleet'\nmodels.n = {}\n")
    assert policies.models["m"].rpc == ("fleet",)
    assert policies.models["n"].rpc == ("a:1",)

    for text, key in (
        ("models.m.rpc = 'a:1'", "models.m.rpc"),
        ("models.m.rpc = ['fleet']", "models.m.rpc[0]"),
        ("devices.rpc = 'fleet'", "devices.rpc"),
    ):
        (problem,) = load_text(text).problems
        assert problem.key == key
        assert 'use a list of "host:port"' in problem.message
        assert ('or "fleet"' in problem.message) == key.startswith("models")
