"""llama-server in this process: its thread, and whether its experts can move.

What a worker is in, and the only one who knows all its parts.
"""

import ctypes as c
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from proxy.engine.types import CPU, Device, Layer, Move, Status
from proxy.memory.host import available_host_bytes, read_host
from proxy.memory.pressure import HIGH_PRESSURE, LOW_BYTES
from proxy.worker import releases
from proxy.worker.backends import Plugin
from proxy.worker.beside_cache import BesideCache
from proxy.worker.experts import Experts
from proxy.worker.gate import Gate, preload
from proxy.worker.libraries import LlamaError
from proxy.worker.llama import DeviceProps, LlamaLibrary
from proxy.worker.loading import until_loaded
from proxy.worker.log_flush import write_log, write_log_at_exit, write_log_before_abort
from proxy.worker.mover import Mover
from proxy.worker.next_step import on_cpu
from proxy.worker.server_arguments import (
    attention_arguments,
    cache_arguments,
    has_drafts,
    placement_arguments,
)

State = Literal["loading", "ready", "failed", "stopped"]
# RAM that repacking leaves to everybody else.
HOST_RESERVE_BYTES = 1 << 30
# Set to anything: never move live, reload instead. For comparison, and for a build that misbehaves.
NO_LIVE_MOVES = "MOE_PROXY_NO_LIVE_MOVES"


