"""Which requests are taken to kill workers."""

from proxy.routing.suspects import MOST_SUSPECTS, REMEMBERED_S, Suspects

A, B, C = (("m", name) for name in (b"a", b"b", b"c"))


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def crash(suspects: Suspects, number: int, *there: tuple[tuple[str, bytes], bool]) -> list[int]:
    """A worker crashes; these were there, with a byte or without. What is known of each then."""
    start = ("b1", number)
    for asked, has_byte in there:
        suspects.was_there(start, asked, has_byte=has_byte)
    return [suspects.judge(start, asked) for asked, _ in there]


def test_the_only_one_without_a_byte_is_to_blame_whoever_streams() -> None:
    assert crash(Suspects(), 1, (A, False), (B, True), (C, True)) == [1, 0, 0]


def test_one_that_was_there_alone_is_to_blame_also_in_mid_answer() -> None:
    assert crash(Suspects(), 1, (A, True)) == [1]
    assert crash(Suspects(), 1, (A, False)) == [1]


def test_of_several_nobody_is() -> None:
    assert crash(Suspects(), 1, (A, False), (B, False)) == [0, 0]
    assert crash(Suspects(), 1, (A, True), (B, True)) == [0, 0]


def test_two_that_ask_the_same_are_one() -> None:
    assert crash(Suspects(), 1, (A, True), (A, False), (B, True)) == [1, 1, 0]


def test_each_worker_counts_once() -> None:
    suspects = Suspects()

    assert crash(suspects, 1, (A, False)) == [1]
    assert suspects.judge(("b1", 1), A) == 1
    assert crash(suspects, 2, (A, False)) == [2]
    assert suspects.deaths(B) == 0
    assert suspects.deaths(("other", A[1])) == 0


def test_an_answer_clears_it_and_so_does_time() -> None:
    time = Time()
    suspects = Suspects(time)
    crash(suspects, 1, (A, False))
    crash(suspects, 2, (B, False))
    suspects.clear(A)

    assert [suspects.deaths(asked) for asked in (A, B)] == [0, 1]
    time.now_s = REMEMBERED_S + 1
    assert suspects.deaths(B) == 0


def test_no_more_are_remembered_than_may_be() -> None:
    suspects = Suspects()
    for number in range(MOST_SUSPECTS + 10):
        crash(suspects, number, (("m", b"%d" % number), False))

    known = [suspects.deaths(("m", b"%d" % number)) for number in range(MOST_SUSPECTS + 10)]
    assert sum(known) == MOST_SUSPECTS
    assert known[-1] == 1
