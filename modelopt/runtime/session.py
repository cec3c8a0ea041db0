"""How a session is opened, and what it says of itself: plain data that crosses the pipe."""

from __future__ import annotations

from enum import Enum

import msgspec

from modelopt.graph.quantized_io import IntegerIo


class Optimization(Enum):
    """onnxruntime's graph optimization level at load."""

    ALL = "all"
    BASIC = "basic"
    DISABLED = "disabled"


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to open a session.

    Attributes:
        provider: ``cpu``, ``cuda``, ``tensorrt``, ``openvino``, or a full name (``CPUExecutionProvider``).
        provider_options: The provider's own options, as (key, value) pairs.
        threads: Intra-op threads; 0 means as many as this process may use.
        optimization: The graph optimization level.
        spin: Whether idle threads spin. True is onnxruntime's default and what users get.
        profile: Record which provider runs which node (slower).
        trace: With `profile`, also keep the optimized graph, so that each kernel names the values it writes.
        memory_pattern: Whether a run's tensors share one block that an earlier run of these shapes planned.
        op_libraries: Shared libraries of custom operators; the worker that opens the session names them.
        exact: Whether products of u8 × s8 are computed in full where this machine's instructions saturate at 16 bits
            (x86 without VNNI; elsewhere they always are). None leaves it to the worker that opens the session.
    """

    provider: str = "cpu"
    provider_options: tuple[tuple[str, str], ...] = ()
    threads: int = 0
    optimization: Optimization = Optimization.ALL
    spin: bool = True
    profile: bool = False
    memory_pattern: bool = True
    trace: bool = False
    op_libraries: tuple[str, ...] = ()
    exact: bool | None = None


class IoSpec(msgspec.Struct, frozen=True):
    """An input or output as onnxruntime reports it: its type text (``tensor(float)``) and dims."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class SessionInfo(msgspec.Struct, frozen=True):
    """What an opened session says of itself.

    Attributes:
        inputs: Its inputs.
        outputs: What a run gives: its outputs; of one that is no tensor its parts, see `runtime.parts`.
        providers: The providers that it really has, in order of preference.
        load_ns: Nanoseconds for creating the session.
        integers: The inputs and outputs that the model says are integers for floats.
        whole: For each of `outputs` the position of the model's output that it is, or is a part of.
    """

    inputs: tuple[IoSpec, ...]
    outputs: tuple[IoSpec, ...]
    providers: tuple[str, ...]
    load_ns: int
    integers: IntegerIo = IntegerIo()
    whole: tuple[int, ...] = ()

    def output_types(self) -> dict[str, str]:
        """By output the type of what a run gives: floats where the model says what its integers stand for."""
        listed = self.integers.outputs
        return {value.name: "tensor(float)" if value.name in listed else value.type for value in self.outputs}


class NodeRun(msgspec.Struct, frozen=True):
    """One kernel that the runtime executed in a profiled run.

    Attributes:
        name: The node's name in the runtime's optimized graph.
        op_type: Its operator there (``Conv``, ``QLinearConv``, ``ReorderInput`` …).
        provider: The execution provider that ran it.
        duration_ns: Nanoseconds in the kernel, summed over the profiled runs.
        runs_ns: The same for each profiled run.
        reads: The element type of each input (``uint8``, ``float`` …).
        writes: The names of its outputs in the optimized graph; empty without `SessionSpec.trace`.
        counts: How often it ran in each profiled run.
    """

    name: str
    op_type: str
    provider: str
    duration_ns: int
    runs_ns: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()


_SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


CPU = "CPUExecutionProvider"
"""The provider whose memory is this machine's."""


def full_provider_name(name: str) -> str:
    """``cuda`` → ``CUDAExecutionProvider``; a name that is not a short one is returned as it is."""
    return _SHORT.get(name.lower(), name)


def short_provider_names() -> tuple[str, ...]:
    """The short names that `--provider` knows."""
    return tuple(_SHORT)
