"""Which engine a model's options ask for, and with what it is made."""

from collections.abc import Callable, Sequence
from pathlib import Path

from proxy.engine.command import CommandEngine
from proxy.engine.hosted import HostedEngine
from proxy.engine.lent import Lent, LentServer
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.rpc_names import RpcNames
from proxy.engine.types import FLEET, Engine, LoadOptions
from proxy.engine.warm import WarmWorkers


def engine_maker(
    runtime: Path,
    slot_folder: Path,
    log_buffer: LogBuffer,
    *,
    rpc_servers: Callable[[], Sequence[str]],
    stall_s: Callable[[str], float],
    warm: WarmWorkers,
    lent: Callable[[str], Sequence[LentServer]] = lambda _: (),
) -> Callable[[str, LoadOptions], Engine]:
    """`rpc_servers`: those of the policies. `stall_s`: how long a model may say nothing while it
    loads. Both are asked for each engine. `warm`: workers that wait for a model. `lent`: the RPC
    servers that the fleet lends to a backend, asked when it is started."""
    rpc_names = RpcNames()

    def make(backend_id: str, options: LoadOptions) -> Engine:
        patience_s = stall_s(options.model)
        if options.engine == "command":
            return CommandEngine(backend_id, options, log_buffer=log_buffer, stall_s=patience_s)
        rpc_names.know(rpc_servers())
        of_fleet = FLEET in options.rpc
        return HostedEngine(
            backend_id,
            options,
            runtime_dir=runtime,
            log_buffer=log_buffer,
            names=rpc_names.of(() if of_fleet else options.rpc),
            slot_folder=slot_folder,
            stall_s=patience_s,
            warm=warm,
            lent=Lent(lambda: lent(backend_id), rpc_names) if of_fleet else None,
        )

    return make
