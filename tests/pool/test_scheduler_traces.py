"""The scheduler under random traces: whatever happens in whatever order, nothing of this may be
broken."""

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.engine.types import LoadOptions
from proxy.pool.effects import Changed, Effect, Fail, Grant, NotYet, Refuse, SetTimer, Start, Stop
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
    Started,
    StartFailed,
    TimerFired,
    Unload,
    Yielded,
)
from proxy.pool.scheduler import Scheduler
from proxy.pool.state import BackendState
from proxy.pool.work import Work

MAX_QUEUE = 4
BASE = LoadOptions("a", Path("a.gguf"), ctx=4096, split=1, parallel=2)
OPTIONS = [
    BASE,
    replace(BASE, ctx=8192),
    replace(BASE, split=2),
    replace(BASE, model="b"),
    replace(BASE, model="b", ctx=8192, split=2),
    replace(BASE, model="c", rpc=("h:1",)),
    replace(BASE, model="d", rpc=("h:1", "h:2")),
]
POLICIES = [
    MatchPolicy(),
    MatchPolicy(unpinned=frozenset({"ctx", "split"})),
    MatchPolicy(coexist=True, default_keep_alive_s=0.0),
    MatchPolicy(max_queue=2),
]
options = st.sampled_from(OPTIONS)
matching = st.sampled_from(POLICIES)
Name = tuple[str, int]


