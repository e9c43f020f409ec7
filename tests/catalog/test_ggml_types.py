import gguf
import pytest

from proxy.catalog.ggml_types import TYPES, size_of


def test_agrees_with_the_library() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}

    # Never in a file; llama.cpp made its block smaller after this release of the library.
    del theirs[gguf.GGMLQuantizationType.Q8_1]

    assert theirs.items() <= TYPES.items()


@pytest.mark.parametrize(
    ("kind", "shape", "size"),
    [
        (0, (), 4),
        (0, (3, 5), 60),
        (8, (64, 2), 136),
        (39, (32, 4, 2), 136),
        (8, (33,), -1),
        (8, (), -1),
        (99, (32,), None),
    ],
)
def test_size_of(kind: int, shape: tuple[int, ...], size: int | None) -> None:
    assert size_of(kind, shape) == size
