"""What a supervisor finds and makes on its machine."""

import socket
import stat
from pathlib import Path

from proxy.fleet.cluster.directory import Setup
from proxy.fleet.cluster.machine import (
    child_env,
    front_socket,
    machine_env,
    own_folder,
    own_setup,
    url_of_front,
    wanted_name,
    write_key,
)
from proxy.node.identity import identity_of


def test_a_port_that_is_taken_gives_way_to_the_next_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with front_socket("127.0.0.1", port) as found:
            assert found.getsockname()[1] > port


def test_a_front_that_listens_everywhere_is_reached_by_its_machines_address() -> None:
    with front_socket("0.0.0.0", 40000) as found:
        port = found.getsockname()[1]
        assert url_of_front(found, "10.0.0.1") == f"http://10.0.0.1:{port}"
        assert url_of_front(found, "fd00::1") == f"http://[fd00::1]:{port}"


def test_a_port_that_is_free_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with front_socket("127.0.0.1", port) as found:
        assert found.getsockname() == ("127.0.0.1", port)


def test_the_key_is_for_nobody_else_and_what_children_know_the_fleet_by(tmp_path: Path) -> None:
    folder = own_folder({"HOME": str(tmp_path)}, "box")
    write_key(folder, "an earlier one, of another fleet")
    file = write_key(folder, "k" * 32)

    modes = [stat.S_IMODE(each.stat().st_mode) for each in (folder, file)]
    identity = identity_of(child_env({}, "box", file))
    assert modes == [0o700, 0o600]
    assert (identity.name, identity.key) == ("box", b"k" * 32)


def test_what_was_said_of_a_machine_counts_more_than_how_ray_was_started_there() -> None:
    env = {"MOE_PROXY_FLEET_HOST": "10.0.0.1", "MOE_PROXY_FLEET_PORT": "1"}

    assert own_setup(None, {}, "0.0.0.0", 3) == Setup(host="0.0.0.0", port=3)
    assert own_setup(None, env, "0.0.0.0", 3) == Setup(host="10.0.0.1", port=1)
    assert own_setup(Setup(port=2, name="n"), env, "0.0.0.0", 3) == Setup(None, None, "10.0.0.1", 2)


def test_its_name_is_the_variables_or_its_hosts() -> None:
    assert wanted_name({"MOE_PROXY_NODE": "left"}) == "left"
    assert wanted_name({}) == socket.gethostname()


def test_outside_of_ray_the_environment_is_the_own_one() -> None:
    assert "PATH" in machine_env()
