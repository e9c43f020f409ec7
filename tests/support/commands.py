"""Command lines of servers for command engines."""

import sys

from tests.support import gated_server
from tests.support.llama import program

GATED = (sys.executable, str(gated_server.__file__), "--port", "{port}")
LLAMA_SERVER = (
    *(program("llama-server"), "-m", "{model}", "--port", "{port}", "--alias", "{name}"),
    *("-c", "{ctx}", "-np", "{parallel}", "--n-cpu-moe", "{moe_cpu_layers}"),
    *("--no-webui", "-t", "1"),
)
