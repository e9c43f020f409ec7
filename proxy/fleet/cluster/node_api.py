"""Asks the moe-proxy of a node, with the fleet's key and for the fleet itself."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from proxy.errors import reason_of
from proxy.fleet.names import AUTHORITY_VARIABLE, KEY_HEADER, OWN_HEADER, TLS_VARIABLE


class NotAnswered(Exception):
    """A node has not, or not well; why is for people."""


class NodeApi:
    """To be closed."""

    def __init__(self, key: str, env: Mapping[str, str]) -> None:
        tls = trust(env)
        self._session = aiohttp.ClientSession(
            headers={KEY_HEADER: key, OWN_HEADER: "1"},
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


def trust(env: Mapping[str, str]) -> ssl.SSLContext | None:
    """Who is believed to be of the fleet, where the cluster speaks TLS: whoever its authority has
    signed, at whatever address. Raises OSError for files that are none."""
    if env.get(TLS_VARIABLE) != "1" or not env.get(AUTHORITY_VARIABLE):
        return None
    context = ssl.create_default_context(cafile=env[AUTHORITY_VARIABLE])
    context.check_hostname = False
    return context
