"""The Kubernetes manifests, as far as can be seen without a cluster: that they fit together and fit
the image, and that a proxy with their policies answers what the kubelet asks."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from proxy.policy.load import load
from tests.support import image
from tests.support.guard import HANG_S, until
from tests.support.image import POLICIES, ROOT, values
from tests.support.systemd import service

FOLDER = ROOT / "deploy" / "kubernetes"
BASE, CUDA = FOLDER / "base", FOLDER / "cuda"
KEY = "a-key-of-this-test"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def pod() -> dict[str, Any]:
    return dict(read(BASE / "deployment.yaml")["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    (one,) = pod()["containers"]
    return dict(one)


def probes() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield name, container()[name]


def policies() -> Any:
    loaded = load(BASE / "policies.toml", {"HOME": "/nowhere"})
    assert loaded.policies is not None, loaded.problems
    return loaded.policies


def test_a_kustomization_names_every_file_of_its_folder() -> None:
    told = read(BASE / "kustomization.yaml")
    files = [file for each in told["configMapGenerator"] for file in each["files"]]

    assert sorted([*told["resources"], *files, "kustomization.yaml"]) == sorted(os.listdir(BASE))
    assert [(CUDA / path).resolve() for path in read(CUDA / "kustomization.yaml")["resources"]] == [
        BASE
    ]


def test_the_parts_name_each_other() -> None:
    deployment, service_ = read(BASE / "deployment.yaml"), read(BASE / "service.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    kustomization = read(BASE / "kustomization.yaml")
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    (port,) = container()["ports"]

    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service_["spec"]["selector"].items() <= labels.items()
    assert [each["targetPort"] for each in service_["spec"]["ports"]] == [port["name"]]
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes.keys()
    assert (
        volumes["data"]["persistentVolumeClaim"]["claimName"]
        == (read(BASE / "claim.yaml")["metadata"]["name"])
    )
    (maps,) = kustomization["configMapGenerator"]
    assert volumes["policies"]["configMap"]["name"] == maps["name"]
    assert kustomization["namespace"] == read(BASE / "namespace.yaml")["metadata"]["name"]
    assert [each["name"] for each in kustomization["images"]] == [container()["image"]]


def test_the_pod_is_what_the_image_expects() -> None:
    mounts = {mount["mountPath"] for mount in container()["volumeMounts"]}
    user, _, group = values("USER")[-1].partition(":")
    security = pod()["securityContext"]

    assert str(container()["ports"][0]["containerPort"]) == values("EXPOSE")[-1]
    assert {POLICIES, "/tmp", *map(str, policies().catalog.dirs)} <= mounts
    assert {image.environment()["HOME"], image.environment()["XDG_RUNTIME_DIR"]} <= mounts
    assert (str(security["runAsUser"]), str(security["runAsGroup"])) == (user, group)
    assert "command" not in container(), "the image's own is started"
    assert "args" not in container()


def test_it_asks_for_a_key_and_reads_it_where_it_is_mounted() -> None:
    file = policies().server.api_keys_file
    mount = next(mount for mount in container()["volumeMounts"] if mount["name"] == "keys")
    secret = next(volume["secret"] for volume in pod()["volumes"] if volume["name"] == "keys")

    assert file.parent == Path(mount["mountPath"])
    assert secret["defaultMode"] & 0o007 == 0
    assert secret["secretName"] == "moe-proxy-keys"
    readme = (ROOT / "deploy" / "README.md").read_text()
    assert f"create secret generic moe-proxy-keys --from-file={file.name}=" in readme


def test_it_answers_to_the_names_of_its_service() -> None:
    name = read(BASE / "service.yaml")["metadata"]["name"]
    namespace = read(BASE / "kustomization.yaml")["namespace"]
    full = f"{name}.{namespace}"

    assert policies().server.hosts == (name, full, f"{full}.svc", f"{full}.svc.cluster.local")


def test_a_stop_waits_longer_than_answers_are_waited_for() -> None:
    assert pod()["terminationGracePeriodSeconds"] >= policies().server.drain_s + 30


def test_variables_of_the_cluster_are_not_taken_for_ours() -> None:
    """A Service called moe-proxy is in the environment as MOE_PROXY_PORT, if nothing is said."""
    assert pod()["enableServiceLinks"] is False


def test_the_pod_keeps_to_the_restricted_standard_of_its_namespace() -> None:
    security, mine = pod()["securityContext"], container()["securityContext"]
    labels = read(BASE / "namespace.yaml")["metadata"]["labels"]

    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"]["type"] == "RuntimeDefault"
    assert mine["allowPrivilegeEscalation"] is False
    assert mine["capabilities"] == {"drop": ["ALL"]}


async def test_a_proxy_answers_the_probes_and_takes_an_edited_config_map(tmp_path: Path) -> None:
    """The policies are in a folder as the kubelet makes it: links into a folder that is a link,
    which is replaced as a whole."""
    (tmp_path / "keys").write_text(KEY + "\n")
    (tmp_path / "keys").chmod(0o440)
    text = (BASE / "policies.toml").read_text().replace("/run/keys/keys", str(tmp_path / "keys"))
    folder = tmp_path / "policies"
    projected(folder, "first", text)
    (folder / "policies.toml").symlink_to("..data/policies.toml")
    arguments = [str(folder) if word == POLICIES else word for word in image.command()[1:]]

    async with service(tmp_path, *arguments, "--port", "0") as proxy:
        port = (await proxy.until("serving"))["url"].rpartition(":")[2]
        timeout = aiohttp.ClientTimeout(HANG_S)
        base = f"http://127.0.0.1:{port}"
        key = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(base, timeout=timeout) as session:
            for name, probe in probes():
                # The kubelet names the pod by its address.
                headers = {"Host": f"10.1.2.3:{container()['ports'][0]['containerPort']}"}
                async with session.get(probe["httpGet"]["path"], headers=headers) as answer:
                    assert answer.status == 200, name
            ours = {"Host": "moe-proxy.moe-proxy.svc.cluster.local:11434"}
            async with session.get("/api/tags", headers=ours) as answer:
                assert answer.status == 401
            async with session.get("/api/tags", headers=ours | key) as answer:
                assert answer.status == 200

            projected(folder, "second", text.replace('"moe-proxy",', '"moe-proxy", "edited",'))

            async def is_taken() -> bool:
                headers = {"Host": "edited"} | key
                async with session.get("/api/tags", headers=headers) as answer:
                    return answer.status == 200

            await until(is_taken, "the edit is taken")
        proxy.process.terminate()
        assert await proxy.ended() == 0


def projected(folder: Path, version: str, text: str) -> None:
    """Write a version of a ConfigMap, and have the link lead to it."""
    (folder / f"..{version}").mkdir(parents=True)
    (folder / f"..{version}" / "policies.toml").write_text(text)
    (folder / "..new").symlink_to(f"..{version}")
    (folder / "..new").replace(folder / "..data")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize(("folder", "tag"), [(BASE, "cpu"), (CUDA, "cuda")], ids=["base", "cuda"])
def test_kustomize_makes_one_of_each(folder: Path, tag: str, tmp_path: Path) -> None:
    """It only reads files, and asks no cluster."""
    command = ["kubectl", "kustomize", str(folder)]
    env = os.environ | {"HOME": str(tmp_path), "KUBECONFIG": os.devnull}
    said = subprocess.run(command, capture_output=True, text=True, env=env, timeout=HANG_S)
    assert said.returncode == 0, said.stderr

    made = {one["kind"]: one for one in yaml.safe_load_all(said.stdout)}

    assert made.keys() == {
        *("Namespace", "ConfigMap", "PersistentVolumeClaim", "Deployment", "Service"),
    }
    (one,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert one["image"] == f"moe-proxy:{tag}"
    assert one["resources"].get("limits") == ({"nvidia.com/gpu": 1} if tag == "cuda" else None)
    assert made["ConfigMap"]["data"]["policies.toml"] == (BASE / "policies.toml").read_text()
    assert made["ConfigMap"]["metadata"]["name"] == "moe-proxy-policies", "it keeps its name"
