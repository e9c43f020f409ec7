"""Names that nobody knows, and what may be meant by them."""

import pytest

from proxy.dialect.ollama.requests import ChatBody
from proxy.dialect.typos import (
    LONGEST,
    MOST_LOOKED_AT,
    in_body,
    in_ollamas_body,
    in_options,
    meant_by,
)


@pytest.mark.parametrize(
    "name",
    """moe_cpu_layer moe-cpu-layers moeCpuLayers n_cpu_moe_layers num_cpu_moes cpu_moe ncmoe
    num_moe_offloads MOE_CPU_LAYERS n-cpu-moe moe_layers""".split(),
)
def test_the_experts_are_meant(name: str) -> None:
    assert meant_by(name) == "moe_cpu_layers"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_ctxt", "num_ctx"),
        ("numCtx", "num_ctx"),
        ("num_cxt", "num_ctx"),
        ("temprature", "temperature"),
        ("presense_penalty", "presence_penalty"),
        ("top-p", "top_p"),
        ("num_predicts", "num_predict"),
    ],
)
def test_an_option_of_ollamas_is_meant(name: str, meant: str) -> None:
    assert meant_by(name) == meant


@pytest.mark.parametrize(
    "name",
    ["speed", "stops", "store", "user", "x", "", "betas", "moe", "é" * 9, "moe_cpu" * LONGEST],
)
def test_nobody_knows_what_is_meant(name: str) -> None:
    assert meant_by(name) is None


def test_what_engines_know_is_no_typo() -> None:
    known = """options optional portions
    model messages stream max_tokens n_keep typical_p min_keep min_tokens top_n_sigma
    repetition_penalty mirostat_mode return_progress chat_template_kwargs cache_prompt id_slot
    timings_per_token dynatemp_range xtc_threshold dry_multiplier stop_token_ids"""

    assert in_body(dict.fromkeys(known.split()).keys()) == []


def test_what_is_said_is_for_a_header() -> None:
    told = in_body({"moe_cpu_läyer": 1, "moe_cpu_layer\r\nX: y": 1, "num_ctx": 1}.keys())

    assert told == [
        "'moe_cpu_layer\\r\\nX: y' is not known; did you mean moe_cpu_layers?",
        "'moe_cpu_l\\xe4yer' is not known; did you mean moe_cpu_layers?",
        "num_ctx does nothing beside model; it belongs into options",
    ]


def test_ollamas_own_fields_and_options_have_their_places() -> None:
    names = ["model", "messages", "moe_cpu_layers", "temperature", "raw", "moe_cpu_layer"]

    assert in_ollamas_body(names, ChatBody.__struct_fields__) == [
        "temperature does nothing beside model; it belongs into options",
        "moe_cpu_layer is not known; did you mean moe_cpu_layers?",
    ]
    assert in_options(["num_ctxt"]) == ["options.num_ctxt is not known; did you mean num_ctx?"]


@pytest.mark.parametrize("name", ["option", "optionss", "Optoins", "opt_ions"])
def test_where_options_stand_has_typos_too(name: str) -> None:
    told = [f"{name} is not known; did you mean options?"]

    assert in_body({name}) == in_ollamas_body([name], ChatBody.__struct_fields__) == told
    assert in_options([name]) == []


def test_what_a_library_would_have_unpacked() -> None:
    told = ["extra_body does nothing; what is in it belongs beside model"]

    assert in_body({"extra_body"}) == in_ollamas_body(["extra_body"], ()) == told


def test_a_body_of_many_names_is_not_looked_through() -> None:
    names = [f"moe_cpu_layers{number}" for number in range(10 * MOST_LOOKED_AT)]

    assert len(in_options(names)) == MOST_LOOKED_AT
