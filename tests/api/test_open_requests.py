"""Who is here, and which slots are at whose request."""

import asyncio

from proxy.api.open_requests import OpenRequest, OpenRequests, Progress, progress_of
from proxy.observe.rates import SlotProgress
from proxy.pool.work import Work


def request(name: str, *, asked_ns: int = 0, slots: int = 1) -> OpenRequest:
    work = Work(None, slots=slots)
    made = OpenRequest(name, "/v1/chat/completions", "m", work, asyncio.timeout(None))
    made.asked_ns = asked_ns
    return made


async def test_tasks_count_up_as_requests_were_sent() -> None:
    first, two, last = (
        request("x", asked_ns=10),
        request("y", asked_ns=20, slots=2),
        request("z", asked_ns=30),
    )
    slots = {
        0: SlotProgress(9, 1),
        1: SlotProgress(4, 30, busy=False),
        2: SlotProgress(6, 12),
        3: SlotProgress(7, 0, 60),
        4: SlotProgress(8, 0, 20),
    }

    assert progress_of([last, two, first], slots) == {
        "x": Progress(12, None),
        "y": Progress(0, 80),
        "z": Progress(1, None),
    }


async def test_where_the_numbers_do_not_match_nothing_is_said() -> None:
    assert progress_of([request("x"), request("y")], {0: SlotProgress(1, 5)}) == {}
    assert progress_of([], {0: SlotProgress(1, 5)}) == {}


async def test_two_of_one_name_are_told_apart() -> None:
    book = OpenRequests()
    with book.here(request("same")), book.here(request("same")):
        assert [one.id for one in book] == ["same", "same.2"]
    assert list(book) == []


async def test_one_that_is_cancelled_ends_and_no_other() -> None:
    book, ended = OpenRequests(), []

    async def run(name: str) -> None:
        timer = asyncio.timeout(None)
        made = OpenRequest(name, "/", "m", Work(None), timer)
        try:
            async with timer:
                with book.here(made):
                    await asyncio.Event().wait()
        except TimeoutError:
            ended.append((name, made.cancelled))

    tasks = [asyncio.create_task(run(name)) for name in ("a", "b")]
    await asyncio.sleep(0)

    assert book.cancel("a")
    await tasks[0]
    assert not book.cancel("a")
    assert [one.id for one in book] == ["b"]
    assert book.cancel("b")
    await tasks[1]
    assert ended == [("a", True), ("b", True)]
