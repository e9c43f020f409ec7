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


def test_a_terminal_finds_nothing_to_act_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Paths and names are whatever clients send: colours, titles, text that runs backwards."""
    setup("console")
    text = "/\x1b[2J\x1b]0;t\x07\x9b31m\u202e\x85\u2028\udcffü"

    for said in (text, f"with words {text}", f"{text}\n"):
        structlog.get_logger().info("seen", path=said)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[2J\\x1b]0;t\\x07\\x9b31m\\u202e\\x85\\u2028\\udcffü" in lines[0]


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
