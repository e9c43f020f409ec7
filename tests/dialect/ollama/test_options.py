"""Every option: what becomes of it, and what is said of a wrong one."""

from pathlib import Path
from typing import Any

import pytest

from proxy.dialect.ollama.options import (
    DEFAULTS,
    LOADING,
    MAX_INT,
    SAMPLING,
    WHOLE_CONTEXT,
    Options,
    read_options,
)
from proxy.errors import BadRequest
from proxy.split import OPTION_NAMES

GOOD: dict[str, Any] = {"integer": 3, "float32": 0.5, "boolean": False, "array": ["a"]}
DOCUMENT = Path(__file__).parents[3] / "docs" / "ollama.md"


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_goes_to_the_engine(name: str) -> None:
    kind, target = SAMPLING[name]

    assert read_options({name: GOOD[kind]}) == Options({target: GOOD[kind]})
    assert read_options({name: None}) == Options()


@pytest.mark.parametrize("name", LOADING)
def test_loading_is_not_up_to_a_request(name: str) -> None:
    assert read_options({name: GOOD[LOADING[name][0]]}) == Options(not_applied=(name,))


@pytest.mark.parametrize("name", [*SAMPLING, *LOADING, "num_ctx"])
def test_wrong_types_are_named(name: str) -> None:
    kind = {**SAMPLING, **LOADING}.get(name, ("integer", ""))[0]
    wrong: list[Any] = [{}, "1", [1]]
    wrong += [] if kind == "boolean" else [True]
    wrong += [1] if kind in ("boolean", "array") else []
    for value in wrong:
        with pytest.raises(BadRequest, match=f'option "{name}" must be of') as error:
            read_options({name: value})
        assert error.value.param == f"options.{name}"


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ({"num_predict": -2}, {"n_predict": -1}),
        ({"num_predict": -1}, {"n_predict": -1}),
        ({"num_predict": 0}, {"n_predict": -1}),
        ({"num_keep": -5}, {"n_keep": -1}),
        ({"num_keep": 0}, {"n_keep": 0}),
        ({"typical_p": 0}, {"typical_p": 1.0}),
        ({"repeat_penalty": 0}, {"repeat_penalty": 1.0}),
        ({"repeat_penalty": -1}, {"repeat_penalty": 1.0}),
        ({"repeat_last_n": 0}, {"repeat_last_n": 0}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"seed": 0}, {"seed": 0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"stop": []}, {"stop": []}),
        ({"repeat_last_n": -1}, {"repeat_last_n": WHOLE_CONTEXT}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"seed": -1}, {"seed": -1}),
        ({"seed": 7.9}, {"seed": 7}),
        ({"seed": 2**31 + 5}, {"seed": 5}),
        ({"num_predict": 10**12}, {"n_predict": MAX_INT}),
        ({"temperature": 1}, {"temperature": 1.0}),
    ],
)
def test_values_in_the_engines_terms(given: dict[str, Any], sampling: dict[str, Any]) -> None:
    assert read_options(given).sampling == sampling


def test_numbers_that_no_integer_holds() -> None:
    with pytest.raises(BadRequest, match="integer"):
        read_options({"seed": float("inf")})
    with pytest.raises(BadRequest, match="integer"):
        read_options({"num_ctx": float("nan")})


@pytest.mark.parametrize(
    ("given", "ctx"), [(8192, 8192), (1, 4), (10**12, MAX_INT), (0, None), (-1, None)]
)
def test_the_context(given: int, ctx: int | None) -> None:
    assert read_options({"num_ctx": given}).ctx == ctx


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_the_split_by_all_its_names(name: str) -> None:
    assert read_options({name: 24}).split == 24
    assert read_options({name: "full"}).split == -1


def test_two_splits() -> None:
    assert read_options({"moe_cpu_layers": 3, "num_cpu_moe": "3"}).split == 3
    with pytest.raises(BadRequest, match=r"moe_cpu_layers is 3 and options.n_cpu_moe is 4"):
        read_options({"moe_cpu_layers": 3, "n_cpu_moe": 4})


def test_unknown_options_are_only_noted() -> None:
    assert read_options({"tfs_z": 1, "num_gqa": "x"}) == Options(unknown=("tfs_z", "num_gqa"))
    assert read_options(None) == Options()


def test_every_option_is_documented() -> None:
    text = DOCUMENT.read_text()

    for name in (*SAMPLING, *LOADING, *OPTION_NAMES, "num_ctx"):
        assert f"| `{name}` |" in text, name
    rows = [[cell.strip("` ") for cell in line.split("|")] for line in text.splitlines()]
    shown = {row[2]: row[3] for row in rows if len(row) > 4}
    assert {name: float(shown[name]) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("name", [*(name for name in SAMPLING if name != "stop"), "num_ctx"])
def test_a_number_of_any_length_is_one(name: str) -> None:
    """JSON has numbers of 400 digits, which no float holds."""
    for value in (10**400, -(10**400)):
        read_options({name: value})

    assert read_options({"num_ctx": 10**400}).ctx == MAX_INT
    assert read_options({"temperature": 10**400}).sampling == {"temperature": float(2**63)}
