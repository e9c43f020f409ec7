"""The operator's routes for policy files: reading, checking and replacing them, and what they said
before.
"""

from functools import partial
from pathlib import Path

from aiohttp import web

from proxy.api.bodies import read_body
from proxy.api.policy_check import check_policy_file, effects
from proxy.api.policy_files import (
    find_policy_file,
    read_policy_file,
    tag_of,
    write_policy_file,
)
from proxy.api.policy_versions import PolicyVersions
from proxy.api.services import SERVICES, Services
from proxy.api.wire import json_response
from proxy.threads import POLICIES

TOML = "application/toml"


def add_routes(router: web.UrlDispatcher) -> None:
    # Names have slashes; the verb is what comes after the last one.
    router.add_post("/admin/policies/{file:.+}/check", check)
    router.add_get("/admin/policies/{file:.+}/versions", list_versions)
    router.add_get("/admin/policies/{file:.+}/versions/{version}", read_version)
    router.add_get("/admin/policies/{file:.+}", read)
    router.add_put("/admin/policies/{file:.+}", write)


async def read(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    files = services.policies.newest.files
    text = await POLICIES.run(read_policy_file, files, request.match_info["file"])
    return web.Response(body=text, content_type=TOML, headers={"ETag": tag_of(text)})


async def write(request: web.Request) -> web.Response:
    """Replace one policy file, if the whole set is good with the new text and nothing is in it that
    is not changed over HTTP; the watcher then applies it. With `If-Match`, only if it is still what
    its `ETag` was of.
    """
    services = request.app[SERVICES]
    state = services.policies.current.catalog.state
    text = await read_body(request, services.policies.current.server.max_body_bytes)
    status, problems = await POLICIES.run(
        write_policy_file,
        services.policies.newest,
        request.match_info["file"],
        text,
        every_key=_every_key(services),
        keep=partial(_keep, state),
        expected=request.headers.get("If-Match"),
    )
    answer = json_response({"problems": problems}, status=status)
    if not problems:
        answer.headers["ETag"] = tag_of(text)
    return answer


async def check(request: web.Request) -> web.Response:
    """What would be wrong with a text, and what would come of it; nothing is written."""
    services = request.app[SERVICES]
    policies = services.policies
    problems, loaded = await POLICIES.run(
        check_policy_file,
        policies.newest,
        request.match_info["file"],
        await read_body(request, services.policies.current.server.max_body_bytes),
        every_key=_every_key(services),
    )
    new = loaded.policies
    nodes = policies.elsewhere(loaded)
    would = effects(policies.current, new, services.pool.backends(), nodes) if new else None
    notes = [str(note) for note in loaded.notes]
    return json_response({"problems": problems, "notes": notes, "effects": would})


async def list_versions(request: web.Request) -> web.Response:
    versions = await POLICIES.run(_versions(request).all)
    return json_response({"versions": versions})


async def read_version(request: web.Request) -> web.Response:
    text = await POLICIES.run(_versions(request).read, request.match_info["version"])
    return web.Response(body=text, content_type=TOML)


def _versions(request: web.Request) -> PolicyVersions:
    policies = request.app[SERVICES].policies
    file = find_policy_file(policies.newest.files, request.match_info["file"])
    return PolicyVersions(policies.current.catalog.state, file)


def _keep(state: Path, file: Path, text: bytes) -> None:
    PolicyVersions(state, file).keep(text)


def _every_key(services: Services) -> bool:
    server = services.policies.current.server
    return server.remote_policies and server.api_keys_file is not None
