"""Tokens per second, from two looks at the slots."""

from proxy.observe.rates import Progress, Rates, progress_of, tokens_between


def test_only_what_came_since_counts() -> None:
    before = {0: (5, 10), 1: (6, 3)}

    assert tokens_between(before, {0: (5, 14), 1: (6, 3)}) == 4
    assert tokens_between(before, {0: (7, 2), 1: (6, 5)}) == 4
    assert tokens_between({}, {0: (1, 9)}) == 9


def test_reads_the_slots_of_llama_server() -> None:
    slots = [
        {"id": 0, "id_task": 3, "next_token": [{"n_decoded": 7}]},
        {"id": 1, "is_processing": False},
    ]

    assert progress_of(slots) == {0: (3, 7)}
    assert progress_of({"error": {}}) == {}


async def test_a_busy_backend_has_a_rate_and_an_idle_one_has_none() -> None:
    busy = ["b1"]
    looks: list[Progress] = [{0: (1, 10)}, {0: (1, 40)}]

    async def ask(_: str) -> Progress | None:
        return looks.pop(0)

    rates = Rates(lambda: busy, ask)
    await rates.sample(100.0)
    assert rates.rate("b1") == 0.0
    await rates.sample(102.0)
    assert rates.rate("b1") == 15.0
    busy.clear()
    await rates.sample(103.0)
    assert rates.rate("b1") == 0.0
