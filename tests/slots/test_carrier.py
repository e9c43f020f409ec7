"""Conversations that go from one real worker to another."""

import contextlib
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.types import LoadOptions
from proxy.pool.state import Backend
from proxy.slots.carrier import Carrier, Holder, stamp_of
from proxy.slots.files import SlotFiles
from proxy.slots.outcome import Outcome
from tests.slots.talk import CTX, PARALLEL, next_prompt, plain_arguments, story, turn
from tests.support.guard import until
from tests.support.hosted import hosted
from tests.support.hybrid import hybrid_model
from tests.support.llama import Client, plain_server
from tests.support.models import model

pytestmark = pytest.mark.llama


@pytest.fixture
def files(tmp_path: Path) -> SlotFiles:
    return SlotFiles(tmp_path / "slots", ram_bytes=lambda: 1 << 40)


@contextlib.asynccontextmanager
async def worker(
    files: SlotFiles, path: Path, name: str = "b1", **options: Any
) -> AsyncIterator[tuple[Holder, Client]]:
    settings = {"ctx": CTX, "parallel": PARALLEL} | options
    async with hosted(path, slot_folder=files.folder, **settings) as engine:
        known = LoadOptions("test", path, **settings)
        backend = Backend(name, known)
        backend.engine = engine
        async with Client(engine.address) as client:
            yield Holder(backend, stamp_of(known)), client


async def carry(files: SlotFiles, old: Holder, new: Holder, *, last: bool = False) -> Outcome:
    outcome = Outcome()
    await Carrier(files).pass_on(old, new, outcome, last=last)
    return outcome


async def until_empty(files: SlotFiles) -> None:
    await until(lambda: not list(files.folder.iterdir()), "no file is left")


async def kept(path: Path, prompts: list[str], options: LoadOptions) -> list[dict[str, Any]]:
    """What plain llama-server answers to one turn after the other, which nobody has replaced."""
    async with plain_server(path, *plain_arguments(options)) as address, Client(address) as plain:
        return [await turn(plain, prompt) for prompt in prompts]


@pytest.mark.parametrize("changed", [{"ctx": 2 * CTX}, {"ctx": 1024}, {"split": 1}], ids=str)
@pytest.mark.parametrize("shape", ["qwen3moe", "deepseek2", "hybrid"])
async def test_the_next_turn_reads_no_prompt_twice(
    files: SlotFiles, shape: str, changed: dict[str, Any]
) -> None:
    """And says what a server says that was never replaced."""
    path = hybrid_model() if shape == "hybrid" else model(shape, layers=2)
    async with (
        worker(files, path) as (old, before),
        worker(files, path, "b2", **changed) as (
            new,
            after,
        ),
    ):
        first = await turn(before, story())
        outcome = await carry(files, old, new)
        second = await turn(after, next_prompt(story(), first))
    prompts = [story(), next_prompt(story(), first)]
    stayed = await kept(path, prompts, old.backend.options)

    assert (outcome.conversations, outcome.reasons) == (1, [])
    assert second["timings"]["cache_n"] == outcome.tokens == stayed[1]["timings"]["cache_n"]
    assert second["content"] == stayed[1]["content"]
    await until_empty(files)


async def test_a_hybrid_that_does_not_go_on_where_it_ended_is_read_anew(files: SlotFiles) -> None:
    """Its recurrent state cannot be taken back; what it says is right all the same."""
    path, words = hybrid_model(), story().split()
    other = " ".join([*words[:-20], "but the dog"])
    async with worker(files, path) as (old, before), worker(files, path, "b2") as (new, after):
        await turn(before, story())
        await carry(files, old, new)
        second = await turn(after, other)
    (fresh,) = await kept(path, [other], old.backend.options)

    assert second["timings"]["cache_n"] == 0
    assert second["content"] == fresh["content"]


async def test_each_conversation_finds_its_own(files: SlotFiles) -> None:
    path, tales = model(layers=2), [story(number) for number in range(4)]
    async with (
        worker(files, path, parallel=4) as (old, before),
        worker(files, path, "b2", parallel=4, ctx=2 * CTX) as (new, after),
    ):
        answers = [await turn(before, tale) for tale in tales]
        outcome = await carry(files, old, new)
        nexts = [next_prompt(*pair) for pair in zip(tales, answers, strict=True)]
        goes_on = [await turn(after, prompt) for prompt in nexts]

    assert outcome.conversations == 4
    assert sum(answer["timings"]["cache_n"] for answer in goes_on) == outcome.tokens
    assert len({answer["id_slot"] for answer in goes_on}) == 4


async def test_only_what_went_on_is_carried_once_more_and_into_the_same_slot(
    files: SlotFiles,
) -> None:
    path = model(layers=2)
    async with (
        worker(files, path) as (old, before),
        worker(files, path, "b2", ctx=2 * CTX) as (new, after),
    ):
        answers = [await turn(before, story(number)) for number in range(2)]
        await carry(files, old, new)
        prompt = next_prompt(story(1), answers[1])
        went_on = await turn(before, prompt)
        again = await carry(files, old, new, last=True)
        nothing = await carry(files, old, new, last=True)
        second = await turn(after, next_prompt(prompt, went_on))

    assert (again.conversations, again.reasons) == (1, [])
    assert nothing.conversations == 0
    assert second["timings"]["cache_n"] == again.tokens


