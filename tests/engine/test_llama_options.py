"""Every option of the table, in a policy's `args`, as `moe-proxy check` tells of it."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.main import main
from proxy.engine.llama_options import REFUSED, UNSAFE

REFUSED_NAMES = {name: row for row in REFUSED for name in row.names}
# "nobody knows" stands for options that are newer than the table.
UNSAFE_NAMES = {name: row.why for row in UNSAFE for name in row.names}
UNSAFE_NAMES |= {"--newer-than-this-table": "nobody knows here what it does"}
NAMES = [*REFUSED_NAMES, *UNSAFE_NAMES]
# Those that would take a hosted model out of the proxy's hands, and what is to be written instead.
INSTEAD = {
    "--sleep-idle-seconds": "keep_alive",
    "--no-warmup": 'engine = "command"',
    "--moe-cache-mib": "moe_cache",
    "--moe-cache-cpu-share": "moe_cache",
    "--host": "server.host",
    "--port": "server.port",
    "-ngl": "moe_cpu_layers (without experts: dense_cpu_layers)",
    "--n-gpu-layers": "moe_cpu_layers (without experts: dense_cpu_layers)",
    "--cpu-moe": "moe_cpu_layers",
    "--n-cpu-moe": "moe_cpu_layers",
    "--n-cpu-ffn": "dense_cpu_layers",
    "-ot": "moe_cpu_layers",
    "--override-tensor": "moe_cpu_layers",
    "-c": "ctx",
    "-np": "parallel",
    "--rpc": "rpc",
    "--fit": "ctx and moe_cpu_layers",
    "--no-mmap": "--load-mode mmap+mlock",
    "--mlock": "--load-mode mmap+mlock",
    "--repack": "repack",
    "--alias": "aliases",
    "--embeddings": "mode",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What is told of each line of a policy file that has all of them, each on the line of its
    number."""
    file = tmp_path_factory.mktemp("policies") / "p.toml"
    models = (f'[models.m{at}]\nargs = [{json.dumps(x)}, "2"]\n' for at, x in enumerate(NAMES))
    file.write_text("".join(models))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["check", "--policies", str(file), "--json"]) == 1
    problems = json.loads(said.getvalue())["problems"]
    assert {Path(problem["file"]) for problem in problems} == {file}
    return {problem["line"]: problem for problem in problems}


@pytest.mark.parametrize("name", NAMES)
def test_check_names_it_with_its_line_and_the_reason(
    told: dict[int, dict[str, Any]], name: str
) -> None:
    at = NAMES.index(name)

    problem = told.pop(2 * at + 2)

    assert problem["key"] == f"models.m{at}.args[0]"
    assert name in problem["message"]
    if row := REFUSED_NAMES.get(name):
        assert f": {row.why}; use {row.instead}" in problem["message"]
    else:
        assert UNSAFE_NAMES[name] in problem["message"]
        assert problem["message"].endswith(f"models.m{at}.unsafe_args = true allows it")


@pytest.mark.parametrize("name", INSTEAD)
def test_what_to_write_instead(name: str) -> None:
    row = REFUSED_NAMES[name]

    assert INSTEAD[name] in (row.instead or 'engine = "command"')
