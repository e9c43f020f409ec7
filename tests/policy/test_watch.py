"""The real watcher on real files. It is quiet if it has looked again and told nothing."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from watchfiles import _rust_notify
from watchfiles._rust_notify import RustNotify

from proxy.policy import watch as module
from proxy.policy.load import Loaded, load
from proxy.policy.sources import Sources, read
from proxy.policy.watch import watch
from tests.support.guard import HANG_S, until

NEVER_S = 3600.0


class Watching:
    """What a watcher has told so far, in order, and how often it has looked."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Loaded] = asyncio.Queue()
        self.looks = 0
        self.watches = False  # whether events reach it
        self._looked = threading.Condition()

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

    async def is_quiet(self, folder: Path) -> bool:
        """Whether it tells nothing of what was done before, in the folder that it watches."""
        # A look may have begun before an event; the next one did not, and what it had to tell has
        # been told when there is a third one. A hidden file is a reason to look, and no policy.
        for number in range(3):
            seen = self.looks
            (folder / f".{number}.toml").touch()
            await asyncio.to_thread(self.wait_for_look, seen + 1)
        return self.told.empty()

    def look(self) -> None:
        with self._looked:
            self.looks += 1
            self._looked.notify_all()

    def wait_for_look(self, number: int) -> None:
        """Block until it has looked so many times."""
        with self._looked:
            assert self._looked.wait_for(lambda: self.looks >= number, HANG_S)


Watch = Callable[..., AbstractAsyncContextManager[Watching]]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Watching:
    """Sees what the watcher does."""
    found = Watching()

    def look(path: Path | None, env: Mapping[str, str]) -> Sources:
        sources = read(path, env)
        found.look()
        return sources

    def watches(*arguments: Any) -> Any:
        made = RustNotify(*arguments)
        found.watches = True
        return made

    monkeypatch.setattr(module, "read", look)
    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", watches)
    return found


@pytest.fixture
def watching(found: Watching) -> Watch:
    """`async with watching(path, env, since) as found:` with a watcher that has begun."""

    @asynccontextmanager
    async def start(
        path: Path | None, env: dict[str, str], since: Loaded | None = None
    ) -> AsyncIterator[Watching]:
        async def collect() -> None:
            async for loaded in watch(path, env, since=since):
                found.told.put_nowait(loaded)

        task = asyncio.create_task(collect())
        # Where there is nothing to watch it only looks, and has begun with its second look.
        await until(lambda: found.watches or found.looks > 1, "it has begun")
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.wait([task])

    return start


@pytest.fixture
def events_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for no other reason than an event."""
    for name in ("RECHECK_S", "UNTOLD_S"):
        monkeypatch.setattr(module, name, NEVER_S)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, what is away or unfinished for a moment is waited for."""
    for name in ("GONE_S", "SETTLE_LIMIT_S"):
        monkeypatch.setattr(module, name, NEVER_S)


def text(port: int) -> str:
    return f"[server]\nport = {port}\n"


def write(file: Path, port: int) -> None:
    file.write_text(text(port))


def replace(file: Path, port: int) -> None:
    temporary = file.with_name(f".{file.name}.swp")
    temporary.write_text(text(port))
    temporary.replace(file)


def move_aside(file: Path, port: int) -> None:
    file.rename(file.with_name(f"{file.name}~"))
    write(file, port)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of policies with port 1."""
    file = tmp_path / "policies.toml"
    write(file, 1)
    return file


@pytest.fixture(params=["a file", "a folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A file of policies with port 1, and what is named: itself, or its folder."""
    folder = tmp_path / "policies"
    folder.mkdir()
    file = folder / "policies.toml"
    write(file, 1)
    return file, folder if request.param == "a folder" else file


@pytest.mark.usefixtures("events_only", "patient")
@pytest.mark.parametrize("save", [write, replace, move_aside])
async def test_each_way_of_saving_is_told_once(
    place: tuple[Path, Path],
    env: dict[str, str],
    watching: Watch,
    save: Callable[[Path, int], None],
) -> None:
    file, named = place

    async with watching(named, env) as found:
        for port in (2, 3):
            save(file, port)
            assert await found.port() == port
        assert await found.is_quiet(file.parent)


