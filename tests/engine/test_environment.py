"""What the programs that we start see of our environment."""

import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.engine.command import CommandEngine
from proxy.engine.environment import NO_STACK_TRACES, inherited, missing, not_seen, with_own
from proxy.engine.guardian import MARK
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.types import LoadOptions
from tests.support.commands import GATED
from tests.support.guard import HANG_S
from tests.support.hosted import hosted
from tests.support.llama import Client, program
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

PROMPT = "the same text"
# What people have in their environments, and what of it is nobody's business.
TOKENS = dict.fromkeys(
    """
    HF_TOKEN OPENAI_API_KEY ANTHROPIC_API_KEY AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN GITHUB_TOKEN
    NVIDIA_API_KEY XDG_TOKEN PYTHON_KEYRING_PASSWORD CUDA_ACCESS_TOKEN SSH_AUTH_SOCK
    MOE_PROXY_API_KEY DOCKER_AUTH_CONFIG DATABASE_URL
    """.split(),
    "a-secret",
)
# Read without being an option.
OTHERS = {
    "AIP_MODE": "PREDICTION",
    "AIP_HTTP_PORT": "1",
    "AIP_PREDICT_ROUTE": "/completion",
    "LLAMA_SERVER_ROUTER_PORT": "1",
    "LLAMA_SERVER_SLOTS_DEBUG": "1",
    "LLAMA_TRACE": "1",
    "LLAMA_ARG_MOE_CACHE_MIB": "1",  # of newer ones
    "LLAMA_ARG_MOE_CACHE_CPU_SHARE": "1",
}
NEEDED = {
    "PATH": "/bin",
    "HOME": "/h",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "XDG_CACHE_HOME": "/c",
    "LD_LIBRARY_PATH": "/l",
    "CUDA_VISIBLE_DEVICES": "GPU-1",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "GGML_VK_VISIBLE_DEVICES": "0",
    "VK_ICD_FILENAMES": "/i",
    "HIP_VISIBLE_DEVICES": "0",
    "HSA_OVERRIDE_GFX_VERSION": "10.3.0",
    "OMP_NUM_THREADS": "2",
    "PYTHONPATH": "/p",
    "MOE_PROXY_NO_LIVE_MOVES": "1",
}


def test_what_is_needed_and_nothing_else() -> None:
    env = NEEDED | TOKENS | OTHERS | {"LLAMA_API_KEY": "x", "LLAMA_ARG_TOOLS": "all"}

    assert inherited(env) == NEEDED
    assert not_seen(env) == [
        *("LLAMA_API_KEY", "LLAMA_ARG_MOE_CACHE_CPU_SHARE", "LLAMA_ARG_MOE_CACHE_MIB"),
        *("LLAMA_ARG_TOOLS", "LLAMA_SERVER_ROUTER_PORT"),
        *("LLAMA_SERVER_SLOTS_DEBUG", "LLAMA_TRACE"),
    ]


def test_what_a_policy_gives() -> None:
    own = (("A", "1"), ("HF_TOKEN", "$HF_TOKEN"), ("B", "$NOT_THERE"), ("C", "$5 a day"))
    env = {"PATH": "/bin", "HF_TOKEN": "t"}

    given = {"PATH": "/bin", "A": "1", "HF_TOKEN": "t", "C": "$5 a day"}
    assert with_own(env, own) == given | NO_STACK_TRACES
    assert missing(env, own) == ["B"]


def seen_by(pid: int | None) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text()
    return dict(pair.split("=", 1) for pair in text.split("\0") if pair)


@pytest.mark.llama
async def test_a_command_sees_that_and_what_its_policy_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "for-this-one")
    monkeypatch.setenv("LLAMA_API_KEY", "x")
    own = (("LLAMA_ARG_THREADS", "1"), ("HF_TOKEN", "$HF_TOKEN"))
    options = LoadOptions("m", Path("no.gguf"), engine="command", command=tuple(GATED), env=own)
    assert "LLAMA_ARG_THREADS" not in repr(options)
    engine = CommandEngine("b1", options, log_buffer=LogBuffer())
    await engine.start()
    try:
        seen = seen_by(engine.pid)
    finally:
        await engine.stop()

    given = {"LLAMA_ARG_THREADS": "1", "HF_TOKEN": "for-this-one"}
    assert seen == inherited(os.environ) | NO_STACK_TRACES | given | MARK


# --- every variable that the installed llama-server reads ---


def variables() -> list[str]:
    said = subprocess.run([program("llama-server"), "--help"], capture_output=True, check=True)
    found = sorted(set(re.findall(r"\(env: (\w+)\)", said.stdout.decode())))
    negated = [name.replace("LLAMA_ARG_", "LLAMA_ARG_NO_") for name in found]
    return [*found, *dict.fromkeys(name for name in negated if name not in found)]


def harmful(value: str) -> dict[str, str]:
    return dict.fromkeys(variables(), value) | OTHERS


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    """A proxy whose workers are started with the environment of the test."""
    text = policies({"m": {"path": model(layers=4), "ctx": 512, "parallel": 1}})
    async with proxy(tmp_path, text) as running:
        yield running


async def answer(asked: Proxy) -> tuple[str, dict[str, str]]:
    """What a worker that is loaded for it says, and what it sees."""
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    said = await asked.post("/v1/completions", body)
    seen = seen_by((await asked.backend("m"))["pid"])
    await asked.post("/admin/models/m/unload")
    return said["choices"][0]["text"], seen


@pytest.mark.llama
@pytest.mark.parametrize("value", ["nonsense", "1", "0", ""])
async def test_with_all_of_them_it_serves_as_without(
    asked: Proxy, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Of words llama-server makes errors, keys, prefixes and names, of 1 and 0 other numbers and
    what is switched on and off; some count already where they are set."""
    text, usual = await answer(asked)
    every = harmful(value)
    assert len(every) > 140

    for name, harm in (every | TOKENS).items():
        monkeypatch.setenv(name, harm)

    said, seen = await answer(asked)
    assert said == text
    assert seen.keys() == usual.keys()


@pytest.mark.llama
async def test_each_alone_changes_nothing(
    asked: Proxy, monkeypatch: pytest.MonkeyPatch, thorough: bool
) -> None:
    """A few of them, those that kept a proxy waiting for ever first."""
    text, _ = await answer(asked)
    some = ("LLAMA_API_KEY", "LLAMA_ARG_API_PREFIX", "LLAMA_ARG_N_CPU_MOE", "AIP_MODE")
    every = harmful("nonsense")
    for name in every if thorough else some:
        with monkeypatch.context() as patch:
            patch.setenv(name, every[name])
            assert (await answer(asked))[0] == text, name


@pytest.mark.llama
def test_they_would_do_harm() -> None:
    """What llama-server itself makes of them: it does not even start."""
    command = [program("llama-server"), "-m", str(model(layers=4)), "--port", "0"]
    env = os.environ | harmful("nonsense")
    ended = subprocess.run(command, env=env, capture_output=True, timeout=HANG_S, check=False)

    assert ended.returncode != 0


@pytest.mark.llama
async def test_a_worker_has_its_own_place_for_temporary_files(tmp_path: Path) -> None:
    async with hosted(model(layers=4), ()) as engine, Client(engine.address) as client:
        seen = seen_by(engine.pid)
        assert engine.address.socket == f"{seen['TMPDIR']}/server.sock"
        own = {"TMPDIR": seen["TMPDIR"]} | NO_STACK_TRACES | MARK
        assert seen == inherited(os.environ) | own, "and nothing else"
        assert await client.text(PROMPT)
