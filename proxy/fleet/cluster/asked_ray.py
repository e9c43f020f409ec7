"""Asks a Ray whether it will have us, before Ray itself does: that waits for a minute or for ever,
and then tells by a traceback what is not as it should be. Blocking.
"""

import json
import os
import platform
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from proxy.fleet.cluster import found_ray
from proxy.node.identity import BadIdentity, Certificates, certificates_of
from proxy.node.names import (
    AUTHORITY_VARIABLE,
    CERTIFICATE_KEY_VARIABLE,
    CERTIFICATE_VARIABLE,
    TLS_VARIABLE,
)

ANSWER_S: Final = 5.0
VERBOSITY: Final = "GRPC_VERBOSITY"
# Where Ray keeps what its cluster is, and of which version.
SPACE, KEY = b"cluster", b"CLUSTER_METADATA"
FILES: Final = f"{CERTIFICATE_VARIABLE}, {CERTIFICATE_KEY_VARIABLE} and {AUTHORITY_VARIABLE}"
UNUSABLE: Final = f"{TLS_VARIABLE} is set, and {FILES} cannot be used: {{}}"
OTHER_TOKEN: Final = (
    "the Ray at {address} wants {what}: run the command with RAY_AUTH_TOKEN=TOKEN before it, as "
    "`moe-proxy fleet up` prints it on the first machine{file}"
)
NO_RAY: Final = (
    "what answers at {address} is no Ray: name the first machine and its Ray's port, as `moe-proxy "
    "fleet up` prints them there (port 6379 unless --ray-port said another one)"
)


def why_not(address: str, env: Mapping[str, str], token: str | None, token_file: str) -> str | None:
    """Why the Ray that listens at HOST:PORT will not have us, and what to do, in one line; None
    where it will. `token` is what it is shown, which is in that file if there is such."""
    try:
        certificates = certificates_of(env)
        problem, told = _metadata(address, certificates, token)
    except BadIdentity as error:
        return str(error)
    except OSError as error:
        return UNUSABLE.format(error)
    if problem is not None:
        code, details = problem
        tls = _speaks_tls(address) if code == "UNAVAILABLE" else None
        wrong = why_refused(address, code, details, certificates is not None, tls)
        if wrong is None and env.get("RAY_AUTH_MODE", "token") in ("token", "disabled"):
            what = "another token than the one given here" if token else "a token"
            file = f" (and remove {token_file}, which has one of before)" if token_file else ""
            wrong = OTHER_TOKEN.format(address=address, what=what, file=file)
        return wrong
    import ray

    exact = env.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") != "minor"
    return (
        why_other(told, ray.__version__, platform.python_version(), exact=exact) if told else None
    )


def why_refused(
    address: str, code: str, details: str, we_have_tls: bool, it_has_tls: bool | None
) -> str | None:
    """Of gRPC's answer; None where it is the token. Pure."""
    if code == "UNAUTHENTICATED":
        return None
    if code == "DEADLINE_EXCEEDED":
        return (
            f"what listens at {address} has not answered as Ray does within {ANSWER_S:.0f} s: is "
            "that the first machine's Ray, and is that well (moe-proxy fleet status, there)?"
        )
    if code == "UNAVAILABLE" and it_has_tls and not we_have_tls:
        return (
            f"what answers at {address} speaks TLS: set {TLS_VARIABLE}=1, {FILES} here, as on the "
            "first machine"
        )
    if code == "UNAVAILABLE" and we_have_tls and not it_has_tls:
        return (
            f"what answers at {address} speaks no TLS, and {TLS_VARIABLE} is set here: the whole "
            "cluster has it or none of it, or that is no Ray"
        )
    if code == "UNAVAILABLE" and we_have_tls:
        return (
            f"the Ray at {address} and this machine do not take each other's certificates: both "
            f"have to be of one authority, and each for its machine's address ({details[-200:]})"
        )
    return NO_RAY.format(address=address)


def why_other(told: Mapping[str, Any], ray: str, python: str, *, exact: bool) -> str | None:
    """Of what it says of itself, and our own versions, of Python's with the last number where that
    is to be `exact`. Pure."""
    there = str(told.get("ray_version", "?")), str(told.get("python_version", "?"))
    digits = 3 if exact else 2
    if there[0] == ray and there[1].split(".")[:digits] == python.split(".")[:digits]:
        return None
    return (
        f"the cluster has Ray {there[0]} and Python {there[1]}, this machine Ray {ray} and Python "
        f"{python}: install the same here, or start the cluster with these"
    )


def why_not_shown(address: str, env: Mapping[str, str]) -> str | None:
    """Why other machines would not take our certificate, where there is to be one: they come to
    this address. Ray would try for ever."""
    try:
        certificates = certificates_of(env)
        if certificates is not None:
            _meet(certificates, address)
    except ssl.SSLCertVerificationError as error:
        return (
            f"{env.get(CERTIFICATE_VARIABLE)} is no certificate that others take from {address}, "
            f"this machine's address: {error.verify_message}"
        )
    except BadIdentity as error:
        return str(error)
    except (OSError, ValueError) as error:
        return UNUSABLE.format(error)
    return None


def _meet(certificates: Certificates, address: str) -> None:
    """As if we came to ourselves, in memory alone. Raises ssl.SSLError and OSError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificates.of_server().wrap_bio(to_server, to_client, server_side=True)
    client = certificates.of_client().wrap_bio(to_client, to_server, server_hostname=address)
    waiting = [client, server]
    for _ in range(10):  # it takes three
        for each in [*waiting]:
            try:
                each.do_handshake()
                waiting.remove(each)
            except ssl.SSLWantReadError:
                continue
    if waiting:
        raise ssl.SSLError("they do not come to an end with each other")


def _metadata(
    address: str, certificates: Certificates | None, token: str | None
) -> tuple[tuple[str, str] | None, Mapping[str, Any]]:
    """What gRPC says where it was refused; what the cluster is. Raises OSError."""
    with _quiet():
        import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    options = [("grpc.enable_http_proxy", 0)]
    if certificates is None:
        channel = grpc.insecure_channel(address, options)
    else:
        shown = grpc.ssl_channel_credentials(
            certificates.authority.read_bytes(),
            certificates.key.read_bytes(),
            certificates.certificate.read_bytes(),
        )
        channel = grpc.secure_channel(address, shown, options)
    with channel:
        service = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
        asked = gcs_service_pb2.InternalKVGetRequest(key=KEY, namespace=SPACE)
        head = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            answer = service.InternalKVGet(asked, timeout=ANSWER_S, metadata=head)
            return None, json.loads(answer.value or b"{}")
        except grpc.RpcError as error:
            return (error.code().name, error.details() or ""), {}
        except ValueError as error:
            return ("INTERNAL", str(error)), {}


@contextmanager
def _quiet() -> Iterator[None]:
    """gRPC, as it is loaded, is told to say nothing on standard error of what we are told too."""
    before = os.environ.get(VERBOSITY)
    os.environ.setdefault(VERBOSITY, "NONE")
    try:
        yield
    finally:
        if before is None:
            del os.environ[VERBOSITY]


def _speaks_tls(address: str) -> bool | None:
    """None where that cannot be told."""
    host, port = found_ray.parts_of(address)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), ANSWER_S) as connection:
            # The certificate that it shows is enough; that it wants one of ours comes after that.
            context.wrap_socket(connection).close()
    except ssl.SSLError:
        return False
    except OSError:
        return None
    return True