@pytest.mark.usefixtures("events_only", "patient")
async def test_a_file_that_is_away_while_it_is_saved_is_told_once(
    place: tuple[Path, Path], env: dict[str, str], watching: Watch
) -> None:
    file, named = place

    async with watching(named, env) as found:
        seen = found.looks
        file.unlink()
        await asyncio.to_thread(found.wait_for_look, seen + 3)
        write(file, 2)

        assert await found.port() == 2
        assert await found.is_quiet(file.parent)


@pytest.mark.usefixtures("events_only", "patient")
async def test_a_file_that_is_saved_in_pieces_is_told_once(
    place: tuple[Path, Path],
    env: dict[str, str],
    watching: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sees each piece, and each is followed by the next before it has settled."""
    monkeypatch.setattr(module, "SETTLE_S", 0.2)
    file, named = place

    def in_pieces(found: Watching) -> None:
        seen = found.looks
        with file.open("w") as stream:
            for number, piece in enumerate(("[server]\n", "port = 2\n"), start=1):
                found.wait_for_look(seen + number)
                stream.write(piece)
                stream.flush()

    async with watching(named, env) as found:
        await asyncio.to_thread(in_pieces, found)

        assert await found.port() == 2
        assert await found.is_quiet(file.parent)


def test_what_is_waited_for_before_a_change_is_told_is_short() -> None:
    """Half of what the whole way from saving to the first moved layer may take."""
    assert (module.DEBOUNCE_MS + module.STEP_MS) / 1000 + 2 * module.SETTLE_S < 0.25


@pytest.mark.usefixtures("events_only")
async def test_a_burst_is_told_once(
    tmp_path: Path, file: Path, env: dict[str, str], watching: Watch
) -> None:
    async with watching(file, env) as found:
        for port in range(2, 30):
            replace(file, port)  # without a pause, in which the watcher could go on

        assert await found.port() == 29
        assert await found.is_quiet(tmp_path)


@pytest.mark.usefixtures("events_only")
async def test_edits_that_follow_each_other_end_with_the_last(
    tmp_path: Path, file: Path, env: dict[str, str], watching: Watch
) -> None:
    """However many of them it sees."""
    async with watching(file, env) as found:
        for port in range(2, 30):
            replace(file, port)
            await asyncio.sleep(0.005)
        ports = await found.until_port(29)

        assert None not in ports
        assert ports == sorted(set(ports))  # type: ignore[type-var]
        assert await found.is_quiet(tmp_path)


@pytest.mark.usefixtures("events_only")
async def test_what_leaves_the_text_as_it_was_is_no_change(
    tmp_path: Path, file: Path, env: dict[str, str], watching: Watch
) -> None:
    async with watching(file, env) as found:
        os.utime(file)
        replace(file, 1)
        (tmp_path / "other.txt").write_text("x")
        (tmp_path / "other.toml").write_text(text(5))

        assert await found.is_quiet(tmp_path)


async def test_a_file_that_is_bad_for_a_while(
    file: Path, env: dict[str, str], watching: Watch
) -> None:
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
    file: Path, env: dict[str, str], watching: Watch
) -> None:
    async with watching(file, env) as found:
        file.unlink()
        assert await found.port() is None
        write(file, 2)
        assert await found.port() == 2


async def test_an_emptied_file_is_taken_for_what_it_says(
    file: Path, env: dict[str, str], watching: Watch
) -> None:
    async with watching(file, env) as found:
        file.write_text("")

        assert await found.port() == 11434


async def test_files_come_to_a_folder_and_go(
    tmp_path: Path, env: dict[str, str], watching: Watch
) -> None:
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


async def test_a_folder_that_appears_later(
    tmp_path: Path, env: dict[str, str], watching: Watch
) -> None:
    folder = tmp_path / "not" / "yet" / "policies"

    async with watching(folder, env) as found:
        folder.mkdir(parents=True)
        write(folder / "a.toml", 1)
        assert (await found.until_port(1))[-1] == 1
        replace(folder / "a.toml", 2)
        assert await found.port() == 2


async def test_a_folder_of_the_defaults_that_appears_later(
    tmp_path: Path, env: dict[str, str], watching: Watch
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
    tmp_path: Path, env: dict[str, str], watching: Watch
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
    tmp_path: Path, env: dict[str, str], as_folder: bool, watching: Watch
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


async def test_a_link_to_a_file_elsewhere(
    tmp_path: Path, env: dict[str, str], watching: Watch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "real.conf", 1)
    link = tmp_path / "policies.toml"
    link.symlink_to(elsewhere / "real.conf")

    async with watching(link, env) as found:
        replace(elsewhere / "real.conf", 2)

        assert await found.port() == 2


async def test_an_edit_between_loading_and_watching_is_not_lost(
    file: Path, env: dict[str, str], watching: Watch
) -> None:
    since = load(file, env)
    write(file, 2)

    async with watching(file, env, since) as found:
        assert await found.port() == 2


@pytest.mark.usefixtures("events_only")
async def test_an_edit_just_before_the_watching_begins_is_not_lost(
    file: Path, env: dict[str, str], watching: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watches(*arguments: Any) -> Any:
        write(file, 2)
        return begin(*arguments)

    begin = vars(_rust_notify)["RustNotify"]
    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", watches)

    async with watching(file, env) as found:
        assert await found.port() == 2


async def test_it_may_be_ended_before_its_first_look(
    file: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is left that complains later."""
    complaints: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
    looks = asyncio.Event()

    async def settles(*_: object) -> Sources:
        looks.set()
        return await asyncio.Future()

    monkeypatch.setattr(module, "_settled", settles)
    watching = asyncio.create_task(anext(watch(file, env)))
    await asyncio.wait_for(looks.wait(), HANG_S)
    watching.cancel()
    await asyncio.wait((watching,))
    del watching
    gc.collect()
    await asyncio.sleep(0)

    assert complaints == []


async def test_a_path_that_cannot_be_looked_at_is_no_end(
    tmp_path: Path, env: dict[str, str], watching: Watch
) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to("x" * 300)

    async with watching(link, env) as found:
        replace(link, 2)
        assert await found.port() == 2


async def test_without_watches_it_still_looks(
    file: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, watching: Watch
) -> None:
    def no_watches(*_: object, **__: object) -> None:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", no_watches)

    async with watching(file, env) as found:
        write(file, 2)
        assert await found.port() == 2


async def test_a_pipe_is_told_of_and_does_not_stop_it(
    tmp_path: Path, env: dict[str, str], watching: Watch
) -> None:
    """Opening it would wait for somebody who writes, for ever."""
    folder = tmp_path / "policies"
    folder.mkdir()
    write(folder / "a.toml", 1)
    async with watching(folder, env) as watcher:
        os.mkfifo(folder / "z.toml")
        told = await watcher.next()
        assert "no regular file" in str(told.problems)
        (folder / "z.toml").unlink()
        assert await watcher.port() == 1
        write(folder / "a.toml", 2)
        assert await watcher.until_port(2)


@pytest.mark.usefixtures("events_only")
async def test_a_file_that_is_written_by_another_of_its_names(
    tmp_path: Path, file: Path, env: dict[str, str], watching: Watch
) -> None:
    """As one that is mounted by itself: its folder here takes no notice."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "same").hardlink_to(file)

    async with watching(file, env) as found:
        write(elsewhere / "same", 2)

        assert await found.port() == 2


async def test_where_not_each_change_is_told_it_looks_more_often(
    tmp_path: Path,
    file: Path,
    env: dict[str, str],
    found: Watching,
    monkeypatch: pytest.MonkeyPatch,
    watching: Watch,
) -> None:
    (silent := tmp_path / "silent").mkdir()

    def nothing_of_it(_: list[str], *more: Any) -> RustNotify:
        found.watches = True
        return RustNotify([str(silent)], *more)

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", nothing_of_it)
    monkeypatch.setattr(module, "RECHECK_S", NEVER_S)
    monkeypatch.setattr(module, "tells", lambda _: False)

    async with watching(file, env):
        write(file, 2)
        assert await found.port() == 2
