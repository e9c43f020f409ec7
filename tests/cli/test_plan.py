"""The command `plan`, as it is called."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.client import Client, ClientError
from proxy.cli.main import main
from proxy.cli.output import FAILED, MISUSED, OK
from proxy.cli.plan_text import total
from proxy.control.model_plan import parse_vram
from proxy.memory.host import available_host_bytes
from tests.catalog.test_store import put
from tests.support.cache_build import cache_build
from tests.support.models import model
from tests.support.policies import policies as made
from tests.support.served import Served, served


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    file = tmp_path / "policies.toml"
    devices = {"reserve": "1MiB", "low": "1MiB", "CUDA1": {"attention": False}}
    defaults = {"ctx": 2048, "parallel": 2}
    file.write_text(made({"tiny": {"path": model()}}, devices=devices, defaults=defaults))
    return file


def ask(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["plan", "--json", *argv]) == OK
    return json.loads(capsys.readouterr().out)


def test_json_keeps_the_contract(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "tiny", "--vram", "36MiB", "--policies", str(policies))

    assert found["model"] == "tiny"
    assert 0 < found["moe_cpu_layers"] <= 12
    (device,) = found["devices"]
    assert set(device) >= {"name", "weights_bytes", "kv_bytes", "compute_bytes", "experts_bytes"}
    assert device["kv_bytes"] == 12 * 2048 * 2 * 2 * (2 * 32) * 2
    assert total(device) <= 35 << 20
    args = found["args"]
    assert args[args.index("--n-cpu-moe") + 1] == str(found["moe_cpu_layers"])
    assert args[args.index("--ctx-size") + 1] == "4096"


def test_a_file_and_a_split_asked_for(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = (str(model("mixtral")), "--vram", "1GiB", "--ctx", "512", "--parallel", "1")

    found = ask(capsys, *argv, "--moe-cpu-layers", "full", "--policies", str(policies))

    assert found["moe_cpu_layers"] == 12
    assert found["devices"][0]["experts_bytes"] == 0


def test_devices_keep_to_their_policies(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--vram", "CUDA0=36MiB,CUDA1=16MiB", "--policies", str(policies))

    first, second = ask(capsys, "tiny", *argv, "--tune", "generation")["devices"]

    assert (first["name"], second["name"]) == ("CUDA0", "CUDA1")
    assert second["weights_bytes"] == second["kv_bytes"] == 0
    assert second["experts_bytes"] > 0


def test_an_expert_cache_is_planned_where_the_build_has_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(*argv: str, **engine: object) -> dict[str, Any]:
        tiny = {"path": model(), "moe_cache": "8MiB", "ctx": 2048, "parallel": 2}
        devices = {"reserve": "1MiB", "low": "1MiB"}
        file.write_text(made({"tiny": tiny}, devices=devices, engine=engine))
        return ask(capsys, "tiny", "--vram", "48MiB", "--policies", str(file), *argv)

    file = tmp_path / "policies.toml"
    without, cached = plan(), plan(libdir=cache_build())

    assert without["devices"][0]["cache_bytes"] == without["cached_layers"] == 0
    assert (
        "moe_cache: this build of llama.cpp has no expert cache (--moe-cache-mib)"
        in (without["advice"])
    )
    (device,) = cached["devices"]
    assert device["cache_bytes"] == 8 << 20
    assert total(device) <= 47 << 20
    assert without["moe_cpu_layers"] < cached["cached_layers"] == cached["moe_cpu_layers"] < 12
    assert main(["plan", "tiny", "--vram", "48MiB", "--policies", str(file)]) == OK
    said = capsys.readouterr().out
    assert "CACHE" in said
    assert f"of these, {cached['cached_layers']} are in the expert cache" in said
    assert plan("--moe-cpu-layers", "11", libdir=cache_build())["cached_layers"] == 11


def test_a_table_for_people(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "tiny", "--vram", "RPC0=1GiB", "--policies", str(policies)]

    assert main(argv) == OK

    text = capsys.readouterr().out
    assert "tiny: 12 layers, 12 with experts" in text
    assert "RPC0" in text
    assert "moe_cpu_layers 0" in text
    assert "llama-server --model" in text


def test_a_context_beyond_the_models_training_is_told(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--vram", "1GiB", "--policies", str(policies), "--ctx")

    plan = ask(capsys, "tiny", *argv, "99999999")

    assert plan["advice"] == [f"it was trained for a context of {plan['ctx']}: not 99999999"]
    assert ask(capsys, "tiny", *argv, "512")["advice"] == []


def test_what_cannot_fit_fails_and_says_why(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "tiny", "--vram", "3MiB", "--policies", str(policies)]) == FAILED

    assert "even with all experts on the CPU" in capsys.readouterr().out


def test_what_the_policy_says_holds_and_flags_come_before_it(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        'moe_cpu_layers = 5\ntune = "prompt"\nargs = ["-ctk", "q8_0", "--cache-type-v", "q4_0"]\n'
    )
    policies.write_text(policies.read_text() + more)
    argv = ("tiny", "--vram", "1GiB", "--policies", str(policies))

    own = ask(capsys, *argv)
    flags = ask(
        capsys,
        *argv,
        "--moe-cpu-layers",
        "auto",
        "--tune",
        "generation",
        "--kv",
        "f16",
        "--ctx",
        "512",
        "--parallel",
        "1",
    )

    assert (own["moe_cpu_layers"], own["ubatch"]) == (5, 4096)
    assert own["devices"][0]["kv_bytes"] == 12 * 2048 * 2 * 2 * (34 + 18)
    assert own["args"][-4:] == ["--cache-type-k", "q8_0", "--cache-type-v", "q4_0"]
    assert (flags["moe_cpu_layers"], flags["ubatch"]) == (0, 512)
    assert flags["devices"][0]["kv_bytes"] == 12 * 512 * 2 * 2 * (2 * 32)
    assert "--cache-type-k" not in flags["args"]


def test_feed_forward_weights_that_may_move_are_placed_by_the_budget(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model("qwen3", layers=6)
    policies.write_text(policies.read_text() + f'[models.dense]\npath = "{path}"\n')
    argv = ("dense", "--ctx", "256", "--parallel", "1", "--policies", str(policies))
    whole = ask(capsys, *argv, "--vram", "1GiB")
    policies.write_text(policies.read_text() + 'dense_cpu_layers = "auto"\n')

    all_fits = ask(capsys, *argv, "--vram", "1GiB")
    (device,) = all_fits["devices"]
    held = total(device)
    # Its reserve, and two of the six layers too few.
    part = ask(capsys, *argv, "--vram", str((1 << 20) + held - device["experts_bytes"] // 3))
    assert main(["plan", *argv, "--vram", "1GiB", "--moe-cpu-layers", "2"]) == OK
    text = capsys.readouterr().out

    assert whole["devices"][0]["experts_bytes"] == 0
    assert whole["devices"][0]["weights_bytes"] == device["weights_bytes"] + device["experts_bytes"]
    assert all_fits["moe_cpu_layers"] == 0
    assert part["moe_cpu_layers"] in (2, 3)
    assert part["host_bytes"] > all_fits["host_bytes"] + device["experts_bytes"] // 4
    assert part["args"][part["args"].index("--n-cpu-ffn") + 1] == str(part["moe_cpu_layers"])
    assert "6 layers, 6 with feed-forward weights that move" in text
    assert "dense_cpu_layers 2: " in text


def test_models_are_found_where_serve_finds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ollama's store, with a Modelfile's parameters; our own; a folder; variants and aliases."""
    file = tmp_path / "policies.toml"
    gguf = model(layers=2).read_bytes()
    put(
        tmp_path / "ollama",
        "registry.ollama.ai/library/there/latest",
        model=gguf,
        params=b'{"num_ctx": 1024, "moe_cpu_layers": 1}',
    )
    put(tmp_path / "state", "registry.ollama.ai/library/ours/latest", model=gguf)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "plain.gguf").write_bytes(gguf)
    file.write_text(f"""
[catalog]
dirs = ["{tmp_path}/files"]
ollama_dir = "{tmp_path}/ollama"
state = "{tmp_path}/state"
[models.ours]
aliases = ["nick"]
moe_cpu_layers = 2
[models.variant]
base = "ours"
ctx = 512
""")
    argv = ("--vram", "1GiB", "--policies", str(file))

    found = {n: ask(capsys, n, *argv) for n in ("there", "ours", "nick", "plain", "variant")}

    assert {name: plan["moe_cpu_layers"] for name, plan in found.items()} == {
        "there": 1,
        "ours": 2,
        "nick": 2,
        "plain": 0,
        "variant": 2,
    }
    contexts = [p["args"][p["args"].index("--ctx-size") + 1] for p in found.values()]
    assert contexts == ["4096", "32768", "32768", "32768", "2048"]


