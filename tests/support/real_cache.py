"""llama.cpp's real expert cache, without a server around it: the libraries of a package on PyPI
(b11739), an RPC server of theirs, our gate before them, and ours of the worker's code that moves
experts. Run as a program, since libraries cannot be unloaded:

    python -m tests.support.real_cache serve LIBRARIES ENDPOINT
    python -m tests.support.real_cache move LIBRARIES ENDPOINT MODEL CACHED MIB

`move` prints one JSON object; what llama.cpp says of its cache is on standard error.
"""

import ctypes as c
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from proxy.worker import _stepgate
from proxy.worker.beside_cache import BesideCache
from proxy.worker.experts import Experts
from proxy.worker.gate import Gate, HeldGate, preload
from proxy.worker.llama import LlamaLibrary
from tests.support.archive import cache_folder
from tests.support.install import install
from tests.support.turns import one_at_a_time

WANTED = "llama-cpp-py-sync==0.11739"
SHA256 = "c97dd32b41841ab779172f9d20616cc915a73045ae5dca4b81051e6cd2751714"
LIBRARIES = ("ggml-base", "ggml-cpu", "ggml-rpc", "ggml", "llama", "mtmd")
DEVICE, TOKENS, PROMPT = "RPC0", 16, range(20, 60)
INSTALL_S = 150.0
SHIM = "libshim.so"
# They were made with a newer C library, of which they use these alone, which older ones have by
# other names; and the worker's code wants two libraries that are not in the package.
SOURCE = """
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
long __isoc23_strtol(const char *s, char **e, int b) { return strtol(s, e, b); }
unsigned long __isoc23_strtoul(const char *s, char **e, int b) { return strtoul(s, e, b); }
unsigned long long __isoc23_strtoull(const char *s, char **e, int b) { return strtoull(s, e, b); }
int __isoc23_sscanf(const char *s, const char *format, ...) {
  va_list all;
  va_start(all, format);
  int found = vsscanf(s, format, all);
  va_end(all);
  return found;
}
int _Z12llama_serveriPPc(int argc, char **argv) { return argc + !argv; }
void _Z22llama_server_terminatev(void) {}
"""
NEWER, VERNEED, WEAK = b"GLIBC_2.38\0", 0x6FFFFFFE, 2


def libraries() -> Path:
    """Their folder, kept between runs. Skips the test where they cannot be had."""
    folder = cache_folder() / f"real-cache-{SHA256[:12]}"
    with one_at_a_time(folder):
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            wanted = folder / "wanted.txt"
            wanted.write_text(f"{WANTED} --hash=sha256:{SHA256}\n")
            pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes")
            command = (*pip, "--only-binary", ":all:", "-d", str(folder), "-r", str(wanted))
            install("pip", WANTED, command, INSTALL_S)
            _unpack(folder)
            (folder / "done").touch()
    return folder


def _unpack(folder: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = {Path(name).name: name for name in packed.namelist()}
        for library in LIBRARIES:
            file = f"lib{library}.so"
            data = packed.read(names.get(f"{file}.0") or names[file])
            (folder / f"{file}.0").write_bytes(_of_any_libc(data))
            (folder / file).unlink(missing_ok=True)
            (folder / file).symlink_to(f"{file}.0")
    code = folder / "shim.c"
    code.write_text(SOURCE)
    for name in (SHIM, "libllama-common.so", "libllama-server-impl.so"):
        command = ("cc", "-std=gnu11", "-shared", "-fPIC", "-o", str(folder / name), str(code))
        subprocess.run(command, check=True)


def _of_any_libc(library: bytes) -> bytes:
    """A library that loads where the C library is older: what it needs of the newer one is weak."""
    data = bytearray(library)
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    for section in (each for each in sections if each[1] == VERNEED):
        names, at, further = sections[section[6]][4], section[4], 1
        while further:
            _, needs, _, first, further = struct.unpack_from("<HHIII", data, at)
            need = at + first
            for _ in range(needs):
                _, flags, _, name, after = struct.unpack_from("<IHHII", data, need)
                if data.startswith(NEWER, names + name):
                    struct.pack_into("<H", data, need + 4, flags | WEAK)
                need += after
            at += further
    return bytes(data)


class Override(c.Structure):
    _fields_ = (("pattern", c.c_char_p), ("buffer_type", c.c_void_p))


class ModelParams(c.Structure):
    """Of llama.h in that release, as is all below."""

    _fields_ = (
        ("devices", c.POINTER(c.c_void_p)),
        ("tensor_buft_overrides", c.POINTER(Override)),
        ("n_gpu_layers", c.c_int32),
        ("modes", c.c_int32 * 4),
        ("pointers", c.c_void_p * 4),
        ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool),
        ("use_extra_bufts", c.c_bool),
        ("flags", c.c_bool * 3),
    )


