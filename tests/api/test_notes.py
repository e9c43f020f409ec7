"""Typos are answered, and told of: in the answer's head and in the log."""

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.guard import until
from tests.support.models import model
from tests.support.policies import policies
from tests.support.served import Served, served

pytestmark = pytest.mark.llama

WARNING = "X-Moe-Proxy-Warning"
EXPERTS = "{} is not known; did you mean moe_cpu_layers?"
MESSAGES = [{"role": "user", "content": "hi"}]
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/completions": {"prompt": "hi", "max_tokens": 1},
    "/v1/responses": {"input": "hi", "max_output_tokens": 1},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 1},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "hi", "options": {"num_predict": 1}},
}
OLLAMAS = ("/api/chat", "/api/generate")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tiny = {"path": model(layers=2), "ctx": 512, "parallel": 1}
    with served(tmp_path_factory.mktemp("notes"), policies({"tiny": tiny})) as url:
        yield url


async def ask(url: str, path: str, **more: Any) -> tuple[int, list[str], Any]:
    body = {"model": "tiny", "stream": False} | ASKS[path] | more
    async with aiohttp.ClientSession(url) as session, session.post(path, json=body) as answer:
        return answer.status, answer.headers.getall(WARNING, []), await answer.text()


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("name", ["moe_cpu_layer", "moe-cpu-layers", "num_cpu_moes"])
@pytest.mark.parametrize("path", ASKS)
async def test_a_typo_is_answered_and_told_of_once(
    url: Served, path: str, name: str, streams: bool
) -> None:
    before = len(url.said("request_warning"))

    status, told, _ = await ask(url, path, **{name: 1}, stream=streams)

    assert (status, told) == (200, [EXPERTS.format(name)])
    lines = await until(lambda: url.said("request_warning")[before:], "a line of it")
    assert [line["warning"] for line in lines] == told
    assert lines[0]["request_id"]


@pytest.mark.parametrize("path", ASKS)
async def test_who_makes_none_is_told_nothing(url: Served, path: str) -> None:
    more = {"moe_cpu_layers": 2, "keep_alive": "1m"}

    assert (await ask(url, path, **more))[:2] == (200, [])


@pytest.mark.parametrize("path", OLLAMAS)
async def test_so_are_typos_of_ollamas_options(url: Served, path: str) -> None:
    options = {"num_predict": 1, "num_ctxt": 1, "temprature": 1, "moe_cpu_layer": 1, "zzz": 1}

    status, (told,), _ = await ask(url, path, options=options)

    assert status == 200
    assert told.split("; ") == [
        "options.moe_cpu_layer is not known",
        "did you mean moe_cpu_layers?",
        "options.num_ctxt is not known",
        "did you mean num_ctx?",
        "options.temprature is not known",
        "did you mean temperature?",
    ]
    unknown = await until(lambda: url.said("ollama_option_unknown"), "a line of the other")
    assert {line["option"] for line in unknown} == {"zzz"}


@pytest.mark.parametrize("path", OLLAMAS)
@pytest.mark.parametrize("name", ["moe_cpu_layers", "num_cpu_moe", "n_cpu_moe", "num_moe_offload"])
async def test_beside_the_model_it_is_taken_in_ollamas_too(
    url: Served, path: str, name: str
) -> None:
    assert (await ask(url, path, **{name: 2}))[:2] == (200, [])
    refused = await ask(url, path, **{name: "many"})
    assert (refused[0], f"{name}: " in refused[2]) == (400, True)
    other = await ask(url, path, **{name: 2}, options={"moe_cpu_layers": 1})
    assert other[0] == 400
    assert f"{name} is 2 and options.moe_cpu_layers is 1" in other[2]


async def test_an_option_beside_the_model_is_told_of_where_it_does_nothing(url: Served) -> None:
    belongs = "num_ctx does nothing beside model; it belongs into options"

    assert (await ask(url, "/api/chat", num_ctx=64))[:2] == (200, [belongs])
    assert (await ask(url, "/v1/chat/completions", num_ctx=64))[:2] == (200, [belongs])


async def test_many_are_told_of_shortly(url: Served) -> None:
    names = {f"moe_cpu_layers_{number}": 1 for number in range(40)}

    _, (told,), _ = await ask(url, "/v1/chat/completions", **names)

    assert told.endswith("; and 35 more")
    assert len(told) < 500
