"""The command line against a real proxy, and without one."""

import asyncio
import http.server
import json
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from proxy.app import Running
from proxy.cli.main import _parser, function_of, main
from proxy.cli.misused import MEANT
from tests.api.conftest import MODEL, policies, proxy
from tests.catalog.test_store import put
from tests.support.models import model
from tests.support.policies import policies as made

__all__ = ["policies", "proxy"]  # fixtures

pytestmark = pytest.mark.llama


async def run(*arguments: str) -> int:
    """The command blocks while it waits for the proxy, which runs on this loop."""
    return await asyncio.to_thread(main, arguments)


async def test_load_look_and_unload(proxy: Running, capsys: pytest.CaptureFixture[str]) -> None:
    url = ("--url", proxy.url)
    assert await run("ps", *url) == 0
    assert "nothing is loaded" in capsys.readouterr().out

    assert await run("load", MODEL, *url) == 0
    assert await run("ps", *url) == 0
    assert await run("models", *url) == 0
    assert await run("show", MODEL, *url) == 0
    said = capsys.readouterr().out
    assert f"b1  {MODEL}  ready  4/4 (auto)" in said
    assert said.count("4/4 (auto)") == 3, "ps, models and show tell the same"
    assert "minutes from now" in said
    assert "gpt-4o" in said
    (cpu,) = [line for line in said.splitlines() if line.startswith("CPU ")]
    assert re.fullmatch(r"CPU +\S+ MiB +\S+ MiB +\S+ MiB +[1-9]\d* MiB", cpu), cpu

    assert await run("ps", "--json", *url) == 0
    said = capsys.readouterr().out
    assert json.loads(said[said.index("[\n") :])[0]["id"] == "b1"
    assert await run("set", MODEL, "--moe-cpu-layers", "full", *url) == 0
    assert f"b1 {MODEL}: CPU layers 4/4 (-1)" in capsys.readouterr().out
    assert await run("unload", MODEL, *url) == 0
    assert "unloaded 1 backend\n" in capsys.readouterr().out
    assert await run("unload", MODEL, *url) == 0
    assert "it was not loaded\n" in capsys.readouterr().out