async def test_a_slot_that_a_request_has_taken_is_not_taken_from_it(files: SlotFiles) -> None:
    path = model(layers=2)
    async with (
        worker(files, path, parallel=1) as (old, before),
        worker(files, path, "b2", parallel=1, ctx=2 * CTX) as (new, after),
    ):
        await turn(before, story(0))
        mine = await turn(after, story(1))
        outcome = await carry(files, old, new)
        second = await turn(after, next_prompt(story(1), mine))

    assert (outcome.conversations, outcome.reasons) == (
        0,
        ["requests have taken all slots that it could be in"],
    )
    assert second["timings"]["cache_n"] > 0


@pytest.mark.parametrize("path", [model("gpt-oss", layers=2)], ids=["gpt-oss"])
async def test_a_sliding_window_is_left_and_with_a_full_cache_carried(
    files: SlotFiles, path: Path
) -> None:
    async with worker(files, path) as (old, before), worker(files, path, "b2") as (new, _):
        await turn(before, story())
        left = await carry(files, old, new)
    full: dict[str, Any] = {"args": ("--swa-full",)}
    async with (
        worker(files, path, **full) as (old, before),
        worker(files, path, "b2", **full) as (new, after),
    ):
        first = await turn(before, story())
        carried = await carry(files, old, new)
        second = await turn(after, next_prompt(story(), first))

    assert (left.conversations, len(left.reasons)) == (0, 1)
    assert "sliding window" in left.reasons[0]
    assert second["timings"]["cache_n"] == carried.tokens > 0


async def test_llama_server_refuses_what_we_overlook(files: SlotFiles) -> None:
    """A cache of another type costs the prompt, and nothing else."""
    path = model(layers=2)
    quantised: dict[str, Any] = {"args": ("--cache-type-k", "q8_0")}
    async with (
        worker(files, path) as (old, before),
        worker(files, path, "b2", **quantised) as (new, after),
    ):
        await turn(before, story())
        new.backend.options = old.backend.options
        outcome = await carry(files, old, new)
        second = await turn(after, story())

    assert outcome.conversations == 0
    assert "could not be restored" in outcome.reasons[0]
    assert second["timings"]["cache_n"] == 0
    await until_empty(files)


async def test_a_file_that_cannot_be_written_costs_the_prompt_only(files: SlotFiles) -> None:
    """The limit stands in for a full disk: the worker's writing fails in the middle."""
    path = model(layers=2)
    async with (
        worker(files, path) as (old, before),
        worker(files, path, "b2", ctx=2 * CTX) as (new, after),
    ):
        first = await turn(before, story())
        pid = old.backend.engine.pid or 0
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
        outcome = await carry(files, old, new)
        same = await turn(before, next_prompt(story(), first))
        second = await turn(after, next_prompt(story(), first))

    assert outcome.conversations == 0
    assert "could not be saved" in outcome.reasons[0]
    assert same["timings"]["cache_n"] > 0
    assert second["timings"]["cache_n"] == 0
    await until_empty(files)


async def test_nothing_is_written_where_there_is_no_room(tmp_path: Path) -> None:
    files, path = SlotFiles(tmp_path / "slots"), model(layers=2)
    async with worker(files, path) as (old, before), worker(files, path, "b2") as (new, _):
        await turn(before, story())
        files.room_bytes = lambda: 0  # type: ignore[method-assign]
        outcome = await carry(files, old, new)

    assert "no room" in outcome.reasons[0]


async def test_a_changed_file_is_another_model(files: SlotFiles, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model(layers=2).read_bytes())
    async with worker(files, path) as (old, before):
        await turn(before, story())
        other = tmp_path / "other.gguf"
        other.write_bytes(model(layers=2, seed=1).read_bytes())
        other.replace(path)
        async with worker(files, path, "b2") as (new, after):
            outcome = await carry(files, old, new)
            unknown = await carry(files, old, replace(new, stamp=None))
            second = await turn(after, story())

    assert outcome.reasons == ["the model's file is another one"]
    assert unknown.conversations == 0
    assert second["timings"]["cache_n"] == 0


async def test_what_is_put_away_is_taken_in_later(files: SlotFiles) -> None:
    path, carrier, away, back = model(layers=2), Carrier(files), Outcome(), Outcome()
    async with worker(files, path) as (old, before):
        answers = [await turn(before, story(number)) for number in range(2)]
        saved = await carrier.put_away(old, None, away)
        size = saved[0].bytes
        assert len(saved) == 2
        limited = replace(old, dealt_with={})
        assert len(await carrier.put_away(limited, size + size // 2, Outcome())) == 1
    async with worker(files, path, "b2", ctx=2 * CTX) as (new, after):
        await carrier.take_in(saved, new, back)
        second = await turn(after, next_prompt(story(1), answers[1]))

    assert (away.tokens, away.conversations) == (back.tokens, back.conversations)
    assert second["timings"]["cache_n"] > 300
    files.sweep("b1", set())
    await until_empty(files)


async def test_what_waits_for_another_file_is_thrown_away(files: SlotFiles) -> None:
    path, carrier, outcome = model(layers=2), Carrier(files), Outcome()
    async with worker(files, path) as (old, before):
        await turn(before, story())
        saved = await carrier.put_away(old, None, Outcome())
        await carrier.take_in([replace(one, stamp=()) for one in saved], old, outcome)

    assert outcome.reasons == ["the model's file is another one"]
    await until_empty(files)
