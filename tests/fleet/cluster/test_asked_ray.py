"""A Ray is asked whether it will have us: by real gRPC, which something speaks that is like its
head, and to what is none."""

import http.server
import json
import platform
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from proxy.fleet.cluster import asked_ray
from proxy.fleet.cluster.asked_ray import why_not, why_not_shown, why_other
from tests.support.certificates import certificates, needs_openssl

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'moe-proxy[fleet]'"
)
TOKEN = "t" * 64
Head = Callable[..., str]


@pytest.fixture
def head() -> Iterator[Head]:
    """Something that answers as Ray's head does, of these versions; its address."""
    import grpc
    import ray
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    servers = []

    def begin(
        version: str = ray.__version__,
        python: str = platform.python_version(),
        tls: Mapping[str, str] | None = None,
    ) -> str:
        class Gcs(gcs_service_pb2_grpc.InternalKVGcsServiceServicer):  # type: ignore[misc]
            def InternalKVGet(self, request: Any, context: Any) -> Any:
                if ("authorization", f"Bearer {TOKEN}") not in context.invocation_metadata():
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
                told = {"ray_version": version, "python_version": python}
                assert (request.namespace, request.key) == (b"cluster", b"CLUSTER_METADATA")
                return gcs_service_pb2.InternalKVGetReply(value=json.dumps(told).encode())

        server = grpc.server(ThreadPoolExecutor(1))
        gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(Gcs(), server)
        if tls is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            key, certificate, authority = (
                Path(tls[f"RAY_TLS_{name}"]).read_bytes()
                for name in ("SERVER_KEY", "SERVER_CERT", "CA_CERT")
            )
            shown = grpc.ssl_server_credentials([(key, certificate)], authority, True)
            port = server.add_secure_port("127.0.0.1:0", shown)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield begin
    for each in servers:
        each.stop(None).wait()


def test_one_that_will_have_us_is_not_talked_about(head: Head) -> None:
    assert why_not(head(), {}, TOKEN, "") is None


@pytest.mark.parametrize(
    ("token", "what"), [(None, "wants a token"), ("x", "wants another token than")]
)
def test_a_wrong_token_is_told_with_what_to_do(head: Head, token: str | None, what: str) -> None:
    said = why_not(head(), {}, token, "/home/me/.ray/auth_token")

    assert said is not None
    assert what in said
    assert "RAY_AUTH_TOKEN=TOKEN" in said
    assert "remove /home/me/.ray/auth_token" in said
    assert "\n" not in said


def test_another_version_is_told_with_both(head: Head) -> None:
    for there in ({"version": "2.1.0"}, {"python": "3.99.1"}):
        said = why_not(head(**there), {}, TOKEN, "")
        assert said is not None
        assert "install the same here" in said
        assert next(iter(there.values())) in said


def test_pythons_last_number_counts_unless_that_is_not_wanted() -> None:
    told = {"ray_version": "2.60.0", "python_version": "3.11.2"}

    assert why_other(told, "2.60.0", "3.11.7", exact=True)
    assert why_other(told, "2.60.0", "3.11.7", exact=False) is None
    assert why_other(told, "2.61.0", "3.11.2", exact=False)


class Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_web_server_is_no_ray() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = why_not(f"127.0.0.1:{server.server_port}", {}, TOKEN, "")
        server.shutdown()

    assert said is not None
    assert "is no Ray" in said


def test_what_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_ray, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = why_not(f"127.0.0.1:{server.getsockname()[1]}", {}, TOKEN, "")

    assert said is not None
    assert "has not answered" in said


@needs_openssl
def test_tls_on_one_side_or_of_two_authorities_is_told(head: Head, tmp_path: Path) -> None:
    ours, others = certificates(tmp_path, "ours"), certificates(tmp_path, "others")
    with_tls, without = head(tls=ours), head()

    assert why_not(with_tls, ours, TOKEN, "") is None
    assert "speaks TLS: set RAY_USE_TLS=1" in str(why_not(with_tls, {}, TOKEN, ""))
    assert "speaks no TLS" in str(why_not(without, ours, TOKEN, ""))
    assert "each other's certificates" in str(why_not(with_tls, others, TOKEN, ""))
    lacking = ours | {"RAY_TLS_SERVER_KEY": str(tmp_path / "none")}
    assert "cannot be used" in str(why_not(with_tls, lacking, TOKEN, ""))


@needs_openssl
def test_a_certificate_that_nobody_would_take_is_told_before_ray_starts(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path, "ours"), certificates(tmp_path, "others")

    assert why_not_shown("127.0.0.1", {}) is None
    assert why_not_shown("127.0.0.1", ours) is None
    assert "from 10.0.0.9, this machine's address" in str(why_not_shown("10.0.0.9", ours))
    mixed = ours | {"RAY_TLS_CA_CERT": others["RAY_TLS_CA_CERT"]}
    assert "no certificate that others take" in str(why_not_shown("127.0.0.1", mixed))
    half = ours | {"RAY_TLS_SERVER_KEY": others["RAY_TLS_SERVER_KEY"]}
    assert "cannot be used" in str(why_not_shown("127.0.0.1", half))
    assert "RAY_TLS_CA_CERT is not" in str(
        why_not_shown("127.0.0.1", ours | {"RAY_TLS_CA_CERT": ""})
    )