def test_the_table_says_what_is_kept_free_and_what_the_next_layer_would_take(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "tiny", "--vram", "36MiB", "--policies", str(policies)]) == OK

    text = capsys.readouterr().out
    assert "RESERVE" in text
    assert "RESERVE is what the policies keep free (devices.reserve, limit); one more layer" in text


def test_mistakes_are_told(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*argv: str) -> int:
        return main(["plan", *argv, "--policies", str(policies)])

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"nothing")
    assert status("tinny", "--vram", "1GiB") == FAILED
    assert "did you mean tiny?" in capsys.readouterr().err
    assert status(str(broken), "--vram", "1GiB") == MISUSED
    assert status("tiny", "--vram", "1GiB", "--kv", "q9") == MISUSED
    assert "q8_0" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        status("tiny", "--vram", "much")
    assert ended.value.code == MISUSED


def test_ram_is_what_the_control_group_has_left(
    policies: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container, on a machine that has plenty."""
    group = tmp_path / "group"
    group.mkdir()
    for name, text in (("memory.max", 1 << 20), ("memory.current", 0), ("memory.stat", "")):
        (group / name).write_text(f"{text}\n")
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    (proc.parent / "meminfo").write_text("MemTotal: 99999999 kB\nMemAvailable: 99999999 kB\n")
    (proc / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(
        "proxy.control.model_plan.available_host_bytes",
        lambda: available_host_bytes(proc.parent, group),
    )

    assert main(["plan", "tiny", "--vram", "36MiB", "--policies", str(policies)]) == OK

    assert " of RAM are free: the rest, " in capsys.readouterr().out


def test_sizes_of_devices() -> None:
    assert parse_vram("12GiB") == {"GPU": 12 << 30}
    assert parse_vram("CUDA0=1GiB, RPC0=512MiB") == {"CUDA0": 1 << 30, "RPC0": 512 << 20}
    with pytest.raises(ValueError, match="twice"):
        parse_vram("1GiB,2GiB")


# --- of a proxy that runs ---


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that serves from places that this user's policies say nothing of."""
    folder = tmp_path_factory.mktemp("plan")
    gguf = model(layers=4)
    params = b'{"num_ctx": 1024, "moe_cpu_layers": 1}'
    put(
        folder / "ollama",
        "registry.ollama.ai/library/there/latest",
        model=gguf.read_bytes(),
        params=params,
    )
    put(folder / "state", "hf.co/org/repo/Q8_0", model=model(layers=2).read_bytes())
    places = {"ollama": True, "ollama_dir": folder / "ollama", "state": folder / "state"}
    named = {"ours": {"path": model(), "aliases": ["nick"], "moe_cpu_layers": 3}}
    with served(
        folder, made(named, catalog=places, devices={"reserve": "1MiB", "low": "1MiB"})
    ) as url:
        yield url


@pytest.mark.llama
def test_what_the_running_proxy_serves_is_found(
    running: Served,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ollama's, an alias, one that was pulled; what is asked for goes along."""
    monkeypatch.setenv("MOE_PROXY_POLICIES", str(tmp_path))
    url = ("--url", running, "--vram", "1GiB")

    found = {name: ask(capsys, name, *url) for name in ("there", "nick", "hf.co/org/repo:Q8_0")}
    asked = ask(capsys, "nick", *url, "--ctx", "512", "--kv", "q8_0", "--moe-cpu-layers", "2-3")

    assert {name: plan["moe_cpu_layers"] for name, plan in found.items()} == {
        "there": 1,
        "nick": 3,
        "hf.co/org/repo:Q8_0": 0,
    }
    assert (found["there"]["ctx"], found["nick"]["model"]) == (1024, "ours")
    assert (asked["ctx"], asked["kv_types"], asked["moe_cpu_layers"]) == (512, ["q8_0"], 2)


@pytest.mark.llama
def test_what_no_proxy_and_no_policy_knows_is_told_as_the_proxy_tells_it(
    running: Served,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOE_PROXY_POLICIES", str(tmp_path))
    (tmp_path / "p.toml").write_text(made({"here": {"path": model()}}))
    url = ("--url", running, "--vram", "1GiB")

    assert main(["plan", "our", *url]) == FAILED
    assert "did you mean ours?" in capsys.readouterr().err
    assert main(["plan", "here", *url]) == OK  # an edit that the proxy has not seen
    assert main(["plan", "ours", "--url", running]) == FAILED
    assert "no device is known" in capsys.readouterr().err


def test_where_something_else_listens_it_plans_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as Ollama, which moe-proxy is to take the place of."""
    monkeypatch.setenv("MOE_PROXY_POLICIES", str(tmp_path))
    (tmp_path / "p.toml").write_text(made({"here": {"path": model()}}))

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404, "page not found")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        for name, status in (("here", OK), ("nobody", FAILED)):
            threading.Thread(target=server.handle_request, daemon=True).start()
            assert main(["plan", name, "--vram", "1GiB", "--url", url]) == status

    assert "model 'nobody' not found" in capsys.readouterr().err


@pytest.mark.llama
@pytest.mark.parametrize(
    "query", ["ctx=0", "ctx=many", "vram=12", "tune=fast", "kv=q9", "moe_cpu_layers=x", "ubatch=-1"]
)
def test_what_a_url_asks_wrongly_is_told(running: Served, query: str) -> None:
    client = Client(running)
    with pytest.raises(ClientError, match=query.partition("=")[0].replace("kv", "KV type")):
        client.get(f"/admin/models/ours/plan?{query}" + ("" if "vram" in query else "&vram=1GiB"))


def test_what_lacks_room_is_told_by_how_much(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was "0.78 GiB short of 0.78 GiB"."""
    full = ask(capsys, "tiny", "--vram", "1GiB", "--policies", str(policies))
    least = total(full["devices"][0])  # and 1 MiB that stays free
    argv = ["tiny", "--moe-cpu-layers", "0", "--policies", str(policies)]

    assert main(["plan", *argv, "--ubatch", str(full["ubatch"]), "--vram", str(least)]) == FAILED
    said = capsys.readouterr().out

    assert ", 1 MiB more than the " in said


def test_a_bar_for_each_device_shows_what_it_would_hold(
    policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No colours, as it goes to no terminal."""
    argv = ["plan", "tiny", "--vram", "CUDA0=36MiB,CUDA1=18MiB", "--policies", str(policies)]

    assert main(argv) == OK
    said = capsys.readouterr().out
    assert main([*argv[:2], "--vram", "3MiB", *argv[4:]]) == FAILED
    too_small = capsys.readouterr().out

    first, second = [line.split()[1] for line in said.splitlines() if "██" in line]
    assert len(first) == 2 * len(second), "as long as its memory is large"
    assert set(first) >= set("▓▒█/")
    assert set("▓▒").isdisjoint(second), "CUDA1 has no attention"
    assert "█ experts" in said
    assert "\033" not in said
    assert "! too much" in too_small
