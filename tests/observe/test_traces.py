"""Traces: who switches them on, and what becomes of everybody else where they cannot be sent."""

import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.observe.traces import HOW_TO_GET_IT, is_on, traces_from
from tests.support.guard import until

ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("env", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "mine"}, False),
        (ON, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/x"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1/x"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (ON | {"OTEL_TRACES_EXPORTER": "console, otlp"}, True),
        (ON | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ON | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_its_own_variables_switch_it_on(env: dict[str, str], on: bool) -> None:
    assert is_on(env) is on


def test_nothing_of_it_is_imported_unasked() -> None:
    code = (
        "import sys; import proxy.app; from proxy.observe.traces import traces_from;"
        "assert traces_from({}) is None;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_who_wants_it_without_the_extra_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for name in [name for name in sys.modules if name.startswith("opentelemetry.")]:
        monkeypatch.setitem(sys.modules, name, None)

    with capture_logs() as lines:
        assert traces_from(ON) is None

    assert [line["event"] for line in lines] == ["no_traces"]
    assert HOW_TO_GET_IT in lines[0]["why"]


def test_a_protocol_that_is_not_spoken_is_told() -> None:
    with capture_logs() as lines:
        assert traces_from(ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) is None

    assert "http/protobuf" in lines[0]["why"]


async def test_a_collector_that_is_gone_costs_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk.trace", reason=HOW_TO_GET_IT)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    lines: list[Any]
    with capture_logs() as lines:
        traces = traces_from(ON)
        assert traces is not None
        for _ in range(3):
            traces.begin("POST /x", {}, {}).end({})
            await until(lambda: lines, "it is told")
        traces.close()

    assert [line["event"] for line in lines] == ["traces_not_sent"]


def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk.trace", reason=HOW_TO_GET_IT)
    monkeypatch.setattr("proxy.observe.traces.CLOSE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        traces = traces_from(ON)
        assert traces is not None
        traces.begin("POST /x", {}, {}).end({})

        traces.close()

        # What sends still does; it keeps no process from its end.
        waiting = [one for one in threading.enumerate() if one.name == "traces"]
        assert [one.daemon for one in waiting] == [True]
