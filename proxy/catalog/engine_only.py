"""Which GGUF files llama.cpp cannot load though they are whole: those made for Ollama's own engine.

Ollama's own build of llama.cpp translates them while it reads. A plain one refuses them, and what
it says ("unknown model architecture", "wrong number of tensors") tells nobody what to do.
"""

from typing import Final

from proxy.catalog.gguf import Header

# What Ollama calls architectures that llama.cpp has under another name, or not at all.
_THEIR_NAMES: Final = frozenset(
    {"gptoss", "qwen25vl", "glm4moelite", "deepseekocr", "glmocr", "mllama"}
)
# Tensors of images and audio, which llama.cpp has in a file of their own (mmproj).
_INSIDE: Final = ("v.", "mm.", "a.", "s.", "mtp.")
WHAT_TO_DO: Final = "use a GGUF that was made for llama.cpp, for example one of hf.co/ggml-org"


def unsupported_reason(header: Header) -> str | None:
    """Why llama.cpp cannot load this model; None where nothing speaks against it."""
    architecture = header.architecture
    if architecture in _THEIR_NAMES:
        return _reason(f"its architecture is written {architecture!r}")
    if architecture in ("clip", "") or header.metadata.get("general.type") == "mmproj":
        return None
    for tensor in header.tensors:
        if tensor.name.startswith(_INSIDE):
            return _reason(f"it carries tensors such as {tensor.name!r} inside the model")
    return None


def _reason(what: str) -> str:
    return (
        f"this file is made for Ollama's own engine ({what}), which llama.cpp lacks; {WHAT_TO_DO}"
    )
