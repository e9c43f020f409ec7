"""What stands on the pages and is not run by these tests, each with its reason.

A command is named by how it begins, a block by its page and its first line. What is not here is
run; what is here and on no page any more is a failure.
"""

from collections.abc import Iterable
from typing import Final

OF_THE_MACHINE: Final = "it changes the machine; what these commands get is tested in tests/service"
BUILDS: Final = "it builds for minutes; `make --dry-run` and tests/deploy look at it"
NEEDS_DOCKER: Final = (
    "it needs Docker's daemon; tests/deploy/test_docker.py reads all that it names"
)
NEEDS_A_CLUSTER: Final = "it needs a cluster; tests/deploy/test_kubernetes.py has kubectl render it"
FROM_A_HUB: Final = "it downloads from a hub; tests/hub pulls from registries of its own"
OF_A_FLEET: Final = "tests/fleet/cluster/test_cluster.py has a fleet, and gives each of these"
A_PICTURE: Final = "a picture of what the text says"

COMMANDS: Final = {
    "git clone ": "each reader has it from somewhere else",
    "sudo systemctl": OF_THE_MACHINE,
    "sudo install ": OF_THE_MACHINE,
    "sudo chown ": OF_THE_MACHINE,
    "sudo chmod ": OF_THE_MACHINE,
    "sudo cp ": OF_THE_MACHINE,
    "sudo ln ": OF_THE_MACHINE,
    "sudo mkdir ": OF_THE_MACHINE,
    "sudo useradd ": OF_THE_MACHINE,
    "sudo /opt/moe-proxy/bin/python -m pip": OF_THE_MACHINE,
    "printf '[Service]": OF_THE_MACHINE,
    "sudo /opt/moe-proxy/bin/moe-proxy install-service": OF_THE_MACHINE,
    "loginctl ": OF_THE_MACHINE,
    "mkdir -p ~/.local/bin && ln ": OF_THE_MACHINE,
    "moe-proxy rpc-server": "all is run on such a server; tests/cli has the command",
    "OLLAMA_HOST=127.0.0.1:11435 moe-proxy serve": "tests/policy reads OLLAMA_HOST",
    "OTEL_EXPORTER_OTLP_ENDPOINT=": "tests/api/test_traced.py has a collector",
    "moe-proxy serve": "the proxy that all the rest is run against was started by it",
    "moe-proxy pull ": FROM_A_HUB,
    "moe-proxy bench MODEL --splits": "tests/cli/test_bench.py gives each of these options",
    "docker build ": NEEDS_DOCKER,
    "MODELS=/folder/with/gguf-files docker compose": NEEDS_DOCKER,
    "kubectl ": NEEDS_A_CLUSTER,
    "cd deploy/docker": NEEDS_DOCKER,
    "pip install 'moe-proxy[fleet]'": "make setup has done it, where it can be done",
    "moe-proxy fleet ": OF_A_FLEET,
    "RAY_AUTH_TOKEN=TOKEN moe-proxy fleet ": OF_A_FLEET,
    "python -m bench.gpu.pack": "it downloads 40 MB; tests/bench has its parts",
    "bench/gpu/run.sh --arch": "it needs a GPU; `--dry-run` beside it is run",
}
BLOCKS: Final = {
    "docs/architecture.md: client -> api": A_PICTURE,
    "docs/architecture.md: policies/*.toml -> watch": A_PICTURE,
    "docs/architecture.md: starting -> ready": A_PICTURE,
    "docs/architecture.md: readings (per source": A_PICTURE,
    "docs/architecture.md: graph TD": "tests/test_architecture.py draws it and compares",
    "docs/fleet.md: client --HTTP": A_PICTURE,
    "docs/performance.md:  N  GENERATION": "one machine's figures",
}


def why_not(text: str, reasons: Iterable[str]) -> str | None:
    """The entry among `reasons` that this begins with."""
    return next((begin for begin in reasons if text.startswith(begin)), None)
