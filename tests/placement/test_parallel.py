"""How many conversations at once, where nobody says: as many as cost hardly an expert its place."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.gguf_reader import read_header
from proxy.placement.budget import Budget
from proxy.placement.estimate import Settings
from proxy.placement.parallel import MOST, WORTH, choose_parallel, most
from proxy.placement.plan import plan
from tests.placement import sparse
from tests.placement.headers import MIB, moe

MODEL = moe(48)
SETTINGS = Settings(ctx=16384)


def gpu(mib: int, **more: bool) -> Budget:
    return Budget("CUDA0", mib * MIB, **more)


def on_cpu(parallel: int, mib: int) -> int:
    settings = replace(SETTINGS, parallel=parallel)
    return plan(MODEL, settings, [gpu(mib)], ubatch=SETTINGS.ubatch).moe_cpu_layers


@pytest.mark.parametrize("mib", [4200, 6000, 8000, 12_000, 20_000, 50_000])
def test_all_further_ones_cost_no_more_than_they_are_worth(mib: int) -> None:
    chosen = choose_parallel(MODEL, SETTINGS, [gpu(mib)])

    allowed = on_cpu(1, mib) + WORTH * 48
    assert on_cpu(chosen, mib) <= allowed
    assert chosen == MOST or on_cpu(chosen + 1, mib) > allowed


def test_what_is_given_is_kept() -> None:
    """A number that somebody asked for: all conversations that fit beside it."""
    devices = [gpu(8000)]
    given = on_cpu(1, 8000), 48

    chosen = [choose_parallel(MODEL, SETTINGS, devices, n) for n in given]

    assert chosen == [1, 2]
    for parallel, n in zip(chosen, given, strict=True):
        asked = [replace(SETTINGS, parallel=p) for p in (parallel, parallel + 1)]
        assert [plan(MODEL, each, devices, ubatch=512, cpu_layers=n).fits for each in asked] == [
            True,
            False,
        ]


def test_one_where_not_even_that_fits() -> None:
    assert choose_parallel(MODEL, SETTINGS, [gpu(100)]) == 1


def test_as_many_as_fit_where_nothing_can_move() -> None:
    without_experts = moe(48, leading_dense=48)
    sizes = [1500, 50_000]

    chosen = [choose_parallel(without_experts, SETTINGS, [gpu(mib)]) for mib in sizes]

    assert chosen == [1, MOST]


def test_the_usual_number_where_nothing_is_known() -> None:
    assert choose_parallel(None, SETTINGS, [gpu(3000)]) == MOST
    assert choose_parallel(MODEL, SETTINGS, []) == MOST
    assert choose_parallel(MODEL, SETTINGS, [gpu(3000, attention=False)]) == MOST


def test_what_a_policy_names_counts() -> None:
    assert [most(said) for said in ("auto", 1, 9)] == [MOST, 1, 9]


PAGE = Path(__file__).parents[2] / "docs" / "planning.md"
CARDS = (8, 12, 16, 24)
MODELS = (
    ("gpt-oss:20b", "gpt-oss", sparse.GPT_OSS_20B, 201088),
    ("qwen3:30b-a3b", "qwen3moe", sparse.QWEN3_30B_A3B, 151936),
    ("glm-4.5-air", "glm4moe", sparse.GLM_45_AIR, 151552),
    ("gpt-oss:120b", "gpt-oss", sparse.GPT_OSS_120B, 201088),
)


@pytest.mark.parametrize("name", [name for name, *_ in MODELS])
def test_the_pages_table(tmp_path: Path, name: str) -> None:
    """Models of real sizes, on cards of which 1.25 GiB are not for them."""
    _, shape, sizes, words = next(model for model in MODELS if model[0] == name)
    header = read_header(sparse.real_size(tmp_path / "m.gguf", shape, sizes, vocabulary=words))

    def layers(parallel: int, ctx: int, card: int) -> str:
        settings = Settings(ctx=ctx, parallel=parallel)
        made = plan(header, settings, [gpu((card << 10) - 1280)], ubatch=512)
        return str(made.moe_cpu_layers) if made.fits else "-"

    for ctx in (8192, 32768):
        cells = []
        for card in CARDS:
            chosen = choose_parallel(header, Settings(ctx=ctx), [gpu((card << 10) - 1280)])
            counts = (layers(parallel, ctx, card) for parallel in (1, chosen, 4))
            cells.append(f"**{chosen}**: {', '.join(counts)}")
        assert f"| {name} | {ctx:,} | {' | '.join(cells)} |" in PAGE.read_text()
