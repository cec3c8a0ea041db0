"""Fold the multiplication of a Mul and Add before a padded convolution into its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.affine import is_affine, per_channel, variable
from modelopt.patterns.convolution import Absorbed, Conv, absorb_before, as_convolution, store
from modelopt.patterns.rewriter import Rewrite


class FusePaddedAffine(RewritePass):
    """Fold the multiplication of a Mul and Add before a padded Conv into its weights, and keep the addition.

    ``a · x + s`` with one number, or one per channel, before a Conv that pads: the zeros of the padding come after the
    shift, so the bias cannot absorb it as in fuse-conv-affine. But zero scaled is zero:
    ``Conv(a · x + s, W, b) = Conv(x + s / a, a · W, b)``. The Mul (or Div) goes, the Add (or Sub) holds ``s / a``.

    The sum is rounded at the same relative size as before, so no digits are lost; but ``a = 0`` is refused, and so is
    an ``s / a`` that the dtype does not hold. Where the convolution does not pad, fuse-conv-affine does more.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the Conv."""
        add = None if not graph.is_standard(node, "Conv") or node.inputs[0] is None else node.inputs[0].producer()
        if add is None or add.op_type not in {"Add", "Sub"} or not is_affine(add):
            return match.NOT_HERE
        mul = variable(add).producer()
        if mul is None or mul.op_type not in {"Mul", "Div"} or not is_affine(mul):
            return match.NOT_HERE
        if not _pads(node):
            return Mismatch("the convolution does not pad: fuse-conv-affine folds the addition too")
        for part in (add, mul):
            if part.graph is not node.graph:
                return Mismatch(f"{graph.label(part)} is in an outer scope")
            if graph.sole_consumer(part.outputs[0]) is None:
                return Mismatch(f"{graph.label(part)} has to stay: {graph.why_not_sole(part.outputs[0])}")
        found = _read(node, add, mul, opset)
        return found if isinstance(found, Mismatch) else partial(_rewrite, names, found)


@dataclass(frozen=True)
class _Match:
    conv: Conv
    add: ir.Node
    mul: ir.Node
    absorbed: Absorbed
    constant: np.ndarray


def _pads(conv: ir.Node) -> bool:
    return any(graph.attribute_ints(conv, "pads") or ()) or graph.attribute_string(conv, "auto_pad", "") in {
        "SAME_UPPER",
        "SAME_LOWER",
    }


def _read(node: ir.Node, add: ir.Node, mul: ir.Node, opset: int) -> _Match | Mismatch:
    conv = as_convolution(node)
    if isinstance(conv, Mismatch):
        return conv
    scaled, shifted = (per_channel(part, opset, conv.inputs, conv.rank) for part in (mul, add))
    if isinstance(scaled, Mismatch):
        return scaled
    if isinstance(shifted, Mismatch):
        return shifted
    scale, sign = scaled[0], shifted[0]
    if not scale.all():
        return Mismatch("it multiplies by zero")
    if np.any(sign != 1):
        return Mismatch("the sum is subtracted from a constant")
    shift = _constant(shifted[1] / scale, conv)
    absorbed = absorb_before(conv, scale, np.zeros_like(scale))
    if isinstance(shift, Mismatch):
        return shift
    if isinstance(absorbed, Mismatch):
        return absorbed
    return _Match(conv, add, mul, absorbed, -shift if add.op_type == "Sub" else shift)


def _constant(shift: np.ndarray, conv: Conv) -> np.ndarray | Mismatch:
    """`shift` in the dtype of `conv`: one number where all are the same, else of shape (C_in, 1, …)."""
    dtype = conv.weight.dtype.numpy()
    with np.errstate(over="ignore"):
        narrow = shift.astype(dtype)
    if not np.isfinite(narrow).all():
        return Mismatch(f"{dtype} does not hold the shift divided by the scale")
    if np.all(narrow == narrow[0]):
        return narrow[:1]
    return narrow.reshape(-1, *(1,) * (conv.rank - 2))


def _rewrite(names: graph.NameSource, found: _Match) -> None:
    operands = match.split_constant(found.add)
    if operands is None:
        raise ValueError(f"{graph.label(found.add)} has no constant operand")
    old = operands[1]
    new = graph.constant_beside(old, found.add, names(f"{old.name}_scaled"), found.constant)
    for index, value in enumerate((variable(found.mul), new)):
        found.add.replace_input_with(index, value)
    graph.drop_unused_constants([old])
    graph.remove_with_constants(found.mul)
    store(found.conv, found.absorbed, names)
