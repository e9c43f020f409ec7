"""How models are called: a file's stem, the parts of it, and names that come close. Pure.

`Qwen3-30B-A3B-Q4_K_M.gguf` answers to that stem, to `Qwen3-30B-A3B:Q4_K_M`, and to `Qwen3-30B-A3B`
where no other file does; upper and lower case are the same, and `:latest` says nothing.
"""

import difflib
import re
from collections.abc import Iterable

LATEST = ":latest"
# The quantisation that ends a stem, as llama.cpp and the well-known publishers write it.
QUANT = re.compile(
    r"""(?P<base>.+?)[-._](?P<quant>
        (?:UD-)?(?:
            I?Q[1-8]_[A-Z0-9]+(?:_[A-Z0-9]+)*   # Q8_0, Q4_K_M, IQ2_XXS, Q4_0_4_4, UD-Q2_K_XL
          | TQ[12]_0
          | (?:MXFP4|NVFP4)(?:_MOE)?
          | BF16 | F16 | F32 | FP16 | FP32
        ))""",
    re.IGNORECASE | re.VERBOSE,
)
ENDING = re.compile(r"(-\d{5}-of-\d{5})?(\.gguf)?$", re.IGNORECASE)
PROJECTOR = "mmproj"
# Names come from requests; comparing letters costs the product of the lengths.
LONGEST_COMPARED = 200


def stem_of(file_name: str) -> str:
    """The name of a model file without `.gguf` and without `-00001-of-00003`."""
    return ENDING.sub("", file_name, count=1)


def split_quant(stem: str) -> tuple[str, str | None]:
    """A stem as model and quantisation: `("Qwen3-30B-A3B", "Q4_K_M")`; None where it names none."""
    match = QUANT.fullmatch(stem)
    return (match["base"], match["quant"]) if match else (stem, None)


def is_projector(file_name: str) -> bool:
    """Whether a file is the image or audio part (`mmproj*.gguf`) that goes with a model."""
    return file_name.lower().startswith(PROJECTOR)


def fold(name: str) -> str:
    """A name as it is compared: lower case, no `:latest`."""
    return name.strip().casefold().removesuffix(LATEST)


def spellings(stem: str) -> tuple[str, ...]:
    """The folded names a stem answers to, the most exact first: itself, `base:quant`, `base`."""
    base, quant = split_quant(stem)
    return fold(stem), fold(f"{base}:{quant}" if quant else stem), fold(base)


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> tuple[str, ...]:
    """Up to `most` known names that look like `name`, the likeliest first."""
    wanted = fold(name)[:LONGEST_COMPARED]
    by_fold = {fold(candidate)[:LONGEST_COMPARED]: candidate for candidate in known}
    inside = [folded for folded in by_fold if wanted and wanted in folded]
    close = difflib.get_close_matches(wanted, by_fold, n=most, cutoff=0.6)
    likely = list(dict.fromkeys([*sorted(inside, key=len), *close]))
    return tuple(by_fold[folded] for folded in likely[:most])


def pair_projector(stem: str, projectors: Iterable[str], *, alone: bool) -> str | None:
    """Which of a folder's projector files goes with the model of `stem`.

    One that carries the model's name, else the only one there if the model is `alone` in its folder
    (but for other quantisations of itself).
    """
    base = fold(split_quant(stem)[0])
    files = sorted(projectors)
    named = [file for file in files if base in fold(file)]
    if named:
        return named[0]
    return files[0] if alone and files else None
