"""What is filled into command lines, and what is not."""

from pathlib import Path

import pytest

from proxy.engine.command_line import (
    OF_COMMAND,
    fill_in,
    fill_in_stop,
    names_pid,
    not_filled_in,
    takes_split,
)
from proxy.engine.types import LoadOptions
from proxy.errors import LoadFailed

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


@pytest.mark.parametrize("place", ["{name}", "{model}"])
@pytest.mark.parametrize("where", ["command", "stop_command"])
@pytest.mark.parametrize(
    "name", ["$(touch x)", "a; b", "a b", "`id`", "a'b", "a\nb", "~", "ü", "-x", "--a=b"]
)
def test_a_name_is_no_program(name: str, where: str, place: str) -> None:
    """It can be given over HTTP; what is run cannot."""
    script = ("sh", "-c", f"cd / && exec srv {place}")
    options = LoadOptions(name, Path(name), command=("srv", "{port}"), stop_command=script)
    if where == "command":
        options = LoadOptions(name, Path(name), command=script)

    with pytest.raises(LoadFailed, match="a model that is called"):
        fill_in(options, 80)


def test_a_name_of_its_own_may_be_any_but_no_option() -> None:
    plain = LoadOptions("o/a_b-c:1.5@x", Path("/m"), command=("sh", "-c", "exec srv {name}"))
    odd = LoadOptions("$(a) b", Path("/m"), command=("srv", "{name}", "--name={name}"))
    option = LoadOptions("-x", Path("/m"), command=("srv", "--name={name}"))

    assert fill_in(plain, 80)[-1] == "exec srv o/a_b-c:1.5@x"
    assert fill_in(odd, 80) == ["srv", "$(a) b", "--name=$(a) b"]
    assert fill_in(option, 80) == ["srv", "--name=-x"]
    with pytest.raises(LoadFailed):
        fill_in(LoadOptions("-x", Path("/m"), command=("srv", "{name}")), 80)


def test_a_file_may_be_called_as_it_likes() -> None:
    """Who puts it there may do what the proxy may."""
    options = LoadOptions("m", Path("/my models/a.gguf"), command=("sh", "-c", "srv '{model}'"))

    assert fill_in(options, 80)[-1] == "srv '/my models/a.gguf'"
