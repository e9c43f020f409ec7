"""The real watcher on real files; times are only there to end a test that hangs."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.policy.load import Loaded, load
from proxy.policy.watch import watch
from tests.support.guard import HANG_S

# Longer than the watcher needs to look at least twice; what it has not told by then is no change.
QUIET_S = 1.0


class Watching:
    """What a watcher has told so far, in order."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Loaded] = asyncio.Queue()

    async def next(self) -> Loaded:
        return await asyncio.wait_for(self.told.get(), HANG_S)

    async def port(self) -> int | None:
        """The port in what is told next, None if that is bad."""
        loaded = await self.next()
        return loaded.policies.server.port if loaded.policies else None

    async def until_port(self, port: int) -> list[int | None]:
        ports: list[int | None] = []
        while not ports or ports[-1] != port:
            ports.append(await self.port())
        return ports

    async def is_quiet(self) -> bool:
        await asyncio.sleep(QUIET_S)
        return self.told.empty()


@asynccontextmanager
async def watching(
    path: Path | None, env: dict[str, str], since: Loaded | None = None
) -> AsyncIterator[Watching]:
    stop, found = asyncio.Event(), Watching()

    async def collect() -> None:
        async for loaded in watch(path, env, stop=stop, since=since):
            found.told.put_nowait(loaded)

    task = asyncio.create_task(collect())
    await asyncio.sleep(0.1)
    try:
        yield found
    finally:
        stop.set()
        await asyncio.wait_for(task, HANG_S)


def text(port: int) -> str:
    return f"[server]\nport = {port}\n"


def write(file: Path, port: int) -> None:
    file.write_text(text(port))


def replace(file: Path, port: int) -> None:
    temporary = file.with_name(f".{file.name}.swp")
    temporary.write_text(text(port))
    temporary.replace(file)


def recreate(file: Path, port: int) -> None:
    file.unlink()
    time.sleep(0.03)
    write(file, port)


def move_aside(file: Path, port: int) -> None:
    file.rename(file.with_name(f"{file.name}~"))
    write(file, port)


def in_pieces(file: Path, port: int) -> None:
    with file.open("w") as stream:
        for piece in ("", "[server]\n", f"port = {port}\n"):
            stream.write(piece)
            stream.flush()
            time.sleep(0.01)


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("save", [write, replace, recreate, move_aside, in_pieces])
async def test_each_way_of_saving_is_told_once(
    tmp_path: Path, env: dict[str, str], save: Callable[[Path, int], None], as_folder: bool
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    file = folder / "policies.toml"
    write(file, 1)

    async with watching(folder if as_folder else file, env) as found:
        for port in (2, 3):
            await asyncio.to_thread(save, file, port)
            assert await found.port() == port
        assert await found.is_quiet()


async def test_a_change_is_told_soon(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)
    delays = []

    async with watching(file, env) as found:
        for port in range(2, 9):
            started = time.monotonic()
            replace(file, port)
            assert await found.port() == port
            delays.append(time.monotonic() - started)

    # Half of what the whole way from saving to the first moved layer may take. The best of them,
    # because what else this machine does is not to be measured.
    assert min(delays) < 0.25


async def test_a_burst_ends_with_the_last_edit(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)

    async with watching(file, env) as found:
        for port in range(2, 30):
            replace(file, port)
            await asyncio.sleep(0.005)
        ports = await found.until_port(29)

        assert None not in ports
        assert len(ports) < 15
        assert await found.is_quiet()


async def test_what_leaves_the_text_as_it_was_is_no_change(
    tmp_path: Path, env: dict[str, str]
) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)

    async with watching(file, env) as found:
        os.utime(file)
        replace(file, 1)
        (tmp_path / "other.txt").write_text("x")
        (tmp_path / "other.toml").write_text(text(5))

        assert await found.is_quiet()


async def test_a_file_that_is_bad_for_a_while(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)

    async with watching(file, env) as found:
        file.write_text("[server]\nport = ")
        bad = await found.next()
        file.write_text(text(2))
        good = await found.next()

    assert bad.policies is None
    assert [(p.file, p.line) for p in bad.problems] == [(str(file), 2)]
    assert good.policies is not None
    assert good.policies.server.port == 2


async def test_a_deleted_file_is_a_problem_until_it_is_back(
    tmp_path: Path, env: dict[str, str]
) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)

    async with watching(file, env) as found:
        file.unlink()
        assert await found.port() is None
        write(file, 2)
        assert await found.port() == 2


