"""What a request says counts more than what its model has by default, by whatever names either says
it; and Ollama's options mean the same in every protocol.

The right values are Ollama's, as its documentation and its server (0.33) have them.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import Served, served

pytestmark = pytest.mark.llama
TINY, EIGHT, THREE, UNLIMITED = "tiny", "eight", "three", "unlimited"
PONDERS, SILENT = "ponders", "silent"
SHORT_CTX = 256
# Of a model that only thinks where it is asked to, and of which llama-server does not know that it
# can.
PONDERING = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking %}now I ponder {% endif %}"
)
MESSAGES = [{"role": "user", "content": "hi"}]
COUNTED = {
    "/v1/chat/completions": ("usage", "completion_tokens"),
    "/v1/completions": ("usage", "completion_tokens"),
    "/v1/responses": ("usage", "output_tokens"),
    "/v1/messages": ("usage", "output_tokens"),
    "/api/chat": ("eval_count",),
    "/api/generate": ("eval_count",),
    "/completion": ("tokens_predicted",),
}
LENGTHS = ("n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
V1 = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/completion")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("defaults")
    tiny = {"path": model(layers=4), "repack": "off"}
    models: dict[str, dict[str, Any]] = {
        TINY: tiny | {"params": {"temperature": 0.0, "ignore_eos": True}},
        # The same, by a name that is not llama-server's.
        THREE: {"base": TINY, "params": {"ignore_eos": True, "num_predict": 3}},
        UNLIMITED: {"base": TINY, "params": {"ignore_eos": True, "num_predict": 0}},
        # What its name means is made below.
        SILENT: {"base": PONDERS, "params": {"reasoning_effort": "none"}},
    }
    state = {"state": folder / "state"}
    defaults = {"ctx": SHORT_CTX, "parallel": 2}
    with served(folder, policies(models, catalog=state, defaults=defaults)) as url:
        made = {"num_predict": 8, "stop": ["zzz"], "tfs_zz": 1, "temperature": 0}
        assert ask(url, "/api/create", model=EIGHT, parameters=made, **{"from": TINY})
        assert ask(url, "/api/create", model=PONDERS, template=PONDERING, **{"from": TINY})
        yield url


def asked(url: str, path: str, **body: Any) -> tuple[int, Any]:
    prompt: dict[str, Any] = {"messages": MESSAGES}
    if path in ("/v1/completions", "/completion", "/api/generate"):
        prompt = {"prompt": "hi"}
    elif path == "/v1/responses":
        prompt = {"input": "hi"}
    elif path == "/api/create":
        prompt = {}
    request = urllib.request.Request(
        url + path, json.dumps({"stream": False, **prompt, **body}).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=HANG_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def ask(url: str, path: str, **body: Any) -> Any:
    status, answer = asked(url, path, **body)
    assert status == 200, answer
    return answer


def tokens(url: str, path: str, **body: Any) -> int:
    """How many tokens the answer has."""
    found = ask(url, path, **body)
    for key in COUNTED[path]:
        found = found[key]
    return int(found)


@pytest.mark.parametrize("path", COUNTED)
def test_a_modelfiles_length_is_a_default(url: str, path: str) -> None:
    assert tokens(url, path, model=EIGHT) == 8


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("path", V1)
def test_a_requests_length_counts_by_all_its_names(url: str, path: str, name: str) -> None:
    assert tokens(url, path, model=EIGHT, **{name: 2}) == 2
    assert tokens(url, path, model=THREE, **{name: 5}) == 5


@pytest.mark.parametrize("path", V1)
def test_ollamas_options_are_taken_everywhere(url: str, path: str) -> None:
    assert tokens(url, path, model=EIGHT, options={"num_predict": 2, "mirostat": 0}) == 2
    harmless = {
        "tfs_z": 1.0,
        "num_gpu": 99,
        "num_thread": 4,
        "use_mlock": True,
        "temperature": None,
    }
    assert tokens(url, path, model=EIGHT, options=harmless) == 8
    assert tokens(url, path, model=EIGHT, max_tokens=3, options={"num_predict": 2}) == 3
    status, answer = asked(url, path, model=EIGHT, options={"temperature": "warm"})
    assert status == 400
    assert 'option "temperature" must be of type float32' in json.dumps(answer).replace("\\", "")


def test_sampling_options_reach_the_engine(url: str) -> None:
    def text(**options: Any) -> str:
        body = {"model": TINY, "max_tokens": 8, "options": options}
        return str(ask(url, "/v1/completions", **body)["choices"][0]["text"])

    hot = {"temperature": 1.5, "top_k": 0, "top_p": 1.0}
    assert text(seed=1, **hot) == text(seed=1, **hot) != text(seed=2, **hot)
    assert text() == text(temperature=1.5, top_k=1)
    first = text().split()[0]
    assert text(stop=[first]).strip() == ""


def test_what_is_not_applied_is_said_once(url: Served) -> None:
    for _ in range(2):
        tokens(url, "/v1/chat/completions", model=EIGHT, options={"num_batch": 64})

    said = url.said("ollama_option_not_applied")
    assert [line["option"] for line in said].count("num_batch") == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/api/chat"])
def test_null_is_no_word_against_a_default(url: str, path: str) -> None:
    body: dict[str, Any] = {"options": {"num_predict": None}}
    if path.startswith("/v1"):
        body = {"max_tokens": None, "n_predict": None, "stop": None, "options": None}

    assert tokens(url, path, model=EIGHT, **body) == 8


def test_stops_count_by_both_names(url: str) -> None:
    first = str(ask(url, "/v1/completions", model=TINY)["choices"][0]["text"]).split()[0]
    for path in ("/v1/chat/completions", "/v1/messages"):
        full = json.dumps(ask(url, path, model=EIGHT))
        assert "zzz" not in full
    assert (
        ask(url, "/v1/completions", model=TINY, max_tokens=8, stop_sequences=[first])["choices"][0][
            "text"
        ].strip()
        == ""
    )


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("length", [0, -1, -2, -7])
def test_a_length_of_zero_or_less_is_no_limit(url: str, path: str, length: int) -> None:
    assert tokens(url, path, model=EIGHT, options={"num_predict": length}) > 100


@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions"])
def test_ollamas_name_in_a_policy_means_what_it_means_there(url: str, path: str) -> None:
    assert tokens(url, path, model=UNLIMITED) > 100
    assert tokens(url, path, model=THREE) == 3


@pytest.mark.parametrize("value", [0, -1, -2])
@pytest.mark.parametrize(
    "name",
    [
        *("top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature", "seed"),
        *("repeat_penalty", "presence_penalty", "frequency_penalty", "num_keep"),
        *("mirostat", "mirostat_tau", "mirostat_eta", "num_ctx", "num_batch", "num_gpu"),
        *("num_thread", "main_gpu", "draft_num_predict"),
    ],
)
def test_zero_and_less_is_taken_of_every_option(url: str, name: str, value: int) -> None:
    more = {"mirostat": 2} if name.startswith("mirostat_") else {}
    options = {"num_predict": 3, name: value, **more}

    assert tokens(url, "/api/generate", model=TINY, options=options) == 3
    assert tokens(url, "/v1/completions", model=TINY, options=options) == 3


def test_who_can_think_is_asked_to(url: str) -> None:
    """As in Ollama, where a request says nothing; a policy may say otherwise."""

    def prompt(path: str, **body: Any) -> int:
        options = {"num_predict": 1}
        answer = ask(url, path, model=PONDERS, options=options, **body)
        return int(answer["prompt_eval_count"])

    for path in ("/api/chat", "/api/generate"):
        assert prompt(path) == prompt(path, think=True) > prompt(path, think=False)
    assert tokens(url, "/api/chat", model=TINY, options={"num_predict": 1}) == 1


def test_openais_clients_may_say_it_in_many_words(url: str) -> None:
    def prompt(**body: Any) -> int:
        path = "/v1/chat/completions"
        answer = ask(url, path, model=PONDERS, max_tokens=1, **body)
        return int(answer["usage"]["prompt_tokens"])

    less, more = prompt(reasoning_effort="none"), prompt(thinking={"type": "enabled"})
    for no in ({"reasoning": {"effort": "none"}}, {"think": False}, {"enable_thinking": False}):
        assert prompt(**no) == less
    assert prompt(think=True) == more > less


def test_who_is_not_to_think_thinks_where_a_request_says_so(url: str) -> None:
    """A policy's parameter is a default, whatever the protocol's word for the same."""

    def prompt(path: str, **body: Any) -> int:
        found = ask(url, path, model=SILENT, max_tokens=1, **body)["usage"]
        kept = found.get("cache_read_input_tokens", 0)  # Anthropic's do not count these twice
        return kept + int(found.get("prompt_tokens", found.get("input_tokens")))

    for path in ("/v1/chat/completions", "/v1/messages"):
        silent = prompt(path)
        for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}):
            assert prompt(path, thinking=thinking) > silent
        assert prompt(path, thinking={"type": "disabled"}) == silent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_alternatives_are_told_only_where_they_are_asked_for(
    url: str, path: str, stream: bool
) -> None:
    def logprobs(**body: Any) -> list[Any]:
        body = {"model": TINY, "logprobs": True, "stream": stream, **body}
        prompt: dict[str, Any] = {"messages": MESSAGES} if "chat" in path else {"prompt": "hi"}
        data = json.dumps({"options": {"num_predict": 3}, **prompt, **body}).encode()
        with urllib.request.urlopen(
            urllib.request.Request(url + path, data), timeout=HANG_S
        ) as answer:
            lines = [json.loads(line) for line in answer.read().splitlines()]
        return [entry for line in lines for entry in line.get("logprobs", ())]

    for more in ({}, {"top_logprobs": 0}, {"raw": True} if "generate" in path else {}):
        entries = logprobs(**more)
        assert len(entries) == 3
        assert all(set(entry) == {"token", "logprob", "bytes"} for entry in entries)
    assert all(len(entry["top_logprobs"]) == 2 for entry in logprobs(top_logprobs=2))


def test_openais_alternatives_too(url: str) -> None:
    """Where none are asked for the lists are there, and empty, as with OpenAI."""
    body: dict[str, Any] = {"model": TINY, "max_tokens": 3, "logprobs": True}

    def entries(**more: Any) -> list[Any]:
        answer = ask(url, "/v1/chat/completions", **body, **more)
        return list(answer["choices"][0]["logprobs"]["content"])

    for more in ({}, {"top_logprobs": 0}):
        assert [entry["top_logprobs"] for entry in entries(**more)] == [[], [], []]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries(top_logprobs=2))
    data = json.dumps({**body, "messages": MESSAGES, "stream": True}).encode()
    request = urllib.request.Request(url + "/v1/chat/completions", data)
    with urllib.request.urlopen(request, timeout=HANG_S) as answer:
        text = answer.read()
    assert text.count(b'"top_logprobs":[]') == 3
    assert b'"top_logprobs":[{' not in text
    assert text.endswith(b"data: [DONE]\n\n")


def test_an_unknown_parameter_warns(url: Served) -> None:
    assert "tfs_zz" in ask(url, "/api/show", model=EIGHT)["parameters"]
    said = url.said("create_parameter_unknown")
    assert [line["what"] for line in said] == ["unknown parameter 'tfs_zz'"]