class Traces(RuleBasedStateMachine):
    """Plays clients and processes. A process is known by its start: loading, serving, or told to
    stop."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(max_queue=MAX_QUEUE)
        self.now_s = 0.0
        self.requests = 0
        self.waiting: set[int] = set()
        self.working: set[int] = set()  # those that need a slot
        self.holding: dict[int, Name] = {}
        self.loading: set[Name] = set()
        self.serving: set[Name] = set()
        self.stopping: set[Name] = set()
        self.timers: dict[Name, float] = {}
        self.starts: set[Name] = set()
        self.draining = False
        self.not_before_s: dict[LoadOptions, float] = {}  # of what failed to load
        self.insisted: set[Name] = set()  # starts that somebody has insisted on

    def tell(self, event: Event) -> list[Effect]:
        self.now_s += 0.25
        effects = self.scheduler.handle(event, self.now_s)
        for waiting in self.scheduler.waiting.values():
            if waiting.joined and waiting.acquire.insists:
                self.insisted.add(waiting.backend)
        for effect in effects:
            self.perform(effect)
        return effects

    def perform(self, effect: Effect) -> None:
        match effect:
            case Start(backend, generation):
                assert (backend, generation) not in self.starts, "one start, one name"
                options = self.scheduler.backends[backend].options
                insisted = (backend, generation) in self.insisted
                if not (insisted or self.scheduler.backends[backend].replaces):
                    assert self.now_s >= self.not_before_s.get(options, 0.0), "not so soon again"
                rpc = set(options.rpc)
                for other, _ in self.loading | self.serving:
                    running = self.scheduler.backends.get(other)
                    assert not (running and rpc & set(running.options.rpc)), "one client at a time"
                self.starts.add((backend, generation))
                self.loading.add((backend, generation))
            case Stop(backend, generation):
                assert (backend, generation) in self.loading | self.serving, "stops what runs"
                assert (backend, generation) not in self.stopping, "stopped once"
                self.stopping.add((backend, generation))
            case Grant(request, backend, generation):
                self.waiting.remove(request)
                assert (backend, generation) in self.serving - self.stopping, "granted what serves"
                self.holding[request] = (backend, generation)
            case Refuse(request) | Fail(request) | NotYet(request):
                self.waiting.remove(request)
            case SetTimer(backend, generation, None):
                self.timers.pop((backend, generation), None)
            case SetTimer(backend, generation, float(at_s)):
                self.timers[backend, generation] = at_s
            case Changed(backend, generation, _, "gone", _):
                assert (backend, generation) not in self.timers, "no timer outlives its backend"

    @rule(
        options=options,
        matching=matching,
        keep_alive_s=st.sampled_from([None, 0.0, 50.0]),
        insists=st.booleans(),
        client=st.sampled_from([None, "a", "b"]),
    )
    def acquire(
        self,
        options: LoadOptions,
        matching: MatchPolicy,
        keep_alive_s: float | None,
        insists: bool,
        client: str | None,
    ) -> None:
        self.requests += 1
        request, before = self.requests, len(self.waiting)
        self.waiting.add(request)
        work = None if client is None else Work(client, request)
        if work:
            self.working.add(request)
        effects = self.tell(
            Acquire(request, options, keep_alive_s, matching, insists=insists, work=work)
        )
        if self.draining:
            assert effects == [Refuse(request, "draining")]
        if any(isinstance(effect, Refuse) and effect.why == "full" for effect in effects):
            most = MAX_QUEUE if matching.max_queue is None else matching.max_queue
            assert before >= most

    @precondition(lambda self: self.waiting or self.holding)
    @rule(data=st.data(), answered=st.booleans())
    def leave(self, data: st.DataObject, answered: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting | self.holding.keys())))
        self.waiting.discard(request)
        held = self.holding.pop(request, None)
        if answered and (name := held) and (backend := self.scheduler.backends.current(name)):
            self.not_before_s.pop(backend.options, None)
        self.tell(Released(request, answered and held is not None))

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def yields(self, data: st.DataObject) -> None:
        """It needs its slot no more, if it did."""
        request = data.draw(st.sampled_from(sorted(self.holding)))
        self.working.discard(request)
        self.tell(Yielded(request))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), killed=st.booleans(), well=st.booleans())
    def load_ends(self, data: st.DataObject, killed: bool, well: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(name)
        if well:
            self.serving.add(name)
            self.tell(Started(*name))
        else:
            backend = self.scheduler.backends.current(name)
            if not killed and name not in self.stopping and backend:
                self.not_before_s[backend.options] = self.now_s + 1.25
            self.stopping.discard(name)
            self.tell(StartFailed(*name, "failed", killed))

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def process_ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.serving)))
        self.serving.remove(name)
        self.stopping.discard(name)
        self.tell(Exited(*name, "ended"))

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def nobody_listens(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.serving)))
        self.tell(NotServing(*name, "refused"))

    @precondition(lambda self: self.loading or self.serving)
    @rule(data=st.data())
    def nothing_goes_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.loading | self.serving)))
        self.tell(Hangs(*name, "it hangs"))
        assert name in self.stopping

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.timers)))
        self.now_s = max(self.now_s, self.timers.pop(name))
        self.tell(TimerFired(*name))

    @precondition(lambda self: self.starts)
    @rule(data=st.data())
    def word_from_the_past(self, data: st.DataObject) -> None:
        """A report on a process that is long gone changes nothing."""
        name = data.draw(st.sampled_from(sorted(self.starts)))
        if name not in self.loading | self.serving:
            for event in (Started(*name), StartFailed(*name, ""), Exited(*name, "")):
                assert self.tell(event) == []

    @precondition(lambda self: self.scheduler.backends)
    @rule(data=st.data(), options=options, replace_it=st.booleans())
    def operate(self, data: st.DataObject, options: LoadOptions, replace_it: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.scheduler.backends)))
        if not replace_it and name in self.scheduler.backends:
            backend = self.scheduler.backends[name]
            if backend.state is BackendState.GONE:
                self.not_before_s.pop(backend.options, None)
        self.tell(Replace(name, options) if replace_it else Unload(name))

    @precondition(lambda self: self.scheduler.backends)
    @rule(data=st.data(), pinned=st.booleans(), by_policy=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool, by_policy: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.scheduler.backends)))
        self.tell(Pin(name, pinned, by_policy))

    @precondition(lambda self: self.requests > 10)
    @rule()
    def drain(self) -> None:
        self.draining = True
        self.tell(Drain())

    @precondition(lambda self: self.draining)
    @rule()
    def abort(self) -> None:
        self.tell(Abort())
        assert not self.waiting

    @invariant()
    def every_request_is_where_it_is_thought_to_be(self) -> None:
        assert self.scheduler.waiting.keys() == self.waiting
        assert self.scheduler.leases == self.holding

    @invariant()
    def the_queue_is_bounded(self) -> None:
        assert len(self.scheduler.waiting) <= MAX_QUEUE

    @invariant()
    def nobody_has_a_place_too_many_and_nobody_waits_for_one_that_is_free(self) -> None:
        for backend in self.scheduler.backends.values():
            held = [r for r, name in self.holding.items() if name == backend.name]
            assert len(self.working.intersection(held)) <= backend.options.parallel
            assert not (len(backend.places) and backend.places.are_free(Work(None)))
            in_line = [
                w.acquire.request
                for w in self.scheduler.waiting.of(backend.name, joined=False)
                if w.acquire.request in backend.places
            ]
            assert len(in_line) == len(backend.places)
            if in_line:
                assert len(self.working.intersection(held)) == backend.options.parallel

    @invariant()
    def counts_agree(self) -> None:
        for backend in self.scheduler.backends.values():
            held = [name for name in self.holding.values() if name == backend.name]
            joined = [
                w for w in self.scheduler.waiting.values() if w.joined and w.backend == backend.name
            ]
            assert (backend.in_flight, backend.waiting) == (len(held), len(joined))

    @invariant()
    def one_start_for_one_key(self) -> None:
        starting = [
            b.options for b in self.scheduler.backends.values() if b.state is BackendState.STARTING
        ]
        assert len(starting) == len(set(starting))

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        for waiting in self.scheduler.waiting.values():
            backend = self.scheduler.backends.current(waiting.backend)
            assert backend is not None
            if backend.blocked_by:
                assert all(map(self.scheduler.backends.current, backend.blocked_by))
            elif waiting.joined:
                assert backend.name in self.loading - self.stopping
            else:
                assert backend.name in self.loading | self.serving

    @invariant()
    def processes_are_known(self) -> None:
        known = {
            b.name
            for b in self.scheduler.backends.values()
            if b.state is not BackendState.GONE and not b.blocked_by
        }
        assert known == self.loading | self.serving

    @invariant()
    def an_idle_backend_has_its_timer(self) -> None:
        backends = self.scheduler.backends.values()
        idle = {b.name for b in backends if b.idle and not b.pinned}
        assert idle == self.timers.keys()

    def teardown(self) -> None:
        """All loads succeed and all clients get their answers: then nobody waits, and nothing is
        left over."""
        for _ in range(200):
            for name in sorted(self.loading):
                self.loading.remove(name)
                if name in self.stopping:
                    self.stopping.remove(name)
                    self.tell(StartFailed(*name, "stopped"))
                else:
                    self.serving.add(name)
                    self.tell(Started(*name))
            for request in sorted(self.holding):
                del self.holding[request]
                self.tell(Released(request))
            for name in sorted(self.serving & self.stopping):
                self.serving.remove(name)
                self.stopping.remove(name)
                self.tell(Exited(*name, "stopped"))
            if not (self.waiting or self.holding or self.loading or self.stopping):
                break
        assert not self.waiting | self.holding.keys()
        assert not self.loading | self.stopping
        left = [b for b in self.scheduler.backends.values() if b.state is not BackendState.GONE]
        assert all(backend.idle for backend in left)
        assert not (self.draining and left), "a drain ends"


TestTraces = Traces.TestCase
TestTraces.settings = settings(stateful_step_count=50)
