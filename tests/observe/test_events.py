"""Events are numbered, kept, and handed on; who is too slow is told what it missed."""

import asyncio
from datetime import UTC, datetime

from proxy.observe.events import EventLog

AT = datetime(2025, 1, 1, tzinfo=UTC)


def a_log(*, keep: int = 5, subscriber_keep: int = 3) -> EventLog:
    return EventLog(keep=keep, subscriber_keep=subscriber_keep, now=lambda: AT)


def test_events_are_numbered_from_one() -> None:
    events = a_log()

    first, second = events.publish("a", x=1), events.publish("b")

    assert (first.id, second.id, events.last_id) == (1, 2, 2)
    assert first.to_json() == {"id": 1, "at": "2025-01-01T00:00:00+00:00", "kind": "a", "x": 1}


def test_a_reader_that_comes_back_gets_what_it_missed_as_far_as_it_is_kept() -> None:
    events = a_log()
    for number in range(8):
        events.publish("n", number=number)

    assert [event.id for event in events.since(6)] == [7, 8]
    assert events.since(8) == []
    marker, *kept = events.since(1)
    assert (marker.kind, marker.fields, marker.id) == ("lost", {"count": 2}, 3)
    assert [event.id for event in kept] == [4, 5, 6, 7, 8]


def test_what_comes_often_takes_nothing_from_what_is_rare() -> None:
    events = a_log(keep=2)
    events.publish("rare")
    for _ in range(4):
        events.publish("often")
    events.publish("rare")
    for _ in range(3):
        events.publish("often")

    told = [(event.kind, event.id, event.fields.get("count")) for event in events.since(0)]

    assert told == [
        ("rare", 1, None),
        ("lost", 5, 4),
        ("rare", 6, None),
        ("lost", 7, 1),
        ("often", 8, None),
        ("often", 9, None),
    ]
    assert [event.id for event in events.since(6)] == [7, 8, 9]
    assert [event.id for event in events.since(8)] == [9]


async def test_subscribers_get_events_in_order() -> None:
    events = a_log()
    with events.subscribe() as mine, events.subscribe() as other:
        events.publish("a")
        events.publish("b")

        assert [(await anext(mine)).kind, (await anext(mine)).kind] == ["a", "b"]
        assert (await anext(other)).kind == "a"


async def test_a_slow_subscriber_loses_the_oldest_and_is_told_how_many() -> None:
    events = a_log()
    with events.subscribe() as slow:
        for _ in range(7):
            events.publish("n")

        seen = [await anext(slow) for _ in range(4)]

    assert [(event.kind, event.id) for event in seen] == [("lost", 4), ("n", 5), ("n", 6), ("n", 7)]
    assert seen[0].fields == {"count": 4}


async def test_subscribing_after_an_id_has_no_gap_and_no_repetition() -> None:
    events = a_log()
    events.publish("a")
    events.publish("b")
    with events.subscribe(after=1) as reader:
        events.publish("c")

        assert [(await anext(reader)).id, (await anext(reader)).id] == [2, 3]


async def test_an_id_of_an_earlier_process_starts_from_what_is_kept() -> None:
    events = a_log()
    events.publish("a")
    with events.subscribe(after=99) as reader:
        assert (await anext(reader)).id == 1


async def test_waiting_is_woken_and_leaving_ends_the_subscription() -> None:
    events = a_log()
    with events.subscribe() as reader:
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        events.publish("a")
        assert (await waiting).kind == "a"

    assert repr(events) == "<EventLog last_id=1 subscribers=0>"


async def test_a_closed_log_has_an_end() -> None:
    """What was there before is told first."""
    events = a_log()
    with events.subscribe() as waiting, events.subscribe() as behind:
        task = asyncio.ensure_future(anext(waiting, None))
        await asyncio.sleep(0)
        events.publish("a")
        assert (await task) is not None
        task = asyncio.ensure_future(anext(waiting, None))
        await asyncio.sleep(0)

        events.close()

        assert await task is None
        assert [event.kind async for event in behind] == ["a"]


async def test_what_is_soon_old_has_no_number_and_is_not_kept() -> None:
    events = a_log()
    events.tell("memory", free=1)
    with events.subscribe() as reader:
        events.tell("memory", free=2)
        told = await anext(reader)

    assert told.to_json() == {"at": "2025-01-01T00:00:00+00:00", "kind": "memory", "free": 2}
    assert (events.last_id, events.since(0)) == (0, [])


async def test_who_tells_waits_while_nobody_follows() -> None:
    events = a_log()

    async def followed() -> bool:
        waiting = asyncio.ensure_future(events.until_followed())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done = waiting.done()
        waiting.cancel()
        return done

    assert not await followed()
    with events.subscribe():
        with events.subscribe():
            assert await followed()
        assert await followed()
    assert not await followed()


async def test_a_slow_reader_is_told_where_it_lost_something_of_both_kinds() -> None:
    events = a_log(subscriber_keep=2)
    with events.subscribe() as reader:
        events.publish("a")
        events.tell("memory")
        events.tell("memory")
        events.publish("b")
        marker, memory, second = [await anext(reader) for _ in range(3)]

    assert (marker.kind, marker.fields, marker.id) == ("lost", {"count": 2}, 1)
    assert (memory.kind, memory.id) == ("memory", 0)
    assert (second.kind, second.id) == ("b", 2)
