"""When a request to a node that says nothing any more is given up."""

import pytest

from proxy.fleet.front.hung import GIVE_UP_S, is_given_up


@pytest.mark.parametrize("others_answer", [True, False])
@pytest.mark.parametrize("may_go_elsewhere", [True, False])
def test_while_its_node_answers_it_is_never(may_go_elsewhere: bool, others_answer: bool) -> None:
    """However long nothing comes: a prompt may be long."""
    assert not is_given_up(
        may_go_elsewhere=may_go_elsewhere, hangs_s=0, quiet_s=1e6, others_answer=others_answer
    )


def test_who_can_be_answered_elsewhere_does_not_wait() -> None:
    assert is_given_up(may_go_elsewhere=True, hangs_s=0.1, quiet_s=0, others_answer=True)


@pytest.mark.parametrize(("elsewhere", "others"), [(True, False), (False, True), (False, False)])
def test_who_cannot_waits_for_the_node_to_come_back(elsewhere: bool, others: bool) -> None:
    def given_up(hangs_s: float, quiet_s: float) -> bool:
        return is_given_up(
            may_go_elsewhere=elsewhere, hangs_s=hangs_s, quiet_s=quiet_s, others_answer=others
        )

    assert not given_up(GIVE_UP_S - 1, 1e6)
    assert given_up(GIVE_UP_S, GIVE_UP_S)
    # It tells nothing of itself, and goes on answering: that is no hang.
    assert not given_up(1e6, 1.0)