async def test_an_emptied_file_is_taken_for_what_it_says(
    tmp_path: Path, env: dict[str, str]
) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)

    async with watching(file, env) as found:
        file.write_text("")

        assert await found.port() == 11434


async def test_files_come_to_a_folder_and_go(tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()

    async with watching(folder, env) as found:
        write(folder / "a.toml", 1)
        assert await found.port() == 1
        (folder / "b.toml").write_text("server.max_queue = 3")
        both = await found.next()
        (folder / "a.toml").unlink()
        last = await found.next()

    assert [file.name for file in both.files] == ["a.toml", "b.toml"]
    assert last.policies is not None
    assert (last.policies.server.port, last.policies.server.max_queue) == (11434, 3)


async def test_a_folder_that_appears_later(tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "not" / "yet" / "policies"

    async with watching(folder, env) as found:
        folder.mkdir(parents=True)
        write(folder / "a.toml", 1)
        assert (await found.until_port(1))[-1] == 1
        replace(folder / "a.toml", 2)
        assert await found.port() == 2


async def test_a_folder_of_the_defaults_that_appears_later(
    tmp_path: Path, env: dict[str, str]
) -> None:
    config = tmp_path / "home" / ".config" / "moe-proxy"
    nearer = tmp_path / "cwd" / "policies"

    async with watching(None, env) as found:
        config.mkdir(parents=True)
        write(config / "a.toml", 1)
        assert await found.port() == 1
        nearer.mkdir()
        write(nearer / "a.toml", 2)
        assert await found.until_port(2)


async def test_a_folder_that_takes_the_place_of_another(
    tmp_path: Path, env: dict[str, str]
) -> None:
    folder, other = tmp_path / "policies", tmp_path / "other"
    for port, each in enumerate((folder, other), start=1):
        each.mkdir()
        write(each / "a.toml", port)

    async with watching(folder, env) as found:
        folder.rename(tmp_path / "old")
        other.rename(folder)
        assert await found.port() == 2
        replace(folder / "a.toml", 3)
        assert await found.port() == 3


@pytest.mark.parametrize("as_folder", [False, True])
async def test_links_that_are_exchanged(
    tmp_path: Path, env: dict[str, str], as_folder: bool
) -> None:
    """As container platforms mount settings: a.toml -> ..data/a.toml, ..data -> ..version."""
    folder = tmp_path / "mounted"
    for port in (1, 2):
        version = folder / f"..{port}"
        version.mkdir(parents=True)
        write(version / "a.toml", port)
    (folder / "..data").symlink_to("..1")
    (folder / "a.toml").symlink_to("..data/a.toml")

    async with watching(folder if as_folder else folder / "a.toml", env) as found:
        (folder / "..next").symlink_to("..2")
        (folder / "..next").replace(folder / "..data")
        assert await found.port() == 2
        write(folder / "..2" / "a.toml", 3)
        assert await found.port() == 3


async def test_a_link_to_a_file_elsewhere(tmp_path: Path, env: dict[str, str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "real.conf", 1)
    link = tmp_path / "policies.toml"
    link.symlink_to(elsewhere / "real.conf")

    async with watching(link, env) as found:
        replace(elsewhere / "real.conf", 2)

        assert await found.port() == 2


async def test_an_edit_between_loading_and_watching_is_not_lost(
    tmp_path: Path, env: dict[str, str]
) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)
    since = load(file, env)
    write(file, 2)

    async with watching(file, env, since) as found:
        assert await found.port() == 2


async def test_cancelling_leaves_the_event_of_the_caller_alone(
    tmp_path: Path, env: dict[str, str]
) -> None:
    stop = asyncio.Event()
    changes = watch(tmp_path, env, stop=stop)
    task = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.1)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not stop.is_set()
    await changes.aclose()


async def test_a_path_that_cannot_be_looked_at_is_no_end(
    tmp_path: Path, env: dict[str, str]
) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to("x" * 300)

    async with watching(link, env) as found:
        await asyncio.sleep(0.5)
        replace(link, 2)
        assert await found.port() == 2


async def test_without_watches_it_still_looks(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policies.toml"
    write(file, 1)

    def no_watches(*_: object, **__: object) -> None:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.main.RustNotify", no_watches)

    async with watching(file, env) as found:
        write(file, 2)
        assert await found.port() == 2
