"""One name for each RPC device."""

from proxy.engine.rpc_names import RpcNames


def test_each_server_keeps_its_number_until_it_is_forgotten() -> None:
    names = RpcNames()
    names.know(["a:1", "b:1"])

    assert names.of(["b:1", "c:1"]) == {"RPC0": "RPC1", "RPC1": "RPC2"}
    names.forget(["b:1", "nobody:1"])
    assert names.of(["c:1"]) == {"RPC0": "RPC2"}
    assert names.of(["d:1", "e:1"]) == {"RPC0": "RPC1", "RPC1": "RPC3"}
    names.forget(["a:1", "c:1", "d:1", "e:1"])
    assert names.of(["f:1"]) == {"RPC0": "RPC0"}
