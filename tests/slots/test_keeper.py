"""Conversations that go on where a real proxy replaces or unloads their model's worker."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.types import LoadOptions
from proxy.slots import client
from tests.slots.talk import BODY, CTX, PARALLEL, TOKENS, next_prompt, plain_arguments, story, turn
from tests.support.guard import until
from tests.support.llama import Client, plain_server, rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama


class Rig:
    """A proxy with one model, "m"."""

    def __init__(self, folder: Path, path: Path, **tables: dict[str, Any]) -> None:
        self._tables = tables
        self._model: dict[str, Any] = {"path": path, "ctx": CTX, "parallel": PARALLEL}
        self._folder = folder
        self.proxy: Proxy

    @asynccontextmanager
    async def up(self) -> AsyncIterator["Rig"]:
        async with proxy(self._folder, self._text()) as self.proxy:
            yield self

    def _text(self) -> str:
        return policies({"m": self._model}, **self._tables)

    async def edit(self, **changed: Any) -> None:
        self._model |= changed
        await self.proxy.apply(self._text())

    async def say(self, prompt: str) -> dict[str, Any]:
        return dict(await self.proxy.post("/completion", BODY | {"model": "m", "prompt": prompt}))

    async def until_replaced(self, old: str) -> None:
        """Until another backend serves, and this one is gone."""

        async def replaced() -> bool:
            backends = (await self.proxy.get("/admin/state"))["backends"]
            return [b["state"] for b in backends] == ["ready"] and backends[0]["id"] != old

        await until(replaced, f"{old} is replaced", lambda: self.proxy.get("/admin/state"))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [e.to_json() for e in self.proxy.app.services.events.since(0) if e.kind == kind]

    async def no_file_is_left(self) -> None:
        (folder,) = (Path(b.engine.address.socket or "").parents[1] for b in self._serving())
        await until(lambda: not list((folder / "slots").iterdir()), "no slot is left in a file")

    def _serving(self) -> Any:
        return [b for b in self.proxy.app.services.pool.backends() if b.engine.pid]


@asynccontextmanager
async def rig(
    folder: Path, path: Path | None = None, **tables: dict[str, Any]
) -> AsyncIterator[Rig]:
    async with Rig(folder, path or model(layers=2), **tables).up() as made:
        yield made


async def test_an_edit_of_ctx_costs_no_prompt(tmp_path: Path) -> None:
    """And the text is the one of a server that was never replaced."""
    async with rig(tmp_path) as up:
        first = await up.say(story())
        await up.edit(ctx=2 * CTX)
        await up.until_replaced("b1")
        prompt = next_prompt(story(), first)
        second = await up.say(prompt)
        await up.no_file_is_left()
        (told,) = up.told("prompts_kept")
        assert up.told("prompts_lost") == []
    options = LoadOptions("m", model(layers=2), ctx=CTX, parallel=PARALLEL)
    async with plain_server(options.path, *plain_arguments(options)) as address:
        async with Client(address) as plain:
            await turn(plain, story())
            stayed = await turn(plain, prompt)

    assert second["timings"]["cache_n"] == told["tokens"] == stayed["timings"]["cache_n"]
    assert second["content"] == stayed["content"]
    assert (told["backend"], told["was"], told["conversations"]) == ("b2", "b1", 1)


async def test_one_that_is_answered_meanwhile_goes_on_at_once(tmp_path: Path) -> None:
    """The old worker finishes its answer, and the turn after that waits until it has come over."""
    async with rig(tmp_path) as up:
        await up.say("warm up")
        body = BODY | {"model": "m", "prompt": story(), "stream": True, "n_predict": 600}
        async with up.proxy.session.post("/completion", json=body) as answer:
            assert answer.headers["X-Moe-Proxy-Backend"] == "b1"
            lines = aiter(answer.content)
            await anext(lines)
            await up.edit(ctx=2 * CTX)
            await until(lambda: up.told("backend_draining"), "the new one serves")
            text = "".join(
                [
                    json.loads(line[6:])["content"]
                    async for line in lines
                    if line.startswith(b"data")
                ]
            )
        assert len(up.proxy.app.services.pool.backends()) == 2
        second = await up.say(f"{story()}{text} and then")
        (told,) = up.told("prompts_kept")

    assert told["tokens"] > 600
    assert second["timings"]["cache_n"] > 300


async def test_it_is_said_once_where_a_model_does_not_allow_it(tmp_path: Path) -> None:
    async with rig(tmp_path, model("gpt-oss", layers=2)) as up:
        first = await up.say(story())
        await up.edit(ctx=2 * CTX)
        await up.until_replaced("b1")
        second = await up.say(next_prompt(story(), first))
        (told,) = up.told("prompts_lost")
        assert up.told("prompts_kept") == []

    assert second["timings"]["cache_n"] == 0
    assert "sliding window" in told["why"]
    assert told["tokens"] > 300


async def test_what_is_short_is_not_worth_a_word(tmp_path: Path) -> None:
    async with rig(tmp_path, model("gpt-oss", layers=2)) as up:
        await up.say("once")
        await up.edit(ctx=2 * CTX)
        await up.until_replaced("b1")

        assert (up.told("prompts_kept"), up.told("prompts_lost")) == ([], [])


async def test_where_a_device_takes_one_at_a_time_it_lies_in_a_file_meanwhile(
    tmp_path: Path,
) -> None:
    """An RPC server has one client: the old worker ends before the new one starts."""
    async with rpc_server() as rpc, rig(tmp_path, devices={"rpc": [rpc]}) as up:
        first = await up.say(story())
        await up.edit(ctx=2 * CTX)
        await up.until_replaced("b1")
        second = await up.say(next_prompt(story(), first))
        await up.no_file_is_left()
        (saved,), (kept,) = up.told("prompts_saved"), up.told("prompts_kept")

    assert second["timings"]["cache_n"] == kept["tokens"] == saved["tokens"]


async def test_a_worker_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOOK_S", 0.5)
    async with rig(tmp_path) as up:
        await up.say(story())
        pid = (await up.proxy.backend("m"))["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            await up.edit(ctx=2 * CTX)
            await until(lambda: up.told("backend_stopping"), "the new one has taken over")
            answer = await up.say(story())
        finally:
            os.kill(pid, signal.SIGCONT)
        await up.until_replaced("b1")

    assert len(answer["content"]) >= TOKENS
    assert "within 0.5 s" in up.told("prompts_lost")[0]["why"]


async def test_unloaded_models_go_on_where_the_policies_give_room(tmp_path: Path) -> None:
    async with rig(tmp_path, server={"keep_prompts": "1GiB"}) as up:
        first = await up.say(story())
        await up.proxy.post("/admin/models/m/unload")
        second = await up.say(next_prompt(story(), first))
        (kept,) = up.told("prompts_kept")
        await up.no_file_is_left()

    assert second["timings"]["cache_n"] == kept["tokens"]
    assert kept["was"] == "unloaded"


async def test_a_new_file_gets_nothing_of_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.gguf"
    path.parent.mkdir()
    shutil.copy(model(layers=2), path)
    async with rig(tmp_path, path, server={"keep_prompts": "1GiB"}) as up:
        await up.say(story())
        await up.proxy.post("/admin/models/m/unload")
        shutil.copy(model(layers=2, seed=1), path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        second = await up.say(story())
        (lost,) = up.told("prompts_lost")
        await up.no_file_is_left()

    assert second["timings"]["cache_n"] == 0
    assert "file is another one" in lost["why"]


async def test_without_room_an_unload_keeps_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as up:
        first = await up.say(story())
        await up.proxy.post("/admin/models/m/unload")
        second = await up.say(next_prompt(story(), first))

        assert up.told("prompts_saved") == []
        assert second["timings"]["cache_n"] == 0


async def test_less_room_takes_files_away_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path, server={"keep_prompts": "1GiB"}) as up:
        await up.say(story())
        folder = Path(up._serving()[0].engine.address.socket).parents[1] / "slots"
        await up.proxy.post("/admin/models/m/unload")
        assert len(list(folder.iterdir())) == 1
        up._tables["server"]["keep_prompts"] = "0"
        await up.edit()

        await until(lambda: not list(folder.iterdir()), "the file is gone")


async def test_nothing_stays_when_the_proxy_ends(tmp_path: Path) -> None:
    async with rig(tmp_path, server={"keep_prompts": "1GiB"}) as up:
        await up.say(story())
        folder = Path(up._serving()[0].engine.address.socket).parents[1]
        await up.proxy.post("/admin/models/m/unload")
        await asyncio.wait_for(up.proxy.app.drain(), 60)

    assert not folder.exists()