class ContextParams(c.Structure):
    _fields_ = (
        *((name, c.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        ("counts", c.c_uint32 * 3),
        ("n_threads", c.c_int32),
        ("n_threads_batch", c.c_int32),
        ("kinds", c.c_int32 * 5),
        ("rope", c.c_float * 6),
        ("orig_ctx", c.c_uint32),
        ("defrag", c.c_float),
        ("callback", c.c_void_p * 2),
        ("types", c.c_int32 * 2),
        ("moe_cache_size", c.c_size_t),
        ("abort", c.c_void_p * 2),
        ("flags", c.c_bool * 6),
        ("samplers", c.c_void_p),
        ("n_samplers", c.c_size_t),
        ("other", c.c_void_p),
    )


class Batch(c.Structure):
    _fields_ = (("n_tokens", c.c_int32), ("rest", c.c_void_p * 6))


def serve(folder: Path, endpoint: str) -> None:
    for name in LIBRARIES[:4]:
        library = c.CDLL(str(folder / f"lib{name}.so"), mode=c.RTLD_GLOBAL)
    library.ggml_backend_dev_by_type.restype = c.c_void_p
    devices = (c.c_void_p * 1)(library.ggml_backend_dev_by_type(0))
    start = c.CDLL(str(folder / "libggml-rpc.so")).ggml_backend_rpc_start_server
    start.argtypes = (c.c_char_p, c.c_char_p, c.c_size_t, c.c_size_t, c.c_void_p)
    start(endpoint.encode(), None, 1, 1, devices)


def move(folder: Path, endpoint: str, model: str, cached: int, mib: int) -> dict[str, Any]:
    """Text and places at each step: as loaded, with all that may move on the device, and back."""
    library = preload()
    llama = LlamaLibrary(folder)
    llama.check()
    real = c.CDLL(str(folder / "libllama.so"))
    gated = c.CDLL(_stepgate.__file__)
    _add_device(folder, endpoint)
    gate = Gate(library, llama, "")
    beside = BesideCache(llama, gate, cached=cached) if mib else None
    loaded, context = _load(folder, llama, real, gated, model, mib)
    held = HeldGate([context])
    experts = Experts(
        llama,
        gate,
        outputs_per_batch=False,
        spared=beside.spared if beside else None,
        cache_bytes=mib << 20,
    )
    texts = [_text(real, loaded, context)]
    experts.discover(held)
    kinds = dict(experts.held[DEVICE])
    for index in sorted(experts.layers, reverse=True):
        staged = experts.stage(index, DEVICE, stop=lambda: False)
        experts.free(experts.swap(held, promote=staged))
    places = experts.places()
    texts.append(_text(real, loaded, context))
    experts.free(experts.swap(held, demote=sorted(experts.layers)))
    texts.append(_text(real, loaded, context))
    return {"texts": texts, "places": places, "cached": experts.cached, "held": kinds}


def _add_device(folder: Path, endpoint: str) -> None:
    rpc, ggml = (c.CDLL(str(folder / f"lib{name}.so")) for name in ("ggml-rpc", "ggml"))
    rpc.ggml_backend_rpc_add_server.restype = c.c_void_p
    ggml.ggml_backend_register.argtypes = (c.c_void_p,)
    ggml.ggml_backend_register(rpc.ggml_backend_rpc_add_server(endpoint.encode()))


def _load(
    folder: Path, llama: LlamaLibrary, real: c.CDLL, gated: c.CDLL, path: str, mib: int
) -> tuple[int, int]:
    host = c.CDLL(str(folder / "libggml-base.so")).ggml_backend_cpu_buffer_type
    real.llama_model_default_params.restype = ModelParams
    real.llama_context_default_params.restype = ContextParams
    real.llama_model_load_from_file.argtypes = (c.c_char_p, ModelParams)
    gated.llama_init_from_model.argtypes = (c.c_void_p, ContextParams)
    for function in (host, real.llama_model_load_from_file, gated.llama_init_from_model):
        function.restype = c.c_void_p
    of_model = real.llama_model_default_params()
    of_model.n_gpu_layers, of_model.use_extra_bufts = 999, False
    of_model.devices = (c.c_void_p * 2)(llama.device(DEVICE), None)
    experts = Override(rb"\.ffn_(up|down|gate|gate_up)_(ch|)exps", host())
    of_model.tensor_buft_overrides = (Override * 2)(experts)
    model = real.llama_model_load_from_file(path.encode(), of_model)
    of_context = real.llama_context_default_params()
    of_context.n_ctx, of_context.n_seq_max = 2048, 4
    of_context.n_threads = of_context.n_threads_batch = 1
    of_context.moe_cache_size = mib << 20
    return model, gated.llama_init_from_model(model, of_context)


def _text(real: c.CDLL, model: int, context: int) -> list[tuple[int, float]]:
    """The likeliest tokens after some prompt, each with its logit."""
    for function in (real.llama_get_memory, real.llama_model_get_vocab):
        function.restype, function.argtypes = c.c_void_p, (c.c_void_p,)
    real.llama_vocab_n_tokens.argtypes = (c.c_void_p,)
    real.llama_memory_clear.argtypes = (c.c_void_p, c.c_bool)
    real.llama_batch_get_one.restype = Batch
    real.llama_decode.argtypes = (c.c_void_p, Batch)
    real.llama_get_logits_ith.restype = c.POINTER(c.c_float)
    real.llama_get_logits_ith.argtypes = (c.c_void_p, c.c_int32)
    count = real.llama_vocab_n_tokens(real.llama_model_get_vocab(model))
    real.llama_memory_clear(real.llama_get_memory(context), True)
    found: list[tuple[int, float]] = []
    tokens = [*PROMPT]
    for _ in range(TOKENS):
        given = (c.c_int32 * len(tokens))(*tokens)  # the batch only points to it
        batch = real.llama_batch_get_one(given, len(tokens))
        assert real.llama_decode(context, batch) == 0
        logits = real.llama_get_logits_ith(context, -1)[:count]
        best = max(range(count), key=logits.__getitem__)
        found.append((best, round(logits[best], 3)))
        tokens = [best]
    return found


if __name__ == "__main__":
    of_package = Path(sys.argv[2])
    c.CDLL(str(of_package / SHIM), mode=c.RTLD_GLOBAL)
    if sys.argv[1] == "serve":
        serve(of_package, sys.argv[3])
    else:
        told = move(of_package, sys.argv[3], sys.argv[4], *map(int, sys.argv[5:]))
        sys.stdout.write(json.dumps(told))
        sys.stdout.flush()
        os._exit(0)  # global destructors fight over devices
