"""Asking workers for their devices: who hangs is waited for once."""

from tests.control.test_control_loop import card, played, world
from tests.control.world.world import living


@played
async def test_one_that_hangs_is_waited_for_once_and_comes_back_when_it_answers() -> None:
    there = world(card(2000))
    async with living(there):
        for model in ("a", "b"):
            there.ask(model)
        await there.until_answered()
        there.engines["a"].hangs = True
        took_s = []
        for _ in range(3):
            began_s = there.clock.now()
            assert {device.name for device in await there.workers.ask_all()} == {"CPU", "G0"}
            took_s.append(there.clock.now() - began_s)
        assert took_s[0] >= 1
        assert max(took_s[1:]) < 0.1
        a, b = there.backend("a"), there.backend("b")
        assert [there.workers.answers(backend) for backend in (a, b)] == [False, True]

        there.engines["a"].hangs = False
        assert await there.workers.ask(a) is not None
        assert there.workers.answers(a)


@played
async def test_one_that_is_gone_is_forgotten() -> None:
    there = world(card(2000))
    async with living(there):
        there.ask("a")
        await there.until_answered()
        backend = there.backend("a")
        there.engines["a"].hangs = True
        await there.workers.ask(backend)
        await there.pool.kill()

        assert there.workers.answers(backend)
        assert await there.workers.ask_all() == []
