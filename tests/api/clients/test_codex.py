"""Codex, as it runs without a person: it asks for responses, runs what the model calls, and sends
all of it back."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import calling_server
from tests.support.guard import HANG_S, LLAMA_S
from tests.support.npm import packages
from tests.support.policies import policies
from tests.support.served import served

pytestmark = pytest.mark.llama  # it is given as long
CALLING = (sys.executable, str(calling_server.__file__), "--port", "{port}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    model = {"engine": "command", "command": list(CALLING)}
    with served(tmp_path, policies({"caller": model})) as url:
        yield url


def codex(folder: Path, url: str, prompt: str) -> list[Any]:
    """What it tells of one run, event by event."""
    home, work = folder / "codex", folder / "work"
    home.mkdir()
    work.mkdir()
    provider = {"name": "proxy", "base_url": f"{url}/v1", "wire_api": "responses"}
    patience = {"request_max_retries": 0, "stream_max_retries": 0}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (provider | patience).items()]
    (home / "config.toml").write_text(
        'model = "caller"\nmodel_provider = "proxy"\n\n[model_providers.proxy]\n' + "\n".join(lines)
    )
    program = packages("@openai/codex@0.171.0") / "node_modules" / ".bin" / "codex"
    command = (
        *(program, "exec", "--json", "--skip-git-repo-check", "--cd", work),
        *("--dangerously-bypass-approvals-and-sandbox", prompt),
    )
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"CODEX_HOME": str(home), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=LLAMA_S - HANG_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def test_it_runs_what_is_called_and_sends_the_result_back(tmp_path: Path, server: str) -> None:
    events = codex(tmp_path, server, "how is the weather?")

    items = [event["item"] for event in events if event["type"] == "item.completed"]
    (ran,) = [item for item in items if item["type"] == "command_execution"]
    assert ran["aggregated_output"].strip() == calling_server.WORD
    (said,) = [item for item in items if item["type"] == "agent_message"]
    assert json.loads(said["text"]) == {"result": True, "thought": calling_server.THOUGHT}
    assert events[-1]["type"] == "turn.completed"
    assert events[-1]["usage"]["output_tokens"] == 10
