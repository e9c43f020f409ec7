"""Each protocol's clients get errors in the shape they know."""

import json
from typing import Any

import pytest

from proxy.dialect.errors import dialect_of, error_body, error_event, error_headers
from proxy.errors import (
    BackendDied,
    BadRequest,
    BodyTooLarge,
    Busy,
    LoadFailed,
    ModelNotFound,
    ProxyError,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/v1/messagesx", "openai"),
        ("/api/chat", "ollama"),
        ("/v1/chat/completions", "openai"),
        ("/nowhere", "openai"),
    ],
)
def test_the_path_tells_the_dialect(path: str, dialect: str) -> None:
    assert dialect_of(path) == dialect


@pytest.mark.parametrize(
    ("error", "openai", "anthropic"),
    [
        (BadRequest("no"), "invalid_request_error", "invalid_request_error"),
        (Unauthorized("no"), "authentication_error", "authentication_error"),
        (ModelNotFound("no"), "invalid_request_error", "not_found_error"),
        (BodyTooLarge("no"), "invalid_request_error", "request_too_large"),
        (LoadFailed("no"), "server_error", "api_error"),
        (Busy("no"), "server_error", "overloaded_error"),
    ],
)
def test_types(error: ProxyError, openai: str, anthropic: str) -> None:
    assert decoded(error, "openai")["error"]["type"] == openai
    assert decoded(error, "anthropic") == {
        "type": "error",
        "error": {"type": anthropic, "message": "no"},
    }
    assert decoded(error, "ollama") == {"error": "no"}


def test_openai_names_the_field() -> None:
    assert decoded(BadRequest("no", param="model"), "openai")["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "model",
        "code": "invalid_request_error",
    }


def test_retry_after_is_in_whole_seconds_and_never_too_early() -> None:
    assert error_headers(Busy("later", retry_after_s=1.2))["Retry-After"] == "2"
    assert "Retry-After" not in error_headers(Busy("later"))


def test_who_is_not_known_is_told_how_to_be() -> None:
    assert error_headers(Unauthorized("no"))["WWW-Authenticate"] == "Bearer"
    assert "WWW-Authenticate" not in error_headers(BadRequest("no"))


_RESPONSES = {"type", "code", "message", "param", "error", "sequence_number"}


def decoded(error: ProxyError, dialect: Any) -> Any:
    return json.loads(error_body(error, dialect))


@pytest.mark.parametrize(
    ("path", "event", "fields"),
    [
        ("/v1/chat/completions", b"", {"error"}),
        ("/completion?x=1", b"", {"error"}),
        ("/v1/responses?x=1", b"event: error\n", _RESPONSES),
        ("/v1/messages", b"event: error\n", {"type", "error"}),
    ],
)
def test_an_error_as_an_event_of_a_stream(path: str, event: bytes, fields: set[str]) -> None:
    told = error_event(BackendDied("it died"), path)
    name, _, data = told.rpartition(b"data: ")

    assert name == event
    assert data.endswith(b"\n\n")
    assert json.loads(data).keys() == fields
    assert json.loads(data)["error"]["message"] == "it died"
    assert json.loads(data).get("type", "error") == "error"
