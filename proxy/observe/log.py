"""Sets structlog up: one line per decision on stderr, for people or as JSON."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO, cast

import msgspec
import structlog

from proxy.observe.log_stream import LogStream
from proxy.observe.words import DETAILS, in_sentences

LogFormat = Literal["console", "json"]
# What workers and libraries say; names in it are written as `repr` does.
OF_SEVERAL_LINES = frozenset(("event", "why", "error", "message", "warning", "reason", "exception"))
LEVELS = ("debug", "info", "warning", "error")
# How systemd's journal is told a line's level (sd-daemon(3)); it has the time by itself.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def setup(
    log_format: LogFormat = "console",
    level: str = "info",
    stream: LogStream | None = None,
    *,
    journal: bool = False,
    for_good: bool = False,
) -> None:
    """Configure structlog, and pass what libraries log through the same renderer. `stream`: where
    it goes, in place of standard error itself. `journal`: what is for people goes to systemd's.
    `for_good`: nobody sets it up again in this process, so loggers are made once.

    Tracebacks come without the values of variables, which may be keys and people's prompts.

    Whatever is bound with `structlog.contextvars` (the request's id, model and backend) is on every
    line.
    """
    # The few methods of a text stream that are used here are those of both.
    target = sys.stderr if stream is None else cast(TextIO, stream)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    if log_format == "json":
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        rendering: list[structlog.typing.Processor] = [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    else:
        rendering = (
            [in_sentences, *_for_journal()] if journal else [in_sentences, *_for_people(target)]
        )
        rendering.insert(0, _in_plain_text)
        if threshold > logging.DEBUG:
            rendering.insert(0, _without_details)
    writer = structlog.WriteLogger(target)  # one for all: it has nothing of its own
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=for_good,
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


@contextmanager
def errors_only() -> Iterator[None]:
    """For a command that uses a part of the proxy, whose log is for `serve`."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    setup("console", "error")
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.getLogger().handlers[:] = handlers


def _for_people(target: TextIO) -> list[structlog.typing.Processor]:
    stamper = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    return [stamper, _renderer(colors=target.isatty())]


def _renderer(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        pad_event_to=0,
        pad_level=False,
        exception_formatter=structlog.dev.plain_traceback,
    )


def _for_journal() -> list[structlog.typing.Processor]:
    renderer = _renderer(colors=False)

    def prefixed(logger: object, method: str, line: structlog.typing.EventDict) -> str:
        priority = _PRIORITIES.get(line.pop("level", "info"), 6)
        text = renderer(logger, method, line)
        # The journal makes an entry of each line.
        return "\n".join(f"<{priority}>{part}" for part in text.split("\n"))

    return [prefixed]


def _without_details(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if line["event"] in DETAILS and line.get("level") == "info":
        raise structlog.DropEvent
    return line


def _in_plain_text(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Without what a terminal would act on, or a journal take for another line: paths and names are
    whatever clients send."""
    for key, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            kept = "\n" if key in OF_SEVERAL_LINES else ""
            line[key] = "".join(
                each if each.isprintable() or each in kept else _escaped(each) for each in value
            )
    return line


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def _json(line: object, **_: object) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except UnicodeEncodeError:
        # The name of a file, or a path that was asked for, which is not UTF-8: this one escapes it.
        return json.dumps(line, default=str)
