"""For whom a request's work is: what each client's share of a backend is counted by."""

from aiohttp import web

from proxy.api.middleware import KEY_NAME
from proxy.api.services import SERVICES
from proxy.dialect.workload import Workload
from proxy.pool.work import Work


def work_of(request: web.Request, load: Workload) -> Work:
    """The work of a request.

    A client is who has an API key; where none is asked for, a program on some machine, as far as
    its name tells: all that run here have the same address. Within a client, users and
    connections are told apart.
    """
    key = request.get(KEY_NAME)
    through = request.app[SERVICES].node.client(request.headers)
    address, _, connection = through.partition(" ")
    agent = request.headers.get("User-Agent", "")[:256]
    client = (key,) if key else (address or request.remote, agent)
    own = connection or id(request.protocol)
    return Work(client, load.user or own, key, load.slots, load.tokens)
