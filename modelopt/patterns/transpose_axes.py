"""How to run an operator before the Transpose of its input: what to change in it, and which Transpose follows it.

With ``x' = Transpose(x, perm)``, axis ``i`` of ``x'`` is axis ``perm[i]`` of ``x``. For an operator with
``f(x') = Transpose(f'(x), behind)`` this module gives the edits that make ``f'`` of ``f``, and ``behind``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.patterns.convolution import MAX_COPY_BYTES
from modelopt.patterns.permutations import Perm, axes_in, axis_in, inverse, without

# fmt: off
_ELEMENTWISE = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "Elu", "Equal",
    "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or",
    "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
})
_REDUCE_BY_INPUT = {
    "ReduceL1": 18, "ReduceL2": 18, "ReduceLogSum": 18, "ReduceLogSumExp": 18, "ReduceMax": 18, "ReduceMean": 18,
    "ReduceMin": 18, "ReduceProd": 18, "ReduceSum": 13, "ReduceSumSquare": 18,
}
# fmt: on

Edit = Callable[[], None]


@dataclass(frozen=True)
class Moved:
    """An operator on axes in another order.

    Attributes:
        perm: The Transpose that is taken away before its inputs.
        behind: The Transpose that its outputs need instead.
        carried: The positions of the inputs that `perm` is taken away from; constants are not among them.
        edits: What to change in the operator.
    """

    perm: Perm
    behind: Perm
    carried: tuple[int, ...]
    edits: tuple[Edit, ...] = ()


def on_other_axes(
    names: graph.NameSource, node: ir.Node, perm: Perm, opset: int, ranks: Mapping[ir.Value, int]
) -> Moved | Mismatch:
    """`node` on inputs without their Transpose by `perm`; `ranks` are those of values whose shape is not known."""
    kind = node.op_type if node.domain in graph.STANDARD_DOMAINS else ""
    if opset >= 7:
        if kind in _ELEMENTWISE:
            return _elementwise(names, node, perm, ranks)
        if kind in _REDUCE_BY_INPUT:
            return _reduction(names, node, perm, opset)
        if rule := _RULES.get(kind):
            return rule(names, node, perm, opset)
    return Mismatch(f"{graph.label(node)} does not work on other axes")


def _elementwise(names: graph.NameSource, node: ir.Node, perm: Perm, ranks: Mapping[ir.Value, int]) -> Moved | Mismatch:
    carried, edits = [], []
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        tensor = graph.constant_tensor(value)
        if tensor is None:
            if (rank := ranks.get(value, graph.rank(value))) not in {len(perm), 0} and not _is_only(node, index):
                return Mismatch(f"{graph.label(node)} has an operand of rank {'?' if rank is None else rank}")
            carried += [index] if rank != 0 else []
        elif len(tensor.shape) > len(perm):
            return Mismatch(f"the constant of {graph.label(node)} raises the rank")
        elif tensor.size != 1:
            found = _constant(names, node, index, tensor, perm)
            if isinstance(found, Mismatch):
                return found
            edits.append(found)
    if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and (edits or carried != [0]):
        return Mismatch(f"{graph.label(node)} has a scale for each index of an axis")
    return Moved(perm, perm, tuple(carried), tuple(edits)) if carried else Mismatch("it has no operand with axes")


def _is_only(node: ir.Node, index: int) -> bool:
    """Whether the other inputs are constants or the same value, so that the output has the rank of this one."""
    value = node.inputs[index]
    return all(other is value or other is None or graph.constant_tensor(other) is not None for other in node.inputs)


def _constant(
    names: graph.NameSource, node: ir.Node, index: int, tensor: ir.TensorProtocol, perm: Perm
) -> Edit | Mismatch:
    """The edit that transposes a constant operand, after its shape is filled up with ones as broadcasting does."""
    value = node.inputs[index]
    if tensor.dtype == ir.DataType.STRING:
        return Mismatch(f"{graph.label(node)} has a constant of strings")
    if value is None or (len(value.uses()) > 1 and tensor.nbytes > MAX_COPY_BYTES):
        return Mismatch(f"other nodes use its constant too, and a copy would add {tensor.nbytes} bytes")

    def edit() -> None:
        shape = tensor.shape.numpy()
        array = tensor.numpy().reshape((1,) * (len(perm) - len(shape)) + tuple(shape))
        _set_constant(names, node, index, array.transpose(inverse(perm)))

    return edit


def _concat(names: graph.NameSource, node: ir.Node, perm: Perm, _opset: int) -> Moved | Mismatch:
    axis = axis_in(graph.attribute_int(node, "axis", 0), perm)
    if isinstance(axis, Mismatch):
        return axis
    carried: list[int] = []
    edits: list[Edit] = [partial(_set, node, ir.AttrInt64("axis", perm[axis]))]
    for index, value in enumerate(node.inputs):
        tensor = graph.constant_tensor(value)
        if tensor is None:
            carried.append(index)
            continue
        found = _constant(names, node, index, tensor, perm)
        if isinstance(found, Mismatch):
            return found
        edits.append(found)
    return Moved(perm, perm, tuple(carried), tuple(edits)) if carried else Mismatch("it has no operand with axes")


def _along_axis(default: int) -> Callable[[graph.NameSource, ir.Node, Perm, int], Moved | Mismatch]:
    """An operator that works along one axis, given as an attribute, and leaves the others where they are."""

    def rule(_names: graph.NameSource, node: ir.Node, perm: Perm, opset: int) -> Moved | Mismatch:
        if node.op_type in {"Softmax", "LogSoftmax", "Hardmax"} and opset < 13:
            return Mismatch(f"{graph.label(node)} of opset {opset} works on a matrix")
        axis = axis_in(graph.attribute_int(node, "axis", default), perm)
        if isinstance(axis, Mismatch):
            return axis
        behind = perm
        if node.op_type in {"ArgMax", "ArgMin"} and not graph.attribute_int(node, "keepdims", 1):
            behind = without(perm, [axis])
        return Moved(perm, behind, (0,), (partial(_set, node, ir.AttrInt64("axis", perm[axis])),))

    return rule


def _slice(names: graph.NameSource, node: ir.Node, perm: Perm, opset: int) -> Moved | Mismatch:
    if opset < 10:
        count = len(graph.attribute_ints(node, "starts") or ())
        outer = axes_in(graph.attribute_ints(node, "axes") or tuple(range(count)), perm)
        if isinstance(outer, Mismatch):
            return outer
        return Moved(perm, perm, (0,), (partial(_set, node, ir.AttrInt64s("axes", [perm[axis] for axis in outer])),))
    axes = graph.constant_ints(graph.input_at(node, 3))
    if axes is None:
        return Mismatch(f"the axes of {graph.label(node)} are not known")
    outer = axes_in(axes, perm)
    if isinstance(outer, Mismatch):
        return outer
    moved = np.array([perm[axis] for axis in outer], np.int64)
    return Moved(perm, perm, (0,), (partial(_set_constant, names, node, 3, moved),))


def _pad(names: graph.NameSource, node: ir.Node, perm: Perm, opset: int) -> Moved | Mismatch:
    if opset >= 18 and graph.input_at(node, 3) is not None:
        axes = graph.constant_ints(graph.input_at(node, 3))
        outer = Mismatch("") if axes is None else axes_in(axes, perm)
        if isinstance(outer, Mismatch):
            return Mismatch(f"the axes of {graph.label(node)} are not known")
        moved = np.array([perm[axis] for axis in outer], np.int64)
        return Moved(perm, perm, (0,), (partial(_set_constant, names, node, 3, moved),))
    pads = graph.ints_by_opset(node, opset, "pads", 1, since=11)
    if pads is None or len(pads) != 2 * len(perm):
        return Mismatch(f"the pads of {graph.label(node)} are not known")
    # Axis perm[i] of x is axis i of x', so its pads are those at the place of perm[i] in the inverse.
    sides = np.array(pads, np.int64).reshape(2, -1)[:, list(inverse(perm))].ravel()
    edit = partial(_set, node, ir.AttrInt64s("pads", sides.tolist()))
    return Moved(perm, perm, (0,), (edit if opset < 11 else partial(_set_constant, names, node, 1, sides),))


def _reduction(names: graph.NameSource, node: ir.Node, perm: Perm, opset: int) -> Moved | Mismatch:
    by_input = opset >= _REDUCE_BY_INPUT[node.op_type]
    given = graph.input_at(node, 1) if by_input else None
    axes = graph.constant_ints(given) if by_input else graph.attribute_ints(node, "axes")
    keeps = bool(graph.attribute_int(node, "keepdims", 1))
    if axes is None and given is None and not (by_input and graph.attribute_int(node, "noop_with_empty_axes", 0)):
        return Moved(perm, perm if keeps else (), (0,))
    outer = axes_in(axes, perm) if axes else Mismatch("")
    if isinstance(outer, Mismatch):
        return Mismatch(f"the axes of {graph.label(node)} are not known")
    edit = _set_axes(names, node, perm, outer, by_input=by_input)
    return Moved(perm, perm if keeps else without(perm, outer), (0,), (edit,))


def _squeeze(names: graph.NameSource, node: ir.Node, perm: Perm, opset: int) -> Moved | Mismatch:
    axes = graph.ints_by_opset(node, opset, "axes", 1, since=13)
    outer = axes_in(axes, perm) if axes else Mismatch("")
    if isinstance(outer, Mismatch):
        return Mismatch(f"the axes of {graph.label(node)} are not known")
    edit = _set_axes(names, node, perm, outer, by_input=opset >= 13)
    return Moved(perm, without(perm, outer), (0,), (edit,))


def _set_axes(names: graph.NameSource, node: ir.Node, perm: Perm, outer: list[int], *, by_input: bool) -> Edit:
    """The edit that gives a reduction or a Squeeze the axes `outer` as they are before `perm`."""
    inner = sorted(perm[axis] for axis in outer)
    if by_input:
        return partial(_set_constant, names, node, 1, np.array(inner, np.int64))
    return partial(_set, node, ir.AttrInt64s("axes", inner))


def _unsqueeze(_names: graph.NameSource, node: ir.Node, perm: Perm, opset: int) -> Moved | Mismatch:
    """New axes stay at their places; the others follow `perm` around them."""
    axes = graph.ints_by_opset(node, opset, "axes", 1, since=13)
    if axes is None:
        return Mismatch(f"the axes of {graph.label(node)} are not known")
    rank = len(perm) + len(axes)
    new = {int(axis) % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in new]
    if len(old) != len(perm):
        return Mismatch(f"the axes of {graph.label(node)} do not fit")
    behind = list(range(rank))
    for place, axis in zip(old, perm, strict=True):
        behind[place] = old[axis]
    return Moved(perm, tuple(behind), (0,))


_RULES: dict[str, Callable[[graph.NameSource, ir.Node, Perm, int], Moved | Mismatch]] = {
    "ArgMax": _along_axis(0),
    "ArgMin": _along_axis(0),
    "Concat": _concat,
    "Hardmax": _along_axis(-1),
    "LogSoftmax": _along_axis(-1),
    "Pad": _pad,
    "Slice": _slice,
    "Softmax": _along_axis(-1),
    "Split": _along_axis(0),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


def _set(node: ir.Node, attribute: ir.Attr) -> None:
    node.attributes.add(attribute)


def _set_constant(names: graph.NameSource, node: ir.Node, index: int, array: np.ndarray) -> None:
    old = node.inputs[index]
    if old is None:
        raise ValueError(f"{graph.label(node)} lacks input {index}")
    typed = array if old.dtype is None else array.astype(old.dtype.numpy(), copy=False)
    node.replace_input_with(index, graph.constant_beside(old, node, names(f"{old.name}_moved"), typed))
    graph.drop_unused_constants([old])
