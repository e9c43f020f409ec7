"""What may be promised, from what we booked and what a device shows."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.memory.ledger import PAGE_BYTES, SHOWN_WITHIN_S, Ledger
from proxy.memory.readings import DeviceReading

GPU = "CUDA0"
MIB = 1 << 20
TOTAL = 10_000 * MIB


@dataclass
class Gpu:
    """A device that shows what is freed on it only when the test lets it."""

    by_process: bool = True
    others: int = 1000 * MIB
    ours: int = 0
    overhead: int = 0  # of our processes, in no book
    lagging: int = 0
    now: float = 0.0

    def reading(self, *, at_s: float | None = None, source: str = "nvml:GPU-0") -> DeviceReading:
        ours = self.ours + self.lagging
        if self.by_process:
            ours += self.overhead
        used = ours + self.others
        return DeviceReading(
            GPU,
            "",
            source,
            total_bytes=TOTAL,
            free_bytes=max(TOTAL - used, 0),
            used_bytes=min(used, TOTAL),
            ours_bytes=ours if self.by_process else None,
            others_bytes=self.others if self.by_process else None,
            at_s=self.now if at_s is None else at_s,
        )


@dataclass
class Scene:
    """A ledger, a device, and one backend that moves experts there and back."""

    gpu: Gpu = field(default_factory=Gpu)
    ledger: Ledger = field(default_factory=Ledger)
    booked: int = 0

    def tick(self, seconds: float = 0.1) -> None:
        self.gpu.now += seconds

    def hold(self, experts: int, *, at_s: float | None = None) -> None:
        self.booked = experts
        held = {GPU: {"weights": 0, "experts": experts}}
        self.ledger.record("b1", held, at_s=self.gpu.now if at_s is None else at_s)

    def observe(self) -> None:
        self.ledger.observe([self.gpu.reading()])
        self.tick()

    def take(self, size: int) -> None:
        self.gpu.ours += size
        self.hold(self.booked + size)
        self.tick()

    def give_back(self, size: int) -> None:
        """Given back, and not shown yet."""
        self.gpu.ours -= size
        self.gpu.lagging += size
        self.hold(self.booked - size)
        self.tick()

    @property
    def free(self) -> int:
        free = self.ledger.free(GPU)
        assert free is not None
        return free


@pytest.fixture(params=[True, False], ids=["by process", "sums only"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(Gpu(by_process=request.param))


def test_a_device_that_nobody_read_is_unknown() -> None:
    ledger = Ledger()
    ledger.record("b1", {GPU: {"experts": MIB}}, at_s=0.0)

    assert (ledger.free(GPU), ledger.others(GPU), ledger.ours(GPU)) == (None, None, MIB)
    ledger.observe([DeviceReading(GPU, "", "ggml", at_s=1.0)])
    assert ledger.free(GPU) is None


def test_the_book_has_a_sum_for_each_device() -> None:
    ledger = Ledger()
    ledger.record("b1", {GPU: {"weights": 5, "kv": 2}, "RPC0": {"experts": 9}}, at_s=0.0)
    ledger.record("b2", {GPU: {"weights": 1, "experts": 4}}, at_s=0.0)

    assert (ledger.ours(GPU), ledger.ours("RPC0"), ledger.ours("CPU")) == (12, 9, 0)

    ledger.forget("b1", at_s=1.0)
    assert (ledger.ours(GPU), ledger.ours("RPC0")) == (5, 0)


def test_what_we_take_is_off_the_reading_until_it_shows(scene: Scene) -> None:
    scene.observe()
    assert scene.free == 9000 * MIB

    scene.hold(500 * MIB)  # before it is allocated
    assert scene.free == 8500 * MIB
    assert not scene.ledger.settled(GPU)
    scene.tick()
    scene.observe()
    assert scene.free == 8500 * MIB

    scene.gpu.ours = 500 * MIB
    scene.observe()
    assert scene.free == 8500 * MIB
    assert scene.ledger.others(GPU) == 1000 * MIB
    assert scene.ledger.settled(GPU)


def test_what_shows_before_we_are_told_of_it_is_not_taken_off_twice(scene: Scene) -> None:
    """A layer's memory is there from the beginning of its copy, its entry in the book at the
    end."""
    scene.observe()
    began_s = scene.gpu.now
    scene.tick()
    scene.gpu.ours = 1500 * MIB
    scene.observe()
    scene.observe()
    held = {GPU: {"experts": 1500 * MIB}}
    scene.ledger.record("b1", held, at_s=scene.gpu.now, taken_s=began_s)

    assert scene.free == 7500 * MIB
    assert scene.ledger.settled(GPU)

    # What is given back began when it was, whenever the move before it did.
    scene.gpu.ours, scene.gpu.lagging = 0, 1500 * MIB
    scene.ledger.record("b1", {}, at_s=scene.gpu.now, taken_s=began_s)
    assert (scene.free, scene.ledger.pending_free(GPU)) == (7500 * MIB, 1500 * MIB)


def test_what_we_give_back_is_promised_when_it_shows(scene: Scene) -> None:
    scene.take(2000 * MIB)
    scene.observe()
    assert scene.free == 7000 * MIB

    scene.give_back(1500 * MIB)
    scene.observe()
    assert (scene.free, scene.ledger.pending_free(GPU)) == (7000 * MIB, 1500 * MIB)

    scene.gpu.lagging = 500 * MIB
    scene.observe()
    assert (scene.free, scene.ledger.pending_free(GPU)) == (8000 * MIB, 500 * MIB)

    scene.gpu.lagging = 0
    scene.observe()
    assert (scene.free, scene.ledger.pending_free(GPU)) == (8500 * MIB, 0)
    assert scene.ledger.others(GPU) == 1000 * MIB


def test_giving_back_is_not_others_growing(scene: Scene) -> None:
    scene.take(2000 * MIB)
    scene.observe()
    scene.give_back(2000 * MIB)
    scene.observe()

    assert scene.ledger.others(GPU) == 1000 * MIB


def test_a_reading_that_came_before_the_news_counts(scene: Scene) -> None:
    scene.take(2000 * MIB)
    scene.observe()
    began = scene.gpu.now
    scene.tick()
    scene.gpu.ours -= 2000 * MIB
    scene.observe()

    scene.hold(0, at_s=began)

    assert scene.ledger.pending_free(GPU) == 0
    scene.observe()
    assert scene.free == 9000 * MIB


def test_what_began_long_ago_is_in_the_readings(scene: Scene) -> None:
    """A model that took its time to load."""
    scene.tick(1.0)
    scene.observe()
    scene.gpu.ours = 2000 * MIB
    for _ in range(60):
        scene.observe()

    scene.hold(2000 * MIB, at_s=1.0)

    assert scene.ledger.settled(GPU)
    assert (scene.free, scene.ledger.others(GPU)) == (7000 * MIB, 1000 * MIB)


@pytest.mark.parametrize("shown", [0, 1500 * MIB, 2000 * MIB])
def test_what_was_taken_in_a_long_load_is_off_until_it_shows(scene: Scene, shown: int) -> None:
    """However much of it was taken at its very end, and whatever others of ours took meanwhile."""
    scene.observe()
    loading = scene.ledger.begin(at_s=scene.gpu.now)
    scene.take(300 * MIB)
    scene.gpu.ours += shown
    for _ in range(60):
        scene.observe()

    held = {GPU: {"weights": 2000 * MIB}}
    scene.ledger.record("b2", held, at_s=scene.gpu.now, loading=loading)

    assert (scene.free, scene.ledger.pending_taken(GPU)) == (6700 * MIB, 2000 * MIB - shown)
    scene.gpu.ours = 2300 * MIB
    scene.tick()
    scene.observe()
    assert (scene.free, scene.ledger.pending_taken(GPU)) == (6700 * MIB, 0)
    assert scene.ledger.others(GPU) == 1000 * MIB


def test_what_a_long_load_took_is_believed_to_show_in_the_end(scene: Scene) -> None:
    scene.observe()
    loading = scene.ledger.begin(at_s=scene.gpu.now)
    scene.tick(60.0)
    scene.observe()
    held = {GPU: {"weights": 2000 * MIB}}
    scene.ledger.record("b1", held, at_s=scene.gpu.now, loading=loading)

    scene.tick(SHOWN_WITHIN_S / 2)
    scene.observe()
    assert scene.ledger.pending_taken(GPU) == 2000 * MIB, "it counts from the end of the load"
    scene.tick(SHOWN_WITHIN_S / 2)
    scene.observe()
    assert scene.ledger.settled(GPU)


def test_a_device_read_otherwise_since_is_not_compared(scene: Scene) -> None:
    scene.observe()
    loading = scene.ledger.begin(at_s=scene.gpu.now)
    scene.tick(60.0)
    scene.gpu.ours = 2000 * MIB
    scene.ledger.observe([scene.gpu.reading(source="sysfs:card0")])
    held = {GPU: {"weights": 2000 * MIB}}

    scene.ledger.record("b1", held, at_s=scene.gpu.now, loading=loading)

    assert (scene.free, scene.ledger.settled(GPU)) == (7000 * MIB, True)


def test_a_plan_that_failed_is_waited_for_like_any_other(scene: Scene) -> None:
    scene.observe()
    scene.hold(500 * MIB)
    scene.tick()

    scene.hold(0)

    scene.observe()
    assert scene.free == 8500 * MIB
    scene.tick(SHOWN_WITHIN_S)
    scene.observe()
    assert scene.free == 9000 * MIB


def test_others_are_told_apart_from_us(scene: Scene) -> None:
    scene.take(1000 * MIB)
    scene.observe()
    assert scene.ledger.others(GPU) == 1000 * MIB

    scene.gpu.others += 3000 * MIB
    scene.observe()
    assert (scene.ledger.others(GPU), scene.free) == (4000 * MIB, 5000 * MIB)


def test_a_device_that_never_shows_is_believed_in_the_end(scene: Scene) -> None:
    scene.take(2000 * MIB)
    scene.observe()
    scene.give_back(1500 * MIB)

    with capture_logs() as logs:
        scene.tick(SHOWN_WITHIN_S)
        scene.observe()
        scene.observe()

    assert [(line["event"], line["returned_bytes"]) for line in logs] == [
        ("device_did_not_show", 1500 * MIB)
    ]
    assert (scene.ledger.pending_free(GPU), scene.free) == (0, 7000 * MIB)


def test_a_device_that_counts_nothing_is_bound_by_the_book() -> None:
    """As ggml-rpc-server on a CPU, which says that all of the machine's memory is free."""
    ledger = Ledger()
    ledger.observe([blind(at_s=0.0)])

    ledger.record("b1", {GPU: {"experts": 600 * MIB}}, at_s=1.0)

    assert ledger.free(GPU) == 400 * MIB
    ledger.observe([blind(at_s=1.0 + SHOWN_WITHIN_S)])
    assert ledger.free(GPU) == 400 * MIB


