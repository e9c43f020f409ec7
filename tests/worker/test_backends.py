"""Backends that are files of their own: which go with our ggml, and what is said of the others."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from proxy.engine.types import CPU
from proxy.errors import LoadFailed
from proxy.worker.backends import kinds, why_unfit
from proxy.worker.libraries import default_libdir
from tests.support.hosted import hosted
from tests.support.llama import Client
from tests.support.models import model
from tests.support.vulkan import DEVICE, on_llvmpipe

INTERFACE = 2  # GGML_BACKEND_API_VERSION, of ggml/src/ggml-backend-impl.h


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ("0.25.3", "0.25.3", True),
        ("0.25.3", "0.25.1", True),
        ("0.25.3", None, True),
        ("0.25.3", "0.24.9", False),
        ("0.25.3", "1.25.3", False),
        ("0.25.3", "0.2.53", False),
    ],
)
def test_which_versions_go_together(ours: str, theirs: str | None, fits: bool) -> None:
    why = why_unfit(ours, theirs)

    assert (why is None) == fits
    assert why is None or (ours in why and str(theirs) in why)


def test_what_a_backend_is_for_is_in_its_name() -> None:
    """By that a worker has the caches that its driver wants."""
    files = map(Path, ("/x/libggml-vulkan.so", "libggml-cpu-zen4.so", "libggml-hip.so.0", "my.so"))

    assert [*kinds(files)] == ["vulkan", "cpu", "hip"]


async def compiled(file: Path, source: str, *more: str) -> Path:
    code = file.with_suffix(".c")
    code.write_text(source)
    command = ("cc", "-shared", "-fPIC", "-o", str(file), str(code), *more)
    await asyncio.to_thread(subprocess.run, command, check=True)
    return file


def backend_of(interface: int = INTERFACE) -> str:
    return (
        f"struct {{ int version; void * rest[8]; }} self = {{ {interface} }};"
        "void * ggml_backend_init(void) { return &self; }"
    )


async def refused(file: Path) -> str:
    with pytest.raises(LoadFailed) as error:
        async with hosted(model(layers=4), backends=(file,)):
            pass
    return error.value.message


@pytest.mark.llama
async def test_one_of_another_ggml_is_refused_with_both_versions(tmp_path: Path) -> None:
    version = 'const char * ggml_version(void) { return "0.9.4"; }'
    await compiled(tmp_path / "libggml-base.so", version)
    file = await compiled(tmp_path / "libggml-x.so", backend_of())

    said = await refused(file)

    assert f"the backend {file} is not used: it was made with ggml 0.9.4" in said
    assert "libraries here have ggml 0.2" in said


@pytest.mark.llama
async def test_one_of_another_interface_is_refused_with_both_versions(tmp_path: Path) -> None:
    file = await compiled(tmp_path / "libggml-x.so", backend_of(INTERFACE + 40))

    said = await refused(file)

    assert f"{file} is not used: its backend interface has version 42, that of" in said
    assert f"version {INTERFACE} (of ggml 0.2" in said


@pytest.mark.llama
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (None, "no such file"),
        ("int nothing;", "it is no backend of its own: it has no ggml_backend_init"),
        (f"{backend_of()} int ggml_backend_score(void) {{ return 0; }}", "another processor"),
        ("void * ggml_backend_init(void) { return 0; }", "its driver does not start"),
    ],
)
async def test_what_is_no_backend_for_this_machine(
    tmp_path: Path, source: str | None, why: str
) -> None:
    file = tmp_path / "libggml-x.so"
    if source is not None:
        await compiled(file, source)

    said = await refused(file)

    assert said.count(f"the backend {file} is not used:") == 1
    assert why in said


def linked(folder: Path, *but: str) -> Path:
    """A folder with the libraries of this build, but for some."""
    folder.mkdir()
    for file in default_libdir().glob("lib*.so*"):
        if not file.name.startswith(but or "-"):
            (folder / file.name).symlink_to(file)
    return folder


@pytest.mark.llama
async def test_a_build_with_dynamic_backends_serves_and_moves_experts(tmp_path: Path) -> None:
    """Several for the CPU, of which the best is taken, as in llama.cpp's release archives: here the
    libraries of ggml that choose and load backends are those of another build."""
    libdir = linked(tmp_path / "lib", "libggml.so", "libggml-cpu", "libggml-rpc")
    with on_llvmpipe() as backend:
        for file in (*backend.parent.glob("libggml-cpu-*.so"), backend):
            (libdir / file.name).symlink_to(file)
        (ggml,) = backend.parent.glob("libggml.vulkan.*.so")
        for name in ("libggml.so", "libggml.so.0"):
            (libdir / name).symlink_to(ggml)
        # What fits none of this kind of machines is no harm, and told.
        (libdir / "libggml-cuda.so").write_bytes(b"\x7fELF")
        async with (
            hosted(model(layers=4), libdir=libdir, ctx=256, parallel=1) as engine,
            Client(engine.address) as client,
        ):
            moved = await engine.place(dict.fromkeys(range(4), DEVICE))
            assert (moved.layers, engine.live_moves) == (4, True)
            assert await client.text("the quick", 2)
            await engine.place(dict.fromkeys(range(4), CPU))
            assert {device.name for device in await engine.devices()} == {CPU, DEVICE}


@pytest.mark.llama
async def test_a_build_without_what_moves_need_moves_by_reload(tmp_path: Path) -> None:
    name = b"_Z19llama_graph_reserveP13llama_contextjjj"
    libdir = linked(tmp_path / "lib", "libllama.so")
    library = (default_libdir() / "libllama.so").read_bytes()
    for file in ("libllama.so", "libllama.so.0"):
        (libdir / file).write_bytes(library.replace(name, name.replace(b"reserve", b"reservX")))

    async with hosted(model(layers=4), libdir=libdir, ctx=256, parallel=1) as engine:
        assert engine.moves_by_reload
        assert engine.why_no_moves == f"the libraries in {libdir} lack {name.decode()}"


@pytest.mark.llama
async def test_a_folder_without_a_backend_for_this_cpu(tmp_path: Path) -> None:
    libdir = linked(tmp_path / "lib", "libggml-cpu", "libggml.so")
    await compiled(libdir / "libggml-cpu-alien.so", "int ggml_backend_score(void) { return 0; }")
    await compiled(
        libdir / "libggml.so",
        "void * ggml_backend_reg_by_name(char * x) { return 0; }",
        "-Wl,-soname,libggml.so.0",
    )

    with pytest.raises(LoadFailed) as error:
        async with hosted(model(layers=4), libdir=libdir):
            pass

    assert (
        f"{libdir}: none of libggml-cpu*.so is for this machine's processor" in error.value.message
    )


@pytest.mark.llama
async def test_a_llama_cpp_whose_server_is_no_library_is_told_so(tmp_path: Path) -> None:
    """As it was before there was one."""
    libdir = linked(tmp_path / "lib", "libllama-server-impl", "libllama-common")

    with pytest.raises(LoadFailed) as error:
        async with hosted(model(layers=4), libdir=libdir):
            pass

    said = error.value.message
    assert f"{libdir}: no libllama-server-impl.so: this llama.cpp has its server as a" in said
    assert 'from llama-cpp-python 0.3.24 on; an older one can be used by engine = "command"' in said
