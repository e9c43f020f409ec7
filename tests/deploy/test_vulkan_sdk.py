"""What a build for Vulkan lacks, said before it starts."""

from pathlib import Path

import pytest
import vulkan_sdk
from vulkan_sdk import Found, problem

GOOD = Found(headers=(1, 3, 275), glslc="/usr/bin/glslc")
DEBIAN_12 = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'
DEBIAN_13 = "PRETTY_NAME='Debian GNU/Linux 13'\nVERSION_ID=13\nID=debian\n"
MACROS = """#define VK_HEADER_VERSION 239
#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)
"""
PACKAGES = {
    "Debian/Ubuntu": "sudo apt install glslc libvulkan-dev spirv-headers",
    "Fedora": "sudo dnf install glslc vulkan-headers",
    "Arch": "sudo pacman -S shaderc vulkan-headers",
    "openSUSE": "sudo zypper install shaderc vulkan-headers",
}


def test_what_is_new_enough_passes() -> None:
    assert problem(GOOD, {}, "Fedora") is None
    assert problem(Found((1, 4, 0), "glslc"), {}, None) is None
    assert problem(Found((1, 3, 272), "glslc"), {}, None) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Found((1, 3, 271), "glslc"), "Vulkan's headers are too old: 1.3.271, needed is 1.3.272"),
        (Found(None, "glslc"), "Vulkan's headers were not found (needed: 1.3.272 or newer)"),
        (Found((1, 4, 309), None), "glslc was not found"),
        (Found((1, 4, 309), "glslc", loader=False), "loader (libvulkan.so) was not found"),
        (Found((1, 4, 309), "glslc", spirv=False), "SPIRV-Headers were not found"),
    ],
)
@pytest.mark.parametrize("system", PACKAGES)
def test_what_is_wrong_is_told_with_what_to_install(found: Found, said: str, system: str) -> None:
    told = problem(found, vulkan_sdk.os_release(DEBIAN_13), system)

    assert told is not None
    assert said in told
    assert PACKAGES[system] in told


def test_a_system_that_nobody_knows_gets_each_line() -> None:
    told = problem(Found(None, None), {}, "elsewhere") or ""

    for line in PACKAGES.values():
        assert line in told


@pytest.mark.parametrize(
    ("release", "newer"),
    [(DEBIAN_12, "Debian 13"), ('ID=ubuntu\nVERSION_ID="22.04"\n', "Ubuntu 24.04")],
)
def test_nobody_is_sent_to_packages_that_are_too_old_themselves(release: str, newer: str) -> None:
    told = problem(Found(None, None), vulkan_sdk.os_release(release), "Debian/Ubuntu") or ""

    assert f"has only older packages; {newer} has newer ones" in told
    assert "sudo apt" not in told
    assert "LunarG" in told


def test_the_header_s_version_comes_from_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = tmp_path / "sdk" / "include" / "vulkan" / "vulkan.h"
    header.parent.mkdir(parents=True)
    header.write_text(MACROS)
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path / "sdk"))

    found = vulkan_sdk.look()
    named = vulkan_sdk.look(
        "-DVulkan_GLSLC_EXECUTABLE=/x/glslc -DVulkan_LIBRARY:FILEPATH=/x/l.so "
        "-DSPIRV-Headers_DIR=/x"
    )

    assert found.headers == named.headers == (1, 3, 239)
    assert (named.glslc, named.loader, named.spirv) == ("/x/glslc", True, True)
    assert vulkan_sdk.header_version([tmp_path]) in (None, vulkan_sdk.header_version([]))


def test_macros_of_something_else_are_no_version() -> None:
    assert vulkan_sdk.macro_version("#define VK_HEADER_VERSION\n") is None
