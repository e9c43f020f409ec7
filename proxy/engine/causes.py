"""What engines say before they end, and what that means to people: a table, the most telling
first. Read by `proxy.engine.last_words`."""

import re
import signal
from collections.abc import Mapping
from typing import Final

_MORE_ROOM: Final = (
    "put more experts on the CPU (moe_cpu_layers), or have a smaller ctx, fewer parallel, or other "
    "models unloaded"
)
_DAMAGED: Final = "is cut off or damaged: fetch it again"
_FOREIGN: Final = "the engine's libraries do not fit together, or not this system: build it here"
_NO_HOST_MEMORY: Final = (
    "main memory has no room for it, or a limit on this process is reached: take a smaller model, "
    "ctx or parallel"
)
_NEWER: Final = "a newer llama.cpp may"

# What a line says, and what that means, for the end of a sentence. {file} is the file that was
# being loaded, {bytes} a size.
RULES: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        # The connections to devices elsewhere.
        (
            r"Cannot resolve host '(?P<x>[^']+)'",
            "no machine is known by the name of the RPC server {x} (devices.rpc)",
        ),
        (
            r"Failed to connect to (?P<x>\S+)",
            "no connection to the RPC server {x}: is ggml-rpc-server running there, and is its "
            "address in devices.rpc right?",
        ),
        (
            r"Failed to parse endpoint: (?P<x>\S+)",
            "{x} in devices.rpc is no address of an RPC server",
        ),
        (
            r"RPC server version mismatch|RPC handshake failed",
            "an RPC server (devices.rpc) is of another version of llama.cpp, or no RPC server",
        ),
        (
            r"Remote RPC server crashed or returned malformed",
            "an RPC server (devices.rpc) went away, as it does where its memory runs out; its own "
            "log may say why",
        ),
        # Files that are not there, named by whatever argument.
        (
            r"failed to open (?:GGUF file |file )?'?(?P<x>[^':]+)'?:? \(?(?P<y>[A-Z][^)]+)",
            "{x} cannot be opened: {y}",
        ),
        (r"failed to open (?:GGUF file |file )?'(?P<x>[^']+)'", "{x} cannot be opened"),
        # Arguments.
        (
            r"error while handling argument \"(?P<x>[^\"]+)\": sto\w+",
            "the value of {x} (args of its policy) is no number that it takes",
        ),
        (
            r"error while handling (?:argument|environment variable) \"(?P<x>[^\"]+)\": "
            r"(?:error: )?(?P<y>.+)",
            "{x} (args of its policy): {y}",
        ),
        (r"error: (?:invalid|unknown) argument: (?P<x>\S+)", "{x} (args) is no option of it"),
        (r"invalid device: (?P<x>\S+)", "there is no device {x} (args)"),
        (
            r"V cache .*requires (?:F|f)lash.(?:A|a)tt",
            "a quantised V cache needs flash attention: leave --cache-type-v out of args, or have "
            "--flash-attn on",
        ),
        (
            r"couldn't bind HTTP server socket.*port: (?P<x>\d+)",
            "its port {x} is another program's",
        ),
        # Libraries and programs.
        (
            r"(?<![^\s:])(?P<x>[^\s:]+\.so[.\d]*): cannot open shared object",
            "the library {x}, which it needs, is not installed, or not where libraries are looked "
            "for (LD_LIBRARY_PATH)",
        ),
        (r"undefined symbol: (?P<x>[^\s,]+)", f"{_FOREIGN} (no {{x}})"),
        (r"version `(?P<x>[^']+)' not found", f"{_FOREIGN} (no {{x}})"),
        (
            r"(?<![^\s:])(?P<x>[^\s:]+\.so[.\d]*): (?:file too short|invalid ELF header)",
            "the library {x} is damaged: build it again",
        ),
        (r"^worker: (?P<x>.+)", "{x}"),
        # Drivers.
        (
            r"no kernel image is available",
            "this build has no code for this card: build it for the card (deploy/README.md)",
        ),
        # Memory.
        (
            r"failed to allocate the MoE cache",
            "the device has no room for the expert cache: have a smaller moe_cache, or 0 for none",
        ),
        (
            r"(?P<x>MoE cache (?:requires|does not support|is too small).*)",
            "{x}: have another moe_cache, or 0 for none",
        ),
        (
            r"allocating (?P<x>[\d.]+ MiB) on device (?P<y>\d+): \w+ failed: .*memory",
            f"GPU {{y}} has no room for {{x}}: {_MORE_ROOM}",
        ),
        (
            r"failed to allocate (?:CPU\w*|\w+_Host) buffer of size (?P<bytes>\d+)",
            f"{_NO_HOST_MEMORY} ({{bytes}} were asked for)",
        ),
        (
            r"failed to allocate (?P<x>[^\s\[]+)\S* buffer of size (?P<bytes>\d+)",
            f"{{x}} has no room for {{bytes}}: {_MORE_ROOM}",
        ),
        (
            r"Device memory allocation of size (?P<bytes>\d+) failed",
            f"the GPU has no room for {{bytes}}: {_MORE_ROOM}",
        ),
        (
            r"unable to allocate (?:CPU\w*|\w+_Host) buffer|insufficient memory"
            r"|Cannot allocate memory|std::bad_alloc|MemoryError|Resource temporarily unavailable",
            _NO_HOST_MEMORY,
        ),
        (
            r"unable to allocate (?P<x>[^\s\[]+)\S* buffer",
            f"{{x}} has no room for the model's weights: {_MORE_ROOM}",
        ),
        (
            r"failed to allocate buffer for (?:kv|rs) cache",
            f"there is no room for the KV cache of this context: {_MORE_ROOM}",
        ),
        (
            r"failed to allocate compute|failed to allocate graph|OutOfDeviceMemory|out of memory",
            f"a device has no room for what it computes: {_MORE_ROOM}",
        ),
        (r"(?P<y>CUDA|ROCm|MUSA) error: (?P<x>.+)", "the GPU's driver ({y}) reports: {x}"),
        (r"failed to initialize (?P<y>CUDA|ROCm|MUSA): (?P<x>.+)", "the driver of {y}: {x}"),
        # What is in files.
        (r"unknown model architecture: '(?P<x>[^']+)'", f"it does not know {{x}} models; {_NEWER}"),
        (r"unsupported model architecture: '(?P<x>[^']+)'", "it cannot run {x} models"),
        (
            r"unknown pre-tokenizer type: '(?P<x>[^']+)'",
            f"it does not know the model's tokenizer, {{x}}; {_NEWER}",
        ),
        (
            r"this GGUF file is version (?P<x>\d+) but",
            f"it does not know version {{x}} of GGUF, in which {{file}} is; {_NEWER}",
        ),
        (r"GGUFv1 is no longer supported", "{file} is in a form that is too old: fetch a new one"),
        (
            r"has invalid ggml type (?P<x>\d+)",
            f"it does not know the type of weights ({{x}}) of {{file}}; {_NEWER}",
        ),
        (r"invalid magic characters|failed to read magic", "{file} is no GGUF file"),
        (
            r"bad GGUF version|failed to read (?:header|key-value pairs|tensor (?:info|data))"
            r"|not within the file bounds|reached end of file|has invalid data|corrupted model",
            f"{{file}} {_DAMAGED}",
        ),
        (
            r"(?:missing tensor '(?P<x>[^']+)'|tensor '(?P<y>[^']+)' not found)",
            "{file} has no tensor {x}{y}: it is incomplete, or made for another llama.cpp",
        ),
        (
            r"key not found in model: (?P<x>\S+)",
            "{file} does not say {x}: it is incomplete, or made for another llama.cpp",
        ),
        (
            r"wrong number of tensors|has wrong shape|too many tensors created|is duplicated",
            "{file} is not laid out as this llama.cpp expects it: it may be made for another one",
        ),
        (r"expect general\.type to be 'adapter'", "{file} is no adapter"),
        (
            r"model arch and LoRA arch mismatch|does not exist in base model",
            "the adapter is one of another model: {file}",
        ),
        (
            r"mismatch between text model",
            "the projector (mmproj) is one of another model",
        ),
        (
            r"common_chat_templates_init: error: (?P<x>.+)",
            "its chat template cannot be read: {x}",
        ),
        (r"chat template is not supported", "its chat template cannot be read"),
    )
)
# What a signal says by itself.
SIGNALS: Final[Mapping[int, str]] = {
    signal.SIGKILL: "it was killed from outside; where main memory had run out, the kernel did "
    "(dmesg says so)",
    signal.SIGTERM: "it was told to end from outside",
    signal.SIGBUS: "its file became shorter, or its disk failed, while it was read",
    signal.SIGILL: "it was built for another kind of CPU: build it on this machine",
    signal.SIGSEGV: "it crashed",
    signal.SIGFPE: "it crashed",
}
