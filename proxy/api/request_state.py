"""The requests that are here, as people see them: what each waits for, and how far it is."""

from collections import defaultdict
from typing import Any

from proxy.api.open_requests import OpenRequest, Progress, progress_of
from proxy.api.services import Services
from proxy.pool.state import Backend, BackendState
from proxy.pool.work import Standing


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
    reads = progress is not None and progress.prompt > 0
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
        "prompt_tokens": progress.prompt if progress and reads else None,
        "prompt_tokens_read": progress.prompt_read if progress and reads else None,
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
