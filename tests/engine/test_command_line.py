"""What is filled into command lines, and what is not."""

from pathlib import Path

from proxy.engine.command_line import (
    OF_COMMAND,
    fill_in,
    fill_in_stop,
    names_pid,
    not_filled_in,
    takes_split,
)
from proxy.engine.types import LoadOptions

PATTERN = r"blk\.({moe_cpu_layers_regex})\.ffn_.*_exps=CPU"


def test_fill_in() -> None:
    """Placeholders are filled in wherever they stand; other braces, and what was filled in, stay as
    they are."""
    options = LoadOptions(
        "the name",
        Path("/models/{port}.gguf"),
        ctx=4096,
        parallel=2,
        split=7,
        command=(
            "srv",
            "--at=:{port}",
            "{model}",
            "{name}",
            "{ctx}x{parallel}={ctx_total}",
            "{moe_cpu_layers}",
            "{pid}",
        ),
        args=('{"port": {}}', "{port}"),
    )

    assert fill_in(options, 80) == [
        *("srv", "--at=:80", "/models/{port}.gguf", "the name", "4096x2=8192", "7", "{pid}"),
        *('{"port": {}}', "{port}"),
    ]


def test_the_split_as_a_regular_expression() -> None:
    def pattern(split: int | None) -> list[str]:
        return fill_in(LoadOptions("m", Path("m"), command=(PATTERN,), split=split), 80)

    assert pattern(3) == [r"blk\.(0|1|2)\.ffn_.*_exps=CPU"]
    assert pattern(0) == pattern(None) == [r"blk\.()\.ffn_.*_exps=CPU"]
    assert takes_split((PATTERN,))
    assert takes_split(("-n={moe_cpu_layers}",))
    assert not takes_split(("{model}",))


def test_what_stops_it_knows_its_process_and_no_args() -> None:
    stop = ("kill", "{pid}", "{port}:{name}")
    options = LoadOptions("m", Path("m"), stop_command=stop, args=("--more",))

    assert fill_in_stop(options, 80, 123) == ["kill", "123", "80:m"]
    assert names_pid(stop)
    assert not names_pid(("docker", "stop", "{name}"))


def test_what_looks_like_a_placeholder() -> None:
    assert not_filled_in("${PORT} {prot} {model}", OF_COMMAND) == ["PORT", "prot"]
    assert not_filled_in('{"a": {}} x{2,3} {}', OF_COMMAND) == []
