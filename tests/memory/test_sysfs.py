"""AMD's and Intel's cards, from folders of files as their drivers make them."""

from pathlib import Path

import pytest

from proxy.memory.readings import Card, Sample, Unreadable
from proxy.memory.sysfs import Sysfs

GIB = 1 << 30
CARD_SENSORS = b"\x78\x00\x01\x03" + bytes(116)
INTEGRATED_SENSORS = b"\x80\x00\x02\x02" + bytes(124)


class Tree:
    """A folder in the place of /sys/class/drm, with the links that are in the real one."""

    def __init__(self, root: Path) -> None:
        self.drm = root / "class/drm"
        self._devices = root / "devices/pci0000:00"
        self.drm.mkdir(parents=True)

    def add(self, card: str, bus_id: str, vendor: str, **files: object) -> None:
        device = self._devices / bus_id
        device.mkdir(parents=True)
        (self.drm / card).mkdir()
        (self.drm / f"{card}-HDMI-A-1").mkdir()  # a connector, as the real folder has
        (self.drm / card / "device").symlink_to(device)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "device").write_text("0x744c\n")
        for name, value in files.items():
            self.set(card, f"device/{name}", value)

    def set(self, card: str, name: str, value: object) -> None:
        file = self.drm / card / name
        file.write_bytes(value if isinstance(value, bytes) else f"{value}\n".encode())

    def remove(self, card: str) -> None:
        (self.drm / card / "device").unlink()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def sysfs(tree: Tree, available: int | None = None) -> Sysfs:
    return Sysfs(tree.drm, host=lambda: available)


def amd(tree: Tree, sensors: bytes | None = CARD_SENSORS, **files: object) -> None:
    sizes = {
        "mem_info_vram_total": 16 * GIB,
        "mem_info_vram_used": 3 * GIB,
        "mem_info_gtt_total": 32 * GIB,
        "mem_info_gtt_used": 1 * GIB,
    }
    tree.add("card1", "0000:03:00.0", "0x1002", **(sizes | files))
    if sensors is not None:
        tree.set("card1", "device/gpu_metrics", sensors)


def test_an_amd_card_has_its_vram(tree: Tree) -> None:
    amd(tree, product_name="Radeon RX 7900 XTX")

    assert sysfs(tree).cards() == (
        Card("card1", "Radeon RX 7900 XTX", "0000:03:00.0", integrated=False),
    )
    assert sysfs(tree).read("card1") == Sample(16 * GIB, 13 * GIB, 3 * GIB, integrated=False)


def test_a_reading_is_of_now(tree: Tree) -> None:
    amd(tree)
    source = sysfs(tree)
    before = source.read("card1")

    tree.set("card1", "device/mem_info_vram_used", 5 * GIB)

    assert (before.free_bytes, source.read("card1").free_bytes) == (13 * GIB, 11 * GIB)


def test_the_carve_out_of_an_integrated_gpu_is_not_its_memory(tree: Tree) -> None:
    amd(
        tree,
        INTEGRATED_SENSORS,
        mem_info_vram_total=GIB // 2,
        mem_info_vram_used=GIB // 4,
    )

    sample = sysfs(tree).read("card1")

    assert sample.integrated
    assert sample.total_bytes == 32 * GIB + GIB // 2
    assert sample.free_bytes == 31 * GIB + GIB // 4
    assert sample.used_bytes == GIB + GIB // 4


def test_an_integrated_gpu_has_no_more_than_the_host_has(tree: Tree) -> None:
    amd(tree, INTEGRATED_SENSORS, mem_info_vram_total=GIB, mem_info_vram_used=0)

    assert sysfs(tree, available=2 * GIB).read("card1").free_bytes == 3 * GIB


def test_an_integrated_gpu_without_shared_memory_to_see_is_unknown(tree: Tree) -> None:
    amd(tree, INTEGRATED_SENSORS, mem_info_gtt_total="?")

    assert sysfs(tree).read("card1") == Sample(None, None, None, integrated=True)
    assert not sysfs(tree).cards()[0].readable


def test_what_llama_cpp_knows_helps_where_the_card_does_not_say(tree: Tree) -> None:
    amd(tree, sensors=None)

    assert sysfs(tree).read("card1").integrated is None
    assert sysfs(tree).read("card1", integrated=True).total_bytes == 48 * GIB


def test_an_intel_card_shows_its_local_memory(tree: Tree) -> None:
    tree.add("card0", "0000:04:00.0", "0x8086")
    tree.set("card0", "lmem_total_bytes", 12 * GIB)
    tree.set("card0", "lmem_avail_bytes", 5 * GIB)

    assert sysfs(tree).cards() == (Card("card0", "Intel 0x744c", "0000:04:00.0", integrated=False),)
    assert sysfs(tree).read("card0") == Sample(12 * GIB, 5 * GIB, 7 * GIB, integrated=False)


def test_a_driver_that_shows_no_memory_leaves_it_unknown(tree: Tree) -> None:
    tree.add("card0", "0000:00:02.0", "0x8086")

    assert sysfs(tree).cards() == (Card("card0", "Intel 0x744c", "0000:00:02.0", readable=False),)
    with pytest.raises(Unreadable, match="card0: the driver shows no memory"):
        sysfs(tree).read("card0")


def test_other_makers_cards_are_left_out(tree: Tree) -> None:
    tree.add("card0", "0000:01:00.0", "0x10de")

    assert sysfs(tree).cards() == ()


def test_a_card_that_goes_away_is_unreadable(tree: Tree) -> None:
    amd(tree)
    source = sysfs(tree)
    source.read("card1")

    tree.remove("card1")

    with pytest.raises(Unreadable, match="card1 is not there"):
        source.read("card1")


def test_a_system_without_cards_has_none(tmp_path: Path) -> None:
    assert Sysfs(tmp_path / "none").cards() == ()
