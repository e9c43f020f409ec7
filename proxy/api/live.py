"""What changes all the time, for those who follow: at most once a second, and a moment after
something happened. Each time only what is different, as a JSON merge patch.

Who follows begins with all of it, and puts each patch on that: then he has what there is.
"""

import asyncio
import os
import time
from typing import Any, Final

from proxy.api.admin_state import backend_state, degraded, devices, host
from proxy.api.merge_patch import difference
from proxy.api.request_state import requests_state
from proxy.api.services import Services
from proxy.version import own_version

EVERY_S: Final = 1.0
# What happened is seen so soon, and so are experts that move.
SOON_S: Final = 0.25
# Said elsewhere, and different at each look.
LEFT_OUT: Final = frozenset({"line"})

State = dict[str, dict[str, Any]]


class Live:
    """One for all who follow. Computes nothing while there is nobody."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._instance = f"{os.getpid()}-{time.time_ns():x}"
        # What changes: what was told last, when memory was looked at, up to which event, and which
        # scan of the folders this is.
        self._told: State = {}
        self._memory_s = float("-inf")
        self._last_event = -1
        self._scan: object = None
        self._scans = 0

    def everything(self) -> State:
        """All of it, such that the next patches are to be put on it."""
        self._look()
        return self._told

    async def run(self) -> None:
        """Tell until cancelled."""
        looked_s = float("-inf")
        while True:
            await self._services.events.until_followed()
            await asyncio.sleep(SOON_S)
            if not self._services.events.is_followed:
                continue
            now_s = time.monotonic()
            # A sleep may end a hair too soon.
            if now_s - looked_s > EVERY_S - SOON_S / 2 or self._has_news():
                looked_s = now_s
                self._look()

    def _has_news(self) -> bool:
        services = self._services
        happened = services.events.last_id != self._last_event
        return happened or any(map(services.desired.moving, services.pool.backends()))

    def _look(self) -> None:
        self._last_event = self._services.events.last_id
        now = self._state()
        for topic, values in now.items():
            if patch := difference(self._told.get(topic, {}), values):
                self._services.events.tell(topic, patch=patch)
        self._told = now

    def _state(self) -> State:
        services = self._services
        return {
            "proxy": self._proxy(),
            "memory": self._memory(),
            "backends": {
                backend.id: {
                    key: value
                    for key, value in backend_state(services, backend).items()
                    if key not in LEFT_OUT
                }
                for backend in services.pool.backends()
            },
            "requests": requests_state(services),
        }

    def _memory(self) -> dict[str, Any]:
        """At most once a second, whatever happens."""
        now_s = time.monotonic()
        if now_s - self._memory_s < EVERY_S - SOON_S / 2 and "memory" in self._told:
            return self._told["memory"]
        self._memory_s = now_s
        found = devices(self._services)
        return {
            "devices": {device["name"]: device for device in found},
            "host": host(self._services),
        }

    def _proxy(self) -> dict[str, Any]:
        services = self._services
        if services.catalog.scan is not self._scan:
            self._scan, self._scans = services.catalog.scan, self._scans + 1
        return {
            "version": own_version(),
            "instance": self._instance,  # another one has other events
            "draining": services.pool.draining,
            "queue": {"waiting": services.pool.queue_length, "max": services.pool.max_queue},
            "policies": services.policies.to_json(),
            "models_seen": self._scans,  # another number: there may be other models
            "degraded": degraded(services),
        }
