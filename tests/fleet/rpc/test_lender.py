"""Which nodes lend how much, and that Ray has them do it."""

import asyncio
import importlib.util
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.fleet.rpc.borrower import OFFERED_WITHIN_S
from proxy.fleet.rpc.lender import (
    LEAST_BYTES,
    OFFERS_WITHIN_S,
    RayLender,
    lending_by_ray,
    shared_out,
)
from proxy.fleet.rpc.lending import NothingLent
from proxy.fleet.rpc.words import SOCKET_VARIABLE
from tests.support.guard import HANG_S, until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy
from tests.support.rpc_loan import HELLO, greeted, parent, rpc_servers, said_to

GIB = 1 << 30

# Of Ray Serve's own models, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("free", "size", "shares"),
    [
        ({"a": 8 * GIB, "b": 9 * GIB}, 3 * GIB, {"b": 3 * GIB}),
        ({"a": 8 * GIB, "b": 9 * GIB}, 12 * GIB, {"b": 9 * GIB, "a": 3 * GIB}),
        ({"a": 8 * GIB, "b": 8 * GIB}, 1, {"a": 1}),
        # What there is, where it is not enough.
        ({"a": 2 * GIB, "b": LEAST_BYTES - 1}, 12 * GIB, {"a": 2 * GIB}),
        ({"a": 1000, "b": 500}, 1000, {"a": 1000}),
    ],
)
def test_of_as_few_nodes_as_will_do(
    free: dict[str, int], size: int, shares: dict[str, int]
) -> None:
    assert shared_out(free, size) == shares


def test_of_each_the_reserve_is_lent_too() -> None:
    free = {"a": 3 * GIB, "b": 3 * GIB, "c": 3 * GIB // 2}

    assert shared_out(free, 3 * GIB, GIB) == {"a": 3 * GIB, "b": 2 * GIB}
    assert shared_out(free, 9 * GIB, GIB) == {"a": 3 * GIB, "b": 3 * GIB}


@pytest.mark.parametrize(
    ("free", "why"),
    [
        ({}, "there is no other node in the fleet"),
        (
            {"a": GIB // 2, "b": 0},
            "no other node has 1.00 GiB free, the most has 0.50 GiB; it lacks 3.00 GiB here",
        ),
    ],
)
def test_why_nothing_is_lent(free: dict[str, int], why: str) -> None:
    with pytest.raises(NothingLent) as told:
        shared_out(free, 3 * GIB)

    assert str(told.value) == why


@pytest.mark.parametrize("free", [{}, {"a": 0}])
def test_who_does_not_answer_is_told_of(free: dict[str, int]) -> None:
    with pytest.raises(NothingLent, match="2 did not say what they have within 8 s"):
        shared_out(free, 3 * GIB, silent=2)


def test_a_plan_does_not_give_up_before_nodes_do() -> None:
    """One that hangs would hide what the others offer."""
    assert OFFERS_WITHIN_S < OFFERED_WITHIN_S


# --- with Ray ---


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[str]]:
    """Two machines of a cluster, as Ray calls them: this process is on the first."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="r") as folder:
        options = {"num_cpus": 1, "resources": {"moe_proxy": 1}, "object_store_memory": 10**8}
        usual = {"include_dashboard": False, "temp_dir": folder}
        cluster = Cluster(initialize_head=True, head_node_args=options | usual)
        try:
            ray.init(address=cluster.address, log_to_driver=False, _temp_dir=folder)
            # Of its own: what these tests have it promise is none of others' business.
            cluster.add_node(**options, env_vars={"XDG_RUNTIME_DIR": folder})
            cluster.wait_for_nodes()
            first = ray.get_runtime_context().get_node_id()
            (second,) = {node["NodeID"] for node in ray.nodes()} - {first}
            yield [first, second]
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.mark.llama
async def test_ray_has_the_other_node_lend_and_end(nodes: list[str]) -> None:
    lender = RayLender(nodes[0])

    await most_of(lender)
    async with asyncio.timeout(HANG_S):
        loan = await lender.lend("m", 900, 100)
    (giver,) = loan.givers
    assert giver.size_bytes == 1000
    assert await said_to(giver.port, bytes(32) + HELLO, host=giver.host) == b""
    connection = await asyncio.open_connection(giver.host, giver.port)
    connection[1].write(bytes.fromhex(giver.token))
    assert await greeted(connection)
    assert len(rpc_servers()) == 1

    await loan.end()

    async with asyncio.timeout(HANG_S):
        assert await connection[0].read() == b""
    connection[1].close()
    await until(lambda: not rpc_servers(), "its server has ended")


async def most_of(lender: RayLender) -> int:
    async def offered() -> int:
        return max([0, *await lender.offers()])

    return int(await until(offered, "the other node says what it has"))


@pytest.mark.llama
async def test_two_loads_at_once_are_not_lent_the_same_memory(nodes: list[str]) -> None:
    lender = RayLender(nodes[0])
    most = await most_of(lender)
    wanted = most * 2 // 3

    async with asyncio.timeout(HANG_S):
        loans = await asyncio.gather(*(lender.lend("m", wanted, 0) for _ in range(2)))
    sizes = sorted(giver.size_bytes for loan in loans for giver in loan.givers)

    # Other programs come and go meanwhile.
    assert sizes[-1] == wanted
    assert sum(sizes) < wanted * 2 - most // 6
    with pytest.raises(NothingLent, match="no other node has"):
        await lender.lend("m", wanted, wanted)
    for loan in loans:
        await loan.end()

    async def offered_again() -> bool:
        return max([0, *await lender.offers()]) > wanted

    await until(offered_again, "nothing is promised any more")


@pytest.mark.llama
@pytest.mark.parametrize("killed", ["host", "giver"])
async def test_what_is_lent_ends_with_any_process_of_it(nodes: list[str], killed: str) -> None:
    lender = RayLender(nodes[0])
    most = await most_of(lender)
    async with asyncio.timeout(HANG_S):
        loan = await lender.lend("m", most // 2, 0)
    (giver,) = loan.givers
    connection = await asyncio.open_connection(giver.host, giver.port)
    connection[1].write(bytes.fromhex(giver.token))
    assert await greeted(connection)
    (server,) = rpc_servers()
    of_giver = parent(server)
    os.kill(of_giver if killed == "giver" else parent(of_giver), signal.SIGKILL)

    async with asyncio.timeout(HANG_S):
        assert await connection[0].read() == b""
    connection[1].close()
    await until(lambda: not Path(f"/proc/{server}/exe").exists(), "its server has ended")

    async def offered_again() -> bool:
        return max([0, *await lender.offers()]) > most * 2 // 3

    await until(offered_again, "nothing is promised any more")
    await loan.end()


@pytest.mark.llama
async def test_a_model_is_loaded_over_it(nodes: list[str], tmp_path: Path) -> None:
    text = policies(
        {"m": {"path": model(layers=4), "rpc": "fleet"}}, devices={"reserve": 0, "low": 0}
    )
    async with lending_by_ray(nodes[0]) as socket:
        async with proxy(tmp_path, text, env={SOCKET_VARIABLE: str(socket)}) as served:
            await served.post("/admin/models/m/load")

            async def there() -> bool:
                devices = (await served.get("/admin/state"))["devices"]
                return [device["name"] for device in devices] == ["RPC0"]

            await until(there, "it has a device of the other node's")
            assert len(rpc_servers()) == 1
        await until(lambda: not rpc_servers(), "its server has ended")
