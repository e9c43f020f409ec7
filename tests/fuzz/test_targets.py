"""Every reader of strangers' bytes, with a few hundred texts near real ones: documented errors, and
little time and memory for each. `make fuzz` goes on from here.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import targets
from tests.fuzz.bounds import little_memory, little_time
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS

EXAMPLES = 150


@pytest.fixture(autouse=True, scope="module")
def own_file() -> Iterator[None]:
    yield
    targets.remove_file()


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_begins_with_is_read(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        with little_memory(), little_time():
            target.read(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_else_than_documented_errors(name: str) -> None:
    target = TARGETS[name]
    texts = mutated(target.seeds(), target.words)

    @given(texts)
    @settings(
        derandomize=True,
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    def reads(data: bytes) -> None:
        with little_memory(), little_time():
            target.feed(data)

    reads()
