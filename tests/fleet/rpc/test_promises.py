"""What a machine has promised to one load it does not promise to another one."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.fleet.rpc.held import RAM
from proxy.fleet.rpc.promises import NotPromised, OwnPromises, Promises
from tests.support.guard import HANG_S

PROMISE = """
import os, sys
from proxy.fleet.rpc.promises import Promises
with Promises(os.environ).made(lambda _: {"ram": 100}, int(sys.argv[1]), 0) as size:
    print(size, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


def promises(env: Mapping[str, str], held: int | None = 0) -> Promises:
    return Promises(env, lambda _pid, _place: held)


def of_ram(size: int) -> Mapping[str, int]:
    return {RAM: size}


async def promising(env: Mapping[str, str], size: int) -> tuple[asyncio.subprocess.Process, int]:
    """A process that has promised that much of 100 bytes, and what it was left with."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROMISE, str(size)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | env,
    )
    assert process.stdout is not None
    async with asyncio.timeout(HANG_S):
        return process, int(await process.stdout.readline())


async def ended(process: asyncio.subprocess.Process, how: signal.Signals | None = None) -> None:
    assert process.stdin is not None
    if how is None:
        process.stdin.close()
    else:
        process.send_signal(how)
    await process.wait()
    process.stdin.close()


def test_the_second_gets_what_the_first_leaves(env: Mapping[str, str]) -> None:
    with promises(env).made(lambda _: of_ram(100), 70, 70) as first:
        with promises(env).made(lambda _: of_ram(100), 70, 10) as second:
            assert (first, second) == (70, 30)
            assert promises(env).open() == of_ram(100)
        with pytest.raises(NotPromised):
            promises(env).made(lambda _: of_ram(100), 70, 31).__enter__()
        assert promises(env).open() == of_ram(70)
    assert promises(env).open() == {}


def test_why_it_is_not_promised(env: Mapping[str, str]) -> None:
    gib = 1 << 30
    with promises(env).made(lambda _: of_ram(4 * gib), 3 * gib, 0):
        with pytest.raises(NotPromised) as told:
            promises(env).made(lambda _: of_ram(4 * gib), 3 * gib, 2 * gib).__enter__()

    assert str(told.value) == (
        "2.00 GiB are asked for, 1.00 GiB are free beside 3.00 GiB that are promised to others"
    )


@pytest.mark.parametrize(("held", "left"), [(0, 70), (50, 20), (70, 0), (90, 0)])
def test_what_is_held_already_is_not_counted_twice(
    env: Mapping[str, str], held: int, left: int
) -> None:
    with promises(env).made(lambda _: of_ram(100), 70, 0):
        assert promises(env, held).open() == of_ram(left)


def test_what_nobody_can_tell_counts_until_it_is_likely_held(
    env: Mapping[str, str], tmp_path: Path
) -> None:
    with promises(env).made(lambda _: {"card0": 100}, 70, 0):
        assert promises(env, None).open() == {"card0": 70}
        (note,) = tmp_path.glob("*/*.promise")
        os.utime(note, (1, 1))
        assert promises(env, None).open() == {"card0": 0}


def test_it_is_of_the_card_with_most_beside_promises(env: Mapping[str, str]) -> None:
    free = {"a": 100, "b": 80}
    with (
        promises(env).made(lambda _: free, 60, 0),
        promises(env).made(lambda _: free, 70, 0) as size,
    ):
        assert size == 70
        assert promises(env).open() == {"a": 60, "b": 70}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
async def test_a_promise_goes_with_its_process(
    env: Mapping[str, str], tmp_path: Path, how: signal.Signals | None
) -> None:
    process, size = await promising(env, 70)
    assert size == 70
    assert promises(env).open() == of_ram(70)

    await ended(process, how)

    assert promises(env).open() == {}
    assert not [*tmp_path.glob("*/*.promise")]


async def test_of_many_at_once_nothing_is_promised_twice(env: Mapping[str, str]) -> None:
    many = await asyncio.gather(*(promising(env, 40) for _ in range(3)), return_exceptions=True)
    sizes = [each[1] for each in many if not isinstance(each, BaseException)]

    assert sorted(sizes) == [20, 40, 40]
    for each in many:
        assert not isinstance(each, BaseException)
        await ended(each[0])


async def test_one_that_is_stopped_while_it_promises_is_waited_for_no_longer(
    env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.fleet.rpc.notes.LOCKED_WITHIN_S", 0.05)

    def free(_: int | None) -> Mapping[str, int]:
        with pytest.raises(NotPromised, match="another load"):
            promises(env).made(lambda _: of_ram(100), 10, 0).__enter__()
        return of_ram(100)

    with promises(env).made(free, 10, 0) as size:
        assert size == 10


def test_a_folder_of_somebody_else_is_not_used(env: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "moe-lent").symlink_to(tmp_path / "elsewhere")

    assert promises(env).open() == {}
    with pytest.raises(OSError, match="moe-lent"):
        promises(env).made(lambda _: of_ram(100), 10, 0).__enter__()


def test_notes_that_say_nothing_keep_nobody(env: Mapping[str, str], tmp_path: Path) -> None:
    with promises(env).made(lambda _: of_ram(100), 10, 0):
        (tmp_path / "moe-lent" / "1-x.promise").write_bytes(b"\0" * 10)
        assert promises(env).open() == of_ram(10)


def test_the_own_policies_say_what_others_leave_free(env: Mapping[str, str]) -> None:
    reserve = 30
    own = OwnPromises(env, lambda: reserve, lambda _pid, _place: 0)

    def free(reserve_bytes: int | None) -> Mapping[str, int]:
        return of_ram(100 - (reserve_bytes or 0))

    assert promises(env).left(free) == of_ram(100)
    assert own.open() == {}
    assert promises(env).left(free) == of_ram(70)
    reserve = 40
    with promises(env).made(free, 10, 0):
        assert own.open() == of_ram(10)
        assert promises(env).left(free) == of_ram(50)
    own.close()
    assert promises(env).left(free) == of_ram(100)
