"""What a rule cannot say, and the checks with which rules refuse nodes whose numbers do not fit each other.

onnx's inference lets pass what onnxruntime refuses, so each rule checks what it computes with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from modelopt import graph

MISFIT = "its sizes do not fit each other"

_FEWEST_INPUTS: Mapping[str, int] = {
    **dict.fromkeys(("Attention", "BiasGelu", "FusedConv", "FusedGemm", "FusedMatMul"), 2),
    **dict.fromkeys(("MultiHeadAttention", "RotaryEmbedding", "FastGelu", "Gelu", "QuickGelu"), 1),
}
"""Of onnxruntime's own operators, of which onnx has no schemas."""


class Unproven(Exception):
    """A rule cannot say what follows for a node; its text says why. All that the node reads must stay."""


def require(holds: bool, why: str = MISFIT) -> None:
    """Go on only where something holds.

    Raises:
        Unproven: It does not.
    """
    if not holds:
        raise Unproven(why)


def require_inputs(node: ir.Node) -> None:
    """Refuse one of onnxruntime's own operators without an input that its rule reads; of others loading asks that.

    Raises:
        Unproven: It has too few.
    """
    if node.domain == graph.CONTRIB_DOMAIN:
        require(len(node.inputs) >= _FEWEST_INPUTS.get(node.op_type, 0), "it lacks an input")


def axis_in(axis: int, rank: int) -> int:
    """An axis counted from the first.

    Args:
        axis: From -rank to rank - 1; negative ones count from the last.
        rank: How many axes there are.

    Raises:
        Unproven: There is no such axis.
    """
    require(-rank <= axis < rank, "it names an axis that is not there")
    return axis % rank


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """In which order a Transpose takes the axes of its input: without `perm` the last is the first.

    Raises:
        Unproven: Its attribute is no order of so many axes.
    """
    perm = graph.attribute_ints(node, "perm") or tuple(reversed(range(rank)))
    require(sorted(perm) == list(range(rank)), "its axes are in no order of those of its input")
    return perm


def in_rows(labels: np.ndarray, count: int) -> np.ndarray:
    """Labels of an axis cut into as many parts of one size: int64, shape (count, size of a part).

    Raises:
        Unproven: They cannot be cut so.
    """
    require(count > 0 and labels.size > 0 and labels.size % count == 0)
    return labels.reshape(count, -1)