def test_a_device_that_counts_nothing_gives_back_only_with_time() -> None:
    ledger = Ledger()
    ledger.observe([blind(at_s=0.0)])
    ledger.record("b1", {GPU: {"experts": 600 * MIB}}, at_s=1.0)
    ledger.observe([blind(at_s=1.0 + SHOWN_WITHIN_S)])

    ledger.forget("b1", at_s=10.0)

    assert ledger.free(GPU) == 400 * MIB
    ledger.observe([blind(at_s=10.0 + SHOWN_WITHIN_S)])
    assert ledger.free(GPU) == 1000 * MIB


def test_where_only_free_memory_is_known_what_we_took_is_off_it() -> None:
    ledger = Ledger()
    ledger.observe([DeviceReading(GPU, "", "ggml", free_bytes=1000 * MIB, at_s=0.0)])

    ledger.record("b1", {GPU: {"experts": 600 * MIB}}, at_s=1.0)

    assert (ledger.free(GPU), ledger.others(GPU)) == (400 * MIB, None)


def test_a_reading_from_before_a_plan_does_not_show_it() -> None:
    scene = Scene(Gpu(by_process=False))
    scene.observe()
    scene.gpu.others += 500 * MIB
    early = scene.gpu.reading(at_s=0.5)  # still on its way while the plan is made

    scene.hold(500 * MIB, at_s=1.0)
    scene.ledger.observe([early])

    assert scene.free == 8000 * MIB


