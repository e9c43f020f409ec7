"""The command `plan`: asks the proxy that runs, which knows what it serves; else finds the model
and what holds for it, as `serve` would. Loads nothing."""

import os
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from proxy.cli.client import Client, ClientError, Refused, Unreachable
from proxy.cli.inventory import catalog_of
from proxy.control.model_plan import plan_model, question_of
from proxy.errors import BadRequest, ModelNotFound
from proxy.policy.load import load
from proxy.policy.model import ModelPolicy, Policies
from proxy.routing.resolver import Resolver


def answer(
    model: str, asked: Mapping[str, str], client: Client, policies: Path | None
) -> dict[str, Any]:
    """The plan, in the shape of `plan_json`. `asked` is what the command line says, in the words of
    a URL's query; with `policies`, or a file for a `model`, no proxy is asked for the model.

    Raises BadRequest for what is set up wrongly, ModelNotFound with near names, and ClientError.
    """
    here = policies is not None or _is_file(model)
    unknown: ClientError | None = None
    if not here:
        try:
            return _of_proxy(model, asked, client)
        except Unreachable:
            pass
        except ClientError as error:
            if isinstance(error, Refused) and error.status == HTTPStatus.BAD_REQUEST:
                raise
            # An older proxy, one that has not seen an edit yet or wants a key, or Ollama.
            unknown = error
    question = question_of(asked)
    if question.vram is None:
        question = replace(question, vram=devices_of_proxy(client))
    loaded = load(policies, os.environ)
    if loaded.policies is None:
        raise BadRequest("; ".join(map(str, loaded.problems)))
    try:
        policy, path = _model(model, loaded.policies)
    except ModelNotFound:
        if isinstance(unknown, Refused):
            raise unknown from None
        raise
    return plan_model(policy, path, loaded.policies, question)


def _of_proxy(model: str, asked: Mapping[str, str], client: Client) -> dict[str, Any]:
    path = f"/admin/models/{quote(model, safe='/:')}/plan"
    made: dict[str, Any] = client.get(f"{path}?{urlencode(asked)}" if asked else path)
    return made


def devices_of_proxy(client: Client) -> dict[str, int]:
    """The devices of a running proxy, with what is free on them and what the proxy itself holds.
    Raises ClientError."""
    devices = client.get("/admin/state")["devices"]
    return {
        device["name"]: device["free_bytes"] + (device["ours_bytes"] or 0)
        for device in devices
        if device["free_bytes"] is not None
    }


def _is_file(name: str) -> bool:
    return name.lower().endswith(".gguf") and Path(name).exists()


def _model(name: str, policies: Policies) -> tuple[ModelPolicy, Path]:
    """What holds for a model, and its file: a file of this name, or the one that `serve` finds."""
    if _is_file(name):
        path = Path(name).resolve()
        named = (m for m in policies.models.values() if m.path and m.path.resolve() == path)
        return next(named, replace(policies.defaults, name=path.stem)), path
    model = Resolver(lambda: policies, catalog_of(policies, os.environ)).resolve(name)
    return model.policy, model.path
