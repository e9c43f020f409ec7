"""`pull` and `create` are tried against the same registry as what is below them."""

from tests.hub.conftest import gguf as gguf
from tests.hub.conftest import impatient as impatient
from tests.hub.conftest import server as server
