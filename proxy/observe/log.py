"""Sets structlog up: one line per decision on stderr, for people or as JSON."""

import json
import logging
import sys
from typing import Literal, TextIO, cast

import msgspec
import structlog

from proxy.observe.log_stream import LogStream

LogFormat = Literal["console", "json"]
BREAKS = "\t\r\n"
LEVELS = ("debug", "info", "warning", "error")


def setup(
    log_format: LogFormat = "console", level: str = "info", stream: LogStream | None = None
) -> None:
    """Configure structlog, and pass what libraries log through the same renderer. `stream`: where
    it goes, in place of standard error itself.

    Tracebacks come without the values of variables, which may be keys and people's prompts.

    Whatever is bound with `structlog.contextvars` (the request's id, model and backend) is on every
    line.
    """
    # The few methods of a text stream that are used here are those of both.
    target = sys.stderr if stream is None else cast(TextIO, stream)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=log_format == "json"),
    ]
    if log_format == "json":
        rendering: list[structlog.typing.Processor] = [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    else:
        rendering = [
            _in_plain_text,
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak only when something is wrong: what we decide is in our own lines.
    root.setLevel(max(threshold, logging.WARNING))


def _in_plain_text(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Without what a terminal would act on: paths and names are whatever clients send. Values with
    line breaks are put into quotes by who writes them."""
    for key, value in line.items():
        if isinstance(value, str) and not value.isprintable() and key != "exception":
            line[key] = "".join(map(_shown, value))
    return line


def _shown(character: str) -> str:
    if character.isprintable() or character in BREAKS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


def _json(line: object, **_: object) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except UnicodeEncodeError:
        # The name of a file, or a path that was asked for, which is not UTF-8: this one escapes it.
        return json.dumps(line, default=str)
