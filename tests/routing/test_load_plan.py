"""How a model is loaded for a request, and how free the pool is with it."""

from pathlib import Path

import pytest

from proxy.engine.types import Mode
from proxy.errors import BadRequest, Conflict
from proxy.pool.events import MatchPolicy
from proxy.routing.load_plan import header_facts, with_policy_split
from proxy.routing.request import ModelRequest
from proxy.split import AUTO, Layers, Split
from tests.support.routing import LAYERS, TRAINED, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_model_without_experts_moves_only_where_a_policy_says_so(folder: Folder) -> None:
    names = ("dense", "whole", "expert", "dense-apart")
    found = [folder.plan(ModelRequest(name)).options for name in names]

    assert [x.dense for x in found] == [True, False, False, True]
    assert [x.split for x in found] == [None, None, None, LAYERS]
    assert folder.plan(ModelRequest("dense-apart", split=1)).options.split == 1


def test_a_model_that_pools_by_itself_is_not_told_how(folder: Folder) -> None:
    def args(name: str, mode: Mode = "generation") -> tuple[str, ...]:
        return folder.plan(ModelRequest(name), mode).options.args

    assert args("tiny", "embedding") == ("--pooling", "last", "--jinja")
    assert args("embedder") == ("--pooling", "last")
    assert args("averaged", "embedding") == ("--pooling", "mean")
    assert args("encoder", "embedding") == ()
    assert args("tiny") == ("--jinja",)
    assert args("foreign", "embedding") == ()


def test_ranges_are_refused_where_the_split_is_loaded(folder: Folder) -> None:
    for model in ("apart", "foreign"):
        with pytest.raises(BadRequest, match="takes only a number"):
            folder.plan(ModelRequest(model, Layers(((1, 2),))))
    with pytest.raises(Conflict, match="does not take"):
        folder.plan(ModelRequest("fixed", Layers(((1, 2),))))


def test_what_a_request_names_is_not_open(folder: Folder) -> None:
    plan = folder.plan(ModelRequest("foreign", split=1, ctx=512))

    assert (plan.options.ctx, plan.options.split) == (512, 1)
    assert plan.matching.unpinned == frozenset()


def test_a_split_that_can_be_moved_to_is_open(folder: Folder) -> None:
    """A hosted backend serves a request for any split: the controller moves it there."""
    plan = folder.plan(ModelRequest("tiny", split=1, ctx=512))

    assert (plan.options.ctx, plan.options.split) == (512, None)
    assert plan.matching.unpinned == {"split", "parallel"}


def test_ctx_is_at_most_what_the_model_was_trained_for(folder: Folder) -> None:
    assert folder.plan(ModelRequest("tiny", ctx=TRAINED)).options.ctx == TRAINED
    assert folder.plan(ModelRequest("tiny", ctx=TRAINED + 1)).options.ctx == TRAINED
    assert folder.plan(ModelRequest("long")).options.ctx == TRAINED


def test_the_mode_is_the_requests_but_for_models_of_one_mode(folder: Folder) -> None:
    plan = folder.plan

    assert plan(ModelRequest("tiny"), "rerank").options.mode == "rerank"
    assert plan(ModelRequest("embedder")).options.mode == "embedding"
    assert plan(ModelRequest("fixed"), "embedding").options.mode == "generation"


@pytest.mark.parametrize(
    ("model", "asked", "key"),
    [
        ("apart", None, 3),
        ("apart", 1, 1),
        ("apart", -1, LAYERS),
        ("apart", AUTO, None),
        ("apart-auto", None, None),
        ("foreign", None, LAYERS),  # auto: all on the CPU is what surely fits
        ("foreign", AUTO, LAYERS),
        ("foreign", 0, 0),
        ("foreign", 99, LAYERS),
        ("fixed", None, None),
        ("fixed", AUTO, None),
    ],
)
def test_the_split_is_in_the_key_where_it_takes_a_process(
    folder: Folder, model: str, asked: Split | None, key: int | None
) -> None:
    assert folder.plan(ModelRequest(model, split=asked)).options.split == key


def test_a_command_that_takes_no_split_cannot_have_one(folder: Folder) -> None:
    with pytest.raises(Conflict, match="command of fixed does not take"):
        folder.plan(ModelRequest("fixed", split=2))


def test_a_command_that_takes_no_context_has_one(folder: Folder) -> None:
    plan = folder.plan(ModelRequest("fixed", ctx=128))

    assert plan.options.ctx == 4096
    assert "ctx" in plan.matching.unpinned
    assert folder.plan(ModelRequest("foreign", ctx=128)).options.ctx == 128


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("tiny", 2),
        ("dense", 1),  # of its feed-forward weights
        ("variant", None),  # all layers are on the CPU to begin with
        ("larger", 2),  # its base's
        ("embedder", None),  # auto
        ("whole", None),  # it has no experts
        ("apart", 3),
        ("apart-auto", None),
        ("fixed", None),
    ],
)
def test_the_policys_number_is_loaded_where_experts_turn_out_not_to_move(
    folder: Folder, model: str, key: int | None
) -> None:
    found = folder.resolver.resolve(model)
    assert found.entry is not None
    facts = header_facts(folder.catalog.header(found.entry))

    plan = with_policy_split(folder.plan(ModelRequest(model)), found.policy, facts)

    assert plan.options.split == key
    assert plan.matching.coexist or key is None or "split" not in plan.matching.unpinned


def test_what_is_pinned_is_loaded_as_such(folder: Folder) -> None:
    assert [folder.plan(ModelRequest(name)).matching.pinned for name in ("same", "apart")] == [
        True,
        False,
    ]


def test_separate_splits_stand_side_by_side(folder: Folder) -> None:
    matching = folder.plan(ModelRequest("apart")).matching

    assert matching == MatchPolicy(60.0, frozenset({"ctx", "parallel"}), coexist=True)
