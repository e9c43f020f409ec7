"""Renders the chat template on standard input within bounds; the exit status tells how it went.

A program of its own, since nothing within a process can stop a loop that does not end. Its
counterpart is `proxy.catalog.templates`.
"""

import itertools
import resource
import sys
from typing import Any, Final

from proxy.catalog.templates import TOO_MUCH, environment

CPU_S: Final = 3
MEMORY_BYTES: Final = 1 << 30
MAX_OUTPUT: Final = 16 << 20
MESSAGES: Final = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TOOL: Final = {"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}


def main() -> int:
    """Render it as llama-server does to find out what it can: with tools and without."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    text = sys.stdin.read()
    for tools, prompt in itertools.product(([], [TOOL]), (True, False)):
        try:
            _render(text, {"messages": MESSAGES, "tools": tools, "add_generation_prompt": prompt})
        except (MemoryError, OverflowError, RecursionError):
            return TOO_MUCH  # OverflowError: a range that the sandbox does not make
        except Exception:
            continue  # what it lacks here, it may have there
    return 0


def _render(text: str, given: dict[str, Any]) -> None:
    written = 0
    for piece in environment().from_string(text).generate(given):
        written += len(piece)
        if written > MAX_OUTPUT:
            raise OverflowError


if __name__ == "__main__":
    sys.exit(main())
