"""Who runs and who waits: events in, effects out. No clock, no process, no await; the shell is
`proxy.pool.pool`. Which backend is the one for a request, `proxy.pool.selection` says.

Every request that comes in ends in exactly one of these, in `_acquire` and `_wait`:
  1. refused   the pool is draining
  2. granted   a ready backend serves it, and has a place for it
  3. granted   its backend's successor is still loading (or failed to), and the request can do with
       the old one
  4. refused   as many wait already as may wait
  5. in line   a ready backend serves it as soon as it is its turn (`proxy.pool.places`)
  6. joined    a starting backend will serve it
  7. queued    a backend that would have served it is on its way out; decided anew when that is gone
  8. refused   what it would start failed a moment ago, and is not to be started yet
  9. refused   it would take the place of one that is pinned
 10. started   nothing else: it gets a backend of its own, and joins it
"""

from math import isinf

from proxy.engine.types import LoadOptions
from proxy.pool import refusals, selection
from proxy.pool.book import Book
from proxy.pool.effects import Effect, Fail, Idle, NotYet, Refuse, Start, Stop
from proxy.pool.events import (
    Abort,
    Acquire,
    Drain,
    Event,
    Exited,
    Hangs,
    MatchPolicy,
    NotServing,
    Pin,
    Released,
    Replace,
    Report,
    Started,
    StartFailed,
    TimerFired,
    Unload,
    Yielded,
)
from proxy.pool.state import Backend, BackendState, advance

STARTING, READY, DRAINING, STOPPING, GONE = BackendState


