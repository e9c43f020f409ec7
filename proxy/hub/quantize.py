"""Quantises a model with llama.cpp's own program."""

import asyncio
import os
import re
from collections import deque
from pathlib import Path
from typing import Final

from proxy.engine.environment import inherited
from proxy.engine.guardian import forget_group, keep_group
from proxy.engine.installed import program
from proxy.errors import BadRequest
from proxy.hub.progress import PullFailed, Report
from proxy.threads import STORE

# What llama-quantize is asked for, in its own spelling; requests may write it in any case.
TYPES: Final = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS",
    "TQ1_0", "TQ2_0", "MXFP4_MOE", "F16", "BF16", "F32",
)  # fmt: skip
SOURCES: Final = ("F16", "BF16", "F32")
_STEP: Final = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def type_of(text: str) -> str:
    """The type that a request names. Raises BadRequest."""
    if text.upper() not in TYPES:
        raise BadRequest(f"{text!r} is no quantization; use {', '.join(TYPES)}", param="quantize")
    return text.upper()


async def quantize(source: Path, target: Path, kind: str, was: str, report: Report) -> None:
    """Write `source` to `target` as `kind`. Cancelled, it ends the program. Raises PullFailed."""
    size = (await STORE.run(source.stat)).st_size
    line = {"status": f"quantizing {was} model to {kind}", "digest": "0", "total": size}
    try:
        quantizer = program("llama-quantize")
    except LookupError as error:
        raise PullFailed(str(error)) from error
    process = await asyncio.create_subprocess_exec(
        quantizer,
        *(str(source), str(target), kind),
        env=inherited(os.environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
        start_new_session=True,
    )
    keep_group(process.pid)
    last: deque[str] = deque(maxlen=5)
    try:
        assert process.stdout is not None
        async for raw in process.stdout:
            text = raw.decode("utf-8", "replace").strip()
            last.append(text)
            if step := _STEP.search(text):
                report(line | {"completed": size * int(step[1]) // int(step[2])})
        if await process.wait():
            raise PullFailed(f"llama-quantize failed: {' | '.join(last)}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        forget_group(process.pid)
    report(line | {"completed": size})
