"""Command lines of servers for command engines."""

import sys
from typing import Any, Final

from tests.support import gated_server
from tests.support.llama import program

GATED = (sys.executable, str(gated_server.__file__), "--port", "{port}")
# The same, as a server with slots: whoever runs it sends no more than there are.
GATED_SLOTS = (*GATED, "--parallel", "{parallel}")
LLAMA_SERVER = (
    *(program("llama-server"), "-m", "{model}", "--port", "{port}", "--alias", "{name}"),
    *("-c", "{ctx}", "-np", "{parallel}", "--n-cpu-moe", "{moe_cpu_layers}"),
    *("--no-webui", "-t", "1"),
)
# A chat with one of them by this name, whatever else is told it.
ASKED: Final[dict[str, Any]] = {"model": "gated", "messages": [{"role": "user", "content": "hi"}]}