def blind(at_s: float) -> DeviceReading:
    return DeviceReading(GPU, "", "ggml", 1000 * MIB, 1000 * MIB, 0, at_s=at_s)


def test_the_overhead_of_our_processes_is_ours_where_it_shows() -> None:
    scene = Scene()
    scene.take(1000 * MIB)
    scene.gpu.overhead = 400 * MIB  # what CUDA needs for itself

    scene.observe()
    assert (scene.ledger.ours(GPU), scene.ledger.others(GPU)) == (1400 * MIB, 1000 * MIB)
    assert scene.free == 7600 * MIB

    scene.hold(1300 * MIB)
    assert (scene.ledger.ours(GPU), scene.free) == (1700 * MIB, 7300 * MIB)


def test_an_allocators_rounding_is_tolerated(scene: Scene) -> None:
    scene.take(1000 * MIB)
    scene.observe()
    scene.give_back(1000 * MIB)
    assert scene.ledger.pending_free(GPU) == 1000 * MIB

    scene.gpu.lagging = PAGE_BYTES
    scene.observe()

    assert scene.ledger.pending_free(GPU) == 0


def test_an_old_reading_changes_nothing(scene: Scene) -> None:
    scene.observe()
    stale = DeviceReading(GPU, "", "nvml:GPU-0", TOTAL, TOTAL, 0, at_s=9.0, stale=True)

    scene.ledger.observe([stale])

    assert scene.free == 9000 * MIB


