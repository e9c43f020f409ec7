"""The control loop as a whole, by what it does: transcripts in a world without processes, whose
time passes when everybody waits. Sizes are MiB."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from proxy.errors import BackendDied, Conflict
from proxy.split import AUTO
from tests.control.world.card import Card
from tests.control.world.engine import PLACE_DEADLINE_S, Spec
from tests.control.world.loop import run
from tests.control.world.world import HEAD, RESERVE, SETTLE_S, World, living

Story = Callable[[], Coroutine[Any, Any, None]]
ONE = HEAD + "[models.a]\n[models.b]\n"
# In seconds of the world: far more than anything here takes.
LONG_S = 120.0
# a takes nothing of a device until it is asked to.
A_ON_THE_CPU = HEAD + "[models.a]\nmoe_cpu_layers = 'full'\n[models.b]\n"


def played(story: Story) -> Callable[[], None]:
    """Play it on a loop of its own, whose time is virtual."""

    @wraps(story)
    def test() -> None:
        run(story())

    return test


def card(total: int = 1000, *devices: str) -> Card:
    return Card("card0", total, devices or ("G0",))


def world(*cards: Card, text: str = ONE, through_workers: bool = False, **specs: Spec) -> World:
    specs = specs or {"a": Spec(), "b": Spec()}
    return World(cards or (card(),), specs, text, through_workers)


@played
async def test_auto_fills_a_device_down_to_its_reserve() -> None:
    async with living(world(card(450))) as there:
        there.ask("a", for_s=5)
        await there.until_answered()

        # 450 - 40 in reserve - 50 of dense weights: room for three layers.
        assert there.places("a") == "ccc000"
        assert there.control.desired.current(there.backend("a")) == 3


@played
async def test_what_others_take_is_given_at_once_and_comes_back_when_it_lasts() -> None:
    there = world(card(200), a=Spec(layer_mib=15))
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(10)
        assert there.places("a") == "000000"
        there.others_take(600)
        await asyncio.sleep(2)
        assert there.places("a") == "ccc000", "40 are free again"
        there.others_take(0)
        await asyncio.sleep(SETTLE_S - 3)
        assert there.places("a") == "ccc000", "it has not lasted yet"
        await asyncio.sleep(SETTLE_S)
        assert there.places("a") == "000000"
        assert [move["why"] for move in there.told("moved")][-4:] == ["pressure", *["free"] * 3]
        await asyncio.sleep(SETTLE_S)
        assert there.control.headroom.budgets()["G0"].growth == "bulk", "all is as before"


@played
async def test_a_second_model_makes_the_first_one_shrink_not_leave() -> None:
    async with living(world(card(700))) as there:
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(5)
        assert there.places("a") == "000000"
        there.ask("b", for_s=LONG_S)
        await asyncio.sleep(5)

        assert {backend.options.model for backend in there.serving()} == {"a", "b"}
        assert there.cards[0].free >= RESERVE


@played
async def test_a_worker_that_hangs_keeps_no_other_from_moving() -> None:
    """It hangs in the middle of a move; its device is read through workers, or by a driver."""
    for through_workers in (True, False):
        there = world(card(1300), through_workers=through_workers)
        async with living(there):
            for model in ("a", "b", "b"):
                there.ask(model, 6, for_s=LONG_S)
            await asyncio.sleep(5)
            there.ask("a", 1)
            await asyncio.sleep(0.5)
            there.engines["a"].hangs = True
            await asyncio.sleep(4)
            there.ask("b", 4)
            await asyncio.sleep(2)
            assert there.places("b") == "cccc00"
            there.others_take(there.cards[0].free - 10)
            await asyncio.sleep(1.2)

            assert there.cards[0].free >= RESERVE, "the other one is used less, and cannot give"
            assert not there.memory.latest().devices["G0"].stale


@played
async def test_what_a_worker_that_hangs_was_to_give_is_given_by_another() -> None:
    there = world(card(1300))
    async with living(there):
        for model in ("a", "b", "b"):
            there.ask(model, 3, for_s=LONG_S)
        await asyncio.sleep(5)
        there.engines["a"].hangs = True
        there.others_take(there.cards[0].free - 10)
        await asyncio.sleep(1)
        assert (there.places("a"), there.places("b")) == ("ccc000", "ccc000")
        await asyncio.sleep(4)

        assert (there.places("a"), there.places("b")) == ("ccc000", "cccc00")


@played
async def test_a_worker_that_hangs_hides_only_the_devices_that_no_other_tells_of() -> None:
    there = world(card(1000), Card("card1", 1000, ("G1",)), through_workers=True)
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(5)
        there.engines["a"].hangs = True
        await asyncio.sleep(5)
        assert all(reading.stale for reading in there.memory.latest().devices.values())
        there.engines["a"].hangs = False
        await asyncio.sleep(8)

        assert not any(reading.stale for reading in there.memory.latest().devices.values())


@played
async def test_whoever_asks_a_worker_that_hangs_is_told_so_in_the_end() -> None:
    there = world(card(1000))
    async with living(there):
        there.ask("a")
        await there.until_answered()
        there.engines["a"].hangs = True
        there.ask("a", 0)
        async with asyncio.timeout(PLACE_DEADLINE_S + 20):
            await there.until_answered()

    assert isinstance(there.ended[-1][1], BackendDied)


@played
async def test_a_move_that_failed_since_the_worker_died_is_an_error_for_whoever_asked() -> None:
    for who in ("request", "operator"):
        there = world(card(1000))
        async with living(there):
            there.ask("a", 6)
            await there.until_answered()
            backend, controller = there.backend("a"), there.control.controller
            asked: Coroutine[Any, Any, object] = (
                controller.apply_request(backend, 0)
                if who == "request"
                else controller.operator("a", 0)
            )
            asking = asyncio.ensure_future(asked)
            await asyncio.sleep(0.3)
            there.engines["a"].die()
            await asyncio.wait((asking,))

            assert isinstance(asking.exception(), BackendDied), who


@played
async def test_what_an_engine_refuses_is_told_to_the_operator_and_costs_no_request() -> None:
    there = world(card(1000))
    async with living(there):
        there.ask("a", 6)
        await there.until_answered()
        there.engines["a"].refuses = True
        there.ask("a", 0)
        await there.until_answered()
        (refusal,) = await asyncio.gather(
            there.control.controller.operator("a", 1), return_exceptions=True
        )

        assert there.ended[-1] == ("a", None)
        assert isinstance(refusal, Conflict)
        assert there.control.desired.current(there.backend("a")) == 6


@played
async def test_an_edit_while_one_model_loads_reaches_the_others() -> None:
    """Its context was edited just before, so that it is loaded anew; then the split of both is."""
    there = world(card(2000), text=ONE, a=Spec(load_s=20.0), b=Spec())
    async with living(there):
        there.ask("b")
        await there.until_answered()
        there.ask("a")
        await asyncio.sleep(5)
        await there.edit(ONE.replace("[models.a]", "[models.a]\nctx = 512"))
        await there.edit(
            ONE.replace("[models.a]", "[models.a]\nctx = 512\nmoe_cpu_layers = 1").replace(
                "[models.b]", "[models.b]\nmoe_cpu_layers = 4"
            )
        )
        await asyncio.sleep(LONG_S)

        assert there.places("b") == "cccc00"
        assert there.places("a") == "c00000"
        assert there.backend("a").options.ctx == 512


@played
async def test_what_is_missing_is_published_when_it_changes() -> None:
    """Others are busy, so it waits, and looks twice a second."""
    there = world(card(500), a=Spec(dense_mib=300), b=Spec(dense_mib=300))
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(5)
        there.ask("b")
        await there.until_answered()

        told = there.told("room_missing")
        assert [fields["unloads"] for fields in told] == [None, "b1"]
        assert there.ended == [("a", None), ("b", None)]


@played
async def test_one_that_is_pinned_gives_its_experts_and_stays() -> None:
    """The newcomer has to try with what there is then."""
    there = world(card(450), a=Spec(), b=Spec(dense_mib=380))
    async with living(there):
        there.ask("a")
        await asyncio.sleep(5)
        there.pool.pin(there.backend("a").id, pinned=True)
        assert "0" in there.places("a")
        there.ask("b")
        await there.until_answered()

        assert there.places("a") == "cccccc"
        assert there.told("room_missing") == []
        (move,) = [move for move in there.told("moved") if move["why"] == "room"]
        assert (move["model"], move["for"]) == ("a", "b")


@played
async def test_a_newcomer_does_not_wait_for_one_that_never_moves() -> None:
    there = world(card(700), b=Spec(dense_mib=300), a=Spec())
    async with living(there):
        there.ask("a", for_s=30)
        await asyncio.sleep(5)
        there.engines["a"].refuses = True
        there.ask("b")
        await asyncio.sleep(LONG_S)

        assert there.ended == [("a", None), ("b", None)]


@played
async def test_a_newcomer_does_not_wait_for_one_that_is_stuck() -> None:
    """Nobody knows of it before it is to move, and its move never ends; so it has to leave."""
    text = HEAD + "[models.a]\nkeep_alive = '-1'\n[models.b]\n"
    there = world(card(700), text=text, b=Spec(dense_mib=300), a=Spec())
    async with living(there):
        there.ask("a")
        await asyncio.sleep(15)
        assert there.places("a") == "000000"
        there.engines["a"].hangs, there.engines["a"].place_deadline_s = True, float("inf")
        there.ask("b")
        await asyncio.sleep(LONG_S)

        assert there.ended == [("a", None), ("b", None)]


@played
async def test_an_idle_request_is_forgotten_by_its_own_start_only() -> None:
    """A restart is another one, with the same id: what an earlier start was asked for is over."""
    there = world(card(1000), text=HEAD + "[models.a]\n")
    async with living(there):
        there.ask("a", 6)
        await there.until_answered()
        first = there.backend("a")
        there.engines["a"].die()
        await asyncio.sleep(1)
        there.ask("a")
        await there.until_answered()
        second = there.backend("a")

        assert (second.id, second.generation) == (first.id, 2)
        assert there.control.desired.split(first) is None
        assert there.control.desired.split(second) == AUTO
        await asyncio.sleep(SETTLE_S * 2)
        assert there.places("a") == "000000"


@played
async def test_a_device_for_experts_only_takes_what_has_no_room_at_home() -> None:
    text = ONE + "[devices.G1]\nattention = false\n"
    there = world(card(350), Card("card1", 300, ("G1",)), text=text)
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(20)

        # 350 - 40 - 50: two layers at home; 300 - 40: two on the other one.
        assert sorted(there.places("a")) == ["0", "0", "1", "1", "c", "c"]
        there.others_take(250, card=1)
        await asyncio.sleep(5)
        assert there.places("a").count("1") == 1
        there.others_take(0, card=1)
        await asyncio.sleep(SETTLE_S * 4)
        assert sorted(there.places("a")) == ["0", "0", "1", "1", "c", "c"]


@played
async def test_what_could_not_be_had_is_not_tried_before_it_has_settled() -> None:
    """The device hangs, and shows more room than it has."""
    there = world(card(800), text=HEAD + "[models.a]\nmoe_cpu_layers = 'full'\n")
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(5)
        there.cards[0].hangs = True
        there.others_take(500)
        there.ask("a", 0)
        await asyncio.sleep(3)
        there.ask("a", 1)
        await asyncio.sleep(3)

        short = [move["short_of_memory"] for move in there.told("moved")]
        assert short.count("G0") == 1


@played
async def test_two_who_ask_at_once_do_not_get_the_same_memory() -> None:
    text = HEAD + "[defaults]\nmoe_cpu_layers = 'full'\n[models.a]\n[models.b]\n"
    there = world(card(450), text=text)
    async with living(there):
        for model in ("a", "b"):
            there.ask(model, for_s=LONG_S)
        await asyncio.sleep(5)
        for model in ("a", "b"):
            there.ask(model, 0)
        await asyncio.sleep(5)

        # 450 - 40 in reserve - 2 * 50: room for three layers.
        assert sorted(there.places("a") + there.places("b")) == [*"000", *"c" * 9]
        assert not any(move["short_of_memory"] for move in there.told("moved"))


@played
async def test_two_devices_of_one_card_do_not_promise_the_same_memory() -> None:
    """Three who ask between two readings, of one device and the other in turn."""
    text = HEAD + "[defaults]\nmoe_cpu_layers = 'full'\n[models.a]\n[models.b]\n"
    a, b = (Spec(home=home, stage_s=0.005) for home in ("G0", "G1"))
    there = world(card(800, "G0", "G1"), text=text, a=a, b=b)
    async with living(there):
        for model in ("a", "b"):
            there.ask(model, for_s=LONG_S)
        await asyncio.sleep(10.1)
        for model, split in (("a", 4), ("b", 4), ("a", 2), ("b", 2), ("a", 0)):
            there.ask(model, split)
            await asyncio.sleep(0.06)
        await asyncio.sleep(5)

        assert there.cards[0].free >= RESERVE
        assert not any(move["short_of_memory"] for move in there.told("moved"))


@played
async def test_what_a_newcomer_is_to_have_is_taken_by_nobody_while_it_loads() -> None:
    there = world(card(450), text=A_ON_THE_CPU, a=Spec(), b=Spec(dense_mib=200, load_s=20.0))
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(5)
        there.ask("b", for_s=LONG_S)
        await asyncio.sleep(5)
        there.ask("a", 0)
        await asyncio.sleep(5)
        # 450 - 40 in reserve - 50 - 200: room for one layer.
        assert there.places("a") == "ccccc0"
        await asyncio.sleep(20)
        assert [b.options.model for b in there.serving()] == ["a", "b"]


@played
async def test_what_is_on_its_way_has_its_room_already() -> None:
    there = world(card(690), text=HEAD + "[models.a]\nmoe_cpu_layers = 'full'\n")
    async with living(there):
        there.ask("a")
        await there.until_answered()
        there.ask("a", 0)
        await asyncio.sleep(0.7)
        await there.control.controller.apply_request(there.backend("a"), 1)

        assert there.places("a") == "c00000"


@played
async def test_a_requests_number_holds_until_nobody_has_used_the_model_for_a_while() -> None:
    there = world(card(1000))
    async with living(there):
        there.ask("a", 4)
        await there.until_answered()
        await asyncio.sleep(SETTLE_S - 1)
        assert there.places("a") == "cccc00"
        there.ask("a")
        await asyncio.sleep(SETTLE_S - 1)
        assert there.places("a") == "cccc00", "it was used meanwhile"
        await asyncio.sleep(SETTLE_S + 5)
        assert there.places("a") == "000000"


@played
async def test_an_edit_reaches_the_others_while_a_successor_waits_for_its_turn() -> None:
    """Its server has one client at a time, and the one before it is in use."""
    there = world(card(2000), text=ONE, a=Spec(rpc="server"), b=Spec())
    context = ONE.replace("[models.a]", "[models.a]\nctx = 512")
    async with living(there):
        there.ask("a", for_s=60)
        there.ask("b")
        await asyncio.sleep(5)
        await there.edit(context)
        await asyncio.sleep(1)
        await there.edit(
            context.replace("ctx = 512", "ctx = 512\nmoe_cpu_layers = 1").replace(
                "[models.b]", "[models.b]\nmoe_cpu_layers = 4"
            )
        )
        await asyncio.sleep(5)
        assert there.places("b") == "cccc00"
        await asyncio.sleep(LONG_S)
        assert there.places("a") == "c00000"


@played
async def test_what_a_newcomer_took_is_its_own_until_it_is_known_what_that_is() -> None:
    """It is loaded, and slow to say what devices it has; the device shows late what it took."""
    cards = Card("card0", 450, ("G0",), lag_s=3.0)
    there = world(cards, text=A_ON_THE_CPU, a=Spec(), b=Spec(dense_mib=200, load_s=5.0))
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(8)
        there.ask("b", for_s=LONG_S)
        await asyncio.sleep(4)
        there.engines["b"].hangs = True
        await asyncio.sleep(1.5)
        there.ask("a", 0)
        await asyncio.sleep(1)

        # 450 - 40 in reserve - 50 - 200: room for one layer.
        assert there.places("a") == "ccccc0"
        assert not any(move["short_of_memory"] for move in there.told("moved"))


@played
async def test_an_edit_that_would_load_the_same_again_moves_all_the_same() -> None:
    """`tune` takes a new backend only where it comes to another batch."""
    there = world(card(1000), text=HEAD + "[models.a]\ntune = 'generation'\nmoe_cpu_layers = 2\n")
    async with living(there):
        there.ask("a")
        await asyncio.sleep(5)
        assert there.places("a") == "cc0000"
        await there.edit(HEAD + "[models.a]\ntune = 'balanced'\nmoe_cpu_layers = 5\n")
        await asyncio.sleep(5)

        assert there.places("a") == "ccccc0"
        assert [backend.generation for backend in there.serving()] == [1]


@played
async def test_a_model_whose_table_goes_and_comes_back_follows() -> None:
    text = HEAD + "[models.a]\nmoe_cpu_layers = 5\nparallel = 2\n"
    there = world(card(1000), text=text)
    async with living(there):
        there.ask("a")
        await there.until_answered()
        there.lost.add("a")
        await there.edit(HEAD)
        await asyncio.sleep(5)
        assert there.places("a") == "000000", "what holds for all holds for it"
        there.lost.clear()
        await there.edit(text)
        await asyncio.sleep(5)

        assert there.places("a") == "ccccc0"
        assert len(there.serving()) == 1


@played
async def test_what_a_newcomer_took_is_its_own_however_long_that_took() -> None:
    """The last of it a moment before it is ready, so that no reading shows it: none was made since,
    one is on its way, or the device shows it late. Others have a part of the device, too."""
    for lag_s, poll_takes_s, then_s in ((0.0, 0.0, 0.0), (0.0, 0.15, 0.05), (0.7, 0.0, 0.3)):
        cards = (Card("card0", 750, ("G0",), lag_s=lag_s),)
        specs = {"a": Spec(), "b": Spec(dense_mib=200, load_s=8.0)}
        there = World(cards, specs, A_ON_THE_CPU, poll_takes_s=poll_takes_s)
        async with living(there):
            there.others_take(300)
            there.ask("a", for_s=LONG_S)
            await asyncio.sleep(8)
            there.ask("b", for_s=LONG_S)
            while len(there.serving()) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(then_s)
            there.ask("a", 0)
            await asyncio.sleep(5)

            # 750 - 300 - 40 in reserve - 50 - 200: room for one layer.
            assert sorted(there.places("a") + there.places("b")) == ["0", *"c" * 11]
            assert {move["why"] for move in there.told("moved")} <= {"load", "request"}
            assert not any(move["short_of_memory"] for move in there.told("moved"))


@played
async def test_nobody_grows_where_one_is_being_loaded_until_it_has_its_place() -> None:
    """Others leave meanwhile. Who is in use comes first, and was not there yet."""
    there = world(card(700), a=Spec(), b=Spec(load_s=8.0))
    async with living(there):
        there.others_take(300)
        there.ask("a")
        await asyncio.sleep(5)
        assert there.places("a") == "ccc000"
        there.ask("b", for_s=LONG_S)
        await asyncio.sleep(2)
        there.others_take(0)
        await asyncio.sleep(8)

        moves = [(move["model"], move["why"], move["to"]) for move in there.told("moved")]
        # 700 - 40 in reserve - 2 * 50 - the two layers that stayed: room for three.
        assert moves[:3] == [("a", "load", 3), ("a", "room", 4), ("b", "load", 3)]


@played
async def test_what_is_promised_of_a_device_is_so_wherever_it_is_read() -> None:
    """It is shown with another one of its card from now on, as after an edit of `memory`."""
    there = world(card(450), text=A_ON_THE_CPU, a=Spec(), b=Spec(dense_mib=200, load_s=20.0))
    async with living(there):
        there.ask("a", for_s=LONG_S)
        await asyncio.sleep(5)
        there.ask("b", for_s=LONG_S)
        await asyncio.sleep(5)
        there.cards[0].devices = ("G0", "G1")
        await asyncio.sleep(2)
        there.ask("a", 0)
        await asyncio.sleep(2)

        # 450 - 40 in reserve - 50 - 200: room for one layer.
        assert there.places("a") == "ccccc0"


@played
async def test_why_it_moved_is_told_as_it_was_although_devices_were_not_known_yet() -> None:
    """Whoever asked first waits for them, and is not taken for the load."""
    for split, why in ((2, ["request"]), (None, ["load"])):
        async with living(world(through_workers=True)) as there:
            there.ask("a", split, for_s=5)
            await there.until_answered()

            assert [move["why"] for move in there.told("moved")] == why
