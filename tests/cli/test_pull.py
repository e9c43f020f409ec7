import asyncio
import io
import os
from pathlib import Path

import pytest

from proxy.app import Settings, running
from proxy.catalog.entry import Message
from proxy.catalog.local import Catalog
from proxy.catalog.modelfile import parse_modelfile
from proxy.catalog.store import Store
from proxy.cli.client import ClientError
from proxy.cli.main import main
from proxy.cli.progress import ProgressBar
from proxy.cli.pull import source_of
from tests.hub import servers
from tests.hub.conftest import MakeGguf

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a user who has no policies."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("MOE_PROXY_POLICIES", "OLLAMA_MODELS", "MOE_PROXY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".local/share/moe-proxy"


@pytest.fixture
def modelfile(tmp_path: Path, gguf: MakeGguf) -> Path:
    (tmp_path / "base.gguf").write_bytes(gguf(1))
    file = tmp_path / "Modelfile"
    file.write_text(
        "FROM ./base.gguf\nPARAMETER moe_cpu_layers 24\nSYSTEM Be brief.\nMESSAGE user Hi\n"
    )
    return file


def only(state: Path):  # type: ignore[no-untyped-def]
    (entry,) = Catalog([], {}, [Store(state, "own")]).list()
    return entry


def test_create_without_a_proxy(
    state: Path, modelfile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["create", "mine", "-f", str(modelfile), "--url", NOBODY]) == 0

    out = capsys.readouterr().out.splitlines()
    assert out[0] == "hashing base.gguf"
    assert out[-1] == "success"
    entry = only(state)
    assert entry.name == "mine:latest"
    assert entry.params == {"moe_cpu_layers": 24}
    assert (entry.system, entry.messages) == ("Be brief.", (Message("user", "Hi"),))
    assert entry.path.samefile(modelfile.with_name("base.gguf"))


async def test_create_through_a_proxy(state: Path, modelfile: Path, tmp_path: Path) -> None:
    """Its store is another one, so that the file has to be uploaded."""
    policies = tmp_path / "p.toml"
    policies.write_text(f'[catalog]\nstate = "{tmp_path}/other"\n')
    async with running(Settings(port=0, policies=policies, env={"HOME": str(tmp_path)})) as proxy:
        arguments = ["create", "mine", "-f", str(modelfile), "--url", proxy.url, "--json"]
        assert await asyncio.to_thread(main, arguments) == 0

        entry = proxy.services.catalog.find("mine")
        assert entry is not None
        assert entry.params == {"moe_cpu_layers": 24}
    assert only(tmp_path / "other").path.read_bytes() == (tmp_path / "base.gguf").read_bytes()