class Scheduler(Book):
    """The pool's brain and the owner of its state."""

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take note of `event` and say what is to be done, in that order."""
        self._now_s = now_s
        match event:
            case Acquire():
                self._acquire(event)
            case Released():
                self._released(event)
            case Yielded():
                self._yielded(event)
            case Unload():
                self._unload(event)
            case Replace():
                self._replace(event)
            case Pin():
                self._pin(event)
            case Drain():
                self.draining = True
                for backend in list(self.backends.values()):
                    self._drain(backend, "drain")
            case Abort():
                self._abort()
            case _:
                self._report(event)
        effects, self._effects = self._effects, []
        return effects

    # Requests come and go.

    def _acquire(self, event: Acquire) -> None:
        # 1. refused
        if self.draining:
            self._effects.append(Refuse(event.request, "draining"))
            return
        backend = selection.ready_for(event, self.backends.values())
        # 4. refused
        if not (backend and backend.has_place(event)) and self.waiting.is_full_for(event):
            wait_s = backend.places.expected_s(self._now_s) if backend else None
            self._effects.append(Refuse(event.request, "full", wait_s))
        # 2., 3. granted, 5. in line
        elif backend:
            self._serve(event, backend)
        else:
            self._wait(event)

    def _wait(self, event: Acquire, *, retried: bool = False) -> None:
        # 6. joined
        if starting := selection.starting_for(event, self.backends.values()):
            self._join(event, starting, retried)
        # 7. queued
        elif leaving := selection.leaving_for(event, self.backends.values()):
            self.waiting.add(event, leaving.name, joined=False, retried=retried)
        # 8. refused
        elif not event.insists and (
            failure := self.failures.refusing(event.options, event.files, self._now_s)
        ):
            self._effects.append(NotYet(event.request, failure, failure.wait_s(self._now_s)))
        # 9. refused
        elif pinned := selection.pinned_in_the_way(event.options, self.backends.values()):
            self._effects.append(Refuse(event.request, "pinned", model=pinned))
        # 10. started
        else:
            self._join(event, self._start(event.options, event.matching), retried)

    def _released(self, event: Released) -> None:
        waiting, lease = self.waiting.pop(event.request, None), self.leases.pop(event.request, None)
        if (backend := self.backends.current(waiting.backend if waiting else lease)) is None:
            return
        backend.places.leave(event.request, self._now_s, answered=event.answered)
        if waiting:
            if waiting.joined:
                backend.waiting -= 1
                # Nobody waits any more, but it goes on loading: the next request is likely for it.
                self._stop_if_drained(backend)
            return
        backend.in_flight -= 1
        backend.last_used_s = self._now_s
        if event.answered and not backend.proven:
            backend.proven = True
            self.failures.forget(backend.options)
        self._serve_next(backend)
        self._stop_if_drained(backend)
        if backend.idle:
            self._became_idle(backend)

    def _yielded(self, event: Yielded) -> None:
        if backend := self.backends.current(self.leases.get(event.request)):
            backend.places.leave(event.request, self._now_s, answered=True)
            self._serve_next(backend)

    # Backends come and go.

    def _start(self, options: LoadOptions, matching: MatchPolicy) -> Backend:
        in_the_way = selection.in_the_way(options, self.backends.values())
        backend = self.backends.add(options, matching, self._now_s)
        backend.blocked_by = {other.name for other in in_the_way}
        if not in_the_way:
            self._effects.append(Start(*backend.name))
        for other in in_the_way:
            # One that was never started itself is gone at once, which may start this one.
            self._drain(other, "rpc")
        return backend

    def _report(self, event: Report) -> None:
        backend = self.backends.current((event.backend, event.generation))
        if backend is None or backend.state is GONE:
            self.stale += 1
            return
        match event:
            case Started():
                backend.files, backend.ready_s = event.files, self._now_s
                self._started(backend)
            case StartFailed():
                backend.files = event.files
                self._gone(backend, event.message, killed=event.killed)
            case Exited():
                backend.crashed = not event.killed and backend.state is not STOPPING
                self._gone(backend, event.message, killed=True)
            case NotServing():
                # Those that have connections may be answered yet; the next ones wait for its end.
                if backend.state is READY:
                    self._failed(backend, event.message, in_doubt=True)
                backend.places.dissolve()
                self._drain(backend, event.message)
            case Hangs():
                self._hangs(backend, event.message)
            case TimerFired():
                if backend.is_due(self._now_s):
                    self._stop(backend, "keep_alive")

    def _started(self, backend: Backend) -> None:
        if backend.state is STARTING:
            self._effects.append(advance(backend, READY, "loaded"))
            self.backends.forget_like(backend)
        for waiting in self.waiting.take(backend.name, joined=True):
            backend.waiting -= 1
            self._serve(waiting.acquire, backend, retried=waiting.retried)
        self._stop_if_drained(backend)
        if backend.state is not READY:
            return  # let go of while it loaded; or the order to stop it crossed its message
        for waiting in list(self.waiting.values()):
            # Queued until another one is gone, which may take as long as an answer does.
            home = self.backends.current(waiting.backend)
            if not waiting.joined and not (home and waiting.acquire.request in home.places):
                if selection.can_serve(backend, waiting.acquire):
                    del self.waiting[waiting.acquire.request]
                    self._serve(waiting.acquire, backend, retried=waiting.retried)
        for other in list(self.backends.values()):
            if other is not backend and selection.is_replaced(other, backend):
                self._drain(other, "replaced")
        if backend.idle:
            self._became_idle(backend)

    def _hangs(self, backend: Backend, message: str) -> None:
        """Those who have it see it end. Who waits for its load waits for its end now, once."""
        if backend.state is STOPPING:
            return
        backend.fault = message
        for waiting in self.waiting.of(backend.name, joined=True):
            backend.waiting -= 1
            if waiting.retried:
                del self.waiting[waiting.acquire.request]
                self._effects.append(Fail(waiting.acquire.request, message))
            waiting.joined, waiting.retried = False, True
        self._stop(backend, message)

    def _became_idle(self, backend: Backend) -> None:
        self._effects.append(Idle(*backend.name))
        if self.draining:
            self._stop(backend, "drain")
        elif backend.ttl_s <= 0:
            self._stop(backend, "keep_alive")
        elif not isinf(backend.ttl_s):
            self._set_timer(backend, self._now_s + backend.ttl_s)

    def _drain(self, backend: Backend, why: str) -> None:
        """Have it finish what it has, then stop."""
        if backend.state in (STARTING, READY):
            self._set_timer(backend, None)
            self._effects.append(advance(backend, DRAINING, why))
            for waiting in self.waiting.of(backend.name, joined=False):
                # Whom another one serves goes there; the others keep their places in its line.
                if selection.ready_for(waiting.acquire, self.backends.values()):
                    backend.places.leave(waiting.acquire.request, self._now_s)
                    del self.waiting[waiting.acquire.request]
                    self._again(waiting.acquire, retried=waiting.retried)
            self._stop_if_drained(backend)

    def _stop_if_drained(self, backend: Backend) -> None:
        if backend.state is DRAINING and not backend.in_flight and not backend.waiting:
            self._stop(backend, "drained")

    def _stop(self, backend: Backend, why: str) -> None:
        self._set_timer(backend, None)
        if backend.blocked_by:
            # It was never started: there is no process to end, and nobody to tell of its end.
            backend.blocked_by.clear()
            self._effects.append(advance(backend, GONE, why))
            del self.backends[backend.id]
            self._go_on_without(backend)
            return
        # Who is in line waits for its end from now on.
        backend.places.dissolve()
        self._effects += [advance(backend, STOPPING, why), Stop(*backend.name)]

    def _gone(self, backend: Backend, message: str, *, killed: bool) -> None:
        """The process is no more. Its requests: those with a lease see it themselves, the others
        are seen to here."""
        asked_to = backend.state is STOPPING and backend.fault is None
        loading, message = backend.state is STARTING, backend.fault or message
        self._set_timer(backend, None)
        # Its last leases are given back later, and have no place to hand on.
        backend.places.dissolve()
        self._effects.append(advance(backend, GONE, "stopped" if asked_to else message))
        if not asked_to:
            backend.last_error = message
            self._failed(backend, message, in_doubt=killed or backend.fault is not None)
        if asked_to and not backend.failed:
            del self.backends[backend.id]
        else:
            for old in self.backends.values() if loading else ():
                if old.state is not GONE and selection.is_meant_for(old, backend):
                    old.last_error = message  # it stays in its place, and says why
            self.backends.forget_old_failures(backend)
        for waiting in self.waiting.take(backend.name, joined=True):
            backend.waiting -= 1
            if killed and not waiting.retried:
                self._again(waiting.acquire, retried=True)
            else:
                wait_s = self.failures.wait_s(backend.options, self._now_s)
                self._effects.append(Fail(waiting.acquire.request, message, wait_s))
        self._go_on_without(backend)

    def _go_on_without(self, gone: Backend) -> None:
        """Start what waited for the room of `gone`, and decide anew on the requests that queued for
        it."""
        for other in self.backends.values():
            if gone.name in other.blocked_by:
                other.blocked_by.discard(gone.name)
                if not other.blocked_by:
                    self._effects.append(Start(*other.name))
        for waiting in self.waiting.take(gone.name, joined=False):
            self._again(waiting.acquire, retried=waiting.retried)

    def _again(self, event: Acquire, *, retried: bool) -> None:
        # Accepted once, it is not refused any more for a full queue or a drain that began since.
        if backend := selection.ready_for(event, self.backends.values()):
            self._serve(event, backend, retried=retried)
        else:
            self._wait(event, retried=retried)

    # Others have a say.

    def _unload(self, event: Unload) -> None:
        if (backend := self.backends.get(event.backend)) is None:
            return
        if backend.state is GONE:
            del self.backends[backend.id]
            self.failures.forget(backend.options)
        self._drain(backend, "unload")

    def _pin(self, event: Pin) -> None:
        backend = self.backends.get(event.backend)
        if backend and backend.pinned.set(event.pinned, by_policy=event.by_policy):
            self._set_timer(backend, None)
            if backend.idle and not event.pinned:
                self._became_idle(backend)

    def _replace(self, event: Replace) -> None:
        old = self.backends.get(event.backend)
        if old is None or old.state not in (STARTING, READY):
            return
        old.successor, old.last_error = event.options, None
        for other in list(self.backends.values()):
            # An earlier successor that is still loading is not what is wanted any more.
            if selection.is_outdated(other, old, event.options):
                self._drain(other, "replaced")
        if old.options == event.options:
            old.successor = None  # changed back before anything came of it
            return
        if pinned := selection.pinned_in_the_way(event.options, self.backends.values()):
            old.last_error = refusals.pinned(pinned)  # it stays in its place, and says why
            return
        same = [b for b in self.backends.values() if b.options == event.options]
        if any(b.state is READY for b in same):
            self._drain(old, "replaced")
        elif starting := next((b for b in same if b.state is STARTING), None):
            starting.replaces = old.name
        else:
            new = self._start(event.options, old.matching)
            new.take_over(old)

    def _abort(self) -> None:
        self.draining = True
        self._effects += [Refuse(request, "draining") for request in self.waiting]
        self.waiting.clear()
        for backend in list(self.backends.values()):
            backend.waiting = 0
            if backend.state not in (STOPPING, GONE):
                self._stop(backend, "abort")
