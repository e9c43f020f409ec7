"""Those who wait for a backend; the scheduler keeps them."""

from dataclasses import dataclass

from proxy.pool.events import Acquire
from proxy.pool.state import Name


@dataclass(slots=True)
class Waiting:
    """A request without a lease: it joined the start of `backend`, or is queued until that one is
    gone."""

    acquire: Acquire
    backend: Name
    joined: bool
    retried: bool  # what it waited for ended before: it is not tried a third time
