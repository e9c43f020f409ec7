"""Every way in which llama.cpp ends, made really to happen: what people are told of it."""

import asyncio
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.environment import inherited
from proxy.engine.hosted import HostedEngine
from proxy.engine.log_buffer import LogBuffer
from proxy.engine.process import ChildProcess
from proxy.engine.types import LoadOptions
from proxy.errors import LoadFailed
from proxy.worker.libraries import default_libdir
from tests.support.guard import until
from tests.support.llama import program, rpc_server
from tests.support.models import model

pytestmark = pytest.mark.llama

NOBODY = "127.0.0.1:1"
# What nobody but who wrote llama.cpp can make sense of.
NOISE = ("#0 ", "0x0", ".cpp:", "exiting due to", "[New LWP")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moe-") as name:
        yield Path(name)


async def told(
    folder: Path, path: Path, meanwhile: Callable[[int], None] | None = None, /, **options: Any
) -> str:
    """The first line of why a load failed. `meanwhile` is done to the process as it begins."""
    settings: dict[str, Any] = {"path": path, "ctx": 512, "parallel": 1, "threads": 1}
    loading = LoadOptions(model="m", **settings | options)
    (folder / "run").mkdir()
    engine = HostedEngine("b1", loading, runtime_dir=folder / "run", log_buffer=LogBuffer())
    if meanwhile is not None:
        start = engine._child.start

        async def start_and_then() -> None:
            await start()
            meanwhile(engine.pid or 0)

        engine._child.start = start_and_then  # type: ignore[method-assign]
    try:
        with pytest.raises(LoadFailed) as error:
            await engine.start()
    finally:
        await engine.stop(grace_s=0.0)
    assert not [noise for noise in NOISE if noise in error.value.message], error.value.message
    return error.value.message.splitlines()[0]


