"""What a request asks of the proxy, beside what it asks of the model."""

import msgspec

from proxy.pool.work import Work
from proxy.split import Split


class ModelRequest(msgspec.Struct, frozen=True):
    """What a request asks of the proxy. None: nothing in particular."""

    model: str
    split: Split | None = None
    ctx: int | None = None
    keep_alive_s: float | None = None  # 0: unload when idle; infinity: for ever
    work: Work | None = None  # in the slots of a backend; None: it needs none
