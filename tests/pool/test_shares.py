"""Who is next: each client has its share, whatever it asks for and whoever came first."""

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.pool.shares import CROWD, MOST_AHEAD, Shares, Turn

costs = st.floats(0.01, 50.0)
clients = st.sampled_from("abcd")


def taken(shares: Shares) -> list[int]:
    """All that wait, as they go."""
    order = []
    while (found := shares.take()) is not None:
        order.append(found[0])
    return order


def waiting(*requests: tuple[str, float]) -> Shares:
    """Shares in which these wait, by client and cost, each on a connection of its own."""
    shares = Shares()
    for number, (client, cost) in enumerate(requests):
        shares.add(number, client, number, cost)
    return shares


def test_one_of_another_client_is_next_but_one_behind_fifty() -> None:
    shares = waiting(*[("a", 10.0)] * 50)
    first = shares.take()
    assert first is not None
    shares.add(50, "b", "x", 10.0)

    assert taken(shares)[0] == 50


def test_a_client_that_has_all_places_is_behind_one_that_comes() -> None:
    shares = Shares()
    for number in range(4):
        shares.enter("a", number, 10.0)
    for number in range(50):
        shares.add(number, "a", number, 10.0)
    shares.add(50, "b", "x", 10.0)

    assert taken(shares)[0] == 50


def test_a_short_one_of_the_same_client_is_before_its_long_ones() -> None:
    """No matter when it comes, while more than a few long ones wait."""
    shares = waiting(*[("a", 10.0)] * 50)
    for _ in range(20):
        found = shares.take()
        assert found is not None
        shares.correct(found[1], 10.0)
    shares.add(50, "a", "x", 0.2)

    assert taken(shares)[0] == 50


def test_a_users_many_requests_are_behind_the_first_of_another_one() -> None:
    shares = Shares()
    for number in range(50):
        shares.add(number, "gateway", "alice", 10.0)
    shares.take()
    shares.add(50, "gateway", "bob", 10.0)

    assert taken(shares).index(50) <= 1


def test_long_ones_of_a_client_are_not_passed_for_ever_by_its_short_ones() -> None:
    shares = waiting(("a", 10.0))
    passed = 0
    for number in range(1, 10_000):
        shares.add(number, "a", number, 0.1)
        found = shares.take()
        assert found is not None
        if found[0] == 0:
            break
        shares.correct(found[1], found[1].cost)
        passed += 1

    # Two connections wait at any time: each has half.
    assert 50 <= passed <= 250


def test_newcomers_do_not_keep_a_client_waiting_for_ever() -> None:
    shares = Shares()
    turn = shares.enter("a", 1, 1.0)
    shares.add(0, "a", 1, 1.0)
    assert turn == Turn("a", 1, 1.0)
    passed = 0
    for number in range(1, 10_000):
        shares.add(number, f"new{number}", number, 1.0)
        found = shares.take()
        assert found is not None
        if found[0] == 0:
            break
        shares.correct(found[1], 1.0)
        passed += 1

    assert passed <= CROWD


def test_what_an_answer_took_counts_not_what_was_expected() -> None:
    """Each of a's answers takes as long as four of b's."""
    shares = Shares()
    given = {"a": 0, "b": 0}
    for number in range(200):
        shares.add(2 * number, "a", "x", 1.0)
        shares.add(2 * number + 1, "b", "y", 1.0)
    for _ in range(200):
        found = shares.take()
        assert found is not None
        client = str(found[1].client)
        given[client] += 1
        shares.correct(found[1], 4.0 if client == "a" else 1.0)

    assert 38 <= given["a"] <= 42


def test_an_answer_of_an_hour_is_not_held_against_its_client_for_an_hour() -> None:
    shares = Shares()
    shares.correct(shares.enter("a", "x", 1.0), 3600.0)
    shares.add(0, "a", "x", 1.0)
    for number in range(1, 500):
        shares.add(number, "b", "y", 1.0)

    assert taken(shares).index(0) <= MOST_AHEAD + 2


