"""What an Ollama request asks of the proxy: which model, with what, and what its log should say."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from proxy.api.bodies import read_body
from proxy.api.defaults import defaults_of
from proxy.api.notes import WarnOnce, warn
from proxy.api.options import read_model
from proxy.api.request_log import REQUEST_LOG
from proxy.api.services import SERVICES, Services
from proxy.dialect.ollama.bodies import sampling
from proxy.dialect.ollama.models import Abilities
from proxy.dialect.ollama.options import Options
from proxy.dialect.ollama.requests import Body, read_named
from proxy.dialect.preamble import Preamble, preamble_of
from proxy.dialect.typos import in_ollamas_body, in_options
from proxy.errors import BadRequest, ModelNotFound, ProxyError
from proxy.routing.request import ModelRequest
from proxy.routing.resolver import Model
from proxy.split import Split

CLOUD_ENDINGS = (":cloud", "-cloud")
B = TypeVar("B", bound=Body)


class CloudRefused(ProxyError):
    """What is asked for runs in Ollama's cloud, and this proxy only knows its own machine."""

    status = 403
    code = "cloud_disabled"

    def __init__(self, what: str) -> None:
        super().__init__(f"ollama cloud is disabled: {what} is unavailable")


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request whose model was found. `params` are for the engine, in llama-server's names."""

    shown: str  # the model as the client called it
    model: Model
    can: Abilities
    options: Options
    params: Mapping[str, Any]
    wanted: ModelRequest

    @property
    def preamble(self) -> Preamble:
        """What the model says before every conversation."""
        return preamble_of(self.model.entry)


async def read_request(request: web.Request) -> bytes:
    """The body, up to the policies' limit."""
    return await read_body(request, request.app[SERVICES].policies.current.server.max_body_bytes)


async def read_as(request: web.Request, kind: type[B]) -> B:
    """The same, as `kind`; of what it says by a wrong name, or in a wrong place, it is warned.
    Raises BadRequest."""
    body, names = read_named(await read_request(request), kind)
    warn(request, in_ollamas_body(names, kind.__struct_fields__))
    return body


async def parse(
    request: web.Request, body: Body, notes: WarnOnce, *, missing: str
) -> ParsedRequest:
    """Find the model and all that is asked for. `missing` is what to say where there is none."""
    services = request.app[SERVICES]
    shown = body.model or ""
    options = body.read_options()
    model, named = await resolve(services, shown, missing=missing)
    request[REQUEST_LOG].is_of(model.name)
    notes.options(options)
    warn(request, in_options(options.unknown))
    return ParsedRequest(
        shown,
        model,
        await services.abilities.of(model),
        options,
        sampling(defaults_of(model), options.sampling),
        ModelRequest(model.name, _agreed(options.split, named), options.ctx, body.keep_alive_s),
    )


async def resolve(services: Services, name: str, *, missing: str) -> tuple[Model, Split | None]:
    """The model of this name, and the split that its name may carry.

    Raises BadRequest where there is no name, CloudRefused, and ModelNotFound with the text
    `missing` and behind it the names that come close: clients look at the status, or for Ollama's
    words somewhere in the text.
    """
    if not name.strip():
        raise BadRequest("model is required", param="model")
    wanted = read_model(name, knows=services.resolver.knows)
    with suppress(ModelNotFound):
        return await services.resolve(wanted.model), wanted.split
    if wanted.model.lower().endswith(CLOUD_ENDINGS):
        raise CloudRefused("remote model")
    raise ModelNotFound(missing + services.resolver.did_you_mean(wanted.model), param="model")


def _agreed(option: Split | None, named: Split | None) -> Split | None:
    if option is not None and named is not None and option != named:
        raise BadRequest(
            f"options.moe_cpu_layers is {option} and model?moe_cpu_layers is {named}; "
            "give one of them, or the same",
            param="options.moe_cpu_layers",
        )
    return named if option is None else option
