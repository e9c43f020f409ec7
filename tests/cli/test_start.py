"""What `serve` loads, and what it does without."""

import ssl
import subprocess
import sys

from proxy.cli.start import without_certificates

# Each takes time at each start and memory for as long as the proxy runs.
NOT_NEEDED = {
    "anyio",
    "importlib.metadata",
    "prometheus_client",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "numpy",
    "opentelemetry",
    "pynvml",
    "watchfiles",
    "proxy.cli.admin",
    "proxy.cli.local",
    "proxy.demo",
    "proxy.memory.nvml",
    "proxy.worker",
}
LOADED = """
import sys
import proxy.cli.main
import proxy.cli.start
import proxy.app
import proxy.cli.serve
print(*sys.modules)
"""


def test_it_loads_nothing_that_only_others_need() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)

    assert "proxy.app" in done.stdout, done.stderr
    assert NOT_NEEDED & set(done.stdout.split()) == set()


def test_contexts_that_are_made_meanwhile_trust_nobody_and_those_after_it_do() -> None:
    usual = ssl.create_default_context().cert_store_stats()

    with without_certificates():
        meanwhile = ssl.create_default_context()

    assert meanwhile.verify_mode is ssl.CERT_REQUIRED
    assert meanwhile.cert_store_stats()["x509"] == 0
    assert ssl.create_default_context().cert_store_stats() == usual
