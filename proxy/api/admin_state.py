"""`GET /admin/state`: one picture of everything, in the shape that the dashboard and the command
line read.
"""

import time
from itertools import islice
from math import isinf
from typing import Any

from proxy.api.request_state import requests_state
from proxy.api.services import Services
from proxy.engine.types import Status
from proxy.memory.pressure import pressure_of
from proxy.pool.state import Backend, BackendState
from proxy.pool.work import Standing
from proxy.split import plain
from proxy.text import in_words
from proxy.threads import stuck
from proxy.version import own_version

MOST_IN_LINE = 20  # of those who wait for their turn: the next ones
MOST_TOLD = 100  # of what is broken: the log has all of it
ASKABLE = (BackendState.READY, BackendState.DRAINING)


def state(services: Services) -> dict[str, Any]:
    """The whole state, as it is known: nobody is asked. Sizes in bytes, `_s` in seconds, None where
    something is not known.
    """
    return {
        "version": own_version(),
        "uptime_s": round(time.monotonic() - services.started_s, 3),
        "devices": devices(services),
        "host": host(services),
        "backends": [backend_state(services, backend) for backend in services.pool.backends()],
        "warm_workers": {
            "wanted": services.warm_workers.wanted,
            "ready": services.warm_workers.ready,
        },
        "queue": {"waiting": services.pool.queue_length, "max": services.pool.max_queue},
        "requests": [*requests_state(services).values()],
        "policies": services.policies.to_json(),
        "keys": services.keys.usage(),
        "unusable_models": [
            {"where": where, "why": why}
            for where, why in islice(services.catalog.problems.items(), MOST_TOLD)
        ],
        "degraded": degraded(services),
    }


def degraded(services: Services) -> list[dict[str, Any]]:
    """What does not do well, of what is to go on as long as the proxy does."""
    return [
        {"loop": failure.loop, "since": failure.since.isoformat(), "error": failure.error}
        for failure in services.loops.degraded()
    ] + [
        {
            "loop": hanging.lane,
            "since": hanging.since.isoformat(),
            "error": f"hangs, in {in_words(hanging.threads, 'thread')}: {hanging.what}",
        }
        for hanging in stuck()
    ]


def host(services: Services) -> dict[str, Any]:
    """The machine's memory; pressure is the share of the last 10 s in which some task waited for
    memory, 0 to 1.
    """
    reading = services.memory.latest().host
    return {
        "total_bytes": reading.total_bytes,
        "available_bytes": reading.available_bytes,
        "limit_bytes": reading.limit_bytes,
        "pressure": reading.pressure,
        "problem": pressure_of(reading),
    }


def backend_state(services: Services, backend: Backend) -> dict[str, Any]:
    """What is known of one backend."""
    status: Status | None = backend.engine.known() if backend.state in ASKABLE else None
    options = backend.options
    there = backend.state is not BackendState.GONE
    failure = services.pool.failure_of(backend)
    answers = services.hangs.answers(backend) if status else None
    current, asked = services.desired.current(backend), services.desired.split(backend)
    goal = services.desired.goal(backend)
    return {
        "id": backend.id,
        "model": options.model,
        "mode": options.mode,
        "engine": options.engine,
        "state": str(backend.state),
        "pid": backend.engine.pid if there else None,
        "ctx": options.ctx,
        "parallel": options.parallel,
        "moe_cpu_layers": current,
        "asked": None if asked is None else plain(asked),
        "block_count": status.block_count if status else None,
        "layers": [
            {
                "index": layer.index,
                "experts": layer.experts,
                "experts_bytes": layer.experts_bytes,
                "home": layer.attention_device,
                # Where they are on their way to.
                "to": to if (to := goal.get(layer.index)) != layer.experts else None,
            }
            for layer in (status.layers if status else ())
        ],
        # Which an expert cache has: they never move, and are not among `layers`.
        "cached_layers": list(status.cached) if status else [],
        "bytes": {device: dict(held) for device, held in status.held.items()} if status else {},
        "answers": answers,
        # What was heard of one that is silent is no word of now.
        "settled": status.settled if status and answers else None,
        "live_moves": backend.engine.live_moves if there else None,
        "why_no_moves": backend.engine.why_no_moves if there else None,
        "confined": backend.engine.confined if there else None,
        "in_flight": backend.in_flight,
        "waiting": backend.waiting_for_it,
        "line": [_standing(each) for each in islice(services.pool.lines.of(backend), MOST_IN_LINE)],
        "tokens_per_second": round(services.rates.rate(backend.id), 2),
        "prompt_tokens_per_second": round(services.rates.prompt_rate(backend.id), 2),
        "pinned": bool(backend.pinned),
        "pinned_by_policy": backend.pinned.by_policy and backend.pinned.by_hand is None,
        "dense": options.dense,  # what moves are its feed-forward weights: it has no experts
        "keep_alive_s": None if isinf(backend.ttl_s) else backend.ttl_s,
        "expires_at": backend.expires_at.isoformat() if backend.expires_at else None,
        "last_error": backend.last_error,
        "failures": failure.count if failure else 0,
        "retry_at": retry_at.isoformat() if (retry_at := services.pool.retry_at(backend)) else None,
        "warnings": list(backend.warnings),
        "migrations": services.desired.history(backend),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    """One that waits: never what it asks."""
    expected_s = standing.expected_s
    return {
        "position": standing.position,
        "key": standing.work.shown,
        "waited_s": round(standing.waited_s, 3),
        "expected_s": None if expected_s is None else round(expected_s, 3),
    }


def devices(services: Services) -> list[dict[str, Any]]:
    """The devices that workers have reported, as their source tells of them now."""
    found = []
    for name, reading in services.memory.latest().devices.items():
        policy = services.policies.current.devices.for_device(name)
        found.append(
            {
                "name": name,
                "description": reading.description,
                "source": reading.source,
                "total_bytes": reading.total_bytes,
                "free_bytes": reading.free_bytes,
                "ours_bytes": services.ledger.ours(name),
                "others_bytes": services.ledger.others(name),
                "reserve_bytes": policy.reserve_bytes,
                "low_bytes": services.policies.current.devices.low_bytes,
                "limit_bytes": policy.limit_bytes,
                "integrated": reading.integrated,
                "spills": reading.spills,
                "problem": reading.problem,
            }
        )
    return found
