"""RPC servers that are lent to one worker."""

from proxy.engine.lent import Lent, LentServer
from proxy.engine.rpc_names import RpcNames
from proxy.engine.types import Device


def device(address: str, free: int | None, total: int | None) -> Device:
    return Device("RPC0", address, "gpu", total, free)


def test_a_device_is_as_large_as_what_was_lent_of_it() -> None:
    lent = Lent(lambda: [LentServer("a:1", 100)], RpcNames())
    lent.take()

    for there, held, expected in (
        (device("a:1", 1000, 2000), 0, (100, 100)),
        (device("a:1", 1000, 2000), 30, (70, 100)),
        (device("a:1", 1000, 2000), 130, (0, 100)),
        (device("a:1", 40, 2000), 30, (40, 100)),  # others have the rest of it
        (device("a:1", None, None), 30, (70, 100)),
        (device("b:1", 1000, 2000), 30, (1000, 2000)),
    ):
        found = lent.within(there, held)
        assert (found.free_bytes, found.total_bytes) == expected


def test_what_was_given_back_leaves_its_name_to_the_next() -> None:
    names, servers = RpcNames(), [LentServer("a:1", 1), LentServer("b:1", 1)]
    names.know(["first:1"])
    lent = Lent(lambda: servers, names)

    assert lent.take() == ("a:1", "b:1")
    assert lent.names == {"RPC0": "RPC1", "RPC1": "RPC2"}
    for _ in range(2):
        lent.give_back()
    other = Lent(lambda: [LentServer("c:1", 1)], names)
    other.take()
    assert other.names == {"RPC0": "RPC1"}
