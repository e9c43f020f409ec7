"""`GET /metrics` of a proxy whose worker loads, moves, answers and goes; read by Prometheus' own
parser, and by its linter where that is installed."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.catalog.gguf_reader import read_header
from tests.support.control import desired_of
from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama

LAYERS = 12
BODY = {"model": "m", "prompt": "the quick brown fox", "max_tokens": 4, "temperature": 0}


@pytest.fixture
async def text(tmp_path: Path) -> AsyncIterator[str]:
    """What it says after an answer, a move by request, and an unload."""
    async with rpc_server() as rpc:
        one = {"path": model(), "ctx": 512, "moe_cpu_layers": "full"}
        wanted = policies({"m": one}, devices={"rpc": [rpc]})
        async with proxy(tmp_path, wanted) as running:
            yield await _lived(running)


async def _lived(running: Proxy) -> str:
    await running.post("/v1/completions", BODY)
    await running.post("/v1/completions", BODY | {"moe_cpu_layers": LAYERS - 2})
    services = running.app.services
    await desired_of(services).wait_idle(services.pool.backends())
    before = services.metrics.text().decode()
    assert _value(before, "moe_proxy_held_bytes", kind="experts") > 0
    assert _value(before, "moe_proxy_moe_cpu_layers") == LAYERS - 2
    (backend,) = services.pool.backends()
    await services.pool.unload(backend.id)
    await until(lambda: not services.pool.backends(), "it is gone")
    return services.metrics.text().decode()


def _value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    samples = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert samples, name
    return sum(sample.value for sample in samples)


WHAT_WAS_DONE: list[tuple[str, dict[str, str], float]] = [
    ("moe_proxy_loads_total", {"outcome": "loaded"}, 1),
    ("moe_proxy_unloads_total", {"reason": "requested"}, 1),
    ("moe_proxy_moves_total", {"reason": "request"}, 1),
    ("moe_proxy_moved_layers_total", {"reason": "request"}, 2),
    ("moe_proxy_pause_seconds_count", {"reason": "request"}, 1),
    ("moe_proxy_requests_total", {"path": "/v1/completions", "status": "200"}, 2),
    ("moe_proxy_first_byte_seconds_count", {"model": "m"}, 2),
    ("moe_proxy_queue_length", {}, 0),
    ("moe_proxy_tokens_total", {"kind": "generated"}, 8),
]


async def test_what_was_done(text: str) -> None:
    assert [(n, labels, _value(text, n, **labels)) for n, labels, _ in WHAT_WAS_DONE] == (
        WHAT_WAS_DONE
    )
    experts = [t.size_bytes for t in read_header(model()).tensors if "_exps" in t.name]
    assert _value(text, "moe_proxy_moved_bytes_total") == sum(experts) / LAYERS * 2
    for owner in ("ours", "free"):
        assert _value(text, "moe_proxy_device_bytes", device="RPC0", owner=owner) >= 0


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus' promtool is not installed"
)
async def test_prometheus_accepts_it(text: str) -> None:
    promtool = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await promtool.communicate(text.encode())
    assert (promtool.returncode, said.decode()) == (0, "")


async def test_what_became_of_requests(tmp_path: Path) -> None:
    """An answer that breaks off is no good one, whatever its head has said before; and what is
    refused is counted under its model, where there is one."""
    hi = [{"role": "user", "content": "hi"}]
    endless = {"max_tokens": 5000, "ignore_eos": True, "options": {"num_predict": 5000}}
    broken = {"model": "m", "prompt": "hi", "messages": hi, "stream": True} | endless
    paths = ("/v1/completions", "/v1/messages", "/api/chat", "/api/generate")
    one = {"path": model(layers=4), "ctx": 8192}
    async with proxy(tmp_path, policies({"m": one})) as running:
        for path in paths:
            async with running.session.post(path, json=broken) as answer:
                assert (answer.status, bool(await answer.content.read(1))) == (200, True)
                await running.post(f"/admin/requests/{answer.headers['X-Request-Id']}/cancel")
                with suppress(aiohttp.ClientPayloadError):
                    await answer.read()
        await running.post("/v1/messages", {"model": "m", "messages": 7}, status=400)
        await running.post("/v1/messages", {"model": "made-up", "messages": []}, status=404)
        text = running.app.services.metrics.text().decode()

    name = "moe_proxy_requests_total"
    counts = [_value(text, name, path=path, model="m", status="400") for path in paths]
    assert counts == [1, 2, 1, 1]
    assert _value(text, name, path="/v1/messages", model="", status="404") == 1
    assert 'status="200"' not in "".join(line for line in text.splitlines() if "/v1" in line)


async def test_use_by_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret use laptop\n")
    keys.chmod(0o600)
    async with proxy(tmp_path, policies({}, server={"api_keys_file": keys})) as running:
        for bearer in ("secret", "secret", "other"):
            head = {"Authorization": f"Bearer {bearer}"}
            async with running.session.get("/v1/models", headers=head):
                pass
        text = running.app.services.metrics.text().decode()

    assert _value(text, "moe_proxy_key_requests_total", key="laptop") == 2
