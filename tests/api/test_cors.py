"""What a browser is told that asks whether a page may have an answer."""

import re
from pathlib import Path

import pytest
from aiohttp import hdrs

from proxy.api.cors import ALLOW_PRIVATE_NETWORK, EXPOSED, is_preflight, preflight_headers
from proxy.api.passthrough import ANSWER_ONLY_OURS
from proxy.errors import BadRequest
from proxy.node import names as node_names

ROOT = Path(__file__).parents[2]
# What clients send and answers do not have.
OF_REQUESTS = {"X-Moe-Proxy-Timeout"}
# What the processes of a fleet say to each other: no client ever sees it.
OF_FLEETS = {
    node_names.DRAINING_HEADER,
    node_names.REFUSES_HEADER,
    node_names.KEY_HEADER,
    node_names.OWN_HEADER,
    node_names.HOSTS_HEADER,
}
OF_FLEETS |= {node_names.CLIENT_HEADER}


def test_a_preflight_is_an_options_request_that_names_a_method() -> None:
    asks = {"Access-Control-Request-Method": "POST"}

    assert is_preflight("OPTIONS", asks)
    assert not is_preflight("OPTIONS", {})
    assert not is_preflight("POST", asks)


def test_what_is_asked_for_is_allowed() -> None:
    answer = preflight_headers({"Access-Control-Request-Headers": "content-type, x-stainless-os"})

    assert answer["Access-Control-Allow-Headers"] == "content-type, x-stainless-os"
    assert set(answer["Access-Control-Allow-Methods"].split(", ")) >= {"POST", "PUT", "DELETE"}
    assert int(answer["Access-Control-Max-Age"]) > 0
    assert "Access-Control-Request-Headers" in answer["Vary"]
    assert "Access-Control-Allow-Private-Network" not in answer


def test_what_is_not_asked_for_is_not_said() -> None:
    assert "Access-Control-Allow-Headers" not in preflight_headers({})
    asked = preflight_headers({"Access-Control-Request-Private-Network": "true"})
    assert asked["Access-Control-Allow-Private-Network"] == "true"


@pytest.mark.parametrize("text", ["a b", "a, b:", "é", "\udcff", 'x"'])
def test_what_is_no_name_of_a_header_is_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest, match="Access-Control-Request-Headers"):
        preflight_headers({"Access-Control-Request-Headers": text})


def test_nothing_that_an_engine_says_of_it_gets_through() -> None:
    names = {str(name).lower() for key, name in vars(hdrs).items() if key.startswith("ACCESS_")}
    answers = {name for name in names if "-request-" not in name}

    assert len(answers) >= 6
    assert answers | {ALLOW_PRIVATE_NETWORK.lower()} <= ANSWER_ONLY_OURS


def test_every_header_of_ours_may_be_read_by_pages() -> None:
    ours = {
        name
        for path in (ROOT / "proxy").rglob("*.py")
        for name in re.findall(r"\bX-Moe-Proxy-[A-Za-z-]*\w", path.read_text())
    }

    assert len(ours) > 1
    assert ours - OF_REQUESTS - OF_FLEETS <= set(EXPOSED)
