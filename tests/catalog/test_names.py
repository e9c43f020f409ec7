import pytest

from proxy.catalog import names


@pytest.mark.parametrize(
    ("stem", "base", "quant"),
    [
        ("Qwen3-30B-A3B-Q4_K_M", "Qwen3-30B-A3B", "Q4_K_M"),
        ("Qwen3-30B-A3B-UD-Q2_K_XL", "Qwen3-30B-A3B", "UD-Q2_K_XL"),
        ("mixtral-8x7b.Q8_0", "mixtral-8x7b", "Q8_0"),
        ("model-IQ2_XXS", "model", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4", "gpt-oss-20b", "mxfp4"),
        ("gpt-oss-20b-MXFP4_MOE", "gpt-oss-20b", "MXFP4_MOE"),
        ("tiny-bf16", "tiny", "bf16"),
        ("bitnet-TQ1_0", "bitnet", "TQ1_0"),
        ("Qwen3-30B-A3B", "Qwen3-30B-A3B", None),
        ("F16", "F16", None),
        ("llama-q", "llama-q", None),
    ],
)
def test_split_quant(stem: str, base: str, quant: str | None) -> None:
    assert names.split_quant(stem) == (base, quant)


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("a.gguf", "a"),
        ("a.GGUF", "a"),
        ("a-00001-of-00003.gguf", "a"),
        ("a-1-of-3.gguf", "a-1-of-3"),
        ("sha256-0123", "sha256-0123"),
        ("a.gguf.gguf", "a.gguf"),
    ],
)
def test_stem_of(file: str, stem: str) -> None:
    assert names.stem_of(file) == stem


def test_fold_ignores_case_and_latest() -> None:
    assert names.fold(" Qwen3:LATEST ") == "qwen3"
    assert names.fold("Qwen3:8b") == "qwen3:8b"


def test_nearest_finds_typing_errors_and_parts() -> None:
    known = ["Qwen3-30B-A3B-Q4_K_M", "gpt-oss-20b-mxfp4", "Mixtral-8x7B-Q8_0"]

    assert names.nearest("gpt-oss", known) == ("gpt-oss-20b-mxfp4",)
    assert names.nearest("mixtral-8x7b-q8_1", known)[0] == "Mixtral-8x7B-Q8_0"
    assert names.nearest("zzz", known) == ()
    assert names.nearest("", known) == ()
    assert names.nearest("q" * 10_000_000, known) == ()


@pytest.mark.parametrize(
    ("stem", "projectors", "alone", "chosen"),
    [
        ("gemma-4-Q4_0", ["mmproj-F16.gguf"], True, "mmproj-F16.gguf"),
        ("gemma-4-Q4_0", ["mmproj-F16.gguf"], False, None),
        ("g4-Q4_0", ["mmproj-a.gguf", "mmproj-g4-F16.gguf"], False, "mmproj-g4-F16.gguf"),
        ("gemma-4-Q4_0", [], True, None),
    ],
)  # fmt: skip
def test_pair_projector(stem: str, projectors: list[str], alone: bool, chosen: str | None) -> None:
    assert names.pair_projector(stem, projectors, alone=alone) == chosen
