"""What ended an engine: by lines that were seen elsewhere, where that cannot be had here."""

import signal

import pytest

from proxy.engine.causes import RULES
from proxy.engine.last_words import LAST_LINES, LastWords, is_error

TRACE = (
    "[New LWP 4711]",
    "[Thread debugging using libthread_db enabled]",
    'Using host libthread_db library "/lib/x86_64-linux-gnu/libthread_db.so.1".',
    "0x00007f1d3ccf1c17 in __GI___wait4 (pid=12, usage=0x0) at ../sysdeps/wait4.c:30",
    "30\t../sysdeps/unix/sysv/linux/wait4.c: No such file or directory.",
    *(
        f"#{n}  0x00007f1d3d2d1b26 in ggml_abort () from /opt/lib/libggml-base.so"
        for n in range(70)
    ),
    "[Inferior 1 (process 12) detached]",
    "/opt/lib/libggml-base.so(ggml_print_backtrace+0x1f) [0x7f1d3d2d1b26]",
)


def of(*lines: str, serves_after: int | None = None) -> LastWords:
    words = LastWords()
    for number, line in enumerate(lines):
        if number == serves_after:
            words.serves()
        words.add(line)
    return words


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (
            (
                "0.01.000.000 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9216.00 MiB "
                "on device 1: cudaMalloc failed: out of memory",
                "0.01.000.001 E alloc_tensor_range: failed to allocate CUDA1 buffer of size 104857",
                "0.01.000.002 E llama_model_load: error loading model: unable to allocate CUDA1 "
                "buffer",
            ),
            "GPU 1 has no room for 9216.00 MiB: put more experts on the CPU (moe_cpu_layers)",
        ),
        (
            (
                "ggml_vulkan: Device memory allocation of size 1073741824 failed.",
                "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
            ),
            "the GPU has no room for 1024 MiB",
        ),
        (
            (
                "0.01.000.000 E CUDA error: out of memory",
                "0.01.000.000 E   current device: 0, in function alloc at ggml-cuda.cu:525",
                "/src/ggml/src/ggml-cuda/ggml-cuda.cu:103: CUDA error",
            ),
            "a device has no room for what it computes",
        ),
        (
            (
                "0.01.000.000 E CUDA error: an illegal memory access was encountered",
                "/src/ggml/src/ggml-cuda/ggml-cuda.cu:103: CUDA error",
            ),
            "the GPU's driver (CUDA) reports: an illegal memory access was encountered",
        ),
        (
            ("CUDA error: no kernel image is available for execution on the device",),
            "this build has no code for this card",
        ),
        (
            ("0.00.1.0 E alloc_tensor_range: failed to allocate CUDA_Host buffer of size 20971",),
            "main memory has no room for it",
        ),
        (
            (
                "terminate called after throwing an instance of 'std::bad_alloc'",
                "  what():  std::bad_alloc",
            ),
            "main memory has no room for it",
        ),
        (
            (
                "llama-server: error while loading shared libraries: libcudart.so.12: cannot open "
                "shared object file: No such file or directory",
            ),
            "the library libcudart.so.12, which it needs, is not installed",
        ),
        (
            ("llama-server: /lib/libm.so.6: version `GLIBC_2.38' not found (required by x)",),
            "do not fit together, or not this system: build it here (no GLIBC_2.38)",
        ),
        (
            ("worker: /opt/lib/libllama.so: undefined symbol: ggml_new_thing",),
            "do not fit together, or not this system: build it here (no ggml_new_thing)",
        ),
        (
            (
                "error: unknown argument: --n-cpu-moe",
                *(f"  --option-{n}  what it does" for n in range(900)),
            ),
            "--n-cpu-moe (args) is no option of it",
        ),
        (
            ("0.0.0.1 E gguf_init: tensor 'a' has invalid ggml type 99. should be in [0, 42)",),
            "it does not know the type of weights (99) of its file; a newer llama.cpp may",
        ),
        (
            ("0.0.0.1 E load_hparams: unknown pre-tokenizer type: 'kimi-k9'",),
            "it does not know the model's tokenizer, kimi-k9",
        ),
        (
            ("srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",),
            "its port 8080 is another program's",
        ),
        (
            (
                "0.0.0.1 E cmn common_init_: the moon is not full",
                "0.0.0.2 E srv llama_server: exiting due to model loading error",
            ),
            "the moon is not full",
        ),
        (("/src/ggml/src/ggml.c:3: GGML_ASSERT(x > 0) failed",), "GGML_ASSERT(x > 0) failed"),
    ],
)
def test_a_cause(lines: tuple[str, ...], cause: str) -> None:
    """Also behind a stack trace that is longer than what is kept."""
    found = of(*lines, *TRACE).cause(-signal.SIGABRT)

    assert found is not None
    assert cause in found


