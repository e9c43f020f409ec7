import math
from pathlib import Path

import pytest

from proxy.policy.environment import parse_host
from proxy.policy.problems import ENVIRONMENT
from tests.policy.conftest import LoadText, Valid


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0", "0.0.0.0", 11434),
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        (":8080", "0.0.0.0", 8080),
        ("example.com", "example.com", 11434),
        ("example.com:", "example.com", 11434),
        ("example.com:0", "example.com", 0),
        ("http://10.0.0.1", "10.0.0.1", 80),
        ("https://10.0.0.1", "10.0.0.1", 443),
        ("http://10.0.0.1:1234/some/path", "10.0.0.1", 1234),
        ("[::1]", "::1", 11434),
        ("::1", "::1", 11434),
        ("[::]:5000", "::", 5000),
        (' "localhost:1" ', "localhost", 1),
        ("", "127.0.0.1", 11434),
    ],
)
def test_ollama_host(text: str, host: str, port: int) -> None:
    assert parse_host(text) == (host, port)


@pytest.mark.parametrize("text", ["a:b", "a:65536", "a:-1", "ftp://a", "a b", "a:٣"])
def test_what_is_no_ollama_host(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse_host(text)


def test_ollamas_variables_give_the_defaults(valid: Valid) -> None:
    policies = valid(
        OLLAMA_HOST="0.0.0.0:1234",
        OLLAMA_KEEP_ALIVE="90",
        OLLAMA_MODELS="/srv/ollama",
        OLLAMA_MAX_QUEUE=" '7' ",
        OLLAMA_NUM_PARALLEL="2",
        OLLAMA_CONTEXT_LENGTH="4096",
        OLLAMA_ORIGINS="https://A.com, moz-extension://*,*,",
    )

    assert (policies.server.host, policies.server.port) == ("0.0.0.0", 1234)
    assert policies.server.origins == ("https://a.com", "moz-extension://*", "*")
    assert policies.server.max_queue == 7
    assert policies.catalog.ollama_dir == Path("/srv/ollama")
    model = policies.for_model("any")
    assert (model.keep_alive_s, model.parallel, model.ctx) == (90.0, 2, 4096)


def test_a_file_beats_ollamas_variables(valid: Valid) -> None:
    policies = valid(
        "server.port = 1\ndefaults.keep_alive = '1s'\nmodels.a.ctx = 5",
        OLLAMA_HOST="0.0.0.0:1234",
        OLLAMA_KEEP_ALIVE="-1",
        OLLAMA_CONTEXT_LENGTH="4096",
    )

    assert (policies.server.host, policies.server.port) == ("0.0.0.0", 1)
    assert policies.defaults.keep_alive_s == 1.0
    assert policies.for_model("a").ctx == 5
    assert policies.for_model("b").ctx == 4096


@pytest.mark.parametrize(
    ("text", "split"), [("none", 0), ("partial", "auto"), ("full", -1), ("12", 12)]
)
def test_moe_offload_beats_the_defaults_of_a_file(
    valid: Valid, text: str, split: int | str
) -> None:
    policies = valid(
        "defaults.moe_cpu_layers = 3\nmodels.a.moe_cpu_layers = 4\nmodels.b.ctx = 1",
        MOE_PROXY_MOE_OFFLOAD=text,
    )

    assert policies.for_model("a").moe_cpu_layers == 4
    assert policies.for_model("b").moe_cpu_layers == split
    assert policies.for_model("c").moe_cpu_layers == split


def test_zero_and_empty_leave_the_choice_to_us(valid: Valid) -> None:
    policies = valid(
        OLLAMA_NUM_PARALLEL="0", OLLAMA_CONTEXT_LENGTH="0", OLLAMA_KEEP_ALIVE="", OLLAMA_HOST=" "
    )

    assert policies == valid()


def test_a_negative_keep_alive_is_for_ever(valid: Valid) -> None:
    assert valid(OLLAMA_KEEP_ALIVE="-1").defaults.keep_alive_s == math.inf


def test_every_bad_variable_is_told(load_text: LoadText) -> None:
    bad = {
        "OLLAMA_HOST": "a:b",
        "OLLAMA_KEEP_ALIVE": "soon",
        "OLLAMA_MODELS": "a\0b",
        "OLLAMA_ORIGINS": "https://a.com,b.com",
        "OLLAMA_MAX_QUEUE": "-1",
        "OLLAMA_NUM_PARALLEL": "many",
        "OLLAMA_CONTEXT_LENGTH": "9" * 5000,
        "MOE_PROXY_MOE_OFFLOAD": "9" * 5000,
    }

    loaded = load_text("", **bad)

    assert loaded.policies is None
    assert {problem.key for problem in loaded.problems} == set(bad)
    assert {(problem.file, problem.line) for problem in loaded.problems} == {(ENVIRONMENT, None)}
    assert 'OLLAMA_MAX_QUEUE: "-1" is not allowed; use an integer' in "\n".join(
        map(str, loaded.problems)
    )
