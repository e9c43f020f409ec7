import os
import shutil
from pathlib import Path

import pytest

from proxy.catalog.local import Catalog
from proxy.catalog.summary import Summary, in_words, summarise
from proxy.demo.gguf_writer import TensorSpec, write_model
from tests.support.models import model


@pytest.mark.parametrize(
    ("count", "words"),
    [(8_000_000_000, "8B"), (30_532_122_624, "30.5B"), (137_130_000, "137.13M"), (999, "999")],
)
def test_numbers_in_words(count: int, words: str) -> None:
    assert in_words(count) == words


def labelled(path: Path) -> None:
    metadata = {
        "general.name": "Labelled",
        "general.size_label": "30B-A3B",
        "general.file_type": 15,
        ".block_count": 48,
        ".context_length": 40960,
        ".embedding_length": 2048,
        ".expert_count": 128,
    }
    write_model(path, "qwen3moe", metadata=metadata, tensors=[TensorSpec("a", (4, 64))])


def test_summary(tmp_path: Path) -> None:
    labelled(tmp_path / "m.gguf")

    assert Catalog([tmp_path], {}).summaries()["m"] == Summary(
        "qwen3moe", "Labelled", "256", "Q4_K_M", 48, 40960, 2048, 128
    ), "a label is no count of parameters"


def test_of_a_file_that_ends_too_early_the_beginning(tmp_path: Path) -> None:
    labelled(tmp_path / "m.gguf")
    os.truncate(tmp_path / "m.gguf", (tmp_path / "m.gguf").stat().st_size - 500)

    assert Catalog([tmp_path], {}).summaries()["m"] == Summary(
        "qwen3moe", "Labelled", "30B-A3B", "Q4_K_M", 48, 40960, 2048, 128
    )


@pytest.mark.parametrize(
    ("template", "tools", "thinking"),
    [("Qwen-Qwen3-0.6B", True, True), ("meta-llama-Llama-3.1-8B-Instruct", True, False)],
)
def test_what_the_template_has_a_place_for(template: str, tools: bool, thinking: bool) -> None:
    found = summarise(model("qwen3moe", layers=2, template=template))

    assert (found.template, found.tools, found.thinking) == (True, tools, thinking)


def test_who_goes_on_with_a_text() -> None:
    assert summarise(model("qwen3moe", layers=2)).chat
    assert not summarise(model("bert", layers=2)).chat


def test_without_labels_the_tensors_say_it(tmp_path: Path) -> None:
    shutil.copy(model("qwen3moe", layers=2), tmp_path / "m.gguf")

    found = Catalog([tmp_path], {}).summaries()["m"]

    assert found.parameters.endswith("M")
    assert found.quantization == "Q8_0"


def test_what_was_read_outlives_the_process(tmp_path: Path) -> None:
    cache = tmp_path / "state" / "headers.json"
    source = tmp_path / "m.gguf"
    shutil.copy(model("qwen3moe", layers=2), source)
    first = Catalog([tmp_path], {}, cache=cache).summaries()
    status = source.stat()
    source.write_bytes(bytes(status.st_size))
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert Catalog([tmp_path], {}, cache=cache).summaries() == first

    os.utime(source)
    assert Catalog([tmp_path], {}, cache=cache).summaries() == {"m": Summary()}
    cache.write_bytes(cache.read_bytes()[:-10])
    assert Catalog([tmp_path], {}, cache=cache).summaries() == {"m": Summary()}
    assert [path.name for path in cache.parent.iterdir()] == ["headers.json"]


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    shutil.copy(model("qwen3moe", layers=2), tmp_path / "m.gguf")
    (tmp_path / "file").touch()

    found = Catalog([tmp_path], {}, cache=tmp_path / "file" / "headers.json").summaries()

    assert found["m"].architecture == "qwen3moe"


def test_five_hundred_models(tmp_path: Path) -> None:
    head = {"general.size_label": "1B", "general.file_type": 7, ".block_count": 2}
    write_model(tmp_path / "m.gguf", "qwen3", metadata=head, tensors=[TensorSpec("a", (4, 64))])
    data = (tmp_path / "m.gguf").read_bytes()
    for number in range(500):
        (tmp_path / f"m{number:03}.gguf").write_bytes(data)
    cache = tmp_path / "state" / "headers.json"

    cold = Catalog([tmp_path], {}, cache=cache).summaries()
    warm = Catalog([tmp_path], {}, cache=cache).summaries()

    assert len(cold) == 501
    assert cold == warm
    assert set(cold.values()) == {cold["m"]}
