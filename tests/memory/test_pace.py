"""How often memory is read."""

from proxy.memory.pace import (
    CALM_AFTER_S,
    CALM_POLL_S,
    HOST_S,
    IDLE_POLL_S,
    POLL_S,
    PRESSED_POLL_S,
    PRESSED_S,
    Pace,
)


def test_seldom_while_nothing_is_held_and_often_while_something_is() -> None:
    pace = Pace()

    assert pace.interval_s(0.0, holds=True, told=True) == POLL_S == 0.25
    assert pace.interval_s(0.0, holds=False, told=True) == IDLE_POLL_S == 5.0


def test_more_often_for_a_while_after_programs_have_waited_for_memory() -> None:
    pace = Pace()
    pace.pressed(100.0)

    assert pace.interval_s(100.0, holds=False, told=True) == PRESSED_POLL_S
    assert pace.interval_s(100.0 + PRESSED_S, holds=False, told=True) == IDLE_POLL_S
    assert pace.interval_s(100.0, holds=True, told=True) == POLL_S


def test_less_often_where_others_look_and_tell() -> None:
    pace = Pace()

    assert pace.interval_s(0.0, holds=True, told=True, calm=True) == CALM_POLL_S == 2.0
    assert pace.interval_s(0.0, holds=False, told=True, calm=True) == IDLE_POLL_S


def test_it_is_calm_when_nothing_has_changed_for_a_while() -> None:
    pace = Pace()
    pace.stirred(100.0)

    assert not pace.is_calm(100.0 + POLL_S)
    assert pace.is_calm(100.0 + CALM_AFTER_S)


def test_where_nobody_tells_of_pressure_it_is_looked_for() -> None:
    assert Pace().interval_s(100.0, holds=False, told=False) == PRESSED_POLL_S


def test_the_machines_own_memory_is_read_once_in_a_while_and_whenever_somebody_asks() -> None:
    pace = Pace()
    assert pace.host_is_due(100.0)
    pace.host_asked(100.0, told=True)

    assert not pace.host_is_due(100.0 + POLL_S)
    assert pace.host_is_due(100.0 + HOST_S)
    for told in (pace.hurry, lambda: pace.pressed(100.0)):
        pace.host_asked(100.0, told=True)
        told()
        assert pace.host_is_due(100.0 + POLL_S)


def test_the_machines_own_memory_is_read_more_often_while_it_may_be_short() -> None:
    pressed, untold = Pace(), Pace()
    pressed.pressed(100.0)
    pressed.host_asked(100.0, told=True)
    untold.host_asked(100.0, told=False)

    for pace in (pressed, untold):
        assert not pace.host_is_due(100.0 + POLL_S)
        assert pace.host_is_due(100.0 + PRESSED_POLL_S)
