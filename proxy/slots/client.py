"""Asks llama-server for its slots, and to save and restore them. It does so between two decode
steps; a slot that is busy is saved when its answer has ended."""

import asyncio
import json
from typing import Final

import msgspec

from proxy.engine.types import Address
from proxy.errors import ProxyError, reason_of
from proxy.slots.transferable import Slot
from proxy.upstream.call import Call
from proxy.upstream.connection import BrokenAnswer

# It answers between two decode steps; a batch of a long prompt may take this long.
LOOK_S: Final = 2.0
OK: Final = 200


class SlotError(Exception):
    """llama-server would not, or did not in time; the text says why, for people."""


class _Told(msgspec.Struct):
    id: int
    is_processing: bool = False
    speculative: bool = False
    id_task: int | None = None
    n_prompt_tokens: int | None = None


class _Done(msgspec.Struct):
    n_saved: int = 0
    n_written: int = 0
    n_restored: int = 0


async def slots_of(address: Address) -> list[Slot]:
    """All slots, in order. Raises SlotError."""
    try:
        async with asyncio.timeout(LOOK_S):
            told = msgspec.json.decode(await _ask(address, "GET", "/slots"), type=list[_Told])
    except TimeoutError as error:
        raise SlotError(f"the worker did not tell of its slots within {LOOK_S:g} s") from error
    except msgspec.DecodeError as error:
        raise SlotError("the worker told of its slots in another way") from error
    return [
        Slot(slot.id, slot.is_processing, slot.speculative, slot.id_task, slot.n_prompt_tokens)
        for slot in told
    ]


async def save(address: Address, slot: int, file: str) -> tuple[int, int]:
    """Write a slot to this file of the folder that the worker was started with; returns how many
    tokens and bytes. Raises SlotError."""
    done = await _act(address, slot, "save", file)
    return done.n_saved, done.n_written


async def restore(address: Address, slot: int, file: str) -> int:
    """Read a slot from a file; returns how many tokens. What was in it is gone, also where this
    fails. Raises SlotError."""
    return (await _act(address, slot, "restore", file)).n_restored


async def _act(address: Address, slot: int, action: str, file: str) -> _Done:
    body = json.dumps({"filename": file}).encode()
    answer = await _ask(address, "POST", f"/slots/{slot}?action={action}", body)
    try:
        return msgspec.json.decode(answer, type=_Done)
    except msgspec.DecodeError as error:
        raise SlotError(f"the worker answered otherwise to {action!r}") from error


async def _ask(address: Address, method: str, target: str, body: bytes = b"") -> bytes:
    headers = [("Content-Type", "application/json")] if body else []
    try:
        async with Call(address, method, target, headers=headers, body=body) as answer:
            text = await answer.read()
    except ProxyError as error:
        raise SlotError(error.message) from error
    except BrokenAnswer as error:
        raise SlotError(f"the worker went away: {reason_of(error)}") from error
    if answer.status != OK:
        raise SlotError(_words(text) or f"the worker answered with status {answer.status}")
    return text


def _words(answer: bytes) -> str:
    """What llama-server says in an error."""
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