async def test_an_unknown_model(proxy: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("load", "nobody", "--url", proxy.url) == 1
    assert "moe-proxy: model 'nobody' not found" in capsys.readouterr().err


def test_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    assert main(["ps", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err == (
        f"moe-proxy: nothing answers at http://127.0.0.1:{port} (connection refused); "
        "start it with: moe-proxy serve, or say with --url where it is\n"
    )


def test_check(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--policies", str(policies)]) == 0
    assert capsys.readouterr().out.startswith("good: 1 file, 1 model, ")

    policies.write_text('[models.m]\nctx = 1024\npath = "not-there.gguf"\n')
    assert main(["check", "--policies", str(policies)]) == 0
    place = f"{policies}:3: models.m.path: "
    warning = f"warning: {place}no such file or directory: {policies.parent}/not-there.gguf"
    assert capsys.readouterr().out.splitlines()[1:] == [warning]

    policies.write_text("[server]\nprot = 1\nport = 99999\n")
    assert main(["check", "--policies", str(policies)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{policies}:2: server.prot: ")
    assert lines[1].startswith(f"{policies}:3: server.port: ")


def test_check_tells_what_holds_on_another_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_PROXY_NODE", "cellar")
    file = tmp_path / "p.toml"
    file.write_text('nodes.attic.server.port = 7\nnodes.attic.catalog.dirs = ["/not/here"]\n')

    assert main(["check", "--policies", str(file)]) == 0
    here = capsys.readouterr().out
    assert main(["check", "--policies", str(file), "--node", "cellar"]) == 0
    named = capsys.readouterr().out
    assert main(["check", "--policies", str(file), "--node", "attic"]) == 0
    there = capsys.readouterr().out
    assert main(["check", "--policies", str(file), "--node", "Attic"]) == 1

    assert named == f"{here}node cellar: nothing of its own\n"
    assert there == (
        "good: 1 file, models unknown from here, listens on 127.0.0.1:7\n"
        "node attic, of its own:\n"
        f"  server.port  = 7  # {file}:1\n"
        f'  catalog.dirs = ["/not/here"]  # {file}:2\n'
    )
    assert "environment: MOE_PROXY_NODE: " in capsys.readouterr().out


def test_check_counts_what_serve_would_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In policies, folders, and stores; a file that is no model is told of."""
    gguf = model(layers=2)
    (tmp_path / "files" / "deep").mkdir(parents=True)
    (tmp_path / "files" / "a.gguf").symlink_to(model(layers=4))
    (tmp_path / "files" / "deep" / "b.gguf").symlink_to(model())
    (tmp_path / "files" / "gone.gguf").symlink_to(tmp_path / "nowhere")
    put(tmp_path / "ollama", "registry.ollama.ai/library/c/latest", model=gguf.read_bytes())
    places = {"dirs": [tmp_path / "files"], "ollama": True, "ollama_dir": tmp_path / "ollama"}
    named: dict[str, dict[str, Any]] = {"m": {"path": gguf}, "v": {"base": "m", "ctx": 512}}
    file = tmp_path / "p.toml"
    file.write_text(made(named, catalog={"state": tmp_path / "state", **places}))

    assert main(["check", "--policies", str(file)]) == 0
    said = capsys.readouterr().out
    assert main(["check", "--json", "--policies", str(file)]) == 0

    models = "5 models (2 of policies, 2 in folders, 1 of Ollama)"
    assert said.startswith(f"good: 1 file, {models}, listens on ")
    assert f"warning: no model: {tmp_path}/files/gone.gguf: " in said
    sources = {"a": "folder", "b": "folder", "c:latest": "ollama", "m": "policy", "v": "policy"}
    assert json.loads(capsys.readouterr().out)["models"] == sources


def test_check_of_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--policies", str(tmp_path)]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["files"], found["problems"]) == ([], [])
    assert "no *.toml" in found["warnings"][0]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "m", "--moe-cpu-layers", "some"],
        ["serve", "--port", "x"],
        ["plan", "m", "--vram", "12"],
        ["plan", "m", "--vram", "many"],
        ["plan", "m", "--ctx", "0"],
        ["ps", "--jso"],
        ["dance"],
    ],
)
def test_misuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "usage: moe-proxy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("modles", "; did you mean models?"),
        ("lst", "; did you mean list"),
        ("status", "; did you mean ps?"),
        ("Remove", "; did you mean rm?"),
        ("dance", " (moe-proxy --help lists them)"),
    ],
)
def test_an_unknown_command_names_what_may_be_meant(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word, "--url", "x"])

    assert ended.value.code == 2
    assert f"there is no command {word!r}{hint}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "--prot", "3"], "there is no option --prot; did you mean --port?"),
        (["load", "my", "model"], "'model' is more than it takes; a name with spaces in it wants"),
        (["ps", "--zzzzzz"], "there is no option --zzzzzz\n"),
    ],
)
def test_what_a_command_does_not_take_is_told_with_its_usage_and_what_may_be_meant(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"usage: moe-proxy {words[0]} " in said
    assert told in said


def test_all_other_names_of_commands_are_names_of_none() -> None:
    _, commands = _parser()

    assert set(MEANT.values()) <= set(commands)
    assert not set(MEANT) & set(commands)


async def test_ps_tells_that_policies_were_refused(
    proxy: Running, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = policies.read_text()
    policies.write_text(good + "[sever]\n")
    await proxy.services.policies.reread(policies, {})
    assert await run("ps", "--url", proxy.url) == 0
    said = capsys.readouterr().out
    assert await run("ps", "--json", "--url", proxy.url) == 0
    as_json = capsys.readouterr()
    policies.write_text(good)
    await proxy.services.policies.reread(policies, {})
    assert await run("ps", "--url", proxy.url) == 0

    line = len(good.splitlines()) + 1
    assert "those before them stay in force:" in said
    assert f"  {policies}:{line}: sever: " in said
    assert as_json.out.endswith("[]\n")
    assert f":{line}: " in as_json.err
    assert "stay in force" not in capsys.readouterr().out


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2

    said = capsys.readouterr().err
    assert "usage: moe-proxy" in said
    assert "First steps: moe-proxy demo" in said


@pytest.mark.parametrize(
    "url", ["127.0.0.1:11434", "http://", "http://host:port", "http://a b", "http://a\n", "ftp://a"]
)
def test_what_is_no_address(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ps", "--url", url]) == 1
    assert "is no address of a proxy; use http://HOST:PORT" in capsys.readouterr().err


def test_what_answers_and_is_no_proxy(capsys: pytest.CaptureFixture[str]) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert main(["ps", "--url", f"http://127.0.0.1:{server.server_port}"]) == 1
    assert "is not moe-proxy" in capsys.readouterr().err


def test_ctrl_c_before_it_is_known_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("proxy.cli.main._parser", pressed)

    assert main(["ps"]) == 130


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">/dev/full"])
async def test_streams_that_are_not_there_or_full(proxy: Running, closed: str) -> None:
    for command in ("run nobody Hi", f"plan {MODEL} --vram 8GiB", "ps"):
        line = f'"$0" -m proxy.cli.main {command} --url {proxy.url} {closed}'
        ended = await asyncio.create_subprocess_exec(
            *("sh", "-c", line, sys.executable),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await ended.communicate()

        refused = command.startswith("run") or closed == ">/dev/full"
        assert ended.returncode == int(refused), said
        assert b"Traceback" not in said
        assert b"Exception" not in said
        if closed == ">/dev/full" and not command.startswith("run"):
            assert b"cannot be written: no space left on device" in said


def test_each_command_has_a_function_that_answers_it() -> None:
    """They are named, and imported only when they are called."""
    for command in _parser()[1].values():
        assert callable(function_of(command.get_default("run")))
