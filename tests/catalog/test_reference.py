from pathlib import PurePosixPath

import pytest

from proxy.catalog.reference import BadName, from_manifest_path, parse_reference


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("llama3", "registry.ollama.ai/library/llama3:latest", "llama3:latest"),
        ("qwen3:30b", "registry.ollama.ai/library/qwen3:30b", "qwen3:30b"),
        ("me/qwen3", "registry.ollama.ai/me/qwen3:latest", "me/qwen3:latest"),
        ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
        ("http://host/a/b", "host/a/b:latest", "host/a/b:latest"),
        ("hf.co/01.AI/Yi-GGUF:Q4_K_M", "hf.co/01.AI/Yi-GGUF:Q4_K_M", "hf.co/01.AI/Yi-GGUF:Q4_K_M"),
        ("huggingface.co/a/b:x-Q8_0.gguf", "hf.co/a/b:x-Q8_0.gguf", "hf.co/a/b:x-Q8_0.gguf"),
        ("Registry.Ollama.ai/Library/M:T", "Registry.Ollama.ai/Library/M:T", "M:T"),
    ],
)
def test_names(text: str, full: str, short: str) -> None:
    reference = parse_reference(text)

    assert (reference.full, reference.short) == (full, short)
    assert from_manifest_path(reference.path).full == full


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:", ":b", "a/", "../../x", "a/../b", "x/..", "a b", "a/b/c/d", "-a", "01.AI/x",
     "ftp://h/a/b", "a" * 81, "hf.co/a/..", "a\n"],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(BadName, match="is not a model's name"):
        parse_reference(text + ("\0" if text == "a\n" else ""))


@pytest.mark.parametrize("path", ["a/b/c", "a/b/c/d/e", "h/n/m/.hidden"])
def test_what_is_no_manifest(path: str) -> None:
    with pytest.raises(BadName):
        from_manifest_path(PurePosixPath(path))
