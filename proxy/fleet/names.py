"""What a fleet is called in Ray. Its headers and variables are in `proxy.node.names`."""

from typing import Final

# Ray's custom resource of the machines that are to be nodes, one of it on each.
RESOURCE: Final = "moe_proxy"
# The application in Ray Serve, and the namespace of the actors.
APPLICATION: Final = "moe-proxy"
NAMESPACE: Final = "moe-proxy"
