"""Which axes of stored weights sum over channels, and which make them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Consumer:
    """A node that sums over a labelled axis of its input, with the weights that it multiplies by.

    Attributes:
        node: The node.
        data: The value that it sums over.
        data_axis: The axis of `data`.
        weight: The constant that it multiplies by.
        weight_axis: The axis of `weight` that meets `data_axis`, position by position.
    """

    node: ir.Node
    data: ir.Value
    data_axis: int
    weight: ir.Value
    weight_axis: int


@dataclass(frozen=True)
class Producer:
    """A node that makes the positions of a labelled axis, each from its own part of the weights.

    Attributes:
        node: The node.
        weight: The constant whose parts make them.
        weight_axis: The axis of `weight` with one part a position.
        bias: The constant that is added, with one number a position on its last axis; None without.
    """

    node: ir.Node
    weight: ir.Value
    weight_axis: int
    bias: ir.Value | None = None
