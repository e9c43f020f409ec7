"""llama.cpp's libraries as this process loads and calls them: the few functions used.

Everything below the public C interface is checked at start (`LlamaLibrary.check`), because a struct
that is laid out otherwise in another version would make a move write to the wrong place.
"""

import ctypes as c
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy.engine.types import DeviceKind
from proxy.worker import releases
from proxy.worker.backends import UNKNOWN, BackendRefused, Backends, Plugin, own
from proxy.worker.libraries import CPU_FILES, LlamaError, backends_in, open_ggml, open_others

# C++ names of functions that have no C one.
SERVER_MAIN = "_Z12llama_serveriPPc"
SERVER_TERMINATE = "_Z22llama_server_terminatev"
LOG = "_Z15common_log_mainv"
LOG_FLUSH = "_Z16common_log_flushP10common_log"
GRAPH_RESERVE = "_Z19llama_graph_reserveP13llama_contextjjj"
TENSOR_MAP = "_Z29llama_internal_get_tensor_mapB5cxx11PK11llama_model"
MEMORY_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"

TENSOR_NAME_BYTES = 64
# sizeof(struct ggml_object), which ggml_tensor_overhead() counts on top of the tensor
# (ggml/src/ggml.c).
OBJECT_BYTES = 32
TYPE_F32 = 0
USAGE_WEIGHTS = 1
DEVICE_KINDS: dict[int, DeviceKind] = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}


class Tensor(c.Structure):
    """`struct ggml_tensor` of ggml/include/ggml.h."""

    _fields_ = (
        ("type", c.c_int),
        ("buffer", c.c_void_p),
        ("ne", c.c_int64 * 4),
        ("nb", c.c_size_t * 4),
        ("op", c.c_int),
        ("op_params", c.c_int32 * 16),
        ("flags", c.c_int32),
        ("src", c.c_void_p * 10),
        ("view_src", c.c_void_p),
        ("view_offs", c.c_size_t),
        ("data", c.c_void_p),
        ("name", c.c_char * TENSOR_NAME_BYTES),
        ("extra", c.c_void_p),
        ("padding", c.c_char * 8),
    )


TensorPointer = c.POINTER(Tensor)


class DeviceProps(c.Structure):
    """`struct ggml_backend_dev_props` of ggml/include/ggml-backend.h, capabilities at its end."""

    _fields_ = (
        ("name", c.c_char_p),
        ("description", c.c_char_p),
        ("memory_free", c.c_size_t),
        ("memory_total", c.c_size_t),
        ("type", c.c_int),
        ("device_id", c.c_char_p),
        ("async_", c.c_bool),
        ("host_buffer", c.c_bool),
        ("buffer_from_host_ptr", c.c_bool),
        ("events", c.c_bool),
        ("reserved", c.c_char * 64),  # room for capabilities that a later version adds
    )


