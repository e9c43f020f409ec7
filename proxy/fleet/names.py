"""What the processes of a fleet call things between each other: headers, variables, a resource."""

from typing import Final

from proxy.node.names import AUTHORITY_VARIABLE as AUTHORITY_VARIABLE
from proxy.node.names import CERTIFICATE_KEY_VARIABLE as CERTIFICATE_KEY_VARIABLE
from proxy.node.names import CERTIFICATE_VARIABLE as CERTIFICATE_VARIABLE
from proxy.node.names import DRAINING_HEADER as DRAINING_HEADER
from proxy.node.names import HOSTS_HEADER as HOSTS_HEADER
from proxy.node.names import KEY_FILE_VARIABLE as KEY_FILE_VARIABLE
from proxy.node.names import KEY_HEADER as KEY_HEADER
from proxy.node.names import NODE_HEADER as NODE_HEADER
from proxy.node.names import NODE_VARIABLE as NODE_VARIABLE
from proxy.node.names import OWN_HEADER as OWN_HEADER
from proxy.node.names import TLS_VARIABLE as TLS_VARIABLE

# Ray's custom resource of the machines that are to be nodes, one of it on each.
RESOURCE: Final = "moe_proxy"
# The application in Ray Serve, and the namespace of the actors.
APPLICATION: Final = "moe-proxy"
NAMESPACE: Final = "moe-proxy"
