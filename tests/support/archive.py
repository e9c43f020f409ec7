"""Real vocabularies and chat templates, from llama-cpp-python's source archive."""

import os
import re
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from proxy.catalog.gguf_reader import read_header
from proxy.demo.vocabulary import NORMAL, Vocabulary

REPOSITORY = Path(__file__).parents[2]
VERSION = "0.3.36"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"
WANTED = re.compile(r".*/models/(ggml-vocab-[^/]+\.gguf|templates/[^/]+\.jinja)")
# A word, with the mark of a space that byte-level or SentencePiece vocabularies put before it.
WORD = re.compile("[\u0120\u2581]?[A-Za-z]+")


def cache_folder() -> Path:
    """Where tests keep what is dear to make: `$MOE_PROXY_TEST_CACHE`, else `.cache` here."""
    return Path(os.environ.get("MOE_PROXY_TEST_CACHE") or REPOSITORY / ".cache")


def source_archive() -> Path:
    """llama-cpp-python's source archive: `$MOE_PROXY_LLAMA_SDIST`, else where set-up keeps it.

    Raises FileNotFoundError that says what to do.
    """
    named = os.environ.get("MOE_PROXY_LLAMA_SDIST")
    path = Path(named) if named else REPOSITORY / ".cache" / ARCHIVE
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: real vocabularies and templates come from this archive; "
            "`make test` fetches it, or point MOE_PROXY_LLAMA_SDIST at a copy"
        )
    return path


def member(name: str) -> Path:
    """A file of llama.cpp's `models` folder, for example `ggml-vocab-qwen2.gguf`."""
    folder = cache_folder() / f"llama.cpp-models-{VERSION}"
    if not folder.exists():
        _extract(folder)
    return folder / name


def _extract(folder: Path) -> None:
    """Read the archive once, as reading it takes seconds; whole or not at all."""
    archive_file = source_archive()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name))
    with tarfile.open(archive_file) as archive:
        for info in archive:
            if match := WANTED.fullmatch(info.name):
                target = part / match[1]
                target.parent.mkdir(exist_ok=True)
                content = archive.extractfile(info)
                assert content is not None
                target.write_bytes(content.read())
    try:
        part.rename(folder)
    except OSError:  # Another run was faster.
        shutil.rmtree(part)


def template(name: str) -> str:
    """A real chat template, for example `openai-gpt-oss-120b`."""
    return member(f"templates/{name}.jinja").read_text(encoding="utf-8")


@cache
def vocabulary(name: str) -> Vocabulary:
    """A real vocabulary, for example `qwen2` or `llama-spm`; its ASCII words are printable."""
    header = read_header(member(f"ggml-vocab-{name}.gguf"), keep=1 << 20)
    metadata: dict[str, object] = {
        key: value
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.") and key != "tokenizer.chat_template"
    }
    tokens = header.metadata["tokenizer.ggml.tokens"]
    types = header.metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, tuple)
    assert isinstance(types, tuple)
    words = [
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == NORMAL and WORD.fullmatch(str(token))
    ]
    return Vocabulary(metadata, len(tokens), tuple(words))
