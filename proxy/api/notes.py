"""Says in the log what of a request is taken, but not applied."""

from typing import Any

import structlog

from proxy.dialect.ollama.options import LOADING, Options

log = structlog.get_logger()


class WarnOnce:
    """Says once in the log what is accepted, but not applied."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def once(self, what: str, **fields: Any) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("ollama_option_not_applied", option=what, **fields)

    def options(self, options: Options) -> None:
        """Like Ollama: a line for each unknown option of each request."""
        for name in options.unknown:
            log.warning("ollama_option_unknown", option=name[:80])
        for name in options.not_applied:
            self.once(name, instead=LOADING[name][1])
