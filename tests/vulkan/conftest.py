"""One driver for all tests here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.vulkan import on_llvmpipe


@pytest.fixture(scope="session")
def backend() -> Iterator[Path]:
    """The file of ggml's Vulkan backend, which finds llvmpipe alone."""
    with on_llvmpipe() as file:
        yield file
