"""What is read from bodies, and how a wrong one is refused."""

import json
import math
from typing import Any

import pytest

from proxy.api.options import read_model, read_model_request
from proxy.errors import BadRequest
from proxy.routing.request import ModelRequest
from proxy.split import Layers


def read(body: Any) -> ModelRequest:
    return read_model_request(json.dumps(body).encode(), models=lambda: ["a", "b"])


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"model": "a"}, ModelRequest("a")),
        ({"model": "a", "messages": [{"content": "ü"}], "x": 1e9}, ModelRequest("a")),
        ({"model": "a", "options": None, "moe_cpu_layers": None}, ModelRequest("a")),
        ({"model": "a", "options": {"moe_cpu_layers": 3}}, ModelRequest("a", 3)),
        ({"model": "a", "moe_cpu_layers": "full"}, ModelRequest("a", -1)),
        ({"model": "a", "moe_cpu_layers": "0-2,7"}, ModelRequest("a", Layers(((0, 2), (7, 7))))),
        ({"model": "a?moe_cpu_layers=4-5"}, ModelRequest("a", Layers(((4, 5),)))),
        ({"model": "a", "options": {"num_cpu_moe": "none"}}, ModelRequest("a", 0)),
        ({"model": "a", "n_cpu_moe": "partial"}, ModelRequest("a", "auto")),
        ({"model": "a", "num_moe_offload": 4, "options": {"n_cpu_moe": 4}}, ModelRequest("a", 4)),
        ({"model": "o/a:b?moe_cpu_layers=24"}, ModelRequest("o/a:b", 24)),
        ({"model": "a?moe_cpu_layers=auto", "moe_cpu_layers": "auto"}, ModelRequest("a", "auto")),
        ({"model": "a", "options": {"num_ctx": 4096}}, ModelRequest("a", ctx=4096)),
        ({"model": "a", "options": {"num_ctx": 0}}, ModelRequest("a")),
        ({"model": "a", "options": {"num_ctx": -1}}, ModelRequest("a")),
        ({"model": "a", "options": {"num_ctx": 4096.0}}, ModelRequest("a", ctx=4096)),
        ({"model": "a", "options": {"temperature": 0, "tfs_z": 1}}, ModelRequest("a")),
        ({"model": "a", "keep_alive": "10m"}, ModelRequest("a", keep_alive_s=600)),
        ({"model": "a", "keep_alive": 0}, ModelRequest("a", keep_alive_s=0)),
        ({"model": "a", "options": {"keep_alive": -1}}, ModelRequest("a", keep_alive_s=math.inf)),
    ],
)
def test_what_is_asked(body: Any, asked: ModelRequest) -> None:
    assert read(body) == asked


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is empty"),
        (b"model=a", "not valid JSON"),
        (b'{"model": "a"', "not valid JSON"),
        (b'{"model": "a", "x": "\xff"}', "not valid JSON"),
        (b'{"model": "a", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deep"),
        (b"[]", "not an object"),
        (b'"a"', "not an object"),
        (b"{}", '"model" is missing; there is a, b'),
        (b'{"model": null}', '"model" is missing'),
        (b'{"model": 5}', "model: 5 is not allowed"),
        (b'{"model": ""}', "model is required"),
        (b'{"model": " "}', "model is required"),
        (b'{"model": "?moe_cpu_layers=1"}', "model is required"),
        (b'{"model": "a?x=1"}', "only ?moe_cpu_layers=N"),
        (b'{"model": "a", "options": []}', "options: [] is not allowed; use an object"),
        (b'{"model": "a", "options": {"moe_layers": 1}}', "did you mean moe_cpu_layers"),
        (b'{"model": "a", "options": {"zzz": 1}}', "allowed here: moe_cpu_layers, num_cpu_moe"),
        (b'{"model": "a", "options": {"num_predicts": 1}}', "did you mean num_predict"),
        (b'{"model": "a", "moe_cpu_layers": -2}', "moe_cpu_layers: -2 is not allowed"),
        (b'{"model": "a", "moe_cpu_layers": true}', "moe_cpu_layers: True is not allowed"),
        (b'{"model": "a", "moe_cpu_layers": 1.5}', "moe_cpu_layers: 1.5 is not allowed"),
        (b'{"model": "a", "moe_cpu_layers": "7-3"}', "'7-3' ends before it begins"),
        (b'{"model": "a", "options": {"n_cpu_moe": "x"}}', "options.n_cpu_moe: 'x'"),
        (b'{"model": "a", "options": {"num_ctx": "4k"}}', 'options.num_ctx: "4k"'),
        (b'{"model": "a", "options": {"num_ctx": true}}', "options.num_ctx: true"),
        (b'{"model": "a", "keep_alive": "soon"}', 'keep_alive: "soon" is not allowed'),
        (b'{"model": "a?moe_cpu_layers=1", "moe_cpu_layers": 2}', "give one of them"),
        (b'{"model": "a", "moe_cpu_layers": 2, "options": {"n_cpu_moe": 3}}', "give one of them"),
        (b'{"model": "a", "keep_alive": 2, "options": {"keep_alive": 3}}', "give one of them"),
    ],
)
def test_what_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        read_model_request(body, models=lambda: ["b", "a"])

    assert says in refusal.value.message


def test_where_no_model_is_named_the_only_one_is_meant() -> None:
    for body in (b"{}", b'{"model": null, "moe_cpu_layers": 3}'):
        asked = read_model_request(body, models=list, only=lambda: "a")
        assert asked.model == "a"
    with pytest.raises(BadRequest, match="model is required"):
        read_model_request(b'{"model": ""}', models=list, only=lambda: "a")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("why?", ModelRequest("why?")),
        ("a?b=c", ModelRequest("a?b=c")),
        ("why??moe_cpu_layers=2", ModelRequest("why?", 2)),
        ("m?moe_cpu_layers=2", ModelRequest("m", 2)),
        ("other?", ModelRequest("other")),
    ],
)
def test_a_name_of_a_file_may_have_a_question_mark(text: str, asked: ModelRequest) -> None:
    knows = {"why?", "a?b=c", "m"}.__contains__

    assert read_model(text, knows=knows) == asked
    assert (
        read_model_request(json.dumps({"model": text}).encode(), models=list, knows=knows) == asked
    )


def test_long_lists_of_models_are_cut_short() -> None:
    with pytest.raises(BadRequest, match="and 20 more"):
        read_model_request(b"{}", models=lambda: [f"m{number}" for number in range(30)])


def test_a_model_in_a_path_may_carry_a_split() -> None:
    assert read_model("a/b?moe_cpu_layers=2") == ModelRequest("a/b", 2)


@pytest.mark.parametrize(
    "read_it",
    [
        lambda name: read({"model": name}),
        lambda name: read({"model": name, "options": {}}),
        read_model,
    ],
)
def test_a_name_is_no_longer_than_names_are(read_it: Any) -> None:
    """It is compared with all others, which takes half a minute where it has 30 MB."""
    assert read_it("a" * 1000).model == "a" * 1000
    with pytest.raises(BadRequest, match="a name of 1001 characters is not allowed") as error:
        read_it("a" * 1001)

    assert error.value.param == "model"


def test_what_is_no_option_is_not_compared_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(word: str, *_: object, **__: object) -> list[str]:
        compared.append(word)
        return []

    monkeypatch.setattr("difflib.get_close_matches", compare)
    with pytest.raises(BadRequest, match="is not an option"):
        read({"model": "a", "options": {"x" * 30_000_000: 1}})

    assert [len(word) for word in compared] == [80]
