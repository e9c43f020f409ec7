"""One source on its own thread."""

import queue
import threading

from proxy.memory.reader import Reader, ReadResult, Tell
from proxy.memory.readings import Unreadable
from tests.support.guard import HANG_S


class Source:
    """Answers with what the test puts in, when it puts it in."""

    def __init__(self) -> None:
        self.answers: queue.Queue[object] = queue.Queue()
        self.calls = 0
        self.clock = 0.0

    def read(self) -> object:
        self.calls += 1
        answer = self.answers.get(timeout=HANG_S)
        self.clock += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def ask(reader: Reader[object], source: Source, answer: object) -> None:
    done = threading.Event()
    source.answers.put(answer)
    assert reader.ask(done.set)
    assert done.wait(HANG_S)


def test_an_answer_is_as_old_as_its_question() -> None:
    source = Source()
    reader = Reader("card", source.read, lambda: source.clock)
    source.clock = 5.0

    ask(reader, source, "full")

    assert reader.answer == ReadResult("full", at_s=5.0)
    reader.stop()


def test_a_failure_keeps_what_was_true_before() -> None:
    source = Source()
    reader = Reader("card", source.read, lambda: source.clock)
    ask(reader, source, "full")

    ask(reader, source, Unreadable("card: lost"))
    assert reader.answer == ReadResult("full", at_s=0.0, problem="card: lost")

    ask(reader, source, ZeroDivisionError("bug"))
    assert reader.answer.problem == "card: ZeroDivisionError('bug')"

    ask(reader, source, "empty")
    assert reader.answer == ReadResult("empty", at_s=3.0)
    reader.stop()


def test_a_hanging_call_is_not_joined_by_another() -> None:
    source = Source()
    reader = Reader("card", source.read, lambda: source.clock)
    threads = threading.active_count()
    done = threading.Event()

    assert reader.ask(done.set)
    assert [reader.ask(done.set) for _ in range(100)] == [False] * 100
    assert reader.busy
    assert threading.active_count() == threads

    source.answers.put("at last")
    assert done.wait(HANG_S)
    assert (source.calls, reader.busy, reader.answer.value) == (1, False, "at last")
    reader.stop()


def test_a_stopped_reader_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    reader = Reader("card", lambda: None, lambda: 0.0)
    (thread,) = set(threading.enumerate()) - before

    reader.stop()

    thread.join(HANG_S)
    assert not thread.is_alive()


def test_it_looks_on_until_there_is_something_new_and_tells_once() -> None:
    source = Source()
    reader = Reader("card", source.read, lambda: source.clock)
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    tell = Tell(0.0, lambda: told.put(reader.answer.value))
    for answer in ("full", "full", "full", "empty", "half"):
        source.answers.put(answer)
    assert reader.ask(lambda: None, tell)

    assert told.get(timeout=HANG_S) == "empty"
    # From there on it waits to be asked: the next answer is of a question.
    assert (source.calls, reader.answer.at_s) == (4, 3.0)
    done = threading.Event()
    assert reader.ask(done.set)
    assert done.wait(HANG_S)
    assert (source.calls, reader.answer.value) == (5, "half")
    assert told.empty()
    reader.stop()


def test_a_failure_is_something_new() -> None:
    source = Source()
    reader = Reader("card", source.read, lambda: source.clock)
    told = threading.Event()
    for answer in ("full", Unreadable("card: lost")):
        source.answers.put(answer)
    assert reader.ask(lambda: None, Tell(0.001, told.set))

    assert told.wait(HANG_S)
    assert reader.answer == ReadResult("full", at_s=0.0, problem="card: lost")
    reader.stop()