def test_a_file_is_not_pulled_and_it_is_said_how_to_have_it(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gguf").touch()
    for name in ("x.gguf", "./y.gguf", "~/y.gguf", "/models/y.gguf"):
        assert main(["pull", name, "--url", NOBODY]) == 1
        said = capsys.readouterr().err
        assert f"FROM {name}" in said
        assert "catalog.dirs" in said
    assert main(["pull", "hf.co/y.gguf", "--node", "attic", "--url", NOBODY]) == 1
    assert "nothing answers" in capsys.readouterr().err


async def test_one_machine_does_not_do_what_a_node_is_to_do(
    state: Path, server: servers.Hub, gguf: MakeGguf, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add_model("library/tiny:latest", [("model", gguf(1))], {})
    pull = ["pull", f"{server.host}/library/tiny", "--insecure", "--node", "attic", "--url"]
    policies = state.parents[2] / "p.toml"
    policies.write_text(f'[catalog]\nstate = "{state}"\n')
    async with running(Settings(port=0, policies=policies, env={"HOME": str(state)})) as proxy:
        assert await asyncio.to_thread(main, [*pull, proxy.url]) == 1
        assert "is one machine: there are no nodes" in capsys.readouterr().err
        assert not proxy.services.catalog.list()
    # Nor is it done here where there is nobody to ask.
    assert await asyncio.to_thread(main, [*pull, NOBODY]) == 1
    assert "nothing answers" in capsys.readouterr().err


async def test_pull_without_a_proxy(
    state: Path, server: servers.Hub, gguf: MakeGguf, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add_model("library/tiny:latest", [("model", gguf(1))], {})
    arguments = ["pull", f"{server.host}/library/tiny", "--url", NOBODY]

    assert await asyncio.to_thread(main, arguments) == 0

    out = capsys.readouterr().out.splitlines()
    assert (out[0], out[-1]) == ("pulling manifest", "success")
    assert len(out) == len(set(out))
    assert only(state).path.read_bytes() == gguf(1)

    arguments[1] += "-not"
    assert await asyncio.to_thread(main, arguments) == 1
    assert "file does not exist" in capsys.readouterr().err


def test_what_from_means(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for name in ("many/a.gguf", "many/b.gguf", "lora.gguf"):
        (tmp_path / name).touch()

    def source(text: str):  # type: ignore[no-untyped-def]
        return source_of(parse_modelfile(text), tmp_path)

    assert source("FROM qwen3:30b").model == "qwen3:30b"
    assert source("FROM hf.co/org/repo:Q8_0").model == "hf.co/org/repo:Q8_0"
    assert list(source("FROM many").files) == ["a.gguf", "b.gguf"]
    assert list(source("FROM x\nADAPTER lora.gguf").adapters) == ["lora.gguf"]
    for text, why in (
        ("FROM ./nothing", "FROM ./nothing: there is no such file"),
        ("FROM x.gguf", "FROM x.gguf: there is no such file"),
        ("FROM x\nADAPTER y", "ADAPTER y: there is no such file"),
        ("FROM x\nFROM many", "FROM names a model, x, and files"),
    ):
        with pytest.raises(ClientError, match=why):
            source(text)


def test_errors_name_file_and_line(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Modelfile").write_text("FROM x\nPARAMETER temprature 1\n")

    assert main(["create", "mine", "--url", NOBODY]) == 1

    assert "Modelfile: line 2: unknown parameter 'temprature'" in capsys.readouterr().err


def test_what_the_system_says_is_told_without_numbers(
    state: Path, modelfile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert main([*arguments, "--url", NOBODY]) == 1
        return capsys.readouterr().err

    assert told("create", "mine", "-f", "nothing") == (
        "moe-proxy: nothing: no such file or directory; name the Modelfile with -f FILE\n"
    )
    assert told("create", "mine", "-f", str(tmp_path)).endswith(
        ": is a directory; name the Modelfile with -f FILE\n"
    )
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/p.toml").write_text(f'[catalog]\nstate = "{modelfile}/below"\n')
    assert told("create", "mine", "-f", str(modelfile)) == (
        f"moe-proxy: {modelfile}/below/blobs: not a directory\n"
    )


def test_a_modelfile_may_come_through_a_pipe_but_not_without_an_end(
    state: Path, modelfile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.write(writing, f"FROM {modelfile.with_name('base.gguf')}\n".encode())
    os.close(writing)
    try:
        assert main(["create", "mine", "-f", f"/dev/fd/{reading}", "--url", NOBODY]) == 0
    finally:
        os.close(reading)
    assert main(["create", "mine", "-f", "/dev/zero", "--url", NOBODY]) == 1

    assert only(state).name == "mine:latest"
    assert "/dev/zero is larger than any Modelfile" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["pull", "hf.co/org/repo"], ["create", "mine"]])
def test_what_another_machine_should_have_is_not_made_here(
    command: list[str], state: Path, modelfile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--url", "http://127.0.0.2:9"]) == 1

    assert "nothing answers at http://127.0.0.2:9 (connection refused)" in capsys.readouterr().err
    assert not state.exists()


def test_progress_stays_in_its_line() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    screen = ProgressBar(out)
    for completed in (0, 5, 10, 10):
        screen.show({"status": "pulling x", "digest": "x", "total": 10, "completed": completed})
    screen.show({"status": "success"})

    shown = out.getvalue()
    assert shown.count("\r") == 3
    assert shown.endswith("100%  10 of 10 bytes\nsuccess\n")
