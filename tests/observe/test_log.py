"""The log as it is written."""

import json
import logging
import os
from pathlib import Path

import pytest
import structlog

from proxy.observe.log import LogFormat, setup


def test_json_has_a_line_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    setup("json")
    log = structlog.get_logger()

    log.info("one", path=Path("/models/a.gguf"), layers={3}, none=None)
    log.debug("not asked for")
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        log.exception("two")

    one, two = map(json.loads, capsys.readouterr().err.splitlines())
    assert (one["event"], one["level"], one["path"]) == ("one", "info", "/models/a.gguf")
    assert (one["layers"], one["none"]) == ([3], None)
    assert two["exception"][0]["exc_value"] == "broken\nin two"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_variables_are_in_no_log(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """They hold keys, and what people ask."""
    setup(log_format)

    def fails(api_key: str) -> None:
        raise ValueError(f"{len(api_key)} characters")

    try:
        fails("confidential"[::-1])
    except ValueError as error:
        structlog.get_logger().exception("ours")
        logging.getLogger("aiohttp").exception("theirs")
        logging.getLogger("aiohttp").error("theirs", exc_info=error)

    said = capsys.readouterr().err
    assert said.count("12 characters") == 3
    assert "confidential"[::-1] not in said


@pytest.mark.parametrize("journal", [False, True])
def test_what_clients_send_is_text_and_no_more(
    journal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """No colours and titles of a terminal, no text that runs backwards, no lines of its own."""
    setup("console", journal=journal)
    text = "/\x1b[2J\x1b]0;t\x07\x9b31m\u202e\x85\u2028\udcffü\r\n12:00:00 [error] all is lost"

    structlog.get_logger().info("seen", path=text, words="of more")
    structlog.get_logger().info("request", method="GET", path=text, status=404, duration_s=0.1)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[2J\\x1b]0;t\\x07\\x9b31m\\u202e\\x85\\u2028\\udcffü\\r\\n12:00" in lines[1]


def test_a_name_that_is_not_utf8_is_written_too(capsys: pytest.CaptureFixture[str]) -> None:
    setup("json")

    structlog.get_logger().info("seen", file=os.fsdecode(b"b\xffd"))

    assert json.loads(capsys.readouterr().err)["file"] == os.fsdecode(b"b\xffd")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_libraries_say_is_in_it(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    setup(log_format)

    logging.getLogger("aiohttp").error("a library's %s", "words")

    (line,) = capsys.readouterr().err.splitlines()
    assert "a library's words" in line


def test_people_read_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    setup("console")
    log = structlog.get_logger()

    log.info("backend_starting", backend="b1", generation=1, model="smol")
    log.info("balance", backend="b1", why="free", layers=3, to=["CUDA0"])

    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("smol: loading")


def test_details_are_there_for_who_asks(capsys: pytest.CaptureFixture[str]) -> None:
    setup("console", "debug")

    structlog.get_logger().info("balance", backend="b1", why="free", layers=3, to=["CUDA0"])

    assert "balance" in capsys.readouterr().err


def test_the_journal_gets_priorities_and_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    setup("console", journal=True)
    log = structlog.get_logger()

    log.info("backend_starting", backend="b1", generation=1, model="smol")
    problem = {"file": "p.toml", "line": 3, "key": "a", "message": "no"}
    log.warning("policies_refused", problems=[problem])
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("crashed")

    first, second, third, *more = capsys.readouterr().err.splitlines()
    assert first == "<6>smol: loading"
    assert (second[:3], third) == ("<4>", "<4>    p.toml:3: a: no")
    assert all(line.startswith("<3>") for line in more)
