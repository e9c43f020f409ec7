"""The hosted worker of the worker's own tests, here too."""

from tests.worker.conftest import hosted as hosted
