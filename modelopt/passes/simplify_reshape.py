"""Write computed shapes as constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.consteval.symbolic import Symbolic, Term, Terms
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.graph.match import Mismatch
from modelopt.passes.base import Pass

_SHAPE_IS_INPUT_1 = {"Reshape": 5, "Expand": 8}
_ENDS_ARE_INPUT_2 = {"Slice": 10}


@dataclass(frozen=True, kw_only=True)
class SimplifyReshape(Pass):
    """Write the computed shape of a Reshape, Expand or Slice as a constant where dimensions stay what they are.

    Exporters write ``x.view(x.shape[0], -1, 64)`` as Shape, Gather, Unsqueeze and Concat. With ``allowzero = 0``
    (Reshape-14) a 0 at position i copies dimension i of x, so a dimension that provably equals it is written as 0,
    whatever its size at run time, 0 included. One that is not known becomes -1 only beside plain positive numbers: for
    an empty tensor, -1 beside a dimension of 0 is undefined where the computed number is not. With ``allowzero = 1``,
    which torch's dynamo exporter writes on every Reshape, the attribute goes too: copied or computed, a dimension of 0
    is the same 0. Only a 0 that stands in the shape as a number is another thing, and is refused.

    A dimension that Expand leaves as it is becomes 1. A Slice up to the dimension's end goes to the largest integer.
    Symbols and shapes declared in the model are trusted.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Look at every Reshape, Expand and Slice in all scopes once."""
        known, names = Symbolic(model), graph.NameSource(model)
        skipped: list[Skip] = []
        rewrites = 0
        for scope, opset, in_function in graph.scopes(model):
            as_node = in_function or not graph.allows_plain_initializers(model)
            for node in scope:
                index = _computed_operand(node, opset)
                if index is None:
                    continue
                found = _RULES[node.op_type](node, known)
                if isinstance(found, Mismatch):
                    skipped.append(Skip(graph.label(node), found.reason))
                    continue
                _write(node, index, found, names, as_node=as_node)
                node.attributes.pop("allowzero", None)
                rewrites += 1
        return Changes(rewrites, tuple(skipped))


def _computed_operand(node: ir.Node, opset: int) -> int | None:
    """The position of the computed shape or ends; None where there is none, or it is constant, or an input."""
    if node.domain not in graph.STANDARD_DOMAINS:
        return None
    index = 1 if opset >= _SHAPE_IS_INPUT_1.get(node.op_type, opset + 1) else None
    index = 2 if opset >= _ENDS_ARE_INPUT_2.get(node.op_type, opset + 1) else index
    operand = None if index is None else graph.input_at(node, index)
    return index if operand is not None and operand.producer() is not None and not _is_constant(operand) else None


def _is_constant(value: ir.Value) -> bool:
    return graph.constant_tensor(value) is not None


def _reshape(node: ir.Node, known: Symbolic) -> list[int] | Mismatch:
    target = known.terms(node.inputs[1])
    if target is None:
        return Mismatch("the number of dimensions of its shape is not known")
    if graph.attribute_int(node, "allowzero", 0) and 0 in target:
        return Mismatch("with allowzero, its 0 is a dimension of 0")
    kept = known.dims(node.inputs[0]) or ()
    shape = [_reshaped(term, axis, kept) for axis, term in enumerate(target)]
    unknown = [axis for axis, dim in enumerate(shape) if dim is None]
    if not unknown:
        return [dim for dim in shape if dim is not None]
    if len(unknown) > 1 or -1 in shape:
        return Mismatch("more than one dimension of its shape is not known")
    if 0 in shape:
        return Mismatch("-1 cannot stand for the unknown dimension of its shape where another may be 0")
    return [-1 if dim is None else dim for dim in shape]


def _reshaped(term: Term, axis: int, kept: Terms) -> int | None:
    if isinstance(term, int):
        return term
    return 0 if term is not None and axis < len(kept) and kept[axis] == term else None


def _expand(node: ir.Node, known: Symbolic) -> list[int] | Mismatch:
    target, kept = known.terms(node.inputs[1]), known.dims(node.inputs[0])
    if target is None or kept is None:
        return Mismatch("the number of dimensions is not known")
    aligned: Sequence[Term] = (*(None,) * (len(target) - len(kept)), *kept)[-len(target) :] if target else ()
    shape = [_expanded(term, dim) for term, dim in zip(target, aligned, strict=True)]
    if any(dim is None for dim in shape):
        return Mismatch("it may change a dimension whose new size is not known")
    return [dim for dim in shape if dim is not None]


def _expanded(term: Term, kept: Term) -> int | None:
    if isinstance(term, int):
        return term
    return 1 if term is not None and term == kept else None


def _slice(node: ir.Node, known: Symbolic) -> list[int] | Mismatch:
    ends, dims = known.terms(node.inputs[2]), known.dims(node.inputs[0])
    axes = _numbers(node, 3, known, range(len(ends or ())))
    steps = _numbers(node, 4, known, [1] * len(ends or ()))
    if ends is None or dims is None or axes is None or steps is None or not len(ends) == len(axes) == len(steps):
        return Mismatch("its axes, steps or dimensions are not known")
    if min(steps, default=1) < 1 or not all(-len(dims) <= axis < len(dims) for axis in axes):
        return Mismatch("it goes backwards")
    if all(value is None or value.dtype is None for value in node.inputs[1:3]):
        return Mismatch("the type of its ends is not known")
    limit = int(np.iinfo(_integer_type(node)).max)
    found = [_sliced(end, dims[axis], limit) for end, axis in zip(ends, axes, strict=True)]
    if any(end is None for end in found):
        return Mismatch("where it ends is not known")
    return [end for end in found if end is not None]


def _numbers(node: ir.Node, index: int, known: Symbolic, default: Sequence[int]) -> list[int] | None:
    if index >= len(node.inputs) or node.inputs[index] is None:
        return list(default)
    terms = known.terms(node.inputs[index])
    if terms is None or not all(isinstance(term, int) for term in terms):
        return None
    return [term for term in terms if isinstance(term, int)]


def _integer_type(node: ir.Node) -> type[np.int32 | np.int64]:
    """Shapes are int64; starts and ends of a Slice are of one type, int32 or int64."""
    bounds = node.inputs[1:3] if node.op_type == "Slice" else ()
    dtypes = {value.dtype for value in bounds if value is not None}
    return np.int32 if ir.DataType.INT32 in dtypes else np.int64


def _sliced(end: Term, dim: Term, limit: int) -> int | None:
    if isinstance(end, int):
        return end
    return limit if end is not None and end == dim else None


_RULES: dict[str, Callable[[ir.Node, Symbolic], list[int] | Mismatch]] = {
    "Expand": _expand,
    "Reshape": _reshape,
    "Slice": _slice,
}


def _write(node: ir.Node, index: int, numbers: list[int], names: graph.NameSource, *, as_node: bool) -> None:
    """Put a constant in the place of an operand, and remove what only that operand needed."""
    old, scope = node.inputs[index], node.graph
    if old is None or scope is None:
        raise ValueError(f"{node!r} belongs to no graph")
    array, name = np.array(numbers, _integer_type(node)), names(f"{old.name}_known")
    if as_node or not isinstance(scope, ir.Graph):
        new = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
        scope.insert_before(node, ir.node("Constant", [], {"value": ir.tensor(array)}, outputs=[new], name=name))
    else:
        new = graph.add_initializer(scope, name, array)
    node.replace_input_with(index, new)
    graph.remove_unread([old])
