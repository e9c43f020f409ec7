"""What a model is, for people who want to know everything."""

from pathlib import Path

from proxy.api.ollama import listing
from tests.support.models import model
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
