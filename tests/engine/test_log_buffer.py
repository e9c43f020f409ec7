"""The engines' recent words, and those who follow them."""

import asyncio

from proxy.engine.log_buffer import LogBuffer, LogLine


def test_recent_is_kept_by_model() -> None:
    """A talkative model does not push another one's last words out."""
    book = LogBuffer(ring_lines=2)
    book.write("quiet", "b1", "last words")
    for number in range(5):
        book.write("loud", "b2", str(number))

    assert [line.text for line in book.recent("quiet")] == ["last words"]
    assert [line.text for line in book.recent("loud")] == ["3", "4"]
    assert [line.text for line in book.recent()] == ["last words", "3", "4"]
    assert book.recent("unknown") == []


async def test_readers_follow_one_model_or_all() -> None:
    book = LogBuffer()
    with book.read() as everything, book.read("a") as only_a:
        book.write("b", "b2", "one")
        book.write("a", "b1", "two")

        assert await anext(only_a) == LogLine(2, "a", "b1", "two")
        assert [(await anext(everything)).text for _ in range(2)] == ["one", "two"]


async def test_a_reader_waits_for_news() -> None:
    book = LogBuffer()
    with book.read() as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        assert not waiting.done()
        book.write("a", "b1", "news")

        assert (await waiting).text == "news"


async def test_a_slow_reader_loses_lines_and_is_told() -> None:
    book = LogBuffer(reader_lines=2)
    with book.read() as reader:
        for number in range(5):
            book.write("a", "b1", str(number))

        assert [(await anext(reader)).text for _ in range(3)] == [
            "... 3 lines lost, read faster ...",
            "3",
            "4",
        ]


async def test_a_reader_that_is_done_is_forgotten() -> None:
    book = LogBuffer()
    with book.read() as reader:
        pass
    book.write("a", "b1", "unheard")

    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


async def test_a_closed_buffer_has_an_end() -> None:
    book = LogBuffer()
    with book.read() as waiting, book.read() as behind:
        task = asyncio.ensure_future(anext(waiting, None))
        await asyncio.sleep(0)
        book.write("a", "b1", "last")
        assert (await task) is not None
        task = asyncio.ensure_future(anext(waiting, None))
        await asyncio.sleep(0)

        book.close()

        assert await task is None
        assert [line.text async for line in behind] == ["last"]
