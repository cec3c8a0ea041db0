"""Integers that a model computes from shapes, such as the target of a Reshape, as far as they are known.

Each is a term: a number; a symbol (two dimensions of one symbol are equal); a dimension of one value, which is equal
only to itself; or None, of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.sizes import shape_part
from modelopt.core.signature import symbol_of

Term = int | str | tuple[ir.Value, int] | None
Terms = tuple[Term, ...]

_MAX_TERMS = 64  # more dimensions than any tensor has


class Symbolic:
    """Reads terms off one model.

    Args:
        model: The model. Symbols count in its main graph only: in a body, each turn of a loop may give them another
            size, and a function's are its own.
    """

    def __init__(self, model: ir.Model) -> None:
        self._main = model.graph
        self._found: dict[ir.Value, Terms] = {}
        for scope in graph.all_graphs(model):
            for node in scope:
                rule = _RULES.get(node.op_type) if node.domain in graph.STANDARD_DOMAINS else None
                terms = None if rule is None else rule(self, node)
                if terms is not None and len(terms) <= _MAX_TERMS:
                    self._found[node.outputs[0]] = terms

    def dims(self, value: ir.Value | None) -> Terms | None:
        """The dimensions of `value`; None without a rank."""
        if value is None or value.shape is None:
            return None
        return tuple(self._dim(value, axis, dim) for axis, dim in enumerate(value.shape))

    def _dim(self, value: ir.Value, axis: int, dim: int | ir.SymbolicDim) -> Term:
        if isinstance(dim, int):
            return dim if dim >= 0 else (value, axis)
        symbol = symbol_of(dim.value) if value.graph is self._main else None
        return (value, axis) if symbol is None else symbol

    def terms(self, value: ir.Value | None) -> Terms | None:
        """The numbers in `value`, integers or booleans of one axis or none; None when their count is not known."""
        if value is None:
            return None
        if value in self._found:
            return self._found[value]
        constant = graph.constant_tensor(value)
        return _unknowns(value) if constant is None else _constants(constant)


def _constants(tensor: ir.TensorProtocol) -> Terms | None:
    is_whole = tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL
    if tensor.shape.rank() > 1 or tensor.size > _MAX_TERMS or not is_whole:
        return None
    return tuple(int(number) for number in tensor.numpy().reshape(-1))


def _unknowns(value: ir.Value) -> Terms | None:
    shape = graph.static_shape(value)
    if shape is None or len(shape) > 1 or shape > (_MAX_TERMS,):
        return None
    return (None,) * (shape[0] if shape else 1)


def _shape(known: Symbolic, node: ir.Node) -> Terms | None:
    dims = known.dims(node.inputs[0])
    return None if dims is None else tuple(shape_part(node, dims))


def _gather(known: Symbolic, node: ir.Node) -> Terms | None:
    source, picked = known.terms(node.inputs[0]), graph.constant(node.inputs[1], max_bytes=8 * _MAX_TERMS)
    if source is None or picked is None or picked.ndim > 1 or graph.attribute_int(node, "axis", 0) != 0:
        return None
    if not all(-len(source) <= index < len(source) for index in picked.reshape(-1)):
        return None
    return tuple(source[int(index)] for index in picked.reshape(-1))


def _slice(known: Symbolic, node: ir.Node) -> Terms | None:
    """From opset 10; the axis can only be the first."""
    source = known.terms(node.inputs[0])
    bounds = [graph.scalar(value) for value in node.inputs[1:3]]
    step = 1 if graph.input_at(node, 4) is None else graph.scalar(node.inputs[4])
    if source is None or len(bounds) != 2 or step is None or step < 1:
        return None
    start, end = bounds
    return None if start is None or end is None else source[int(start) : int(end) : int(step)]


def _concat(known: Symbolic, node: ir.Node) -> Terms | None:
    parts = [known.terms(value) for value in node.inputs]
    if any(part is None for part in parts):
        return None
    return tuple(term for part in parts for term in part or ())


def _same(known: Symbolic, node: ir.Node) -> Terms | None:
    return known.terms(node.inputs[0])


def _same_single(known: Symbolic, node: ir.Node) -> Terms | None:
    """Unsqueeze, Squeeze or Reshape of one number, if what comes out has one axis at most."""
    source, rank = known.terms(node.inputs[0]), graph.rank(node.outputs[0])
    return source if source is not None and len(source) == 1 and (rank is None or rank <= 1) else None


def _cast(known: Symbolic, node: ir.Node) -> Terms | None:
    """Between integers of 32 and 64 bits; no dimension is over 2^31."""
    to = graph.attribute_int(node, "to", 0)
    source = node.inputs[0]
    kinds = {ir.DataType.INT32, ir.DataType.INT64}
    return known.terms(source) if to in kinds and source is not None and source.dtype in kinds else None


def _elementwise(rule: Callable[[Term, Term], Term]) -> Callable[[Symbolic, ir.Node], Terms | None]:
    def terms(known: Symbolic, node: ir.Node) -> Terms | None:
        columns = _broadcast([known.terms(value) for value in node.inputs])
        return None if columns is None else tuple(rule(left, right) for left, right in columns)

    return terms


def _broadcast(parts: Sequence[Terms | None]) -> list[Terms] | None:
    given = [part for part in parts if part is not None]
    count = max((len(part) for part in given), default=0)
    if len(given) < len(parts) or any(len(part) not in {1, count} for part in given):
        return None
    return [tuple(part[i if len(part) > 1 else 0] for part in given) for i in range(count)]


def _product(left: Term, right: Term) -> Term:
    if left == 1 or right == 1:
        return right if left == 1 else left
    return _small(left * right) if isinstance(left, int) and isinstance(right, int) else None


def _sum(left: Term, right: Term) -> Term:
    if left == 0 or right == 0:
        return right if left == 0 else left
    return _small(left + right) if isinstance(left, int) and isinstance(right, int) else None


def _small(number: int) -> Term:
    """Larger numbers wrap around."""
    return number if -(2**31) <= number < 2**31 else None


def _equal(left: Term, right: Term) -> Term:
    """A dimension is never negative; whether two that differ in name are equal is not known."""
    if left is None or right is None:
        return None
    if left == right:
        return 1
    numbers = [term for term in (left, right) if isinstance(term, int)]
    return 0 if len(numbers) == 2 or any(number < 0 for number in numbers) else None


def _where(known: Symbolic, node: ir.Node) -> Terms | None:
    columns = _broadcast([known.terms(value) for value in node.inputs])
    return None if columns is None else tuple(_chosen(*column) for column in columns)


def _chosen(condition: Term, then: Term, otherwise: Term) -> Term:
    if then == otherwise:
        return then
    return None if condition is None else (then if condition else otherwise)


_RULES: dict[str, Callable[[Symbolic, ir.Node], Terms | None]] = {
    "Add": _elementwise(_sum),
    "Cast": _cast,
    "Concat": _concat,
    "Equal": _elementwise(_equal),
    "Gather": _gather,
    "Identity": _same,
    "Mul": _elementwise(_product),
    "Reshape": _same_single,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _same_single,
    "Unsqueeze": _same_single,
    "Where": _where,
}