def test_a_reading_heard_again_is_the_same_one() -> None:
    scene = Scene(Gpu(by_process=False))
    reading = scene.gpu.reading(at_s=0.5)
    for _ in range(3):
        scene.ledger.observe([reading])
    scene.gpu.others += 500 * MIB
    scene.hold(100 * MIB, at_s=1.0)

    for _ in range(3):
        scene.ledger.observe([scene.gpu.reading(at_s=0.5)])

    assert scene.free == 8400 * MIB


def test_another_source_starts_a_new_comparison() -> None:
    scene = Scene(Gpu(by_process=False))
    scene.observe()
    scene.gpu.others = 5000 * MIB

    scene.ledger.observe([scene.gpu.reading(source="sysfs:card0")])

    assert (scene.ledger.others(GPU), scene.free) == (5000 * MIB, 5000 * MIB)


def test_it_says_what_it_holds_in_one_line(scene: Scene) -> None:
    scene.observe()
    scene.hold(MIB * 10)

    assert repr(scene.ledger) == (
        f"<Ledger CUDA0: ours {10 * MIB}, others {1000 * MIB}, free {8990 * MIB}, "
        f"to show +{10 * MIB} -0>"
    )


steps = st.lists(
    st.tuples(
        st.sampled_from(["plan", "allocate", "give back", "show", "read", "others", "forget"]),
        st.integers(1, 40).map(lambda tens: tens * 10 * MIB),
    ),
    max_size=40,  # 4 s: less than it takes until a reading is believed whatever is due
)


@given(steps=steps, by_process=st.booleans())
def test_free_is_never_above_the_device_nor_above_the_book(
    steps: list[tuple[str, int]], by_process: bool
) -> None:
    """Others come and go as they like."""
    scene = Scene(Gpu(by_process=by_process, overhead=300 * MIB))
    scene.observe()
    shown = scene.gpu.reading()
    for step, size in steps:
        perform(scene, step, size)
        if step == "others":
            scene.gpu.others = size * 20
        if step == "read":
            shown = scene.gpu.reading()

        others = scene.ledger.others(GPU)
        assert shown.free_bytes is not None
        assert others is not None
        assert 0 <= scene.free <= shown.free_bytes
        assert scene.free <= max(TOTAL - scene.booked - others, 0)


@given(steps=steps, by_process=st.booleans())
def test_what_is_promised_is_there(steps: list[tuple[str, int]], by_process: bool) -> None:
    """While others keep still: what is free now, without what is planned, covers every promise."""
    scene = Scene(Gpu(by_process=by_process, overhead=300 * MIB))
    scene.observe()
    for step, size in steps:
        perform(scene, step, size)

        planned = max(scene.booked - scene.gpu.ours, 0)
        overhead = scene.gpu.overhead if by_process else 0
        really_free = TOTAL - scene.gpu.others - scene.gpu.ours - scene.gpu.lagging - overhead
        assert scene.free <= max(really_free - planned, 0)


def perform(scene: Scene, step: str, size: int) -> None:
    gpu = scene.gpu
    match step:
        case "plan" if gpu.others + scene.booked + gpu.lagging + size <= TOTAL:
            scene.hold(scene.booked + size)
        case "allocate":
            gpu.ours = scene.booked
        case "give back" if scene.booked == gpu.ours:
            scene.give_back(min(size, scene.booked))
        case "forget" if scene.booked == gpu.ours:
            gpu.ours, gpu.lagging, scene.booked = 0, gpu.lagging + gpu.ours, 0
            scene.ledger.record("b1", {}, at_s=gpu.now)
        case "show":
            gpu.lagging = max(gpu.lagging - size, 0)
        case "read":
            scene.observe()
    scene.tick()
