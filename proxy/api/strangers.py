"""Keeps web pages out that may not ask: what each says is put to `proxy.api.origins`, once."""

from collections.abc import Callable, Set
from functools import lru_cache
from typing import Final

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy, istr

from proxy.api.origins import NEAR, Place, Rules, Visit, place_of, refusal, rules
from proxy.errors import Forbidden
from proxy.policy.model import Server

log = structlog.get_logger()

# Clients say the same each time; whoever makes up others must not fill the memory.
REMEMBERED: Final = 512
# Machines of a fleet by which clients come, each with its names.
FRONTS: Final = 64
SITE: Final = istr("Sec-Fetch-Site")
MODE: Final = istr("Sec-Fetch-Mode")
DEST: Final = istr("Sec-Fetch-Dest")

# The fields of a Visit, in its order.
Said = tuple[str, str, str, str, Place, str, str, str, str]


class Strangers:
    """Refuses what `server.hosts` and `server.origins` do not allow, as they are at that moment."""

    def __init__(self, own_names: Set[str]) -> None:
        """`own_names` are those of this machine."""
        # What changes with the policies, and the names: who judges, by what else is our name.
        self._own_names = own_names
        self._server: Server | None = None
        self._judges: dict[str, Callable[[Said], str | None]] = {}

    def know(self, own_names: Set[str]) -> None:
        """From now on these are the names of this machine."""
        self._own_names, self._server = own_names, None

    def check(self, request: web.Request, server: Server, also: str = "") -> None:
        """Raise Forbidden for a request that a page makes which may not. `also` are other names of
        ours, divided by commas, of somebody who is to be trusted."""
        if server is not self._server or len(self._judges) > FRONTS:
            self._judges.clear()
            self._server = server
        if (judge := self._judges.get(also)) is None:
            names = self._own_names | set(server.hosts) | set(filter(None, also.split(",")))
            judge = self._judges[also] = _remembered(rules(names, server.origins))
        if why := judge(said_by(request)):
            raise Forbidden(why)


def said_by(request: web.Request) -> Said:
    """What a request says of itself, as far as it can matter."""
    headers, path, mode, dest, agent, referer = request.headers, request.path, "", "", "", ""
    place, site = place_of(request.method, path), _all(headers, SITE)
    if place == "page" and site:
        mode, dest = _all(headers, MODE), _all(headers, DEST)
    elif place == "action" and site.lower() in ("", NEAR):
        agent, referer = _all(headers, hdrs.USER_AGENT), _all(headers, hdrs.REFERER)
    host, origin = _all(headers, hdrs.HOST), _all(headers, hdrs.ORIGIN)
    return host, request.host, origin, site, place, mode, dest, agent, referer


def _all(headers: CIMultiDictProxy[str], name: istr) -> str:
    return ", ".join(headers.getall(name, ()))


def _remembered(rules: Rules) -> Callable[[Said], str | None]:
    @lru_cache(REMEMBERED)
    def why(said: Said) -> str | None:
        reason = refusal(rules, Visit(*said))
        if reason:
            log.warning("stranger_refused", why=reason)
        return reason

    return why
