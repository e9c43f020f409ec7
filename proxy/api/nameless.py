"""Routes of llama-server whose body does not name the model as others do: it stands in the query,
in a form, or is the only one there is.
"""

from typing import Final

from aiohttp import hdrs, web
from msgspec.structs import replace

from proxy.api.bodies import read_body
from proxy.api.options import no_model, read_model
from proxy.api.passthrough import Forward, answer, request_headers
from proxy.api.prepare import target_of
from proxy.api.scopes import acts_on_slots
from proxy.api.services import SERVICES
from proxy.api.turns import work_of
from proxy.dialect.form import check_form, form_fields
from proxy.dialect.workload import Workload
from proxy.engine.arguments import names_slot_folder
from proxy.errors import Forbidden
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model

LOOKS: Final = ("/props", "/slots", "/lora-adapters")
TRANSCRIPTIONS: Final = ("/v1/audio/transcriptions", "/audio/transcriptions")
WHOSE_SLOTS: Final = (
    "slots of this model are saved and restored by the proxy alone, in a folder of its own; a "
    "--slot-save-path in its args gives them another folder, and leaves them to you"
)


def add_routes(router: web.UrlDispatcher) -> None:
    for path in LOOKS:
        router.add_get(path, look)
    router.add_post("/lora-adapters", change)
    router.add_post("/slots/{id:[0-9]+}", change)
    for path in TRANSCRIPTIONS:
        router.add_post(path, transcribe)


async def look(request: web.Request) -> web.StreamResponse:
    model, wanted = await _model(request, request.query.get("model"))
    forward = Forward(request.method, target_of(request), request_headers(request))
    return await answer(request, model, wanted, "generation", forward)


async def change(request: web.Request) -> web.StreamResponse:
    """Set how much each adapter counts, or save, restore or erase a slot."""
    model, wanted = await _model(request, request.query.get("model"))
    check_slots(request.method, request.rel_url.raw_path, model)
    forward = Forward("POST", target_of(request), request_headers(request), await _read(request))
    return await answer(request, model, wanted, "generation", forward)


async def transcribe(request: web.Request) -> web.StreamResponse:
    """What is said in a sound, which comes as a form."""
    body = await _read(request)
    fields = form_fields(request.headers.get(hdrs.CONTENT_TYPE, ""), body)
    model, wanted = await _model(request, fields.get("model"))
    model.check_media()
    check_form(fields)
    wanted = replace(wanted, work=work_of(request, Workload()))
    forward = Forward("POST", target_of(request), request_headers(request), body, computes=True)
    return await answer(request, model, wanted, "generation", forward)


def check_slots(method: str, path: str, model: Model) -> None:
    """Raise Forbidden for what would touch files of the proxy's own, where `path` is as the model's
    server is asked for it."""
    theirs = model.policy.engine != "hosted" or names_slot_folder(model.policy.args)
    if acts_on_slots(method, path) and not theirs:
        raise Forbidden(WHOSE_SLOTS)


async def _model(request: web.Request, name: str | None) -> tuple[Model, ModelRequest]:
    """Raises BadRequest where there is no `name`, and several could be meant."""
    services = request.app[SERVICES]
    if name is None and (name := services.only_model()) is None:
        raise no_model(services.resolver.names())
    wanted = read_model(name, knows=services.resolver.knows)
    return await services.resolve(wanted.model), wanted


async def _read(request: web.Request) -> bytes:
    return await read_body(request, request.app[SERVICES].policies.current.server.max_body_bytes)
