"""What `moe-proxy bench` has measured of expert caches, for whoever loads one."""

from collections.abc import Callable, Mapping
from functools import partial

from proxy.control.speed_store import measured_share
from proxy.engine.types import Device, LoadOptions
from proxy.errors import Hangs
from proxy.policy.model import Policies
from proxy.routing.expert_caches import MeasuredShare
from proxy.threads import MODELS


def share_by_bench(
    policies: Callable[[], Policies], devices: Callable[[], Mapping[str, Device]]
) -> MeasuredShare:
    """What an expert cache is given of the `devices` that are known."""

    async def measured(options: LoadOptions) -> float:
        state, known = policies().catalog.state, [*devices().values()]
        share = partial(
            measured_share,
            state,
            options.path,
            known,
            libdir=options.libdir,
            backends=options.backends,
        )
        try:
            return await MODELS.run(share)
        except Hangs:
            return 0.0

    return measured
