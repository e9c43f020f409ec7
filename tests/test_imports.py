"""Every module of the package can be imported first, on its own, and without a warning."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import proxy
from tests.support.guard import LLAMA_S

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(proxy.__path__, "proxy.")
    # __main__ modules run when they are imported; _ marks compiled libraries of C symbols.
    if not module.name.rpartition(".")[2].startswith("_")
)
# Loads what others wrote once, then forks for each module of ours, which is new to each child.
IMPORT_EACH = """
import importlib, os, sys, traceback, warnings
folder, *modules = sys.argv[1:]
for name in modules:
    try:
        importlib.import_module(name)
    except Exception:
        pass  # its own child says so
for name in [name for name in sys.modules if name.partition(".")[0] == "proxy"]:
    del sys.modules[name]
# What one child has compiled is there for the others.
sys.pycache_prefix, sys.dont_write_bytecode = folder, False
children = {}

def wait_for_one():
    child, status = os.wait()
    name = children.pop(child)
    if status:
        print(f"import {name}: status {status}", flush=True)

for name in modules:
    if len(children) == os.cpu_count():
        wait_for_one()
    if not (child := os.fork()):
        warnings.simplefilter("error")
        try:
            importlib.import_module(name)
        except BaseException:
            print(traceback.format_exc(limit=-3), flush=True)
            os._exit(1)
        os._exit(0)
    children[child] = name
while children:
    wait_for_one()
"""


@pytest.mark.timeout(LLAMA_S)  # it has a process for each module
def test_each_module_can_be_the_first_one_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORT_EACH, str(tmp_path), *MODULES]

    result = subprocess.run(command, capture_output=True, text=True)

    assert (result.returncode, result.stdout) == (0, ""), result.stdout + result.stderr


def test_all_modules_are_found() -> None:
    assert {"proxy.split", "proxy.policy.load", "proxy.worker.experts"} <= set(MODULES)
