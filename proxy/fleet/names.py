"""What the processes of a fleet call things between each other: headers, variables, a resource."""

from typing import Final

# A node's name, on its machine: else its host's.
from proxy.policy.nodes import NODE_VARIABLE as NODE_VARIABLE

# An answer's: which node gave it. A request's: which node is to be asked, and no other.
NODE_HEADER: Final = "X-Moe-Proxy-Node"
# A request's, between our own processes: the fleet's key. A front passes no client's on.
KEY_HEADER: Final = "X-Moe-Proxy-Fleet"
# Beside the key: the fleet itself asks, no client, so that no API key is wanted.
OWN_HEADER: Final = "X-Moe-Proxy-Fleet-Own"

# For `moe-proxy serve` as a node: a file with the fleet's key, which each request has to bring.
KEY_FILE_VARIABLE: Final = "MOE_PROXY_FLEET_KEY_FILE"
# Files in PEM, where the cluster speaks TLS; they are Ray's own variables.
CERTIFICATE_VARIABLE: Final = "RAY_TLS_SERVER_CERT"
CERTIFICATE_KEY_VARIABLE: Final = "RAY_TLS_SERVER_KEY"
AUTHORITY_VARIABLE: Final = "RAY_TLS_CA_CERT"
TLS_VARIABLE: Final = "RAY_USE_TLS"

# Ray's custom resource of the machines that are to be nodes, one of it on each.
RESOURCE: Final = "moe_proxy"
# The application in Ray Serve, and the namespace of the actors.
APPLICATION: Final = "moe-proxy"
NAMESPACE: Final = "moe-proxy"
