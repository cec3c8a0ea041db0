"""Finds rotary position embeddings: x · cos + turned(x) · sin, and the tables of their cosines and sines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.symbolic import Symbolic
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.patterns.rewriter import number
from modelopt.patterns.slice import read_slice

_SMALL_BYTES = 64


@dataclass(frozen=True)
class Rotary:
    """A rotary embedding; `table` reads its cosines and sines.

    Attributes:
        last: The addition.
        x: What is turned, of shape (batch, heads, length, size).
        cosine: What `x` is multiplied by.
        sine: What the turned `x` is multiplied by.
        interleaved: Whether pairs are neighbours; else they are half of the size apart.
        inner: The other nodes.
    """

    last: ir.Node
    x: ir.Value
    cosine: ir.Value
    sine: ir.Value
    interleaved: bool
    inner: tuple[ir.Node, ...]


@dataclass(frozen=True)
class Table:
    """Rows of a constant, one for each position.

    Attributes:
        rows: The constant, whose last two axes are (positions, size) and all others 1.
        positions: Which rows, int64 of shape (batch, length); None for the first ones.
    """

    rows: ir.Value
    positions: ir.Value | None


@dataclass(frozen=True)
class _Slice:
    """``x[..., start:end:step]``, negative or not, with bounds counted from the front."""

    x: ir.Value
    cut: tuple[int, int, int]
    negative: bool
    nodes: tuple[ir.Node, ...]


def find(last: ir.Node, opset: int) -> Rotary | None:
    """The rotary embedding that `last` ends."""
    if not graph.is_standard(last, "Add"):
        return None
    for left, right in (tuple(last.inputs), tuple(reversed(last.inputs))):
        straight, crossed = match.producer(left, "Mul"), match.producer(right, "Mul")
        if straight is None or crossed is None:
            continue
        for turned, sine in (tuple(crossed.inputs), tuple(reversed(crossed.inputs))):
            found = _turned(turned, opset)
            if found is None or sine is None or found[0] not in straight.inputs:
                continue
            x, interleaved, nodes = found
            cosine = straight.inputs[1 if straight.inputs[0] is x else 0]
            if cosine is not None:
                return Rotary(last, x, cosine, sine, interleaved, (straight, crossed, *nodes))
    return None


def _turned(value: ir.Value | None, opset: int) -> tuple[ir.Value, bool, tuple[ir.Node, ...]] | None:
    """``x``, whether pairs are neighbours, and the nodes, when `value` is ``x`` with each pair (a, b) as (-b, a)."""
    reshape = match.producer(value, "Reshape")
    concat = match.producer(value if reshape is None else reshape.inputs[0], "Concat")
    if concat is None or len(concat.inputs) != 2:
        return None
    depth = 4 if reshape is None else 5
    if graph.attribute_int(concat, "axis", 0) not in {-1, depth - 1}:
        return None
    parts = [_part(one, opset, stacked=reshape is not None) for one in concat.inputs]
    first, second = parts
    if first is None or second is None or first.x is not second.x or not first.negative or second.negative:
        return None
    size = _size(first.x)
    if size is None or size % 2:
        return None
    nodes = (concat, *first.nodes, *second.nodes)
    half = size // 2
    if reshape is None:
        return (first.x, False, nodes) if (first.cut, second.cut) == ((half, size, 1), (0, half, 1)) else None
    if (first.cut, second.cut) != ((1, size, 2), (0, size, 2)) or not _joins_pairs(reshape, first.x):
        return None
    return first.x, True, (reshape, *nodes)


def _joins_pairs(reshape: ir.Node, x: ir.Value) -> bool:
    """Whether it makes (batch, heads, length, size) of (…, size / 2, 2); three known sizes are enough."""
    target = graph.constant(reshape.inputs[1], max_bytes=_SMALL_BYTES)
    if target is None or target.size != 4 or x.shape is None or graph.makes_empty(reshape):
        return False
    size = _size(x)
    kept = [item == 0 or item == dim for item, dim in zip(target[:3].tolist(), x.shape, strict=False)]
    return sum([*kept, target[3] == size]) >= 3 and (target[3] in {-1, size})


def _part(value: ir.Value | None, opset: int, *, stacked: bool) -> _Slice | None:
    """The part of some ``x``, behind Unsqueeze where it is `stacked`."""
    nodes: list[ir.Node] = []
    if stacked:
        unsqueeze = match.producer(value, "Unsqueeze")
        if unsqueeze is None or axes_of(unsqueeze, opset) not in ((-1,), (4,)):
            return None
        nodes.append(unsqueeze)
        value = unsqueeze.inputs[0]
    inner, sign = _negated(value)
    nodes += [] if sign is None else [sign]
    node = None if inner is None else inner.producer()
    if inner is None or node is None or not node.inputs or (x := node.inputs[0]) is None or graph.rank(x) != 4:
        return None
    cut = _slice_cut(node, opset) if graph.is_standard(node, "Slice") else _split_cut(node, inner, opset)
    return None if cut is None else _Slice(x, cut, sign is not None, (*nodes, node))


def _negated(value: ir.Value | None) -> tuple[ir.Value | None, ir.Node | None]:
    """The value that `value` is the negative of, and the node that negates it; else `value` itself and None."""
    negative = match.producer(value, "Neg")
    if negative is not None:
        return negative.inputs[0], negative
    product = match.producer(value, "Mul")
    operands = None if product is None else match.split_constant(product)
    return (operands[0], product) if operands is not None and number(operands[1]) == -1 else (value, None)


def _slice_cut(node: ir.Node, opset: int) -> tuple[int, int, int] | None:
    cuts, size = read_slice(node, opset), _size(node.inputs[0])
    if isinstance(cuts, Mismatch) or len(cuts) != 1 or size is None or cuts[0].axis not in {-1, 3}:
        return None
    start, end = (min(bound if bound >= 0 else max(bound + size, 0), size) for bound in (cuts[0].start, cuts[0].end))
    return start, end, cuts[0].step


def _split_cut(node: ir.Node, output: ir.Value, opset: int) -> tuple[int, int, int] | None:
    """Where it splits in two halves, the half that is `output`."""
    size = _size(node.inputs[0])
    if not graph.is_standard(node, "Split") or size is None or len(node.outputs) != 2:
        return None
    if graph.attribute_int(node, "axis", 0) not in {-1, 3}:
        return None
    sizes = graph.attribute_ints(node, "split") if opset < 13 else None
    if opset >= 13 and graph.input_at(node, 1) is not None:
        sizes = graph.constant_ints(node.inputs[1]) or ()
    half = size // 2
    if sizes not in {None, (half, half)} or size % 2:
        return None
    return (0, half, 1) if output is node.outputs[0] else (half, size, 1)


def axes_of(node: ir.Node, opset: int) -> tuple[int, ...] | None:
    """The axes of an Unsqueeze: an attribute below opset 13, then an input."""
    return graph.ints_by_opset(node, opset, "axes", 1, since=13)


def _size(value: ir.Value | None) -> int | None:
    dim = value.shape[-1] if value is not None and value.shape else None
    return dim if isinstance(dim, int) and dim > 0 else None


# Tables


def table(value: ir.Value, x: ir.Value, known: Symbolic, opset: int) -> Table | Mismatch:
    """The rows that `value` holds for the positions of `x`, of shape (batch, heads, length, size)."""
    unsqueeze = match.producer(value, "Unsqueeze")
    axes = None if unsqueeze is None else axes_of(unsqueeze, opset)
    if unsqueeze is not None and unsqueeze.inputs[0] is not None:
        value = unsqueeze.inputs[0]
    gather = match.producer(value, "Gather")
    if gather is not None:
        return _gathered(gather, axes, x, known, opset)
    if unsqueeze is not None and not _is_leading(axes, graph.rank(value)):
        return Mismatch("its cosines or sines are not one row for each position")
    return _first_rows(value, x, known, opset)


def _is_leading(axes: tuple[int, ...] | None, rank: int | None) -> bool:
    """Whether all of the new axes stand before those that were there, which with them are four at most."""
    if axes is None or rank is None or not 2 <= rank <= 4 - len(axes):
        return False
    return all(0 <= axis < len(axes) for axis in axes)


def _gathered(
    gather: ir.Node, axes: tuple[int, ...] | None, x: ir.Value, known: Symbolic, opset: int
) -> Table | Mismatch:
    data, positions = gather.inputs
    cut = match.producer(data, "Slice")  # the positions are below its end, or Gather would fail: it changes no row
    if cut is not None and _starts_at_first(cut, opset):
        data = cut.inputs[0]
    if graph.attribute_int(gather, "axis", 0) != 0 or axes not in ((1,), (-3,)) or positions is None:
        return Mismatch("its positions are not those of axis 2")
    tensor = graph.constant_tensor(data)
    if data is None or tensor is None or len(tensor.shape) != 2:
        return Mismatch("its cosines or sines are computed, not rows of a constant table")
    places, dims = known.dims(positions), known.dims(x)
    if positions.dtype != ir.DataType.INT64:
        return Mismatch("its positions are not int64")
    if places is None or dims is None or places != (dims[0], dims[2]):
        return Mismatch("its positions are not known to be of shape (batch, length)")
    if isinstance(dims[2], int) and dims[2] > tensor.shape.numpy()[0]:
        return Mismatch("onnxruntime's operator takes no input longer than its tables")
    return Table(data, positions)


def _starts_at_first(cut: ir.Node, opset: int) -> bool:
    """Whether it keeps some of the first rows, for any end."""
    if opset < 10:
        found = read_slice(cut, opset)
        return not isinstance(found, Mismatch) and [(one.axis, one.start) for one in found] == [(0, 0)]
    step, axis = _step(cut), graph.scalar(graph.input_at(cut, 3))
    ends = graph.static_shape(cut.inputs[2])
    axis = 0 if axis is None and ends == (1,) else axis
    return graph.scalar(cut.inputs[1]) == 0 and axis in {0, -2} and step == 1


def _step(cut: ir.Node) -> float | None:
    """The step of a Slice from opset 10; None where it is not known."""
    return 1 if graph.input_at(cut, 4) is None else graph.scalar(cut.inputs[4])


def _first_rows(value: ir.Value, x: ir.Value, known: Symbolic, opset: int) -> Table | Mismatch:
    dims = known.dims(x)
    length = None if dims is None else dims[2]
    cut = match.producer(value, "Slice") if opset >= 10 else None
    source = value if cut is None else cut.inputs[0]
    tensor = graph.constant_tensor(source)
    if source is None or tensor is None:
        return Mismatch("its cosines or sines are computed, not rows of a constant table")
    shape = tuple(tensor.shape.numpy())
    if len(shape) < 2 or len(shape) > 4 or any(dim != 1 for dim in shape[:-2]):
        return Mismatch("its cosines or sines are not one row for each position")
    if cut is None:
        return Table(source, None) if shape[-2] == length else Mismatch("its length is not known")
    step, axis = _step(cut), graph.scalar(graph.input_at(cut, 3))
    if graph.scalar(cut.inputs[1]) != 0 or axis not in {-2, len(shape) - 2} or step != 1:
        return Mismatch("its cosines or sines are not the first rows of a constant table")
    # A table of one row may be repeated for a longer x; of a larger one there are too few rows in either form.
    if length is None or known.terms(cut.inputs[2]) != (length,) or shape[-2] == 1:
        return Mismatch("the rows are not known to be as many as its length")
    return Table(source, None)


def halved(rows: ir.Value, *, interleaved: bool) -> np.ndarray | None:
    """One number for each pair, of shape (positions, size / 2); None where a row does not hold each number twice."""
    array = graph.constant(rows)
    if array is None:
        return None
    size = array.shape[-1]
    flat, half = array.reshape(-1, size), size // 2
    first, second = (flat[:, ::2], flat[:, 1::2]) if interleaved else (flat[:, :half], flat[:, half:])
    return first if np.array_equal(first, second) else None
