"""Remove two transpositions that undo each other across operators that do not mind the order of axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes._conv import MAX_COPY_BYTES
from modelopt.passes._rewrite import Rewrite, rewrite_nodes
from modelopt.passes.base import Changes, Context, Effect, Pass

# fmt: off
_UNARY = frozenset({
    "Abs", "Cast", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Relu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Tanh",
})
# fmt: on
_BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})
_REDUCE = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"})

Perm = tuple[int, ...]


class SinkTranspose(Pass):
    """Remove a Transpose and the one that undoes it behind a chain of operators that work without them.

    With ``x' = Transpose(x, perm)``, axis ``i`` of ``x'`` is axis ``perm[i]`` of ``x``, and the Transpose sinks:
    ``f(x') = Transpose(f(x), perm)`` for elementwise ``f``; ``x' + c = Transpose(x + c', perm)``, where ``c'`` is ``c``
    with ones put before its shape and transposed back; a reduction or Softmax over axis ``i`` becomes one over
    ``perm[i]``, and a reduction without `keepdims` takes its axes out of ``perm`` too.

    It sinks only where it meets its inverse and both go: nothing is moved for its own sake. Each value on the way must
    have one consumer, for which two inputs of it may be the same value (a square).
    """

    name: ClassVar[str] = "sink-transpose"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Remove every such pair."""
        return rewrite_nodes(model, partial(_rule, graph.NameSource(model)))


@dataclass(frozen=True)
class _Step:
    """An operator on the way: the edit that makes it work on what is not transposed, and ``perm`` behind it."""

    node: ir.Node
    edit: Callable[[], None]
    behind: Perm


def _rule(names: graph.NameSource, first: ir.Node, opset: int) -> Rewrite | Mismatch:
    perm = graph.attribute_ints(first, "perm") if graph.is_standard(first, "Transpose") else None
    if perm is None or sorted(perm) != list(range(len(perm))) or first.inputs[0] is None:
        return match.NOT_HERE
    steps: list[_Step] = []
    value = first.outputs[0]
    while True:
        node = _only_user(value)
        if node is None or node.graph is not first.graph:
            return (
                Mismatch(f"{value.name} is needed as it is: {graph.why_not_sole(value)}") if steps else match.NOT_HERE
            )
        if graph.is_standard(node, "Transpose"):
            return _end(first, steps, node, perm)
        step = _through(names, node, value, perm, opset)
        if isinstance(step, Mismatch):
            return step
        steps.append(step)
        value, perm = node.outputs[0], step.behind


def _only_user(value: ir.Value) -> ir.Node | None:
    users = dict.fromkeys(use.node for use in value.uses())
    return None if value.is_graph_output() or len(users) != 1 else next(iter(users))


def _end(first: ir.Node, steps: list[_Step], last: ir.Node, perm: Perm) -> Rewrite | Mismatch:
    if not steps:
        return match.NOT_HERE  # merge-transpose
    back = graph.attribute_ints(last, "perm") or tuple(reversed(range(len(perm))))
    if len(back) != len(perm) or [perm[axis] for axis in back] != list(range(len(perm))):
        return Mismatch(f"{graph.label(last)} does not undo it")
    return partial(_rewrite, first, steps, last)


def _through(names: graph.NameSource, node: ir.Node, value: ir.Value, perm: Perm, opset: int) -> _Step | Mismatch:
    kind = node.op_type if node.domain in graph.STANDARD_DOMAINS else None
    refusal = Mismatch(f"{graph.label(node)} does not work on other axes")
    if len(node.outputs) != 1 or opset < 7:
        return refusal
    if (kind in _UNARY and node.inputs[0] is value) or (
        kind in _BINARY and all(operand is value for operand in node.inputs)
    ):
        return _Step(node, lambda: None, perm)
    if kind in _BINARY and len(node.inputs) == 2:
        return _beside_constant(names, node, value, perm)
    if kind == "Softmax" and opset >= 13:
        axis = graph.attribute_int(node, "axis", -1) % len(perm)
        return _Step(node, partial(_set, node, ir.AttrInt64("axis", perm[axis])), perm)
    return _reduction(names, node, perm, opset) if kind in _REDUCE else refusal


def _beside_constant(names: graph.NameSource, node: ir.Node, value: ir.Value, perm: Perm) -> _Step | Mismatch:
    operands = match.split_constant(node)
    tensor = None if operands is None else graph.constant_tensor(operands[1])
    if operands is None or operands[0] is not value or tensor is None:
        return Mismatch(f"{graph.label(node)} has another operand that is not constant")
    shape = tuple(tensor.shape.numpy())
    if len(shape) > len(perm):
        return Mismatch(f"the constant of {graph.label(node)} raises the rank")
    if tensor.size == 1:
        return _Step(node, lambda: None, perm)
    if len(operands[1].uses()) > 1 and tensor.nbytes > MAX_COPY_BYTES:
        return Mismatch(f"other nodes use its constant too, and a copy would add {tensor.nbytes} bytes")
    array = tensor.numpy().reshape((1,) * (len(perm) - len(shape)) + shape).transpose(np.argsort(perm))
    index = list(node.inputs).index(operands[1])
    return _Step(node, partial(_set_constant, names, node, index, array), perm)


def _reduction(names: graph.NameSource, node: ir.Node, perm: Perm, opset: int) -> _Step | Mismatch:
    by_input = opset >= (13 if node.op_type == "ReduceSum" else 18)
    given = node.inputs[1] if by_input and len(node.inputs) > 1 else None
    axes = graph.constant(given, max_bytes=1024) if by_input else graph.attribute_ints(node, "axes")
    if axes is None or not len(axes) or not all(-len(perm) <= axis < len(perm) for axis in axes):
        return Mismatch(f"the axes of {graph.label(node)} are not known")
    outer = sorted({int(axis) % len(perm) for axis in axes})
    inner = sorted(perm[axis] for axis in outer)
    behind = perm
    if not graph.attribute_int(node, "keepdims", 1):
        left = [axis for axis in range(len(perm)) if axis not in inner]
        behind = tuple(left.index(perm[axis]) for axis in range(len(perm)) if axis not in outer)
    edit = partial(_set, node, ir.AttrInt64s("axes", inner))
    if by_input:
        edit = partial(_set_constant, names, node, 1, np.array(inner, np.int64))
    return _Step(node, edit, behind)


def _set(node: ir.Node, attribute: ir.Attr) -> None:
    node.attributes.add(attribute)


def _set_constant(names: graph.NameSource, node: ir.Node, index: int, array: np.ndarray) -> None:
    old = node.inputs[index]
    if old is None:
        raise ValueError(f"{graph.label(node)} lacks input {index}")
    node.replace_input_with(index, graph.constant_beside(old, node, names(f"{old.name}_moved"), array))
    graph.drop_unused_constants([old])


def _rewrite(first: ir.Node, steps: list[_Step], last: ir.Node) -> None:
    for step in steps:
        step.edit()
        output = step.node.outputs[0]
        if output.shape is not None:
            moved = dict(zip(step.behind, output.shape, strict=True))
            output.shape = ir.Shape([moved[axis] for axis in range(len(moved))])
    source = first.inputs[0]
    if source is not None:
        graph.replace_value(first.outputs[0], source)
    graph.remove_if_dead(first)
    graph.replace_value(last.outputs[0], steps[-1].node.outputs[0])
    graph.remove_if_dead(last)
