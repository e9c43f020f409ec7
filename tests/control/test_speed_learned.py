"""What is learned from answers: kept over a restart, shown, and used by "auto"."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.clock import RealClock
from proxy.control.speed_curve import Curve
from proxy.control.speed_learned import LearnedSpeeds, learned_floor, use_file
from proxy.control.speed_store import save
from proxy.control.speed_use import FADES_S, KEPT, LEAST, SPACING_S
from proxy.engine.types import LoadOptions
from proxy.observe.rates import Written
from proxy.pool.state import Backend
from tests.control.conftest import CARD, HOST
from tests.support.guard import until
from tests.support.llama import rpc_server
from tests.support.models import model
from tests.support.policies import policies
from tests.support.proxy import Proxy, proxy

OPTIONS = LoadOptions(model="m", path=model(), ctx=512, parallel=1)
NOW_S = time.time()


def used(state: Path, **speeds: float) -> Path:
    """Have been used so, N5=10.0 at 5 layers on the CPU."""
    file = use_file(state, OPTIONS, [CARD])
    assert file is not None
    file.parent.mkdir(exist_ok=True)
    figures = {n[1:]: [[NOW_S - 60 * i, v] for i in range(LEAST)] for n, v in speeds.items()}
    file.write_text(json.dumps({"splits": figures}))
    return file


def test_the_floor_is_the_measured_best(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)

    assert learned_floor(tmp_path, OPTIONS, [HOST, CARD], NOW_S) == 5


def test_a_model_that_was_moved_keeps_its_curve(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)
    moved = tmp_path / "another-name.gguf"
    moved.write_bytes(model().read_bytes())

    assert learned_floor(tmp_path, replace(OPTIONS, path=moved), [CARD], NOW_S) == 5


def test_another_card_engine_or_model_begins_anew(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)
    used(tmp_path, N0=1.0, N8=50.0)

    assert learned_floor(tmp_path, OPTIONS, [replace(CARD, description="other")], NOW_S) is None
    for other in (
        replace(OPTIONS, libdir=tmp_path),
        replace(OPTIONS, backends=(tmp_path / "x.so",)),
        replace(OPTIONS, path=model("gpt-oss", layers=8)),
        replace(OPTIONS, path=tmp_path / "gone.gguf"),
    ):
        assert learned_floor(tmp_path, other, [CARD], NOW_S) is None


def test_a_broken_file_is_no_floor(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve).write_text("{")
    used(tmp_path, N0=1.0, N8=50.0).write_text('{"splits": {"0": [[1e400, -1]]}}')

    assert learned_floor(tmp_path, OPTIONS, [CARD], NOW_S) is None


def test_use_counts_before_what_was_measured_until_it_fades(curve: Curve, tmp_path: Path) -> None:
    save(tmp_path, curve)
    used(tmp_path, N0=90.0, N5=30.0)

    assert learned_floor(tmp_path, OPTIONS, [CARD], NOW_S) is None
    assert learned_floor(tmp_path, OPTIONS, [CARD], NOW_S + FADES_S) == 5


@pytest.mark.llama
async def test_what_an_answer_has_shown_is_known_after_a_restart(tmp_path: Path) -> None:
    body = {"model": "m", "prompt": "hi", "max_tokens": 100_000, "stream": True}
    body |= {"ignore_eos": True}

    async def speed(server: Proxy) -> float | None:
        """Of the split that it has, as it was in use."""
        backend = await server.backend("m")
        rows = (await server.get(f"/admin/backends/{backend['id']}/splits"))["splits"]
        row = rows[backend["moe_cpu_layers"]]
        return row["tokens_per_second"] if row["source"] == "traffic" else None

    async with rpc_server() as device:
        settings = {"path": model(layers=4), "ctx": 4096, "parallel": 1, "rpc": [device]}
        text = policies({"m": settings | {"moe_cpu_layers": 2}})
        async with proxy(tmp_path, text) as first:
            await first.post("/admin/models/m/load")
            await first.until_ready(moe_cpu_layers=2)
            async with first.session.post("/v1/completions", json=body) as answer:
                await answer.content.readany()
                await until(lambda: speed(first), "an answer's speed is known")
        (file,) = tmp_path.rglob("*.use.json")
        ((_, kept),) = json.loads(file.read_text())["splits"]["2"]
        async with proxy(tmp_path, text) as second:
            await second.post("/admin/models/m/load")
            await second.until_ready(moe_cpu_layers=2)
            assert await speed(second) == round(kept, 2)


class PutBack(RealClock):
    """The machine's clock, which is put to other times."""

    wall_s = NOW_S

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.wall_s, UTC)


async def test_a_clock_that_is_put_back_does_not_end_learning(tmp_path: Path) -> None:
    clock = PutBack()
    speeds = LearnedSpeeds(state=lambda: tmp_path, devices_of=lambda _: [CARD], clock=clock)
    backend = Backend("b1", OPTIONS)
    file = speeds._files[backend.name] = tmp_path / "x.use.json"
    speeds.note(backend, 6, Written(50.0, 1, 10))  # which says nothing: the split was another one
    for wall_s, speed in (
        (NOW_S + 86400, 1.0),
        (NOW_S, 50.0),
        (NOW_S + 5, 9.0),
        (NOW_S + 20, 60.0),
    ):
        clock.wall_s = wall_s
        speeds.note(backend, 6, Written(speed, 1, 10))
    await speeds.close()

    assert json.loads(file.read_text())["splits"] == {
        "6": [[int(NOW_S), 50.0], [int(NOW_S + 20), 60.0]]
    }


async def test_what_can_be_kept_nowhere_does_not_pile_up(tmp_path: Path) -> None:
    clock = PutBack()
    speeds = LearnedSpeeds(state=lambda: tmp_path, devices_of=lambda _: [CARD], clock=clock)
    backend = Backend("b1", replace(OPTIONS, path=tmp_path / "gone.gguf"))
    for _ in range(2 * KEPT):
        clock.wall_s += SPACING_S
        speeds.note(backend, 6, Written(50.0, 1, 10))

    assert len(speeds._new[backend.name][6]) == KEPT


def test_what_is_fast_by_a_cache_says_nothing_of_whole_layers(tmp_path: Path) -> None:
    speeds = LearnedSpeeds(state=lambda: tmp_path, devices_of=lambda _: [], clock=RealClock())
    backend = Backend("b1", replace(OPTIONS, cache_mib=64, cached_layers=6))
    speeds.note(backend, 6, Written(50.0, 1, 10))

    assert speeds._new == {}
