"""Models made from a Modelfile: what it says holds in every protocol."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from proxy.cli.main import main
from tests.api.clients.conftest import SEER, USER
from tests.support.extras import adapter

pytestmark = pytest.mark.llama
SYSTEM = "be brief " * 20
BEFORE = [("user", "before " * 30), ("assistant", "well")]


@pytest.fixture(scope="module")
def brief(llama: ollama.Client) -> Iterator[str]:
    llama.create(
        "brief",
        from_=SEER,
        system=SYSTEM,
        messages=[{"role": role, "content": text} for role, text in BEFORE],
        parameters={"temperature": 0, "num_predict": 6},
    )
    yield "brief"
    llama.delete("brief")


def counted(mine: openai.OpenAI, model: str, messages: list[Any]) -> int:
    answer = mine.chat.completions.create(model=model, messages=messages, max_tokens=1)
    assert answer.usage is not None
    return answer.usage.prompt_tokens


def spelled_out(*more: Any, system: str = SYSTEM) -> list[Any]:
    said = [{"role": role, "content": text} for role, text in BEFORE]
    return [{"role": "system", "content": system}, *said, *more]


def test_openai(mine: openai.OpenAI, llama: ollama.Client, brief: str) -> None:
    own = {"role": "system", "content": "x"}
    developer = own | {"role": "developer"}

    expected = counted(mine, SEER, spelled_out(USER))
    assert counted(mine, brief, [USER]) == expected
    assert llama.chat(brief, [USER]).prompt_eval_count == expected
    instead = counted(mine, SEER, spelled_out(USER, system="x"))
    assert counted(mine, brief, [own, USER]) == instead < expected
    assert counted(mine, brief, [developer, USER]) < expected
    assert llama.chat(brief, [own, USER]).prompt_eval_count == instead


def test_the_answer_is_the_one_to_the_whole_conversation(mine: openai.OpenAI, brief: str) -> None:
    ask: Any = {"max_tokens": 6, "seed": 1, "extra_body": {"cache_prompt": False}}
    said = mine.chat.completions.create(model=brief, messages=[USER], **ask)
    spelled = mine.chat.completions.create(model=SEER, messages=spelled_out(USER), **ask)

    assert said.choices[0].message.content == spelled.choices[0].message.content


def test_responses(mine: openai.OpenAI, brief: str) -> None:
    def count(**ask: Any) -> int:
        usage = mine.responses.create(model=brief, max_output_tokens=1, **ask).usage
        assert usage is not None
        return usage.input_tokens

    expected = counted(mine, SEER, spelled_out(USER))
    assert count(input="hello") == expected
    assert count(input=[USER]) == expected
    instead = counted(mine, SEER, spelled_out(USER, system="x"))
    assert count(input="hello", instructions="x") == instead


def test_anthropic(mine: openai.OpenAI, theirs: anthropic.Anthropic, brief: str) -> None:
    expected = counted(mine, SEER, spelled_out(USER))
    instead = counted(mine, SEER, spelled_out(USER, system="x"))
    message = theirs.messages.create(model=brief, messages=[USER], max_tokens=1)

    used = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    count = theirs.messages.count_tokens
    assert used == count(model=brief, messages=[USER]).input_tokens == expected
    assert count(model=brief, messages=[USER], system="x").input_tokens == instead


def test_an_adapter_changes_the_answers(
    mine: openai.OpenAI, llama: ollama.Client, tmp_path: Path
) -> None:
    file = adapter(tmp_path / "adapter.gguf")
    digest = llama.create_blob(file)
    llama.create("adapted", from_=SEER, adapters={"adapter.gguf": digest})
    ask: Any = {"messages": [USER], "max_tokens": 6, "temperature": 0}
    plain = mine.chat.completions.create(model=SEER, **ask)
    adapted = mine.chat.completions.create(model="adapted", **ask)
    modelfile = llama.show("adapted").modelfile or ""
    llama.delete("adapted")

    assert digest == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert adapted.choices[0].message.content != plain.choices[0].message.content
    assert "\nADAPTER " in modelfile


def test_an_adapter_from_the_command_line(mine: openai.OpenAI, url: str, tmp_path: Path) -> None:
    adapter(tmp_path / "adapter.gguf")
    (tmp_path / "Modelfile").write_text(f"FROM {SEER}\nADAPTER ./adapter.gguf\n")

    assert main(["create", "told", "-f", str(tmp_path / "Modelfile"), "--url", url]) == 0

    ask: Any = {"messages": [USER], "max_tokens": 6, "temperature": 0}
    told = mine.chat.completions.create(model="told", **ask)
    plain = mine.chat.completions.create(model=SEER, **ask)
    assert told.choices[0].message.content != plain.choices[0].message.content
