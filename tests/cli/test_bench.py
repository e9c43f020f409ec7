"""`moe-proxy bench` as a person runs it, on a real worker with a device."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.cli.bench import chart
from proxy.control.speed_curve import Curve, Point
from tests.support.cache_build import cache_build
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies as made
from tests.support.proxy import proxy

pytestmark = pytest.mark.llama
NOBODY = "http://127.0.0.1:9"  # the discard port: no proxy is there
SMALL = ("--ctx", "512", "--prompt", "48", "--tokens", "8", "--rounds", "2")


@pytest.fixture
async def policies(tmp_path: Path) -> AsyncIterator[Path]:
    async with rpc_server() as rpc:
        file = tmp_path / "policies.toml"
        catalog, devices = {"state": tmp_path / "state"}, {"rpc": [rpc]}
        m = {"path": model(), "parallel": 1}
        file.write_text(made({"m": m}, catalog=catalog, devices=devices))
        yield file


async def run(policies: Path, *arguments: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of one `moe-proxy bench`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli.main", "bench", *arguments),
        *(("--policies", str(policies)) if "--policies" not in arguments else ()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HOME": str(policies.parent)},
    )
    out, errors = await process.communicate()
    return process.returncode or 0, out.decode(), errors.decode()


async def test_measures_stores_and_draws(policies: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = policies.parent / "curve.png"
    status, out, errors = await run(
        policies, "m", "--url", NOBODY, "--splits", "0,12", *SMALL, "--plot", str(picture)
    )

    assert status == 0, errors
    assert "warming up at N = 12\nwarming up at N = 0\n" in errors
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row and row[0].isdecimal()] == ["0", "12"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    (stored,) = (policies.parent / "state" / "bench").iterdir()
    curve = json.loads(stored.read_text())
    assert [point["moe_cpu_layers"] for point in curve["points"]] == [0, 12]
    assert all(point["generation"] > 0 and point["prompt"] > 0 for point in curve["points"])


async def test_a_file_that_no_policy_names_and_splits_by_itself(policies: Path) -> None:
    path = model(layers=4)
    status, out, errors = await run(policies, str(path), "--url", NOBODY, "--json", *SMALL)

    assert status == 0, errors
    curve = json.loads(out)
    assert [point["moe_cpu_layers"] for point in curve["points"]] == [0, 1, 2, 3, 4]
    assert curve["model"] == path.stem
    assert curve["best"] in range(5)
    assert errors.count("round 2 of 2") == 5


async def test_a_build_with_an_expert_cache_is_measured_with_it(tmp_path: Path) -> None:
    """A cache alone, and beside whole layers; and the next load goes by it."""
    async with rpc_server() as rpc:
        file = tmp_path / "policies.toml"
        catalog = {"state": tmp_path / "state"}
        devices = {"rpc": [rpc], "RPC0": {"limit": "40MiB"}}
        m = {"path": model(), "parallel": 1, "repack": "off"}
        text = made({"m": m}, catalog=catalog, devices=devices, engine={"libdir": cache_build()})
        file.write_text(text)
        status, out, errors = await run(file, "m", "--url", NOBODY, *SMALL, "--splits", "12")

    assert status == 0, errors
    (stored,) = (tmp_path / "state" / "bench").iterdir()
    alone, both = json.loads(stored.read_text())["caches"]
    assert (alone["share"], alone["cached_layers"]) == (1.0, 12)
    assert both["share"] == 0.5
    assert 0 < both["cached_layers"] < 12
    assert 3 << 20 < both["cache_bytes"] < alone["cache_bytes"] < 40 << 20
    assert all(x["generation"] > 0 and x["prompt"] > 0 for x in (alone, both))
    assert "EXPERT CACHE" in out
    assert 'moe_cache = "auto"' in out


async def test_refuses_while_a_proxy_has_a_model_loaded(policies: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with proxy(other, made({"busy": {"path": model(layers=4), "ctx": 512}})) as running:
        await running.post("/admin/models/busy/load")
        status, _, errors = await run(policies, "m", "--url", str(running.url), *SMALL)

    assert status == 1
    assert "moe-proxy unload busy" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "'nothing' not found"),
        (
            ("m", "--ctx", "256", "--prompt", "300"),
            "300 + 64 tokens do not fit into a context of 256",
        ),
    ],
)
async def test_says_what_is_wrong(policies: Path, arguments: tuple[str, ...], words: str) -> None:
    status, out, errors = await run(policies, *arguments, "--url", NOBODY)

    assert (status, out) == (1, "")
    assert words in errors
    assert "Traceback" not in errors


async def test_without_a_device_there_is_nothing_to_compare(tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    file.write_text(made({"m": {"path": model(layers=4), "ctx": 512}}))
    status, _, errors = await run(file, "m", "--url", NOBODY, *SMALL)

    assert status == 1
    assert "nothing to compare" in errors


def test_chart_has_a_row_for_each_split_and_says_what_follows() -> None:
    curve = Curve(
        model="m",
        model_id="0",
        devices=("RPC0 x",),
        engine="e",
        at="2026-11-23T16:00:00+00:00",
        block_count=12,
        ctx=512,
        prompt_tokens=64,
        generated_tokens=16,
        rounds=3,
        points=(Point(0, 50, 100, 0.1), Point(12, 100, 200)),
    )

    lines = chart(curve).splitlines()

    assert lines[1].split() == ["0", "50.0", "±5", "%", "100.0", "█" * 16]
    assert lines[2].endswith("█" * 32)
    assert "moe_cpu_layers = 12" in lines[-1]


async def test_a_model_that_is_loaded_elsewhere_forbids_it_and_one_that_failed_does_not(
    policies: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "bad.gguf").write_bytes(b"none")
    text = made({"bad": {"path": folder / "bad.gguf"}, "good": {"path": model(layers=4)}})
    async with proxy(folder, text) as server:
        await server.post("/admin/models/bad/load", status=500)
        status, _, errors = await run(policies, "m", "--url", server.url, "--splits", "0", *SMALL)
        assert status == 0, errors

        await server.post("/admin/models/good/load")
        status, _, errors = await run(policies, "m", "--url", server.url, "--splits", "0", *SMALL)
        assert status != 0
        assert "has good loaded" in errors
