"""Whether who follows what never ends may go on: his key may be withdrawn meanwhile, or one asked
for that nobody needed before."""

import time
from typing import Final

from aiohttp import web

from proxy.api.middleware import OWN
from proxy.api.services import SERVICES

# The file is looked at so often; what is told in between is told.
EVERY_S: Final = 1.0


class Follower:
    """Who asked for a stream."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        # What changes: when it was looked at, and what was found.
        self._looked_s = time.monotonic()
        self._may = True

    def may_stay(self) -> bool:
        """To be asked before each word."""
        now_s = time.monotonic()
        if self._may and not self._request.get(OWN) and now_s - self._looked_s >= EVERY_S:
            self._looked_s = now_s
            services = self._request.app[SERVICES]
            file = services.policies.current.server.api_keys_file
            self._may = services.keys.knows(self._request.headers, file)
        return self._may
