"""What a front counts."""

from dataclasses import dataclass

from proxy.fleet.front.numbers import FrontNumbers, state_of
from proxy.fleet.front.views.exposition import text


@dataclass
class Node:
    answers: bool = True
    draining: bool = False


def test_a_node_that_is_silent_is_that_before_all_else() -> None:
    assert state_of(Node()) == "ready"
    assert state_of(Node(draining=True)) == "draining"
    assert state_of(Node(answers=False, draining=True)) == "silent"


def test_what_is_passed_on_what_is_asked_again_and_who_is_there() -> None:
    numbers = FrontNumbers()
    numbers.passed_on("attic", 200)
    numbers.passed_on("attic", 200)
    numbers.retried("cellar")
    numbers.count_nodes([Node(), Node(), Node(answers=False)])
    lines = text(numbers.metrics()).decode().splitlines()
    assert 'moe_proxy_front_requests_total{node="attic",status="200"} 2.0' in lines
    assert 'moe_proxy_front_retries_total{node="cellar"} 1.0' in lines
    assert 'moe_proxy_front_nodes{state="ready"} 2.0' in lines
    assert 'moe_proxy_front_nodes{state="silent"} 1.0' in lines
    assert 'moe_proxy_front_nodes{state="draining"} 0.0' in lines
