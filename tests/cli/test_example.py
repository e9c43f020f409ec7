"""Which request a newcomer is shown, of the models that there are."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog.local import Catalog
from proxy.catalog.summary import Summary
from proxy.cli.example import Example, example_of
from proxy.policy.load import load
from proxy.routing.resolver import Resolver
from tests.support.guard import HANG_S
from tests.support.models import model
from tests.support.policies import policies
from tests.support.serving import serving

DENSE, MOE, EMBEDS, RANKS = (
    Summary(architecture="qwen3", template=True),
    Summary(architecture="qwen3moe", template=True, expert_count=8),
    Summary(architecture="bert", embedding=True, chat=False),
    Summary(architecture="bert", chat=False),
)


def chosen(tmp_path: Path, models: dict[str, Summary], look_s: float = 60.0) -> Example | None:
    """Of models whose headers say this, in this order."""
    for name in models:
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    catalog = Catalog([tmp_path], {})
    found = load(None, {"MOE_PROXY_POLICIES": str(tmp_path)}).policies
    assert found is not None
    resolver = Resolver(lambda: found, catalog)
    there = [resolver.resolve(name) for name in models]
    return example_of(there, lambda entry: models[entry.name], look_s=look_s)


@pytest.mark.parametrize(
    ("models", "name", "path"),
    [
        ({"a": EMBEDS, "b": RANKS, "c": DENSE}, "c", "/v1/chat/completions"),
        ({"a": EMBEDS, "b": DENSE, "c": MOE, "d": MOE}, "c", "/v1/chat/completions"),
        ({"a": EMBEDS}, "a", "/v1/embeddings"),
        ({"a": RANKS}, "a", "/v1/rerank"),
        ({"a": Summary(), "b": EMBEDS}, "b", "/v1/embeddings"),  # a file that is not usable
    ],
)
def test_a_model_that_chats_is_named_before_others(
    tmp_path: Path, models: dict[str, Summary], name: str, path: str
) -> None:
    example = chosen(tmp_path, models)

    assert example is not None
    assert (example.body["model"], example.path) == (name, path)


def test_without_a_usable_model_nothing_is_proposed(tmp_path: Path) -> None:
    assert chosen(tmp_path, {}) is None
    assert chosen(tmp_path, {"a": Summary()}) is None


def test_it_does_not_look_for_ever(tmp_path: Path) -> None:
    example = chosen(tmp_path, {"a": EMBEDS, "b": MOE}, look_s=-1.0)

    assert example is not None
    assert example.body["model"] == "a"


def test_a_key_is_sent_where_one_is_asked_for() -> None:
    example = Example("/v1/embeddings", {"model": "it's"})

    assert example.command("http://h", keys=True) == (
        'curl http://h/v1/embeddings -H "Authorization: Bearer $MOE_PROXY_API_KEY" '
        """-d '{"model": "it'"'"'s"}'"""
    )


@pytest.mark.llama
@pytest.mark.parametrize("keys", [False, True])
async def test_what_is_proposed_works_as_it_is_pasted(tmp_path: Path, keys: bool) -> None:
    """Beside a model for embeddings, which comes first, and a file that is none."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a-embedder.gguf").symlink_to(model("bert", layers=2))
    (tmp_path / "files" / "broken.gguf").write_bytes(b"GGUF")
    (tmp_path / "files" / "it's a chat.gguf").symlink_to(model(layers=2))
    (tmp_path / "keys").write_text("secret admin me\n")
    tables: dict[str, dict[str, Any]] = {
        "catalog": {"dirs": [tmp_path / "files"]},
        "server": {"api_keys_file": tmp_path / "keys"} if keys else {},
        "defaults": {"ctx": 512},
    }
    (tmp_path / "p.toml").write_text(policies({}, **tables))
    arguments = ("--port", "0", "--policies", str(tmp_path / "p.toml"), "--log-format", "console")
    async with serving(tmp_path, *arguments) as proxy, asyncio.timeout(HANG_S):
        assert proxy.process.stderr is not None
        line = ""
        while not line.startswith("  try: "):
            line = (await proxy.process.stderr.readline()).decode()
            assert line, "it ended"
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-c", line.removeprefix("  try: ").strip() + ' -sw "%{http_code}"'),
            env={"PATH": "/usr/bin:/bin", "MOE_PROXY_API_KEY": "secret"},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await shell.communicate()
        proxy.process.send_signal(signal.SIGINT)
        assert await proxy.ended() == 0

    assert said.endswith(b"200"), said
