"""`[nodes.NAME]`: what differs on one machine of a fleet. Whose a key is, and what we are called.

The files are the same on all machines. What stands below a node's table counts on that machine, in
the place of the same key outside of it; elsewhere it is checked and has no effect.
"""

import socket
from collections.abc import Mapping
from typing import Final

from proxy.node.names import NODE_VARIABLE, usable_name
from proxy.policy.problems import KeyPath

NODES: Final = "nodes"
NAME_ALLOWED: Final = "a to z, 0 to 9 and - inside, 63 characters at most"


def node_of(env: Mapping[str, str], host: str | None = None) -> str:
    """What this machine is called as a node; `host` is its name in the network, known without it.
    As it is written in the variable, usable or not."""
    return env.get(NODE_VARIABLE, "").strip() or usable_name(host or socket.gethostname())


def parted(path: KeyPath) -> tuple[str | None, KeyPath]:
    """The node whose key this is, None for all, and the key as it is written outside of it."""
    if path[:1] == (NODES,) and len(path) > 1:
        return str(path[1]), path[2:]
    return None, path
