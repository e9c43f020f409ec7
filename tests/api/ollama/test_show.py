"""What a model is, and which ones are loaded."""

import asyncio
import re
from pathlib import Path

import pytest

from proxy.api.ollama import listing
from proxy.cli.main import main
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import proxy


async def test_everything_is_shown_to_a_few_at_once(tmp_path: Path) -> None:
    """A whole vocabulary takes much memory."""
    policies = f'[models.tiny]\npath = "{model(layers=2)}"\n[catalog]\nollama = false\n'
    async with proxy(tmp_path, policies + f'state = "{tmp_path}/state"\n') as asked:
        body = {"model": "tiny", "verbose": True}
        assert listing._verbose.acquire(blocking=False)
        assert listing._verbose.acquire(blocking=False)
        try:
            async with asked.session.post("/api/show", json=body) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "1"
            await asked.post("/api/show", {"model": "tiny"})
        finally:
            listing._verbose.release()
            listing._verbose.release()

        for _ in range(3):
            shown = await asked.post("/api/show", body)
            assert shown["model_info"]["tokenizer.ggml.tokens"]


async def test_its_modelfile_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by the proxy, read by the command."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MOE_PROXY_POLICIES", raising=False)
    monkeypatch.chdir(tmp_path)
    table = {"path": model(layers=2), "moe_cpu_layers": 1, "ctx": 2048}
    text = policies({"tiny": table}, catalog={"state": tmp_path / "state"})
    recipe = {
        "model": "first",
        "stream": False,
        "from": "tiny",
        "system": 'Two\n"lines" ',
        "template": "{% for m in messages %}{{ m.content }}\n{% endfor %}",
        "license": ["free\n", "as in speech"],
        "parameters": {"temperature": 0.5, "stop": ["\n", "User: "], "num_ctx": 512},
        "messages": [{"role": "user", "content": "Hi\nthere"}],
    }
    async with proxy(tmp_path, text) as asked:
        await asked.post("/api/create", recipe)
        first = await asked.post("/api/show", {"model": "first"})
        (tmp_path / "Modelfile").write_text(first["modelfile"])
        command = ["create", "second", "--url", asked.url]
        assert await asyncio.to_thread(main, command) == 0
        second = await asked.post("/api/show", {"model": "second"})
        plain = await asked.post("/api/show", {"model": "tiny"})

    assert first["details"]["parent_model"] == "tiny:latest"
    assert first["license"] == "free\n\nas in speech"
    for field in ("license", "parameters", "template", "system", "messages", "context_length"):
        assert second[field] == first[field], field
    assert "moe_cpu_layers" not in first["modelfile"]
    said = [line for line in plain["modelfile"].splitlines() if line and not line.startswith("#")]
    assert said == [f"FROM {table['path']}", "PARAMETER num_ctx 2048"]
    assert "moe_cpu_layers" in plain["parameters"], "which its policy has set"


async def test_what_nobody_has_set_is_not_shown(tmp_path: Path) -> None:
    """But what is served is: the defaults, and no more than a model was trained for."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny.gguf").symlink_to(model(layers=2, sizes={"context": 2048}))
    text = policies({}, catalog={"dirs": [folder], "state": tmp_path / "state"})
    async with proxy(tmp_path, text) as asked:
        shown = await asked.post("/api/show", {"model": "tiny"})

    assert "PARAMETER" not in shown["modelfile"]
    assert "parameters" not in shown
    assert (shown["context_length"], shown["details"]["context_length"]) == (2048, 2048)
    assert re.fullmatch(r"[\d.]+M", shown["details"]["parameter_size"])


async def test_what_stays_longest_is_listed_first(tmp_path: Path) -> None:
    models = {"a": {"path": model(layers=2)}, "b": {"path": model("bert", layers=2)}}
    text = policies(models, catalog={"state": tmp_path / "state"}, defaults={"ctx": 512})
    async with proxy(tmp_path, text) as asked:

        async def listed(**keep_alive: object) -> list[str]:
            await asked.post(
                "/api/generate", {"model": "a", "stream": False, "keep_alive": keep_alive["a"]}
            )
            body = {"model": "b", "input": "x", "keep_alive": keep_alive["b"]}
            await asked.post("/api/embed", body)
            return [each["name"] for each in (await asked.get("/api/ps"))["models"]]

        assert await listed(a="20m", b="10m") == ["a:latest", "b:latest"]
        # The longer time to live, but less of it left.
        assert await listed(a="10m", b=-1) == ["b:latest", "a:latest"]
        assert await listed(a="30m", b="30m") == ["b:latest", "a:latest"], "it was used later"