def file_of(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """A model that is like a real one but for this."""
    path = folder / "changed.gguf"
    path.write_bytes(change(model(layers=4).read_bytes()))
    return path


FILES: tuple[tuple[str, Callable[[bytes], bytes], str], ...] = (
    ("another kind of file", lambda data: b"PK\3\4" * 100, "is no GGUF file"),
    ("empty", lambda data: b"", "is no GGUF file"),
    ("zeros", lambda data: b"GGUF" + bytes(100), "is cut off or damaged: fetch it again"),
    ("cut in its weights", lambda data: data[: len(data) // 2], "is cut off or damaged"),
    ("cut in its head", lambda data: data[:1000], "is cut off or damaged"),
    (
        "another architecture",
        lambda data: data.replace(b"qwen3moe", b"qwen9moe"),
        "it does not know qwen9moe models; a newer llama.cpp may",
    ),
    (
        "a newer form",
        lambda data: data[:4] + (9).to_bytes(4, "little") + data[8:],
        "it does not know version 9 of GGUF, in which .*changed.gguf is; a newer llama.cpp may",
    ),
    (
        "a tensor less",
        lambda data: data.replace(b"blk.2.attn_q.weight", b"blk.2.attn_x.weight"),
        "changed.gguf has no tensor blk.2.attn_q.weight: it is incomplete, or made for another",
    ),
    (
        "a key less",
        lambda data: data.replace(b"qwen3moe.embedding_length", b"qwen3moe.embedding_lengtx"),
        "changed.gguf does not say qwen3moe.embedding_length: it is incomplete",
    ),
    (
        "a tokenizer of the future",
        lambda data: data.replace(b"tokenizer.ggml.model", b"tokenizer.ggml.modex"),
        "does not say tokenizer.ggml.model: it is incomplete",
    ),
)


@pytest.mark.parametrize(("change", "why"), [pytest.param(*x[1:], id=x[0]) for x in FILES])
async def test_the_file(folder: Path, change: Callable[[bytes], bytes], why: str) -> None:
    line = await told(folder, file_of(folder, change))

    assert line.startswith("llama-server ended while loading (1): ")
    assert re.search(why, line), line


async def test_no_server_at_the_address_of_a_device(folder: Path) -> None:
    line = await told(folder, model(layers=4), rpc=(NOBODY,))

    assert f"no connection to the RPC server {NOBODY}: is ggml-rpc-server running there" in line
    assert "devices.rpc" in line


async def test_no_machine_of_the_name_of_a_device(folder: Path) -> None:
    line = await told(folder, model(layers=4), rpc=("no.such.machine.invalid:50052",))

    assert "no machine is known by the name of the RPC server no.such.machine.invalid" in line


async def test_a_server_that_goes_while_the_model_is_loaded(folder: Path) -> None:
    async with rpc_server() as rpc:
        os.kill(rpc.pid, signal.SIGSTOP)  # so that it is there when the worker looks for it

        def goes(pid: int) -> None:
            os.kill(rpc.pid, signal.SIGKILL)

        line = await told(folder, model(layers=4), goes, rpc=(rpc,))

    assert "RPC server" in line


async def test_no_memory_on_a_device(folder: Path) -> None:
    async with rpc_server() as rpc:
        with rpc.no_more_than(30 << 20):
            line = await told(folder, model(layers=4), rpc=(rpc,), ctx=1 << 20)

    assert "RPC0 has no room for 1024 MiB: put more experts on the CPU (moe_cpu_layers)" in line


@pytest.mark.parametrize("mib", [350, 380, 400, 420])
async def test_no_main_memory(folder: Path, mib: int) -> None:
    def limit(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_AS, (mib << 20, mib << 20))

    line = await told(folder, model(layers=4), limit, ctx=1 << 20)

    assert "main memory has no room for it, or a limit on this process is reached" in line


async def test_a_value_that_an_option_does_not_take(folder: Path) -> None:
    line = await told(folder, model(layers=4), args=("--cache-reuse", "many"))

    assert "the value of --cache-reuse (args of its policy) is no number that it takes" in line


async def test_a_word_that_an_option_does_not_know(folder: Path) -> None:
    line = await told(folder, model(layers=4), args=("--cache-type-k", "q7"))

    assert "--cache-type-k (args of its policy): Unsupported cache type: q7" in line


async def test_an_option_that_nobody_knows(folder: Path) -> None:
    line = await told(folder, model(layers=4), args=("--no-such",), unsafe_args=True)

    assert "--no-such (args) is no option of it" in line


async def test_options_that_do_not_go_together(folder: Path) -> None:
    args = ("--cache-type-v", "q8_0", "--flash-attn", "off")

    line = await told(folder, model(layers=4), args=args)

    assert "a quantised V cache needs flash attention" in line


@pytest.mark.parametrize("what", ["projector", "adapter", "chat template"])
async def test_files_beside_the_model_that_are_not_there(folder: Path, what: str) -> None:
    missing = folder / "missing"
    option = {"projector": missing, "adapter": (missing,), "chat template": missing}[what]
    name = {"projector": "projector", "adapter": "adapters", "chat template": "template"}[what]

    line = await told(folder, model(layers=4), **{name: option})

    assert line.startswith(f"model 'm' cannot be loaded: its {what} does not exist: {missing}")


@pytest.mark.parametrize("name", ["path", "projector", "adapters", "template"])
async def test_what_is_no_regular_file_is_never_opened(folder: Path, name: str) -> None:
    """A pipe stands for it: who opens one waits for a writer that never comes."""
    pipe = folder / "pipe.gguf"
    os.mkfifo(pipe)
    option: dict[str, Any] = {name: (pipe,) if name == "adapters" else pipe}

    line = await told(folder, model(layers=4), **option)

    assert line.endswith(f"cannot be read: {pipe}: {pipe} is no regular file")


async def test_a_part_of_a_split_model_that_is_no_regular_file(folder: Path) -> None:
    first = folder / "m-00001-of-00002.gguf"
    shutil.copyfile(model(layers=4), first)
    os.mkfifo(folder / "m-00002-of-00002.gguf")

    line = await told(folder, first)

    assert line.endswith("1 of 2 parts are missing: m-00002-of-00002.gguf")


async def test_an_adapter_that_is_none(folder: Path) -> None:
    other = file_of(folder, lambda data: data)

    assert (await told(folder, model(layers=4), adapters=(other,))).endswith(
        f"{other} is no adapter"
    )


async def test_a_projector_that_is_none(folder: Path) -> None:
    other = file_of(folder, lambda data: b"GGUF" + bytes(100))

    line = await told(folder, model(layers=4), projector=other)

    assert line.endswith(f"{other} is cut off or damaged: fetch it again")


async def test_a_template_that_makes_no_sense(folder: Path) -> None:
    template = folder / "t.jinja"
    template.write_text("{% if %}")

    line = await told(folder, model(layers=4), template=template)

    assert "its chat template cannot be read: Unexpected token" in line


async def test_no_libraries(folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()

    line = await told(folder, model(layers=4), libdir=empty)

    assert f"{empty}: no libggml-base; build llama-cpp-python with llama-server" in line


@pytest.fixture
def libdir(folder: Path) -> Path:
    """A folder with the libraries of this build, to spoil."""
    copy = folder / "lib"
    copy.mkdir()
    for file in default_libdir().glob("lib*.so*"):
        (copy / file.name).symlink_to(file)
    return copy


async def test_a_library_that_they_need_is_not_there(folder: Path, libdir: Path) -> None:
    """As of CUDA, whose own libraries are another package."""
    for name, needs in (("libdriver", ()), ("libggml-cuda", ("-L.", "-l:libdriver.so.3"))):
        source = folder / f"{name}.c"
        source.write_text(f"int {name.replace('-', '_')};")
        out = libdir / (f"{name}.so.3" if not needs else f"{name}.so")
        command = ["cc", "-shared", "-o", str(out), str(source), "-Wl,--no-as-needed", *needs]
        soname = [f"-Wl,-soname,{out.name}"]
        await asyncio.to_thread(subprocess.run, [*command, *soname], cwd=libdir, check=True)
    (libdir / "libdriver.so.3").unlink()

    line = await told(folder, model(layers=4), libdir=libdir)

    assert "libdriver.so.3: cannot open shared object" in line or (
        "the library libdriver.so.3, which it needs, is not installed" in line
    )


async def test_a_library_that_is_damaged(folder: Path, libdir: Path) -> None:
    library = libdir / "libllama.so"
    library.unlink()
    library.write_bytes(b"\x7fELF")

    line = await told(folder, model(layers=4), libdir=libdir)

    assert f"the library {library} is damaged: build it again" in line


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGKILL, "it was killed from outside; where main memory had run out, the kernel"),
        (signal.SIGBUS, "its file became shorter, or its disk failed, while it was read"),
        (signal.SIGILL, "it was built for another kind of CPU"),
        (signal.SIGSEGV, "it crashed"),
    ],
)
async def test_a_signal(folder: Path, number: signal.Signals, why: str) -> None:
    line = await told(folder, model(layers=4), lambda pid: os.kill(pid, number))

    assert why in line


@pytest.mark.parametrize("traced", [False, True])
async def test_the_cause_is_found_before_a_stack_trace(folder: Path, traced: bool) -> None:
    """llama-server itself, which has a debugger print one unless it is told not to."""
    argv = (program("llama-server"), "-m", str(model(layers=4)), "--rpc", NOBODY)
    env = inherited(os.environ) | ({} if traced else {"GGML_NO_BACKTRACE": "1"})
    lines: list[str] = []
    child = ChildProcess(argv, env, "b1", on_line=lines.append, ends_at_eof=False)
    await child.start()
    await until(lambda: child.returncode is not None, "it ended")
    await child.wait()

    message = child.load_failed("it ended").message

    assert (len(lines) > 5) == traced, "else there was no trace to look behind"
    assert message.startswith(f"it ended: no connection to the RPC server {NOBODY}")
    assert message.splitlines()[1:] == [f"Failed to connect to {NOBODY}"]
