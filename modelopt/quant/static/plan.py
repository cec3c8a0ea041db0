"""The plan of static quantization: the nodes that compute in int8, with their weights, biases and activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import onnx_ir as ir

from modelopt.core.changes import Skip


class Role(Enum):
    """The kind of a node in the plan.

    Attributes:
        KERNEL: Conv, Gemm or MatMul with a constant weight: here int8 saves time.
        TABLE: Gather from a constant table: it gathers integers, which are dequantized at once.
        GLUE: Add, Concat, pools, activation functions between kernels: in int8 when their neighbours are.
        MOVER: Reshape, Transpose, MaxPool …: it moves integers as they are and keeps their scale.
    """

    KERNEL = "kernel"
    TABLE = "table"
    GLUE = "glue"
    MOVER = "mover"


@dataclass(frozen=True)
class NodeChoice:
    """One node that will compute in int8.

    Attributes:
        inputs: The activations it reads in int8.
        weight: The constant that is stored in int8.
        weight_axis: The output-channel axis of `weight`; None where all of it must have one scale.
        bias: The constant that is stored in int32.
        output: Its output that is quantized, or that of the Relu or Clip fused with it; None for an output in float.
        others: Further outputs that are quantized as `output` is (Split).
    """

    node: ir.Node
    role: Role
    inputs: tuple[ir.Value, ...]
    weight: ir.Value | None = None
    weight_axis: int | None = None
    bias: ir.Value | None = None
    output: ir.Value | None = None
    others: tuple[ir.Value, ...] = ()

    @property
    def written(self) -> tuple[ir.Value, ...]:
        """The outputs that are quantized."""
        return () if self.output is None else (self.output, *self.others)


@dataclass(frozen=True)
class SelectionRules:
    """What the user asked for, and what calibration and the cost model found.

    Attributes:
        include: Patterns of kernels to consider (see `node_filters`); empty for all.
        exclude: Patterns of nodes to leave in float.
        banned: Reasons, by name, not to quantize an activation or a weight.
        unfit: Reasons not to compute a node in int8 with the observed ranges.
        unprofitable: Kernels that cost more time in int8 than they save (see `region_gain`).
        integer_io: Quantize the outputs of the model as well, where integer kernels make them.
        integer_gates: SiLU, hardswish and squeeze-and-excite behind convolutions compute in int8 (see `float_regions`).
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    banned: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[ir.Node, str] = field(default_factory=dict)
    unprofitable: frozenset[ir.Node] = frozenset()
    integer_io: bool = False
    integer_gates: bool = True


@dataclass(frozen=True)
class QuantizationPlan:
    """The nodes that will compute in int8.

    Attributes:
        choices: In graph order.
        skipped: The candidates that stay float, with the reason.
    """

    choices: tuple[NodeChoice, ...]
    skipped: tuple[Skip, ...]

    def activations(self) -> tuple[ir.Value, ...]:
        """The activations that get Q/DQ, each once, in order of first use."""
        values: dict[ir.Value, None] = {}
        for choice in self.choices:
            values.update(dict.fromkeys(choice.inputs))
            values.update(dict.fromkeys(choice.written))
        return tuple(values)
