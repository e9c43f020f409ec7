"""What people read in the log, for events as they are published."""

from typing import Any

import pytest

from proxy.observe.words import in_sentences

M: dict[str, Any] = {"backend": "b1", "generation": 1, "model": "smol"}


@pytest.mark.parametrize(
    ("event", "fields", "sentence"),
    [
        ("backend_starting", M, "smol: loading"),
        ("backend_ready", M | {"was": "starting", "why": "loaded"}, "smol: loaded, as b1"),
        (
            "moved",
            M
            | {"at": "now", "from": 12, "to": 0, "layers": 12, "bytes": 9, "staged_s": 0.31}
            | {"gate_s": 0.0012, "short_of_memory": None, "why": "policy", "moe_cpu_layers": 0},
            "smol: experts of 12 layers moved in 0.3 s, 12 -> 0 layers on the CPU; pause 1.2 ms "
            "(you saved the policy)",
        ),
        (
            "moved",
            M
            | {"from": 12, "to": 0, "layers": 12, "bytes": 9, "staged_s": 0.0312}
            | {"gate_s": 0.0012, "short_of_memory": None, "why": "load", "moe_cpu_layers": 0},
            "smol: experts of 12 layers moved in 31 ms, 12 -> 0 layers on the CPU; pause 1.2 ms "
            "(it was just loaded)",
        ),
        (
            "serving",
            {"url": "http://h:1", "files": ["/a.toml", "/b.toml"], "models": 6},
            "serving 6 models at http://h:1, by /a.toml, /b.toml",
        ),
        (
            "serving",
            {"url": "http://h:1", "files": [], "models": 1},
            "serving 1 model at http://h:1, without a policy file",
        ),
        (
            "request",
            {"method": "POST", "path": "/v1/x", "status": 200, "duration_s": 10.49, "model": "smol"}
            | {"backend": "b1", "moe_cpu_layers": 12, "prompt_tokens": 44, "cached_tokens": 40}
            | {"tokens": 61, "first_byte_s": 0.1, "bytes_sent": 9},
            "POST /v1/x 200 in 10.5 s: smol, 12 layers on the CPU, 44 tokens read (40 from the "
            "cache), 61 written",
        ),
        (
            "request",
            {"method": "POST", "path": "/api/chat", "status": 499, "duration_s": 6.0}
            | {"model": "smol"},
            "POST /api/chat was left by its client after 6.0 s: smol",
        ),
        (
            "no_live_moves",
            M | {"why": "it has no experts"},
            "smol: nothing of it moves: it has no experts",
        ),
        (
            "not_reloaded",
            {"backend": "b1", "model": "m", "error": "model 'm' not found"},
            "m: stays as it was loaded, until it is unloaded: model 'm' not found",
        ),
        ("backend_gone", M | {"was": "stopping", "why": "stopped"}, "smol: unloaded"),
        (
            "backend_gone",
            M | {"was": "ready", "why": "the worker ended by itself (signal 9)"},
            "smol: its worker is gone: the worker ended by itself (signal 9)",
        ),
        ("backend_gone", M | {"was": "starting", "why": "x"}, "smol: could not be loaded: x"),
        (
            "backend_draining",
            M | {"was": "ready", "why": "keep_alive"},
            "smol: leaves once its answers are done: nobody asked for it any more",
        ),
        (
            "backend_draining",
            M | {"was": "ready", "why": "rpc"},
            "smol: leaves once its answers are done: another model needs its RPC server, which has "
            "one client at a time",
        ),
        (
            "policies_refused",
            {
                "problems": [
                    {"file": "p.toml", "line": 3, "key": "server.port", "message": "0 to 65535"},
                    {"file": "p.toml", "line": None, "key": "", "message": "no such file"},
                ]
            },
            "the policies are not used, and the old ones stay:\n"
            "    p.toml:3: server.port: 0 to 65535\n    p.toml: no such file",
        ),
        (
            "policies_changed",
            {
                "keys": ["server.drain"],
                "models": {"smol": ["ctx"]},
                "defaults": [],
                "generation": 2,
            },
            "policies read again; changed: server.drain, ctx of smol",
        ),
        (
            "policies_changed",
            {"keys": [], "models": {}, "defaults": [], "generation": 3, "nodes": ["a", "b"]},
            "policies read again; changed: nothing here, and what is for a, b alone",
        ),
        ("draining", {"drain_s": 30.0, "in_flight": 0, "hint": "x"}, "ending"),
        (
            "draining",
            {"drain_s": 30.0, "in_flight": 1, "hint": "x"},
            "waiting up to 30 s for 1 answer; Ctrl-C again ends it now",
        ),
        (
            "room_missing",
            M | {"missing": {"CUDA0": 2 << 30}, "unloads": "b2"},
            "smol: has no room yet, 2.00 GiB on CUDA0 are missing; b2 is unloaded for it",
        ),
    ],
)
def test_a_sentence_says_all(event: str, fields: dict[str, Any], sentence: str) -> None:
    assert in_sentences(None, "info", {"event": event, "level": "info"} | fields) == {
        "event": sentence,
        "level": "info",
    }


def test_what_a_sentence_does_not_say_stays() -> None:
    line = {"event": "request", "method": "GET", "path": "/x", "status": 404, "duration_s": 0.01}
    more = {"broken": "it left", "request_id": "mine"}
    assert in_sentences(None, "info", line | more) == {"event": "GET /x 404 in 10 ms"} | more


@pytest.mark.parametrize("line", [{"event": "moved"}, {"event": "policies_refused", "problems": 1}])
def test_a_line_that_is_not_as_expected_is_written_as_it_is(line: dict[str, Any]) -> None:
    assert in_sentences(None, "info", dict(line)) == line


def test_others_are_as_they_were() -> None:
    assert in_sentences(None, "info", {"event": "any", "at": 1}) == {"event": "any", "at": 1}
