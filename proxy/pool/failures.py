"""Which starts failed lately, and when the next one may be made: an exponential back-off. Pure.

Each start makes others shrink or leave first, so what fails is not started as often as clients ask.
It has to prove itself: only an answer, or a long life, wipes its slate clean. Other load options or
other files make it another start, which knows nothing of this.
"""

from dataclasses import dataclass, replace
from typing import Final

from proxy.engine.files import Files
from proxy.engine.types import LoadOptions

FIRST_S: Final = 1.0
LONGEST_S: Final = 300.0
MOST_DOUBLINGS: Final = 20  # far beyond the longest; what comes of thousands has no number
# One that nobody tried again for so long since it might have been begins at the first second anew.
FORGOTTEN_S: Final = 600.0
MOST_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Failure:
    """How the starts of one model, loaded in one way, ended lately."""

    reason: str
    count: (
        int  # in a row; 0: it was ended from outside, or served, and has the benefit of the doubt
    )
    retry_at_s: float  # monotonic
    files: Files | None  # as they were before the start; None: nobody looked

    def wait_s(self, now_s: float) -> float:
        """How long it is until the next start may be made; 0: it may be now."""
        return max(self.retry_at_s - now_s, 0.0)


class Failures:
    """By load options, but for what is chosen anew for each start: the batch, the expert cache, and
    `parallel` where it is left to us. (An edit of it is another matter, and forgets them.)"""

    def __init__(self) -> None:
        self._kept: dict[LoadOptions, Failure] = {}  # the one that failed last at the end

    def note(
        self,
        options: LoadOptions,
        reason: str,
        files: Files | None,
        now_s: float,
        *,
        in_doubt: bool,
    ) -> Failure:
        """A start failed. `in_doubt`: perhaps not by its own fault, so that one more is made at
        once; if that fails too it counts, whatever the fault."""
        key = _key(options)
        before = self._kept.pop(key, None)
        if before and (before.files != files or now_s - before.retry_at_s > FORGOTTEN_S):
            before = None
        count = before.count + 1 if before else (0 if in_doubt else 1)
        failure = self._kept[key] = Failure(reason, count, now_s + _wait_s(count), files)
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return failure

    def refusing(self, options: LoadOptions, files: Files | None, now_s: float) -> Failure | None:
        """Why a start is not to be made now; None: it may be. `files`: as they are now; None:
        nobody looked, so they are what they were."""
        failure = self.of(options)
        if failure is None or not failure.wait_s(now_s):
            return None
        return failure if files is None or files == failure.files else None

    def of(self, options: LoadOptions) -> Failure | None:
        """The last failure, if nothing has been well since."""
        return self._kept.get(_key(options)) if self._kept else None

    def wait_s(self, options: LoadOptions, now_s: float) -> float:
        """How long it is until the next start may be made; 0: it may be now."""
        failure = self.of(options)
        return failure.wait_s(now_s) if failure else 0.0

    def forget(self, options: LoadOptions) -> None:
        """It is well, or nobody is to be told of it any more."""
        if self._kept:
            self._kept.pop(_key(options), None)


def same_start(one: LoadOptions, other: LoadOptions) -> bool:
    """Whether a failure of one is a failure of the other."""
    return _key(one) == _key(other)


def _key(options: LoadOptions) -> LoadOptions:
    return replace(options, ubatch=None, parallel=1, cache_mib=0, cached_layers=0)


def _wait_s(count: int) -> float:
    return min(FIRST_S * 2.0 ** min(count - 1, MOST_DOUBLINGS), LONGEST_S) if count else 0.0