class EmbeddedServer:
    """One llama-server. `run` blocks until it ends; everything else may be called from other
    threads."""

    def __init__(
        self,
        libdir: Path,
        server_socket: str,
        *,
        llama: LlamaLibrary | None = None,
        plugins: Sequence[Plugin] = (),
        repack: str = "auto",
        per_token_outputs: bool = False,
        fixed_split: int | None = None,
        no_attention: Sequence[str] = (),
        dense: bool = False,
        cache_mib: int = 0,
        cached_layers: int = 0,
        confined: str = "no: nobody asked for it",
    ) -> None:
        """`llama`: the libraries of `libdir` with the step gate before them, where they are there
        already, and have not looked for devices. `plugins`: backends that are not in `libdir`.
        `cache_mib`: the size of llama.cpp's expert cache, 0 for none; it has the experts of the
        first `cached_layers` layers. `confined` is told to people: from what this process is kept,
        or why it is not."""
        self._cache_mib = cache_mib
        self._beside: BesideCache | None = None
        self.confined = confined
        self._server_socket = server_socket
        self._repack = repack
        self._per_token_outputs = per_token_outputs
        self._fixed_split = fixed_split
        self._no_attention = frozenset(no_attention)
        self._dense = dense
        self._mover: Mover | None = None
        self._experts: Experts | None = None
        self._usable: tuple[str, ...] = ()  # devices to which experts can move
        self.state: State = "loading"
        self.why_no_moves: str | None = None
        self.moves_by_reload = False
        self._changed: Callable[[], None] = lambda: None
        self._gate: Gate | None = None
        if fixed_split is not None:
            self._refuse_moves("it was loaded with a fixed split")
        elif os.environ.get(NO_LIVE_MOVES):
            self._refuse_moves(f"{NO_LIVE_MOVES} is set")
        gate_library = preload() if self.why_no_moves is None else None
        if llama is not None:
            llama.join(plugins)
        self._llama = llama or LlamaLibrary(libdir, plugins)
        self._rpc_alone = releases.rpc_is_for_one_thread(libdir)
        self._read: dict[str, DeviceProps] = {}  # of devices that are not read at any time
        write_log_before_abort(self._llama)
        if gate_library is not None:
            try:
                self._gate = Gate(gate_library, self._llama, server_socket)
                self._llama.check()
            except LlamaError as error:
                self._gate = None
                self._refuse_moves(str(error))
        if cache_mib and self._gate is not None:
            self._beside = BesideCache(self._llama, self._gate, cached=cached_layers)

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Have `changed` called, on any thread, after each change of state and each move."""
        self._changed = changed

    @property
    def live_moves(self) -> bool:
        return self._mover is not None

    def run(self, arguments: Sequence[str]) -> int:
        """Serve until terminated. Returns llama-server's exit status.

        `arguments` are llama-server's, without where to listen and where experts go.
        """
        command = self._command(arguments)
        argv = (c.c_char_p * len(command))(*map(os.fsencode, command))
        status: list[int] = []
        server = threading.Thread(
            target=lambda: status.append(self._llama.server_main(len(argv), argv)),
            name="llama-server",
            daemon=True,
        )
        write_log_at_exit(self._llama)
        try:
            if self._gate is not None:
                self._gate.stop_first()
            server.start()
            until_loaded(server, self._gate, self._answers)
            if server.is_alive():
                self._prepare_moves(command)
        finally:
            if self._gate is not None:
                self._gate.go_on()
        if server.is_alive():
            self._set_state("ready")
        server.join()
        write_log(self._llama)
        self._set_state("stopped" if status == [0] and self.state == "ready" else "failed")
        return status[0] if status else 1

    def terminate(self) -> None:
        """Let llama-server finish: run() returns soon after."""
        if self._mover is not None:
            self._mover.stop()
        self._llama.server_terminate()

    def devices(self) -> list[Device]:
        """The devices as ggml reports them now, the CPU among them; where experts can move, those
        to which they can. Memory that a device does not tell is None. May hang in a driver.

        One that is for one thread at a time is told of as when experts moved last."""
        found = []
        for name, handle in self._llama.devices().items():
            if self._usable and name not in (CPU, *self._usable):
                continue
            props = self._props(name, handle)
            known = props.memory_total > 0
            found.append(
                Device(
                    name=name,
                    description=(props.description or b"").decode(errors="replace"),
                    kind=self._llama.kind(handle),
                    total_bytes=props.memory_total if known else None,
                    free_bytes=props.memory_free if known else None,
                    device_id=props.device_id.decode() if props.device_id else None,
                )
            )
        return found

    def _props(self, name: str, handle: int) -> DeviceProps:
        if self._is_alone(name):
            return self._read.get(name, DeviceProps())
        return self._llama.props(handle)

    def _is_alone(self, name: str) -> bool:
        return self._rpc_alone and name.startswith("RPC")

    def _look_at_those_alone(self) -> None:
        """While nobody else uses them."""
        found = self._llama.devices().items()
        self._read = {x: self._llama.props(handle) for x, handle in found if self._is_alone(x)}

    def status(self) -> Status:
        """What is where, without waiting for anything."""
        experts = self._experts
        if experts is None:
            return Status(block_count=0)
        layers = tuple(
            Layer(
                index,
                CPU if on_cpu(layer.place) else layer.place,
                experts.layer_bytes(index),
                layer.device,
            )
            for index, layer in experts.layers.items()
        )
        settled = self._mover.settled if self._mover is not None else True
        return Status(experts.block_count, layers, experts.held, settled, experts.cached)

    def place(self, placement: dict[int, str]) -> "Future[Move]":
        """Start moving; the later of two calls counts. Raises ValueError naming what is wrong with
        the placement, LlamaError without live moves."""
        if self._mover is None or self._experts is None:
            raise LlamaError(self.why_no_moves or "the model is not loaded yet")
        devices = (CPU, *self._usable)
        for layer, place in placement.items():
            if layer in self._experts.cached:
                raise ValueError(f"layer {layer} is in the expert cache, and must not move")
            if layer not in self._experts.layers:
                raise ValueError(f"layer {layer} has no experts that can move")
            if place not in devices:
                known = ", ".join(devices)
                raise ValueError(f"layer {layer}: no device {place!r}; there are {known}")
        return self._mover.place(placement)

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until nothing is left to repack, or until something else is to be done. Blocks."""
        return self._mover is not None and self._mover.wait_settled(timeout_s)

    def memory(self) -> dict[str, Any]:
        """This process's own size, for leak hunts."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "steps": self._gate.steps if self._gate else 0,
        }

    def _answers(self) -> bool:
        """Whether the model is loaded. (llama-server listens before it is, and says 503 until
        then.)"""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(self._server_socket)
                client.sendall(b"GET /health HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
                return client.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def _command(self, arguments: Sequence[str]) -> list[str]:
        gpus = self._llama.gpus()
        moves, split = self._gate is not None, self._fixed_split
        knows = releases.knows(self._llama.libdir)
        placement = placement_arguments(moves=moves, split=split, dense=self._dense, knows=knows)
        return [
            *("llama-server", "--host", self._server_socket),
            *(placement if gpus or "--rpc" in arguments else ()),
            *arguments,
            *cache_arguments(self._cache_mib if gpus or "--rpc" in arguments else 0),
            *attention_arguments(arguments, gpus, self._no_attention),
        ]

    def _refuse_moves(self, why: str) -> None:
        self.why_no_moves, self.moves_by_reload = why, True

    def _prepare_moves(self, command: Sequence[str]) -> None:
        gate = self._gate
        self._look_at_those_alone()  # nobody asks llama-server for anything yet
        if gate is None:
            return
        if gate.steps == 0:
            self._refuse_moves(
                "llama-server's decode steps do not come through the step gate in this build"
            )
            return
        drafts = has_drafts(command)
        # Without a device there is no cache either, whatever was asked for.
        beside = self._beside if self._llama.gpus() else None
        experts = Experts(
            self._llama,
            gate,
            outputs_per_batch=drafts or self._per_token_outputs,
            dense=self._dense,
            spared=None if beside is None else beside.spared,
            cache_bytes=self._cache_mib << 20,
        )
        try:
            with gate.hold() as held_gate:
                experts.discover(held_gate)
        except LlamaError as error:
            self._refuse_moves(str(error))
            return
        self._experts = experts
        gpus = self._llama.gpus()
        # A buffer on any other one would end the process at its next step.
        usable = [x for x in gpus if experts.devices is None or x in experts.devices]
        if experts.cached and not experts.layers:
            self.why_no_moves = "its experts are in a cache on the device"
        elif not experts.layers:
            what = "feed-forward weights" if self._dense else "experts"
            self.why_no_moves = f"the model has no {what} in host memory"
        elif not gpus:
            self.why_no_moves = "there is no device besides the CPU"
        elif not usable:
            self.why_no_moves = f"the model is not computed on {', '.join(gpus)}"
        else:
            self._usable = tuple(usable)
            self._mover = Mover(
                experts,
                gate,
                repackable=experts.repackable if self._repacks() else (),
                repack_room=_repack_room,
                ram_short=_ram_short,
                notify=lambda: self._changed(),
                alone=[name for name in usable if self._is_alone(name)],
                look_at_them=self._look_at_those_alone,
            )
            self._mover.start()

    def _repacks(self) -> bool:
        """Repack where plain llama-server would: it prefers a GPU's pinned host memory, from which
        large batches are computed on the GPU, to the CPU's fast layout, from which they cannot
        be."""
        if self._repack == "auto":
            devices = self._llama.devices().items()
            return not any(self._props(name, handle).host_buffer for name, handle in devices)
        return self._repack == "on"

    def _set_state(self, state: State) -> None:
        self.state = state
        self._changed()


def _repack_room(size: int) -> bool:
    available = available_host_bytes()
    return available is not None and available - size > HOST_RESERVE_BYTES


def _ram_short() -> bool:
    """So little is left, or all programs wait for memory for so long, that copies are no gain."""
    host = read_host()
    short = host.available_bytes is not None and host.available_bytes < LOW_BYTES
    return short or (host.full_pressure is not None and host.full_pressure > HIGH_PRESSURE)