def test_of_a_stack_trace_nothing_is_kept() -> None:
    words = of("up", *TRACE)

    assert [*words.lines] == ["up"]
    assert words.cause(-signal.SIGABRT) is None
    assert words.quoted() == "up"


def test_the_place_in_the_source_is_not_quoted() -> None:
    words = of("/home/somebody/src/ggml/src/ggml-rpc/ggml-rpc.cpp:547: Failed to connect to a:1")

    assert words.quoted() == "Failed to connect to a:1"


def test_what_is_said_wherever_something_failed_is_not_quoted() -> None:
    words = of(
        "0.0.0.1 E llama_model_load: error loading model: unknown model architecture: 'x'",
        "0.0.0.2 E llama_model_load_from_file_impl: failed to load model",
        "0.0.0.3 E srv    load_model: failed to load model, '/m.gguf'",
        "0.0.0.4 E srv  llama_server: exiting due to model loading error",
    )

    assert words.quoted().splitlines() == [
        "0.0.0.1 E llama_model_load: error loading model: unknown model architecture: 'x'"
    ]


def test_one_that_serves_does_not_end_of_what_went_wrong_long_ago() -> None:
    refused = "0.9.0.0 E srv send_error: task id = 1, error: Failed to connect to a:1"
    told = [f"1.0.0.0 I srv log_server_r: request {n}" for n in range(LAST_LINES)]

    assert of(refused, "ready", serves_after=1).cause(-signal.SIGABRT) is None
    assert of("up", refused, serves_after=1).cause(-signal.SIGABRT) is not None
    assert of("up", refused, *told, serves_after=1).cause(-signal.SIGABRT) is None


def test_one_that_serves_does_not_end_of_a_request_that_went_wrong() -> None:
    words = of("up", "0.9.0.0 E srv send_error: task id = 1, error: too long", serves_after=1)

    assert words.cause(-signal.SIGABRT) is None
    assert words.cause(-signal.SIGSEGV) == "it crashed"


def test_who_kills_it_is_the_cause_whatever_it_had_said() -> None:
    words = of("0.9.0.0 E CUDA error: out of memory")

    assert (words.cause(-signal.SIGKILL) or "").startswith("it was killed from outside")


@pytest.mark.parametrize("line", ["x" * 64_000, "/" * 64_000, "a.so " * 9_000, "(" * 64_000])
def test_a_line_of_any_length_is_looked_at_in_no_time(line: str) -> None:
    words = of(*[line] * 50)

    assert max(map(len, words.lines)) <= 1000


def test_information_is_no_error_whatever_it_names() -> None:
    assert not is_error("0.0.0.1 I srv load_model: failed to open 'x': never mind")
    assert is_error("0.0.0.1 E srv load_model: whatever")


def test_every_rule_can_be_filled_in() -> None:
    """Whatever of its groups took part in the match."""
    for pattern, words in RULES:
        groups = dict.fromkeys(pattern.groupindex, "1")
        assert "{" not in words.format(**{"x": "", "y": "", "file": "f", **groups})
