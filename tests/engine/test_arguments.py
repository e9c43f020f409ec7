from pathlib import Path

import pytest

from proxy.engine.arguments import server_arguments
from proxy.engine.types import LoadOptions, Mode


def test_what_goes_with_a_model() -> None:
    options = LoadOptions(
        "m",
        Path("m.gguf"),
        projector=Path("mmproj.gguf"),
        adapters=(Path("a.gguf"), Path("b.gguf")),
        template=Path("t.jinja"),
    )

    arguments = server_arguments(options)

    for pair in (
        ("--mmproj", "mmproj.gguf"),
        ("--lora", "a.gguf,b.gguf"),
        ("--chat-template-file", "t.jinja"),
    ):
        assert arguments[arguments.index(pair[0]) + 1] == pair[1]


@pytest.mark.parametrize(
    ("ubatch", "expected"),
    [
        (None, []),
        (512, ["--ubatch-size", "512"]),
        (4096, ["--ubatch-size", "4096", "--batch-size", "4096"]),
    ],
)
def test_the_logical_batch_is_no_smaller_than_the_physical_one(
    ubatch: int | None, expected: list[str]
) -> None:
    bare, given = (
        server_arguments(LoadOptions("m", Path("m.gguf"), ubatch=size)) for size in (None, ubatch)
    )

    assert [argument for argument in given if argument not in bare] == expected


@pytest.mark.parametrize("mode", ["embedding", "rerank"])
def test_whole_inputs_are_one_batch(mode: Mode) -> None:
    arguments = server_arguments(LoadOptions("m", Path("m.gguf"), mode=mode, ubatch=1024))

    for name in ("--batch-size", "--ubatch-size"):
        assert arguments[arguments.index(name) + 1] == "1024"


def test_what_the_policy_says_comes_last() -> None:
    arguments = server_arguments(
        LoadOptions("m", Path("m.gguf"), ubatch=1024, args=("--ubatch-size", "64"))
    )

    assert arguments[-2:] == ["--ubatch-size", "64"]


def test_what_does_not_go_with_it_is_not_named() -> None:
    arguments = server_arguments(LoadOptions("m", Path("m.gguf")))

    assert not {"--mmproj", "--lora", "--chat-template-file"} & set(arguments)
