"""Programs that people talk to models with, told nothing but where the proxy is and which model to
use: Claude Code without a terminal, and aider.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.npm import packages
from tests.support.policies import policies
from tests.support.pypi import program
from tests.support.served import Served, served

pytestmark = pytest.mark.llama
TURNS = 10
LIMIT_S = 4 * HANG_S  # they wait for much of their own
# Their prompts are long: they need a vocabulary with words, and a model that reads fast.
SMALL = {"width": 64, "expert_width": 64, "heads": 2, "head_width": 32, "context": 32768}
QUIET = {
    **{"DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1"},
    **{"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "AIDER_ANALYTICS": "false"},
}


@pytest.fixture(scope="module")
def programs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("programs")
    path = model(layers=2, vocab="qwen2", template="Qwen-Qwen3-0.6B", sizes=SMALL)
    models: dict[str, dict[str, Any]] = {
        # Random weights do not choose to call; that they have to is what a policy may say.
        "caller": {"params": {"tool_choice": "required"}},
        "speaker": {"params": {"grammar": 'root ::= "It is sunny."'}},
        "forgetful": {"ctx": 512},
        "talker": {"params": {"n_predict": 12}},
    }
    made = policies(
        {name: {"path": path, **table} for name, table in models.items()},
        catalog={"state": folder / "state"},
        defaults={"ctx": 16384, "parallel": 1},
    )
    with served(folder, made) as url:
        yield url


def run(folder: Path, *command: str | Path, said: str = "", **env: str) -> str:
    """What a program says that knows nothing of this machine."""
    home = folder / "home"
    work = folder / "work"
    home.mkdir()
    work.mkdir()
    ended = subprocess.run(
        command,
        input=said,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **QUIET, **env},
    )
    assert ended.stdout, ended.stderr
    return ended.stdout


def claude(folder: Path, url: str, name: str, *args: str) -> list[dict[str, Any]]:
    """What Claude Code tells of one question, event by event."""
    package = packages("@anthropic-ai/claude-code@2.1.197") / "node_modules" / "@anthropic-ai"
    told = run(
        folder,
        *("node", package / "claude-code" / "cli-wrapper.cjs", "-p", "How is the weather in Rome?"),
        *("--output-format", "stream-json", "--verbose", "--tools", "", "--strict-mcp-config"),
        *args,
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_AUTH_TOKEN="any",
        ANTHROPIC_MODEL=name,
        ANTHROPIC_SMALL_FAST_MODEL=name,
    )
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def test_claude_code_calls_a_tool(tmp_path: Path, programs_url: Served) -> None:
    script = Path(__file__).with_name("weather.py")
    server = {"command": sys.executable, "args": [str(script)]}
    config = json.dumps({"mcpServers": {"weather": server}})
    tools = ("--mcp-config", config, "--allowedTools", "mcp__weather__look", "--max-turns", "2")
    events = claude(tmp_path, programs_url, "caller", *tools)

    calls = [part for part in parts(events, "assistant") if part["type"] == "tool_use"]
    results = [part for part in parts(events, "user") if part["type"] == "tool_result"]
    assert len(calls) == len(results) == 2
    for call, result in zip(calls, results, strict=True):
        assert call["name"] == "mcp__weather__look"
        assert result["tool_use_id"] == call["id"]
        assert result["content"] == [{"type": "text", "text": f"sunny in {call['input']['city']}"}]
    read = [event["message"]["usage"] for event in events if event["type"] == "assistant"]
    # But for the words that open the answer, and the call in them is written anew.
    assert read[1]["cache_read_input_tokens"] >= 0.9 * read[0]["input_tokens"], (
        "its prompt was kept"
    )
    assert events[-1]["subtype"] == "error_max_turns", "it would go on calling"


def test_claude_code_answers(tmp_path: Path, programs_url: Served) -> None:
    end = claude(tmp_path, programs_url, "speaker")[-1]

    assert (end["subtype"], end["is_error"]) == ("success", False)
    assert end["result"] == "It is sunny."
    assert end["usage"]["input_tokens"] > 0


def test_claude_code_knows_when_its_prompt_is_too_long(
    tmp_path: Path, programs_url: Served
) -> None:
    end = claude(tmp_path, programs_url, "forgetful")[-1]

    assert end["is_error"]
    assert end["result"].startswith("Prompt is too long")
    assert "(limit 512)" in end["result"]


def parts(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [
        part for event in events if event["type"] == kind for part in event["message"]["content"]
    ]


def test_aider_over_ten_turns(tmp_path: Path, programs_url: Served, thorough: bool) -> None:
    """Each asks for a context that is a little larger than the one before."""
    if not thorough:
        pytest.skip("aider takes 700 MB and minutes to install; --thorough does")
    aider = program("aider", "aider-chat==0.86.2")
    told = run(
        tmp_path,
        *(aider, "--model", "ollama_chat/talker", "--no-git", "--yes-always", "--no-pretty"),
        *("--no-check-update", "--no-show-model-warnings", "--no-fancy-input", "--no-analytics"),
        *("--no-gitignore", "--map-tokens", "0"),
        said="".join(f"/ask What is {turn}?\n" for turn in range(TURNS)) + "/exit\n",
        OLLAMA_API_BASE=programs_url,
    )

    chats = [line for line in programs_url.said("request") if line["path"] == "/api/chat"]
    assert [line["status"] for line in chats] == [200] * TURNS, told
    assert "Model: ollama_chat/talker" in told
    # Contexts go up in steps: not each turn loads the model anew.
    assert len(programs_url.said("backend_starting")) < TURNS / 2