def test_who_was_away_has_saved_up_nothing() -> None:
    shares = waiting(*[("a", 1.0)] * 100)
    for _ in range(50):
        shares.take()
    for number in range(100, 200):
        shares.add(number, "b", number, 1.0)

    first = [request < 100 for request in taken(shares)[:40]]

    assert 18 <= sum(first) <= 22


def test_who_leaves_is_not_taken_and_was_not_charged() -> None:
    shares = waiting(("a", 1.0), ("a", 1.0), ("b", 1.0))

    shares.remove(0)

    assert taken(shares) == [1, 2]


def test_nothing_is_kept_of_those_who_are_gone() -> None:
    shares = Shares()
    for number in range(5000):
        shares.add(number, f"client{number}", number, 1.0)
        found = shares.take()
        assert found is not None
        shares.correct(found[1], 1.0)

    assert len(shares._clients) < 1000
    assert len(shares._heap) < 1000


@given(st.lists(st.tuples(clients, st.integers(0, 3), costs), max_size=40))
def test_the_order_that_is_told_is_the_order_in_which_they_go(
    requests: list[tuple[str, int, float]],
) -> None:
    shares = Shares()
    for number, (client, connection, cost) in enumerate(requests):
        shares.add(number, client, connection, cost)

    told = [request for request, _ in shares.in_order()]

    assert told == taken(shares)


@given(st.lists(st.lists(costs, min_size=1, max_size=20), min_size=2, max_size=4))
def test_as_long_as_all_wait_none_is_ahead_of_another_by_more_than_an_answer(
    each: list[list[float]],
) -> None:
    shares, number = Shares(), 0
    for client, theirs in enumerate(each):
        for cost in theirs:
            shares.add(number, client, "one", cost)
            number += 1
    most = max(max(theirs) for theirs in each)
    given = dict.fromkeys(range(len(each)), 0.0)
    left = [len(theirs) for theirs in each]
    while all(left):
        found = shares.take()
        assert found is not None
        client = int(str(found[1].client))
        left[client] -= 1
        given[client] += found[1].cost
        ordered = sorted(given.values())
        assert ordered[-1] - ordered[0] <= most + 1e-6


class Machine(RuleBasedStateMachine):
    """Requests come, go and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares()
        self.number = 0
        self.waiting: set[int] = set()
        self.turns: list[Turn] = []

    @rule(client=clients, connection=st.integers(0, 3), cost=costs)
    def come(self, client: str, connection: int, cost: float) -> None:
        self.number += 1
        self.shares.add(self.number, client, connection, cost)
        self.waiting.add(self.number)

    @rule(client=clients, connection=st.integers(0, 3), cost=costs)
    def enter(self, client: str, connection: int, cost: float) -> None:
        self.turns.append(self.shares.enter(client, connection, cost))

    @rule()
    def take(self) -> None:
        found = self.shares.take()
        assert (found is None) == (not self.waiting), "somebody goes whenever somebody waits"
        if found:
            self.waiting.remove(found[0])
            self.turns.append(found[1])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove(request)
        self.shares.remove(request)

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), cost=costs)
    def end(self, data: st.DataObject, cost: float) -> None:
        turn = self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1)))
        self.shares.correct(turn, cost)

    @invariant()
    def it_knows_who_waits(self) -> None:
        assert {request for request, _ in self.shares.in_order()} == self.waiting
        assert len(self.shares) == len(self.waiting)

    def teardown(self) -> None:
        assert set(taken(self.shares)) == self.waiting


TestMachine = Machine.TestCase


def test_pairs_of_equal_clients_alternate() -> None:
    shares = waiting(*[("a", 1.0)] * 10, *[("b", 1.0)] * 10)

    order = [request < 10 for request in taken(shares)]

    assert all(one != other for one, other in pairwise(order))
