"""A variant of a model, which shares its worker: what clients and the operator see of it."""

import json
from typing import Any

import ollama
import openai
import pytest

from proxy.cli.client import Client, model_path
from proxy.cli.main import main
from tests.api.clients.conftest import TINY, USER, VARIANT

pytestmark = pytest.mark.llama


def loaded(operator: Client) -> list[Any]:
    backends = operator.get("/admin/state")["backends"]
    return [b for b in backends if b["model"] == TINY and b["state"] == "ready"]


def test_it_shares_the_worker_and_has_its_own_split(mine: openai.OpenAI, operator: Client) -> None:
    answers = {}
    for name in (TINY, VARIANT):
        raw = mine.chat.completions.with_raw_response.create(
            model=name, messages=[USER], max_tokens=1
        )
        answers[name] = (raw.headers["X-Moe-Proxy-Backend"], raw.parse().model)
        if name == VARIANT:
            assert raw.headers["X-Moe-Proxy-Moe-Cpu-Layers"] == "1"

    # An answer names the model that gave it, as OpenAI's do for their aliases.
    assert answers[TINY] == answers[VARIANT]
    assert answers[VARIANT][1] == TINY
    assert len(loaded(operator)) == 1


def test_it_is_listed(mine: openai.OpenAI, llama: ollama.Client) -> None:
    listed = {entry.id: entry.model_dump() for entry in mine.models.list()}

    assert listed[VARIANT]["meta"]["base"] == TINY
    assert listed[VARIANT]["meta"]["moe_cpu_layers"] == 1
    assert listed[TINY]["meta"]["base"] is None
    digests = {entry.model: entry.digest for entry in llama.list().models}
    assert digests[f"{VARIANT}:latest"] != digests[TINY], "clients would ask one for the other"


def test_loading_and_unloading(operator: Client, llama: ollama.Client) -> None:
    answer = operator.post(model_path(VARIANT, "load"))
    assert (answer["model"], answer["moe_cpu_layers"]) == (TINY, 1)
    assert TINY in [entry.model for entry in llama.ps().models], "one worker, under its own name"

    moved = operator.put(model_path(VARIANT, "split"), {"moe_cpu_layers": 3})
    assert [b["moe_cpu_layers"] for b in moved["backends"]] == [3]

    assert operator.post(model_path(VARIANT, "unload")) == {"unloaded": 1}
    assert loaded(operator) == []
    assert operator.post(model_path(VARIANT, "unload")) == {"unloaded": 0}


def test_from_the_command_line(
    url: str, operator: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", VARIANT, "--url", url]) == 0
    backend, *said = capsys.readouterr().out.split()
    assert said == [TINY, "ready"]
    assert main(["show", VARIANT, "--json", "--url", url]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["model"]["id"] == VARIANT
    assert [b["id"] for b in shown["backends"]] == [backend]
    assert main(["unload", VARIANT, "--url", url]) == 0
    assert capsys.readouterr().out == "unloaded 1 backend\n"
    assert loaded(operator) == []


def test_from_ollama(operator: Client, llama: ollama.Client) -> None:
    assert llama.generate(VARIANT).done_reason == "load"
    assert len(loaded(operator)) == 1
    assert llama.generate(VARIANT, keep_alive=0).done_reason == "unload"
    assert loaded(operator) == []


def test_ollama_answers_with_the_name_that_was_asked(llama: ollama.Client) -> None:
    assert llama.chat(VARIANT, [USER], options={"num_predict": 1}).model == VARIANT
