"""What a node of a fleet and those who ask it call things: headers, variables."""

import re
from typing import Final

# An answer's: which node gave it. A request's: which node is to be asked, and no other.
NODE_HEADER: Final = "X-Moe-Proxy-Node"
# An answer's, of a node that ends once it has answered what it has: others are to be asked.
DRAINING_HEADER: Final = "X-Moe-Proxy-Node-Draining"
# An answer's, to a front alone: it is this node that cannot, and others are to be asked. Whether an
# engine was asked before: then what must not be done twice stays here.
REFUSES_HEADER: Final = "X-Moe-Proxy-Node-Refuses"
NOTHING_ASKED: Final = "nothing-asked"
ASKED: Final = "asked"
# The same in a stream whose head is out, before the event that says why; behind it is what
# Retry-After would have, in whole seconds.
REFUSES_COMMENT: Final = b": refused, retry after"

# A request's, between our own processes: the fleet's key. A front passes no client's on, nor any
# other header whose name begins so.
KEY_HEADER: Final = "X-Moe-Proxy-Fleet"
# Beside the key: the fleet itself asks, no client, so that no API key is wanted.
OWN_HEADER: Final = "X-Moe-Proxy-Fleet-Own"
# Beside the key: what the front's machine is called, by which clients may call the fleet.
HOSTS_HEADER: Final = "X-Moe-Proxy-Fleet-Hosts"

# Beside the key: by whom a front was asked, his address and one word for his connection.
CLIENT_HEADER: Final = "X-Moe-Proxy-Fleet-Client"

# A node's name, on its machine: else its host's.
NODE_VARIABLE: Final = "MOE_PROXY_NODE"
# Part of a backend's id, of labels and of host names.
USABLE_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# For `moe-proxy serve` as a node: a file with the fleet's key, which each request has to bring.
KEY_FILE_VARIABLE: Final = "MOE_PROXY_FLEET_KEY_FILE"
# For a node: where its machine's front is, which commands on that machine ask.
FRONT_VARIABLE: Final = "MOE_PROXY_FLEET_FRONT"
# Files in PEM, where the cluster speaks TLS; they are Ray's own variables.
CERTIFICATE_VARIABLE: Final = "RAY_TLS_SERVER_CERT"
CERTIFICATE_KEY_VARIABLE: Final = "RAY_TLS_SERVER_KEY"
AUTHORITY_VARIABLE: Final = "RAY_TLS_CA_CERT"
TLS_VARIABLE: Final = "RAY_USE_TLS"


def usable_name(name: str) -> str:
    """A name that a node may have, as close to this one, or to a host's, as it gets: "Attic_PC.lan"
    is "attic-pc". With room for a number, by which a fleet tells two of one name apart."""
    short = re.sub(r"[^a-z0-9-]", "-", name.partition(".")[0].lower())
    return short[:56].strip("-") or "node"