class _InitParams(c.Structure):
    _fields_ = (("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool))


class ModelGoneError(LlamaError):
    """llama-server has freed the model that is meant; it may have loaded it anew."""


class LlamaLibrary:
    """The loaded libraries. Attributes are the C functions by their C names, with their types
    declared."""

    def __init__(self, libdir: Path, plugins: Sequence[Plugin] | None = ()) -> None:
        """`plugins`: backends from elsewhere. None: nothing is called and no device is looked for
        before `join`. Raises LlamaError, and OSError where a library cannot be loaded."""
        loaded = open_ggml(libdir)
        self.libdir = libdir
        self._lacks: list[str] = []  # functions that only moves need
        self._backends = Backends(loaded["ggml-base"], loaded["ggml"])
        if plugins is not None:
            # First: what is wrong with backends is told of before what that comes to.
            self.join(plugins)
        loaded |= open_others(libdir)
        base, ggml, llama = loaded["ggml-base"], loaded["ggml"], loaded["llama"]
        self._llama, self._server = llama, loaded["llama-server-impl"]

        void, size, text, tensor = c.c_void_p, c.c_size_t, c.c_char_p, TensorPointer
        self.dev_count = _f(ggml, "ggml_backend_dev_count", size)
        self.dev_get = _f(ggml, "ggml_backend_dev_get", void, size)
        self.dev_name = _f(base, "ggml_backend_dev_name", text, void)
        self.dev_type = _f(base, "ggml_backend_dev_type", c.c_int, void)
        self.dev_props = _f(base, "ggml_backend_dev_get_props", None, void, c.POINTER(DeviceProps))
        self.server_main = _f(self._server, SERVER_MAIN, c.c_int, c.c_int, c.POINTER(text))
        ends = _optional(self._server, SERVER_TERMINATE, None)  # older ones have a signal's handler
        self.server_terminate = ends or releases.end_by_its_handler
        # Without these it serves all the same.
        moves = self._for_moves
        self.dev_buffer_type = moves(base, "ggml_backend_dev_buffer_type", void, void)
        self.dev_reg = moves(base, "ggml_backend_dev_backend_reg", void, void)
        self.reg_proc_address = moves(base, "ggml_backend_reg_get_proc_address", void, void, text)
        self.buft_name = moves(base, "ggml_backend_buft_name", text, void)
        self.buft_device = moves(base, "ggml_backend_buft_get_device", void, void)
        self.buft_is_host = moves(base, "ggml_backend_buft_is_host", c.c_bool, void)
        self.buft_alignment = moves(base, "ggml_backend_buft_get_alignment", size, void)
        self.buft_alloc_size = moves(base, "ggml_backend_buft_get_alloc_size", size, void, tensor)
        self.buft_alloc_buffer = moves(base, "ggml_backend_buft_alloc_buffer", void, void, size)
        self.buffer_type = moves(base, "ggml_backend_buffer_get_type", void, void)
        self.buffer_base = moves(base, "ggml_backend_buffer_get_base", void, void)
        self.buffer_size = moves(base, "ggml_backend_buffer_get_size", size, void)
        self.buffer_set_usage = moves(base, "ggml_backend_buffer_set_usage", None, void, c.c_int)
        self.buffer_free = moves(base, "ggml_backend_buffer_free", None, void)
        self.tensor_alloc = moves(base, "ggml_backend_tensor_alloc", c.c_int, void, tensor, void)
        self.tensor_set = moves(base, "ggml_backend_tensor_set", None, tensor, void, size, size)
        self.tensor_get = moves(base, "ggml_backend_tensor_get", None, tensor, void, size, size)
        self.nbytes = moves(base, "ggml_nbytes", size, tensor)
        self.graph_n_nodes = moves(base, "ggml_graph_n_nodes", c.c_int, void)
        self.graph_node = moves(base, "ggml_graph_node", tensor, void, c.c_int)
        self.n_seq_max = moves(llama, "llama_n_seq_max", c.c_uint32, void)
        self.n_ubatch = moves(llama, "llama_n_ubatch", c.c_uint32, void)
        self.n_ctx = moves(llama, "llama_n_ctx", c.c_uint32, void)
        self.get_model = moves(llama, "llama_get_model", void, void)
        self.model_n_layer = moves(llama, "llama_model_n_layer", c.c_int32, void)
        self.synchronize = moves(llama, "llama_synchronize", None, void)
        self.graph_reserve = moves(
            llama, GRAPH_RESERVE, void, void, c.c_uint32, c.c_uint32, c.c_uint32
        )
        # Not every build has them.
        common = loaded["llama-common"]
        self.set_abort_callback = _optional(base, "ggml_set_abort_callback", void, void)
        self.log = _optional(common, LOG, void)
        self.log_flush = _optional(common, LOG_FLUSH, None, void)
        self._base = base

    def join(self, plugins: Sequence[Plugin]) -> None:
        """Have all backends registered that are files of their own, which looks for devices. Raises
        LlamaError and BackendRefused."""
        backends = self._backends
        backends.load_folder(self.libdir)
        for plugin in own(self.libdir, backends_in(self.libdir)):
            if backends.linked(plugin):
                continue
            try:
                backends.load(plugin)
            except BackendRefused as error:  # of a folder for many machines, not all fit one
                sys.stderr.write(f"worker: {error}\n")
        if not backends.cpu:
            raise LlamaError(
                f"{self.libdir}: none of {CPU_FILES} is for this machine's processor, or goes with "
                f"ggml {backends.version or UNKNOWN}"
            )
        for plugin in plugins:
            if not backends.load(plugin):
                sys.stderr.write(f"worker: the backend {plugin.file} finds no device\n")

    def _for_moves(self, library: c.CDLL, name: str, result: Any, *arguments: Any) -> Any:
        function = _optional(library, name, result, *arguments)
        if function is None:
            self._lacks.append(name)
        return function

    def address(self, *names: str) -> int | None:
        """Where libllama (or a library it needs, or the server) has the first of these functions
        that exists."""
        for name in names:
            for library in (self._llama, self._base, self._server):
                if (function := getattr(library, name, None)) is not None:
                    return c.cast(function, c.c_void_p).value
        return None

    def check(self) -> None:
        """Make a tensor and look whether its fields are where `Tensor` says. Raises LlamaError if
        not, or where there are not all functions that moves need."""
        if self._lacks:
            raise LlamaError(f"the libraries in {self.libdir} lack {', '.join(self._lacks)}")
        base = self._base
        overhead = _f(base, "ggml_tensor_overhead", c.c_size_t)()
        if overhead - OBJECT_BYTES != c.sizeof(Tensor):
            raise LlamaError(
                f"struct ggml_tensor has {overhead - OBJECT_BYTES} bytes here, "
                f"{c.sizeof(Tensor)} are expected"
            )
        context = _f(base, "ggml_init", c.c_void_p, _InitParams)(
            _InitParams(4 * overhead, None, True)
        )
        try:
            new = _f(
                base, "ggml_new_tensor_2d", TensorPointer, c.c_void_p, c.c_int, c.c_int64, c.c_int64
            )
            tensor = new(context, TYPE_F32, 8, 5)
            _f(base, "ggml_set_name", TensorPointer, TensorPointer, c.c_char_p)(tensor, b"check")
            cpu = self.dev_buffer_type(self.device("CPU"))
            buffer = self.buft_alloc_buffer(cpu, self.nbytes(tensor) + self.buft_alignment(cpu))
            try:
                self.tensor_alloc(buffer, tensor, self.buffer_base(buffer))
                seen = tensor.contents
                fields = (
                    seen.type,
                    seen.buffer,
                    seen.data,
                    seen.name,
                    tuple(seen.ne),
                    tuple(seen.nb),
                    seen.extra,
                )
                wanted = (
                    0,
                    buffer,
                    self.buffer_base(buffer),
                    b"check",
                    (8, 5, 1, 1),
                    (4, 32, 160, 160),
                    None,
                )
                if fields != wanted:
                    raise LlamaError(
                        f"struct ggml_tensor is laid out otherwise here: {fields}, not {wanted}"
                    )
            finally:
                self.buffer_free(buffer)
        finally:
            _f(base, "ggml_free", None, c.c_void_p)(context)

    def devices(self) -> dict[str, int]:
        """Name -> handle of every device that ggml has registered so far, the CPU among them.
        Without a call of a driver, which may hang."""
        handles = [self.dev_get(i) for i in range(self.dev_count())]
        return {self.device_name(handle): handle for handle in handles}

    def gpus(self) -> list[str]:
        """The devices that experts can be moved to. Without a call of a driver."""
        return [
            name for name, handle in self.devices().items() if self.kind(handle) in ("gpu", "igpu")
        ]

    def kind(self, device: int) -> DeviceKind:
        return DEVICE_KINDS.get(self.dev_type(device), "accel")

    def device_name(self, device: int) -> str:
        return str(self.dev_name(device).decode(errors="replace"))

    def device(self, name: str) -> int:
        """The handle of a device. Raises LlamaError that names the ones there are."""
        devices = self.devices()
        if name not in devices:
            raise LlamaError(f"no device {name!r}; there are {', '.join(devices)}")
        return devices[name]

    def props(self, device: int) -> DeviceProps:
        """Name, kind, memory (bytes) and capabilities of a device. Asks its driver, which may take
        its time, or hang."""
        props = DeviceProps()
        self.dev_props(device, c.byref(props))
        return props

    def repack_type(self) -> int | None:
        """The CPU's buffer type that keeps weights in the layout of its fastest kernels, if this
        CPU has one."""
        cpu = self.device("CPU")
        function = self.reg_proc_address(self.dev_reg(cpu), b"ggml_backend_dev_get_extra_bufts")
        if not function:
            return None
        extra_types = c.CFUNCTYPE(c.POINTER(c.c_void_p), c.c_void_p)(function)(cpu)
        index = 0
        while extra_types and extra_types[index]:
            if self.buft_name(extra_types[index]) == b"CPU_REPACK":
                return int(extra_types[index])
            index += 1
        return None


def _f(library: c.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a library with its types declared. Raises LlamaError where the library lacks
    it."""
    try:
        function = library[name]
    except AttributeError as error:
        raise LlamaError(f"{library._name}: no function {name}") from error
    function.restype, function.argtypes = result, arguments
    return function


def _optional(library: c.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """The same; None where the library lacks it."""
    try:
        return _f(library, name, result, *arguments)
    except LlamaError:
        return None
