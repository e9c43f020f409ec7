"""What people read, from what a proxy tells."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.cli.text import (
    LONGEST_REASON,
    backends,
    from_now,
    greeting,
    layers,
    model,
    models,
    refused,
    splits,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def backend(**changes: Any) -> dict[str, Any]:
    told = {
        **{"id": "b1", "model": "m", "state": "ready", "ctx": 2048, "parallel": 2},
        **{"in_flight": 0},
        **{"moe_cpu_layers": 2, "block_count": 4, "asked": "auto", "layers": []},
        **{"tokens_per_second": 0.0, "expires_at": None, "last_error": None},
        **{"warnings": [], "why_no_moves": None, "failures": 0, "retry_at": None},
    }
    return told | changes


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "now"),
        (0.2, "now"),
        (1, "1 second from now"),
        (59, "59 seconds from now"),
        (59.7, "1 minute from now"),
        (240, "4 minutes from now"),
        (3599, "1 hour from now"),
        (7000, "2 hours from now"),
        (86399, "1 day from now"),
        (40 * 86400, "40 days from now"),
        (200 * 365 * 86400, "forever"),
    ],
)
def test_from_now(seconds: float, said: str) -> None:
    assert from_now(NOW + timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"expires_at": "2026-01-31T12:05:00+00:00"}, "5 minutes from now"),
        ({"expires_at": "2026-01-31T14:05:00+02:00"}, "5 minutes from now"),
        ({"in_flight": 1}, "in use"),
        ({}, "forever"),
        ({"state": "gone"}, "-"),
    ],
)
def test_how_long_a_backend_stays(changes: dict[str, Any], said: str) -> None:
    assert backends([backend(**changes)], NOW).splitlines()[1].endswith(f"  {said}")


def test_a_reason_is_short_and_on_one_line() -> None:
    gone = backend(id="b2", state="gone", last_error="it ended\n" + "no room\n" * 99)

    warned = backend(warnings=["it will not stay in RAM"])
    *_, first, last, _ = backends([warned, gone], NOW).splitlines()

    assert first == "b1: it will not stay in RAM"
    assert last.startswith("b2: it ended no room no room")
    assert len(last) == len("b2: ") + LONGEST_REASON


def test_what_failed_says_why_and_when_it_is_tried_again() -> None:
    gone = backend(state="gone", last_error="bad file", failures=3, moe_cpu_layers=None)
    waits = gone | {"id": "b2", "model": "a b", "retry_at": "2026-01-31T12:00:04+00:00"}
    once = gone | {"id": "b3", "failures": 0}

    said = backends([gone, waits, once], NOW).splitlines()

    assert [line.split()[2] for line in (said[1], said[3])] == ["failed"] * 2
    assert said[5:] == [
        "b1: bad file",
        "b1: failed 3 times in a row, tried again with the next request; "
        "at once with: moe-proxy load m",
        "b2: bad file",
        "b2: failed 3 times in a row, tried again not before 4 seconds from now; "
        "at once with: moe-proxy load 'a b'",
        "b3: bad file",
        "b3: tried again with the next request; at once with: moe-proxy load m",
    ]


def test_a_greeting_names_what_can_be_asked() -> None:
    models = [f"m{number}" for number in range(12)]

    said = greeting("1.0", "http://127.0.0.1:8080", models, "curl it", elsewhere=True)

    assert "12 models: m0, m1, m2, m3, m4, m5, m6, m7 and 4 more" in said
    assert "  try: curl it\n" in said
    assert "moe-proxy ps --url http://127.0.0.1:8080;" in said
    assert "OPENAI_BASE_URL=http://127.0.0.1:8080/v1," in said
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:8080," in said
    assert "OLLAMA_HOST=http://127.0.0.1:8080\n" in said
    local = greeting("1.0", "http://127.0.0.1:11434", models, None, elsewhere=False)
    assert "--url" not in local
    assert "try:" not in local


def test_a_split_that_is_not_reached_has_a_reason() -> None:
    backend = {
        "id": "b1",
        "model": "m",
        "moe_cpu_layers": 4,
        "block_count": 4,
        "layers": [{"index": index, "experts": "CPU"} for index in range(4)],
        "asked": 2,
        "live_moves": True,
        "why_no_moves": None,
    }

    assert "no room" in splits([backend])
    assert splits([backend]).startswith("b1 m: CPU layers 4/4 (2)\n")
    assert "no room" not in splits([backend | {"asked": 4}])
    assert "no room" not in splits([backend | {"asked": "auto"}])
    assert "there is no device" in splits(
        [backend | {"live_moves": False, "why_no_moves": "there is no device"}]
    )


LAYERS = [
    {"index": 0, "experts": "CPU", "experts_bytes": 300 << 20},
    {"index": 1, "experts": "RPC0", "experts_bytes": 200 << 20},
]
BYTES = {
    "CPU": {"weights": 600 << 20, "kv": 0, "compute": 1 << 20, "experts": 0},
    "RPC0": {"weights": 50 << 20, "kv": 2 << 20, "compute": 3 << 20, "experts": 200 << 20},
}
META: dict[str, Any] = {"base": None, "size_bytes": 1 << 30, "ctx": 2048, "moe_cpu_layers": "auto"}
MODEL: dict[str, Any] = {"id": "m", "aliases": [], "context_length": 512, "meta": META}


def test_experts_on_the_cpu_have_bytes_and_are_no_other_weights() -> None:
    said = model(MODEL, [backend(bytes=BYTES, layers=LAYERS)]).splitlines()

    assert said[-4].endswith("2 conversations of 2048 tokens")
    assert said[-2].split() == ["CPU", *"100 MiB 0 MiB 1 MiB 0.29 GiB".split()]
    assert said[-1].split()[-2:] == ["0.20", "GiB"]


def test_a_list_has_the_split_of_what_is_loaded_and_else_what_is_asked_for() -> None:
    loaded = backend(moe_cpu_layers=1, block_count=2, layers=LAYERS)
    variant = {**MODEL, "id": "v", "meta": {**META, "base": "m"}}
    other = {**MODEL, "id": "o", "meta": {**META, "moe_cpu_layers": 7}}
    whole = {**MODEL, "id": "w", "meta": {**META, "moe_cpu_layers": None}}

    said = models([MODEL, variant, other, whole], [loaded, backend(state="gone", model="o")])

    assert [row.split()[4:] for row in said.splitlines()[1:]] == [
        ["1/2", "(auto)"],
        ["1/2", "(auto)"],
        ["7"],
        ["-"],
    ]


def test_a_model_without_experts_has_no_split() -> None:
    assert layers(backend(moe_cpu_layers=0, block_count=30)) == "-"
    assert layers(backend(moe_cpu_layers=None, block_count=None)) == "? (auto)"


def test_the_context_of_a_model_is_the_one_it_is_served_with() -> None:
    """Not what a policy would allow, where the model was trained for less."""
    shown = models([MODEL], [])

    assert "512" in shown
    assert "2048" not in shown


def test_refused_policies_of_a_fleet_are_told_with_their_node() -> None:
    problem = {"file": "/p.toml", "line": 3, "key": "node", "message": "unknown key"}

    assert refused([problem]).endswith("\n  /p.toml:3: node: unknown key")
    assert refused([problem | {"node": "a"}]).endswith("\n  a: /p.toml:3: node: unknown key")
    assert refused([]) == ""
