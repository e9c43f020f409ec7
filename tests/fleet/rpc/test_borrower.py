"""Models whose policy says `rpc = "fleet"`, in a whole proxy with its supervisor's socket."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.fleet.rpc.held import RAM
from proxy.fleet.rpc.lending import lending
from proxy.fleet.rpc.promises import Promises
from proxy.fleet.rpc.words import SOCKET_VARIABLE
from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy
from tests.support.rpc_loan import LocalLender, rpc_servers

pytestmark = pytest.mark.llama
PROMPT = "Once upon a time"
GIB = 1 << 30


def text(**fields: Any) -> str:
    seeds = {"a": 0, "b": 1}
    of_fleet = {
        name: {"path": model(layers=4, seed=seed), "rpc": "fleet", **fields}
        for name, seed in seeds.items()
    }
    plain = {"path": model(layers=4, seed=0)}
    return policies({**of_fleet, "plain": plain}, devices={"reserve": "1MiB", "low": 0})


@asynccontextmanager
async def node(folder: Path, lender: LocalLender, policy: str) -> AsyncIterator[Proxy]:
    socket = folder / "s"
    async with lending(socket, lender):
        async with proxy(folder, policy, env={SOCKET_VARIABLE: str(socket)}) as served:
            yield served


async def said_by(served: Proxy, name: str) -> str:
    body = {"model": name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    return str((await served.post("/v1/completions", body))["choices"][0]["text"])


def places(backend: dict[str, Any]) -> set[str]:
    return {layer["experts"] for layer in backend["layers"]}


async def test_its_experts_are_on_other_nodes_while_it_is_loaded(tmp_path: Path) -> None:
    lender = LocalLender([GIB])
    async with node(tmp_path, lender, text()) as served:
        texts = [await said_by(served, name) for name in ("a", "plain")]

        async def there() -> bool:
            return places(await served.backend("a")) == {"RPC0"}

        await until(there, "its experts are there")
        texts.append(await said_by(served, "a"))
        await served.put("/admin/models/a/split", {"moe_cpu_layers": "full"})

        async def back() -> bool:
            return places(await served.backend("a")) == {"CPU"}

        await until(back, "its experts have moved back")
        texts.append(await said_by(served, "a"))

        assert len({*texts}) == 1
        assert len(rpc_servers()) == 1
        (device,) = (await served.get("/admin/state"))["devices"]
        asked = lender.asked[0][1]
        assert device["total_bytes"] == asked + (1 << 20) < GIB
        await served.post("/admin/models/a/unload")
        await until(lambda: not rpc_servers(), "what was lent for it has ended")

        async def no_device() -> bool:
            return not (await served.get("/admin/state"))["devices"]

        await until(no_device, "nobody tells of a device that is there no more")
        # It is lent anew, under the same name.
        await said_by(served, "a")
        await until(there, "its experts are there again")
        assert [name for name, _ in lender.asked] == ["a", "a"]


async def test_two_models_have_each_their_own(tmp_path: Path) -> None:
    lender = LocalLender([GIB])
    async with node(tmp_path, lender, text()) as served:
        await asyncio.gather(said_by(served, "a"), said_by(served, "b"))

        assert len(rpc_servers()) == 2
        assert {each["model"] for each in await served.ready()} == {"a", "b"}

        async def apart() -> bool:
            found = [places(each) for each in await served.ready()]
            return sorted(map(sorted, found)) == [["RPC0"], ["RPC1"]]

        await until(apart, "each has its experts on its own device")


async def test_several_nodes_lend_what_one_has_not(tmp_path: Path) -> None:
    size = model(layers=4).stat().st_size + (2 << 20)
    async with node(tmp_path, LocalLender([size // 2, size // 2, GIB]), text()) as served:
        await said_by(served, "a")

        assert len(rpc_servers()) == 3


@pytest.mark.parametrize("free", [[], None])
async def test_why_it_is_not_loaded(tmp_path: Path, free: list[int] | None) -> None:
    lender = LocalLender(free or [])
    async with node(tmp_path, lender, text()) as served:
        if free is None:
            (tmp_path / "s").unlink()
        answer = await served.post("/v1/completions", {"model": "a", "prompt": "x"}, status=500)

    why = "no other node has memory free" if free is not None else "the fleet does not answer"
    assert why in answer["error"]["message"]


async def test_without_a_fleet_it_is_not_loaded_and_says_so(tmp_path: Path) -> None:
    async with proxy(tmp_path, text()) as served:
        answer = await served.post("/v1/completions", {"model": "a", "prompt": "x"}, status=500)
        assert 'rpc = "fleet", and this is no node of a fleet' in answer["error"]["message"]
        await said_by(served, "plain")


async def test_a_killed_worker_leaves_nothing_lent(tmp_path: Path) -> None:
    lender = LocalLender([GIB])
    async with node(tmp_path, lender, text()) as served:
        before = await said_by(served, "a")
        (server,) = rpc_servers()
        os.kill((await served.backend("a"))["pid"], signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{server}/exe").exists(), "what it had has ended")

        assert await said_by(served, "a") == before
        assert len(rpc_servers()) == 1
        assert len(lender.asked) == 2


async def test_a_lost_node_ends_the_backend_and_the_next_request_has_another(
    tmp_path: Path,
) -> None:

    lender = LocalLender([GIB])
    async with node(tmp_path, lender, text()) as served:
        before = await said_by(served, "a")
        os.kill(rpc_servers()[0], signal.SIGKILL)

        async def gone() -> bool:
            return not await served.ready()

        await until(gone, "its worker has ended")
        assert await said_by(served, "a") == before
        assert len(lender.asked) == 2


async def test_whoever_lends_leaves_free_what_the_policies_of_its_machine_say(
    tmp_path: Path,
) -> None:
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    promises = Promises(variables)
    some = {"a": {"path": model(layers=4)}}
    async with proxy(
        tmp_path,
        policies(some, devices={"reserve": "1GiB", "CUDA0": {"reserve": "3GiB"}}),
        env={SOCKET_VARIABLE: "s", **variables},
    ) as served:
        await until(lambda: promises.reserve_bytes() == 3 * GIB, "it has told of it")
        (tmp_path / "policies.toml").write_text(policies(some, devices={"reserve": "2GiB"}))
        await until(lambda: promises.reserve_bytes() == 2 * GIB, "an edit is told of")
        assert await served.get("/health")
    assert promises.reserve_bytes() is None


async def test_what_its_machine_has_promised_is_not_free_for_the_proxy(tmp_path: Path) -> None:
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    async with proxy(tmp_path, text(), env={SOCKET_VARIABLE: "s", **variables}) as served:

        async def free() -> int:
            return int((await served.get("/admin/state"))["host"]["available_bytes"])

        assert await free() > 0
        with Promises(variables).made(lambda _: {RAM: 1 << 60}, 1 << 60, 0):

            async def taken() -> bool:
                return await free() == 0

            await until(taken, "it is somebody else's")

        async def back() -> bool:
            return await free() > 0

        await until(back, "it is free again")
