"""The requests that are here, as people see them: what each waits for, and how far it is."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from proxy.api.open_requests import OpenRequest, Progress, progress_of
from proxy.api.request_log import RequestLog
from proxy.api.services import Services
from proxy.pool.state import Backend, BackendState
from proxy.pool.work import Standing

WAITS_FOR: Final = {
    "load": "the model is loading",
    "room": "for room in memory",
    "move": "for experts to move",
}


def requests_state(services: Services) -> dict[str, dict[str, Any]]:
    """By id, those that have been here longest first. Nobody is asked: progress is as old as the
    last look at the slots, a second or so."""
    backends = {backend.id: backend for backend in services.pool.backends()}
    found = list(services.requests)
    progress = _progress(services, found, backends)
    return {
        request.id: _request(services, request, backends, progress.get(request.id))
        for request in found
    }


def how_it_stands(services: Services, request_log: RequestLog) -> Callable[[], str]:
    """What to tell one of whose answer nothing has come, as a line of text. Looks at what is known:
    it is asked by all who wait, every few seconds."""

    def told() -> str:
        request = request_log.open
        if request is None:
            return "waiting"
        if request.backend is not None:
            return _read_so_far(services, request)
        if standing := services.pool.lines.standing(request.work):
            wait = (
                "" if standing.expected_s is None else f", about {math.ceil(standing.expected_s)} s"
            )
            return f"waiting, position {standing.position}{wait}"
        backends = {backend.id: backend for backend in services.pool.backends()}
        return f"waiting, {WAITS_FOR[_reason(request, None, backends)]}"

    return told


def _read_so_far(services: Services, request: OpenRequest) -> str:
    backend = next((b for b in services.pool.backends() if b.id == request.backend), None)
    if backend is None:
        return "waiting"
    theirs = [one for one in services.requests if one.backend == request.backend]
    progress = progress_of(theirs, services.rates.progress(backend.name)).get(request.id)
    if progress is None or progress.prompt_read is None:
        return "waiting"
    whole = "" if request.prompt_tokens is None else f" of {request.prompt_tokens}"
    return f"reading the prompt, {progress.prompt_read}{whole} tokens"


def _progress(
    services: Services, requests: list[OpenRequest], backends: dict[str, Backend]
) -> dict[str, Progress]:
    asked: dict[str, list[OpenRequest]] = defaultdict(list)
    for request in requests:
        if request.backend is not None:
            asked[request.backend].append(request)
    found: dict[str, Progress] = {}
    for backend_id, theirs in asked.items():
        if (backend := backends.get(backend_id)) is not None:
            found |= progress_of(theirs, services.rates.progress(backend.name))
    return found


def _request(
    services: Services,
    request: OpenRequest,
    backends: dict[str, Backend],
    progress: Progress | None,
) -> dict[str, Any]:
    standing = None if request.backend else services.pool.lines.standing(request.work)
    reads = progress is not None and progress.prompt_read is not None
    state = "waiting" if request.backend is None else "reading" if reads else "writing"
    return {
        "id": request.id,
        "path": request.path,
        "model": request.model,
        "backend": request.backend,
        "key": request.work.shown,
        "at": request.at.isoformat(),
        "state": state,
        "waits_for": None if request.backend else _reason(request, standing, backends),
        "position": standing.position if standing else None,
        "expected_s": _whole(standing.expected_s) if standing else None,
        "prompt_tokens": request.prompt_tokens,
        "prompt_tokens_read": progress.prompt_read if progress else None,
        "tokens": progress.tokens if progress else None,
        "max_tokens": request.work.tokens,
    }


def _reason(request: OpenRequest, standing: Standing | None, backends: dict[str, Backend]) -> str:
    """What one that no backend is asked for waits for: "turn", "load", "move" or "room"."""
    if standing is not None:
        return "turn"
    theirs = [b for b in backends.values() if b.options.model == request.model]
    if any(b.state is BackendState.STARTING for b in theirs):
        # One that nobody has started waits for others to make way.
        started = any(b.state is BackendState.STARTING and b.engine.pid for b in theirs)
        return "load" if started else "room"
    return "move" if any(b.state is BackendState.READY for b in theirs) else "room"


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)
