"""The way from a front to a node, where the cluster speaks TLS."""

from pathlib import Path

import aiohttp
import pytest

from proxy.fleet.front.link import Link
from proxy.node.identity import Identity
from tests.fleet.front.conftest import usual_model
from tests.support.certificates import certificates, needs_openssl
from tests.support.fleet import front, node


@needs_openssl
@pytest.mark.llama
async def test_a_front_shows_its_certificate_to_nodes(tmp_path: Path) -> None:
    tls = certificates(tmp_path / "tls")
    async with (
        node(tmp_path, "n1", {"a": usual_model()}, env=tls) as n1,
        front(tmp_path, n1.member, env=tls) as one,
        aiohttp.ClientSession(one.url) as client,
    ):
        assert n1.url.startswith("https:")
        body = {"model": "a", "prompt": "hello", "max_tokens": 3, "stream": True}
        for _ in range(2):  # the second one over a connection that was made before
            async with client.post("/v1/completions", json=body) as answer:
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    # Without certificates it is nobody to them.
    async with front(tmp_path, n1.member) as one, aiohttp.ClientSession(one.url) as client:
        async with client.get("/api/tags") as answer:
            assert answer.status == 503


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "n1:80"])
def test_what_is_no_url_of_a_node_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no URL"):
        Link(url, Identity())
