"""What a plan to quantize is: nodes chosen, with what is stored and what is quantized around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import onnx_ir as ir

from modelopt.core.changes import Skip


class Role(Enum):
    """Why a node takes part.

    Attributes:
        KERNEL: Conv, Gemm or MatMul with a constant weight: where int8 pays.
        TABLE: Gather from a constant table: integers are looked up, and computed with in float.
        GLUE: Add, Concat, pools, table look-ups between kernels: computed in int8 when all around is.
        MOVER: Reshape, Transpose, MaxPool …: moves integers as they are and keeps their scale.
    """

    KERNEL = "kernel"
    TABLE = "table"
    GLUE = "glue"
    MOVER = "mover"


@dataclass(frozen=True)
class NodeChoice:
    """One node that will compute in int8.

    Attributes:
        node: The node.
        role: Why it takes part.
        inputs: The activations it reads in int8.
        weight: The constant that is stored in int8.
        weight_axis: The output-channel axis of `weight`; None when only one scale for all of it is possible.
        bias: The constant that is stored in int32.
        output: What is quantized after it: its output, or that of the Relu or Clip fused to it; None for float.
        others: Further results that are quantized as `output` is (Split).
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
        """What is quantized after it."""
        return () if self.output is None else (self.output, *self.others)


@dataclass(frozen=True)
class SelectionRules:
    """What the user asked for.

    Attributes:
        include: Patterns of kernels to consider (see `filters`); empty for all.
        exclude: Patterns of nodes to leave in float.
        banned: Reasons, by name, not to quantize an activation or a weight.
        unfit: Reasons not to compute a node in int8 with the ranges that were observed.
        unprofitable: Kernels that cost more in int8 than they save (see `region_gain`).
        integer_io: Quantize the outputs of the model, too, where what makes them can end in integers.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    banned: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[ir.Node, str] = field(default_factory=dict)
    unprofitable: frozenset[ir.Node] = frozenset()
    integer_io: bool = False


@dataclass(frozen=True)
class QuantizationPlan:
    """What will be int8.

    Attributes:
        choices: In graph order.
        skipped: The candidates that stay float, with the reason.
    """

    choices: tuple[NodeChoice, ...]
    skipped: tuple[Skip, ...]

    def activations(self) -> tuple[ir.Value, ...]:
        """The values that get Q/DQ, each once, in order of first use."""
        values: dict[ir.Value, None] = {}
        for choice in self.choices:
            values.update(dict.fromkeys(choice.inputs))
            values.update(dict.fromkeys(choice.written))
        return tuple(values)
