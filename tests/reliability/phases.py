"""What is going on when a fault comes, and who is there to see it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.reliability.stand import LAYERS, LONG_PROMPT, Seen, Stand
from tests.support.guard import until


@dataclass(slots=True)
class Clients:
    """Who asks while it happens: without a byte of an answer yet, and in the middle of one."""

    without: list["asyncio.Task[Seen]"] = field(default_factory=list)
    amid: list[tuple["asyncio.Task[Seen]", Seen]] = field(default_factory=list)
    other: list["asyncio.Task[Any]"] = field(default_factory=list)


Phase = Callable[[Stand, Clients], Awaitable[dict[str, Any]]]


async def _loaded(stand: Stand) -> dict[str, Any]:
    assert (await stand.ask()).ended
    return await stand.worker()


async def _stream(stand: Stand, clients: Clients) -> None:
    seen = Seen()
    clients.amid.append((asyncio.ensure_future(stand.stream(seen)), seen))
    await until(lambda: seen.events > 2, "an answer has begun", _of(clients))


def _of(clients: Clients) -> Callable[[], Awaitable[object]]:
    async def told() -> object:
        return clients

    return told


async def idle(stand: Stand, clients: Clients) -> dict[str, Any]:
    return await _loaded(stand)


async def loading(stand: Stand, clients: Clients) -> dict[str, Any]:
    clients.without.append(asyncio.ensure_future(stand.ask()))
    return await stand.worker("starting")


async def prompt(stand: Stand, clients: Clients) -> dict[str, Any]:
    worker = await _loaded(stand)
    asked = stand.ask(prompt=LONG_PROMPT, n_predict=1)
    clients.without.append(asyncio.ensure_future(asked))

    async def reads() -> bool:
        async with stand.session.get("/upstream/m/slots") as answer:
            (slot,) = await answer.json()
        return bool(slot["is_processing"])

    await until(reads, "the prompt is read")
    return worker


async def streaming(stand: Stand, clients: Clients) -> dict[str, Any]:
    worker = await _loaded(stand)
    await _stream(stand, clients)
    return worker


async def waiting(stand: Stand, clients: Clients) -> dict[str, Any]:
    """One answer has the only slot, another request waits for it."""
    worker = await streaming(stand, clients)
    clients.without.append(asyncio.ensure_future(stand.ask()))
    await until_in_flight(stand, 2)
    return worker


async def moving(stand: Stand, clients: Clients) -> dict[str, Any]:
    worker = await streaming(stand, clients)
    split = stand.session.put(
        f"/admin/backends/{worker['id']}/split", json={"moe_cpu_layers": LAYERS // 2}
    )
    clients.other.append(asyncio.ensure_future(_status(split)))

    async def begun() -> bool:
        (now,) = await stand.backends()
        return any(layer["experts"] != "CPU" for layer in now["layers"])

    await until(begun, "the first layer has moved")
    return worker


async def _status(request: Any) -> int:
    async with request as answer:
        return int(answer.status)


async def until_in_flight(stand: Stand, count: int) -> None:
    async def there() -> bool:
        (backend,) = await stand.backends()
        return backend["in_flight"] == count

    await until(there, f"{count} requests are with the worker")


PHASES: Final[dict[str, Phase]] = {
    "idle": idle,
    "loading": loading,
    "waiting": waiting,
    "prompt": prompt,
    "streaming": streaming,
    "moving": moving,
}
