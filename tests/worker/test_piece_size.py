"""How large pieces become beside steps that share their way, with made-up devices and a clock that
is moved by hand."""

import pytest

from proxy.worker.piece_size import LEAST_BYTES, LOOK_S, MOST_BYTES, PieceSize

THERE_AND_BACK_S = 1e-4


class Way:
    """A device behind one connection: a step that takes `step_s` by itself has `questions`, each of
    which waits for half a piece while a copy goes on."""

    def __init__(self, *, step_s: float | None, questions: int, bytes_per_s: float) -> None:
        self.step_s, self.questions, self.bytes_per_s = step_s, questions, bytes_per_s
        self.now_s = 0.0
        self.piece_size = PieceSize(
            self.steps, self.stepping, now=lambda: self.now_s, sleep=self.sleep
        )
        # What changes: steps that have begun, the last one's share that is done, and how long the
        # ones beside a copy took.
        self._done, self._share = 0, 0.0
        self.beside: list[float] = []
        self._since_s = 0.0

    def steps(self) -> int:
        return self._done

    def stepping(self) -> bool:
        return self.step_s is not None

    def sleep(self, seconds: float, longer_s: float = 0.0) -> None:
        self.now_s += seconds
        if self.step_s is not None:
            self._share += seconds / (self.step_s + longer_s)
            while self._share >= 1:
                self._share -= 1
                self._done += 1
                self.beside.append(self.now_s - self._since_s)
                self._since_s = self.now_s

    def copy(self, pieces: int) -> None:
        self.piece_size.begin(lambda: False)
        self.beside.clear()
        for _ in range(pieces):
            piece_s = self.piece_size.bytes / self.bytes_per_s + THERE_AND_BACK_S
            self.sleep(piece_s, self.questions * piece_s / 2)
            self.piece_size.piece_done()


@pytest.mark.parametrize("step_s", [0.005, 0.025, 0.1])
@pytest.mark.parametrize("questions", [2, 24, 96])
@pytest.mark.parametrize("bytes_per_s", [1e8, 1e9, 1e10])
def test_steps_beside_a_copy_are_not_twice_as_long_where_pieces_can_be_small_enough(
    step_s: float, questions: int, bytes_per_s: float
) -> None:
    way = Way(step_s=step_s, questions=questions, bytes_per_s=bytes_per_s)
    way.copy(1000)  # until it has found out
    least_s = questions * (LEAST_BYTES / bytes_per_s + THERE_AND_BACK_S) / 2

    way.copy(1000)

    steps = sorted(way.beside)[len(way.beside) // 10 :]
    assert max(steps, default=0.0) <= max(2 * step_s, step_s + least_s) + 0.005


def test_pieces_are_no_smaller_than_need_be() -> None:
    """The device is as fast as can be, and a step asks it little."""
    way = Way(step_s=0.025, questions=2, bytes_per_s=1e10)
    way.copy(20_000)  # it grows with each step, and there are few

    assert way.piece_size.bytes == MOST_BYTES


def test_where_nobody_asks_pieces_are_large_at_once() -> None:
    way = Way(step_s=0.005, questions=96, bytes_per_s=1e8)
    way.copy(1000)
    assert way.piece_size.bytes < MOST_BYTES

    way.step_s = None
    way.sleep(10.0)
    began_s = way.now_s
    way.piece_size.begin(lambda: False)

    assert way.piece_size.bytes == MOST_BYTES
    assert way.now_s - began_s < LOOK_S / 10, "who is idle is not looked at for long"


def test_who_is_told_to_stop_does_not_look() -> None:
    way = Way(step_s=0.1, questions=96, bytes_per_s=1e8)
    way.piece_size.begin(lambda: True)

    assert way.now_s == 0.0
