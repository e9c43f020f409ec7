"""Says in the log, or to its client too, what of a request is taken, but not applied."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import structlog
from aiohttp import web

from proxy.api.request_log import REQUEST_LOG
from proxy.dialect.ollama.options import LOADING, Options
from proxy.dialect.typos import MOST, MOST_LOOKED_AT, meant_by

log = structlog.get_logger()


def warn(request: web.Request, told: Sequence[str]) -> None:
    """Have the answer's head and the log say it."""
    if not told:
        return
    more = len(told) - MOST
    some = [*told[:MOST], f"and {more} more"] if more > 0 else [*told]
    request[REQUEST_LOG].warnings += some
    log.warning("request_warning", path=request.path, warning="; ".join(some))


class WarnOnce:
    """Says once in the log what is accepted, but not applied."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def once(self, what: str, **fields: Any) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("ollama_option_not_applied", option=what, **fields)

    def options(self, options: Options) -> None:
        """Like Ollama: a line for each unknown option of each request; of a body that has very many
        the first ones."""
        for name in islice(options.unknown, MOST_LOOKED_AT):
            if meant_by(name) is None:  # others are told of to their client too
                log.warning("ollama_option_unknown", option=name[:80])
        for name in options.not_applied:
            self.once(name, instead=LOADING[name][1])
