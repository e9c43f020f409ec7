"""Whether a worker hangs, by what was seen of it at each look. Pure; the shell is
`proxy.control.hang_watch`.

Two things are watched, and each has its limit:
  silence  the worker does not answer the proxy itself: it is stopped, or stuck as a whole
  stall    it has something to do, and nothing of that goes on: no decode step begins, no byte
           comes, its task loop does not go round, no layer of a move arrives; or it loads, and
           says nothing of it

A long prompt is neither, as its batches go on. What is slow for a good reason is given time:
  - pages that are read show that it waits for a disk, or for swap
  - more CPU time than one thread can spend in waiting shows that it computes: it has longer
  - time in which nobody looked (the machine was busy, stopped or asleep) does not count
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

LOOK_S: Final = 1.0
# Where none of them has anything to do; not longer than what counts as theirs.
IDLE_LOOK_S: Final = 2 * LOOK_S
# More time than this between two looks was not the worker's: it may have been stopped with us.
MOST_S: Final = 2 * LOOK_S
# An answer over the control socket takes a millisecond, whatever the model is at.
SILENT_S: Final = 60.0
# By then the end of a process is known. A connection that is lost without it does not come back,
# and neither does a foreign server that takes none any more.
LOST_S: Final = 5.0
# One thread may spin while it waits for a GPU that never answers; two do not.
COMPUTING_CORES: Final = 1.25
COMPUTING_TIMES: Final = 6
# In one look. Fewer are those of a process that was woken only to answer.
PAGES: Final = 16

Answers = Literal["yes", "no", "lost"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each may last."""

    silent_s: float
    stalled_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of a worker at one look."""

    at_s: float  # monotonic
    answers: Answers = "yes"  # to the proxy's own question; "lost": nobody will any more
    has_work: bool = False
    went_on: bool = False  # something was done since the look before
    pages: int = 0  # read from a disk since then
    cpu_s: float = 0.0  # spent by all its threads since then


@dataclass(frozen=True, slots=True)
class Vigil:
    """What the looks so far come to: for how long it is silent, lost and stalled, and the CPU time
    that it spent in that."""

    seen_s: float
    silent_s: float = 0.0
    silent_cpu_s: float = 0.0
    lost_s: float = 0.0
    stalled_s: float = 0.0
    stalled_cpu_s: float = 0.0


def look_on(vigil: Vigil, look: Look) -> Vigil:
    """What one more look makes of it."""
    passed_s = min(look.at_s - vigil.seen_s, MOST_S)
    reads = look.pages >= PAGES
    vigil = replace(vigil, seen_s=look.at_s)
    if look.answers == "yes" or reads:
        vigil = replace(vigil, silent_s=0.0, silent_cpu_s=0.0)
    else:
        cpu_s = vigil.silent_cpu_s + look.cpu_s
        vigil = replace(vigil, silent_s=vigil.silent_s + passed_s, silent_cpu_s=cpu_s)
    vigil = replace(vigil, lost_s=vigil.lost_s + passed_s if look.answers == "lost" else 0.0)
    if look.went_on or reads:
        return replace(vigil, stalled_s=0.0, stalled_cpu_s=0.0)
    if not look.has_work:
        # Kept, not forgotten: a client that gives up and asks again every minute hides no stall.
        return vigil
    cpu_s = vigil.stalled_cpu_s + look.cpu_s
    return replace(vigil, stalled_s=vigil.stalled_s + passed_s, stalled_cpu_s=cpu_s)


def verdict(vigil: Vigil, limits: Limits) -> str | None:
    """Why the worker is taken to hang, for people; None: it is not."""
    if vigil.lost_s > LOST_S:
        return "the worker hangs: nobody can reach it any more, and it has not ended"
    if vigil.silent_s > _patience_s(limits.silent_s, vigil.silent_s, vigil.silent_cpu_s):
        return f"the worker hangs: it has not answered the proxy for {vigil.silent_s:.0f} s"
    if vigil.stalled_s > _patience_s(limits.stalled_s, vigil.stalled_s, vigil.stalled_cpu_s):
        return f"the worker hangs: it is busy, and nothing went on for {vigil.stalled_s:.0f} s"
    return None


def _patience_s(limit_s: float, passed_s: float, cpu_s: float) -> float:
    computes = cpu_s > COMPUTING_CORES * passed_s
    return limit_s * COMPUTING_TIMES if computes else limit_s
