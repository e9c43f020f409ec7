"""Asks the moe-proxy of a node, with the fleet's key and for the fleet itself."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from proxy.errors import reason_of
from proxy.node.identity import YES, Certificates, Identity
from proxy.node.names import (
    AUTHORITY_VARIABLE,
    CERTIFICATE_KEY_VARIABLE,
    CERTIFICATE_VARIABLE,
    TLS_VARIABLE,
)


class NotAnswered(Exception):
    """A node has not, or not well; why is for people."""


class NodeApi:
    """To be closed."""

    def __init__(self, identity: Identity) -> None:
        tls = identity.client_tls
        self._session = aiohttp.ClientSession(
            headers=identity.own_headers,
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, url: str, path: str, within_s: float) -> Any:
        return await self._ask("GET", url, path, within_s)

    async def health(self, url: str, within_s: float) -> None:
        """It answers; that it drains is no illness. Raises NotAnswered."""
        await self._ask("GET", url, "/health", within_s, also=(503,))

    async def load(self, url: str, model: str, within_s: float) -> None:
        path = f"/admin/models/{quote(model, safe='/:')}/load"
        await self._ask("POST", url, path, within_s)

    async def _ask(
        self, method: str, url: str, path: str, within_s: float, also: tuple[int, ...] = ()
    ) -> Any:
        try:
            async with (
                asyncio.timeout(within_s),
                self._session.request(method, url + path) as answer,
            ):
                if answer.status != 200 and answer.status not in also:
                    said = " ".join((await answer.text())[:300].split())
                    raise NotAnswered(f"{url}{path}: HTTP {answer.status} {said}")
                return await answer.json(content_type=None)
        except TimeoutError as error:
            raise NotAnswered(f"{url}{path}: no answer within {within_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotAnswered(f"{url}{path}: {reason_of(error)}") from error


def of_command(key: str, env: Mapping[str, str]) -> Identity:
    """What a command on a machine of the fleet is, which Ray has told the key."""
    files = [
        env.get(n) for n in (CERTIFICATE_VARIABLE, CERTIFICATE_KEY_VARIABLE, AUTHORITY_VARIABLE)
    ]
    named = [Path(file) for file in files if file]
    tls = env.get(TLS_VARIABLE, "").lower() in YES and len(named) == len(files)
    return Identity(key=key.encode(), certificates=Certificates(*named) if tls else None)
