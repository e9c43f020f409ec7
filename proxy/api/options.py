"""What the proxy itself wants to know of a request's body; everything else in it is the engine's
business.

Pure: bytes in, values out. The body is scanned once and never rebuilt.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from proxy.catalog.parameters import DROPPED
from proxy.dialect.body import Body as WholeBody
from proxy.dialect.ollama.options import LOADING, SAMPLING, Options, context, read_options
from proxy.errors import BadRequest
from proxy.policy.units import parse_keep_alive
from proxy.routing.request import ModelRequest
from proxy.split import OPTION_NAMES, Split, parse_split

OPTIONS: Final = (*OPTION_NAMES, "num_ctx", "keep_alive")
# Ollama's other options, which mean here what they mean there, and those that it once had, which
# clients still send and which do nothing.
FORMER: Final = DROPPED.difference(SAMPLING).union(
    ("embedding_only", "num_gqa", "numa", "rope_frequency_base", "rope_frequency_scale", "tfs_z")
)
OLLAMAS: Final = (*SAMPLING, *LOADING, *sorted(FORMER))
SHOWN_CHARACTERS: Final = 80
# Longer than any model's; a name is compared with others, and is in the log.
MOST_NAME: Final = 1000
T = TypeVar("T")


class Body(msgspec.Struct):
    """The fields of a body that are looked at. Any type, so that a wrong one is told in our own
    words.
    """

    model: Any = None
    options: Any = None
    keep_alive: Any = None
    moe_cpu_layers: Any = None
    num_cpu_moe: Any = None
    n_cpu_moe: Any = None
    num_moe_offload: Any = None


_decoder = msgspec.json.Decoder(Body)


def read_model_request(
    body: bytes,
    *,
    models: Callable[[], Iterable[str]],
    only: Callable[[], str | None] = lambda: None,
    knows: Callable[[str], bool] = lambda _: False,
) -> ModelRequest:
    """Parse a body. Where it names no model, `only` is asked for one that can be meant, and
    `models` for what exists; `knows`, whether there is a model that is called so.

    Raises BadRequest that names the field, its value and what is allowed.
    """
    fields = _decode(body)
    if fields.model is None:
        fields.model = only()
    if fields.model is None:
        raise no_model(models())
    if not isinstance(fields.model, str):
        raise BadRequest(
            f"model: {_shown(fields.model)} is not allowed; use the name of a model, as a string",
            param="model",
        )
    _check_length(fields.model)
    if "?" not in fields.model and fields == Body(fields.model) and fields.model.strip():
        return ModelRequest(fields.model)  # nothing in particular, as in nearly all
    options = _checked_options(fields.options)
    model, query = _split_name(fields.model, knows)
    return ModelRequest(
        model,
        split=_one(_splits(fields, options, query)),
        ctx=None if options.get("num_ctx") is None else _ctx(options["num_ctx"]),
        keep_alive_s=_one(_keep_alives(fields, options)),
    )


def read_model(text: str, *, knows: Callable[[str], bool] = lambda _: False) -> ModelRequest:
    """The same from a model's name alone, as it stands in a query or a path."""
    _check_length(text)
    model, query = _split_name(text, knows)
    return ModelRequest(model, split=_one(_query_splits(query)))


def taken_options(body: WholeBody) -> Options:
    """What `options` say of how the answer is made, as in Ollama's own requests. Raises BadRequest
    that names the option."""
    raw = body.fields.get("options")
    given = None if raw is None else msgspec.json.decode(raw)
    if not isinstance(given, dict):
        return Options()
    return read_options({name: given[name] for name in OLLAMAS if name in given})


def _check_length(name: str) -> None:
    if len(name) > MOST_NAME:
        raise BadRequest(
            f"model: a name of {len(name)} characters is not allowed; it may have {MOST_NAME}",
            param="model",
        )


def no_model(models: Iterable[str]) -> BadRequest:
    """What to say where no model is named, and `models` are there."""
    return BadRequest(f'"model" is missing; {_there_is(models)}', param="model")


def _split_name(text: str, knows: Callable[[str], bool]) -> tuple[str, str]:
    """A model's name, and what is asked of it behind a `?`, which names of files may have too.
    Raises BadRequest, in Ollama's words, where there is no name."""
    model, _, query = text.partition("?")
    if query or model != text:
        front, _, last = text.rpartition("?")
        if knows(text):
            model, query = text, ""
        elif knows(front):
            model, query = front, last
    if not model.strip():
        raise BadRequest("model is required", param="model")
    return model, query


def _decode(body: bytes) -> Body:
    try:
        # Strings that are skipped are not decoded, so their encoding has to be looked at on its
        # own;
        # what is ASCII, as large base64 is, is quick.
        if not body.isascii():
            body.decode()
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest("the body is JSON, but not an object; send {...} with a model") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = f"the body is not valid JSON: {error}" if body.strip() else "the body is empty"
        raise BadRequest(f'{what}; send a JSON object with a "model"') from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deep") from error


def _checked_options(options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise BadRequest(
            f"options: {_shown(options)} is not allowed; use an object", param="options"
        )
    for key in options:
        if key not in OPTIONS and key not in OLLAMAS:
            near = difflib.get_close_matches(key[:SHOWN_CHARACTERS], (*OPTIONS, *OLLAMAS), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            name = f"options.{key[:SHOWN_CHARACTERS]}"
            raise BadRequest(
                f"{name} is not an option; {hint}allowed here: {', '.join(OPTIONS)}, and Ollama's",
                param=name,
            )
    return options


def _splits(fields: Body, options: Mapping[str, Any], query: str) -> Iterable[tuple[str, Split]]:
    for name in OPTION_NAMES:
        if (value := getattr(fields, name)) is not None:
            yield name, parse_split(value, name=name)
        if (value := options.get(name)) is not None:
            yield f"options.{name}", parse_split(value, name=f"options.{name}")
    yield from _query_splits(query)


def _query_splits(query: str) -> Iterable[tuple[str, Split]]:
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in OPTION_NAMES:
            raise BadRequest(
                f"model: ?{pair[:SHOWN_CHARACTERS]} is not understood; after the name only "
                "?moe_cpu_layers=N is allowed",
                param="model",
            )
        yield f"model?{name}", parse_split(value, name=name)


def _keep_alives(fields: Body, options: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for name, value in (
        ("keep_alive", fields.keep_alive),
        ("options.keep_alive", options.get("keep_alive")),
    ):
        if value is not None:
            try:
                yield name, parse_keep_alive(value)
            except ValueError as error:
                raise BadRequest(
                    f"{name}: {_shown(value)} is not allowed; {error}", param=name
                ) from error


def _one(given: Iterable[tuple[str, T]]) -> T | None:
    """The one value that all places agree on, None if none names one."""
    first: tuple[str, T] | None = None
    for place, value in given:
        if first is None:
            first = place, value
        elif value != first[1]:
            raise BadRequest(
                f"{first[0]} is {first[1]} and {place} is {value}; give one of them, or the same",
                param=place,
            )
    return first[1] if first else None


def _ctx(value: Any) -> int | None:
    try:
        return context(value)
    except BadRequest as error:
        raise BadRequest(
            f"options.num_ctx: {_shown(value)} is not allowed; use a whole number of tokens",
            param="options.num_ctx",
        ) from error


def _there_is(models: Iterable[str]) -> str:
    names = sorted(models)
    if not names:
        return "and there are no models yet: put GGUF files into a folder of [catalog] dirs"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there is {', '.join(names[:10])}{more}"


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
