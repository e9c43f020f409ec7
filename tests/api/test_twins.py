"""Several names of one file: one backend, as long as they differ in what requests get only."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

pytestmark = pytest.mark.llama


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Proxy]:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny.gguf").symlink_to(model(layers=4))
    text = policies(
        {
            "named": {"path": model(layers=2), "keep_alive": "20m", "aliases": ["GPT", "claude-*"]},
            "greedy": {"base": "named", "params": {"top_k": 1}},
        },
        catalog={"dirs": [folder], "state": tmp_path / "state"},
        defaults={"ctx": 512, "parallel": 2},
    )
    async with proxy(tmp_path, text) as asked:
        yield asked


async def create(asked: Proxy, name: str, source: str, **more: Any) -> None:
    body = {"model": name, "from": source, "stream": False, **more}
    assert await asked.post("/api/create", body) == {"status": "success"}


async def who_answers(asked: Proxy, name: str, **options: Any) -> str:
    body = {
        "model": name,
        "prompt": "hi",
        "stream": False,
        "options": {"num_predict": 1, **options},
    }
    async with asked.session.post("/api/generate", json=body) as answer:
        found = await answer.json()
        assert answer.status == 200, found
        assert found["model"] == name
        return str(answer.headers["X-Moe-Proxy-Backend"])


@pytest.mark.parametrize("source", ["tiny", "named"])
async def test_what_is_made_of_a_model_shares_its_backend(asked: Proxy, source: str) -> None:
    """A file of a folder, or one that a policy names."""
    await create(asked, "brief", source, system="be brief", parameters={"temperature": 0})
    await create(asked, "briefer", "brief", messages=[{"role": "user", "content": "hi"}])
    await asked.post("/api/copy", {"source": "brief", "destination": "copy"})

    backends = {await who_answers(asked, name) for name in ("copy", source, "briefer", "brief")}

    assert len(backends) == 1
    (loaded,) = (await asked.get("/api/ps"))["models"]
    assert loaded["name"] == f"{source}:latest", "listed once, as a variant is"
    listed = {entry["id"]: entry["meta"] for entry in (await asked.get("/v1/models"))["data"]}
    assert listed["briefer:latest"]["base"] == source
    assert listed[source]["base"] is None


@pytest.mark.parametrize("source", ["GPT", "gpt:latest", "claude-1", "greedy", "Greedy"])
async def test_models_are_made_from_other_names_too(asked: Proxy, source: str) -> None:
    """What a variant is beside its file is in what is made from it."""
    await create(asked, "made", source, parameters={"seed": 3})
    await asked.post("/api/copy", {"source": source, "destination": "copy"})

    is_variant = source.lower() == "greedy"
    for name, more in (("made", {"seed": "3"}), ("copy", {})):
        shown = await asked.post("/api/show", {"model": name})
        told = dict(line.split() for line in shown.get("parameters", "").splitlines())
        assert told == ({"top_k": "1"} if is_variant else {}) | more
    assert shown["details"]["family"] == "qwen3moe"


async def test_nothing_is_made_of_what_is_no_model(asked: Proxy, tmp_path: Path) -> None:
    (tmp_path / "models" / "text.gguf").write_text("some text, and nothing of a model")
    made = {"model": "made", "from": "text", "stream": False}

    for path, body in (
        ("/api/create", made),
        ("/api/create", made | {"template": "{{ .Prompt }}", "quantize": "Q4_K_M"}),
        ("/api/copy", {"source": "text", "destination": "made"}),
    ):
        told = await asked.post(path, body, status=400)
        assert "not a GGUF file" in told["error"]
    async with asked.session.post("/api/create", json=made | {"stream": True}) as answer:
        assert b"not a GGUF file" in (await answer.read()).splitlines()[-1]


async def test_each_keeps_its_own_defaults(asked: Proxy) -> None:
    await create(asked, "one", "tiny", parameters={"num_predict": 1}, system="x " * 50)
    await create(asked, "three", "tiny", parameters={"num_predict": 3})
    counts = {}
    for name in ("one", "three"):
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "stream": False}
        counts[name] = await asked.post("/api/chat", body)

    assert [counts[name]["eval_count"] for name in ("one", "three")] == [1, 3]
    assert counts["one"]["prompt_eval_count"] > counts["three"]["prompt_eval_count"] + 40
    assert len(await asked.ready()) == 1


async def test_a_larger_context_takes_the_place_of_a_smaller_one(asked: Proxy) -> None:
    await create(asked, "small", "tiny", parameters={"num_ctx": 256})
    await create(asked, "large", "tiny", parameters={"num_ctx": 2048})

    assert await who_answers(asked, "tiny") == await who_answers(asked, "small") == "b1"
    assert await who_answers(asked, "large") == "b2"
    assert await who_answers(asked, "tiny") == await who_answers(asked, "small") == "b2"
    assert (await asked.until_ready())["ctx"] == 2048


async def test_another_template_is_another_way_of_loading(asked: Proxy) -> None:
    template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    await create(asked, "other", "tiny", template=template)
    await create(asked, "same-other", "other", system="x")

    backends = [await who_answers(asked, name) for name in ("tiny", "other", "same-other")]

    assert backends == ["b1", "b2", "b2"]


async def test_unloading_one_unloads_what_they_share(asked: Proxy) -> None:
    await create(asked, "brief", "tiny", system="be brief")
    await who_answers(asked, "tiny")

    await asked.post("/api/generate", {"model": "brief", "keep_alive": 0, "stream": False})

    assert await asked.ready() == []


async def test_what_was_shared_goes_on_without_the_name_that_it_had(asked: Proxy) -> None:
    await create(asked, "first", "tiny", template="{{ messages[0].content }}{% if x %}{% endif %}")
    await create(asked, "second", "first", system="x")
    assert await who_answers(asked, "first") == await who_answers(asked, "second")

    async with asked.session.delete("/api/delete", json={"model": "first"}) as answer:
        assert answer.status == 200

    assert await who_answers(asked, "second")
    assert (await asked.get("/api/ps"))["models"]
