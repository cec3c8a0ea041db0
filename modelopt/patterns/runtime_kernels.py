"""The patterns that onnxruntime computes in one kernel: it finds them at load, so no pass may take one apart.

A pass that folds constants into a neighbour, computes equal parts once, or moves a node asks here first. What a pattern
is made of is defined in its own module beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.patterns import gelu, hardswish, mish, normalization, silu
from modelopt.patterns.rewriter import why_not_private

# fmt: off
_PARTS = frozenset({
    "Add", "Clip", "Div", "Erf", "Min", "Mul", "Pow", "Reciprocal", "ReduceMean", "Relu", "Sigmoid", "Softplus", "Sqrt",
    "Sub", "Tanh",
})
# fmt: on
_LAST = frozenset({"Add", "Div", "Mul"})
_MOST = 24  # nodes behind a node that are looked at; the longest pattern, Gelu with tanh, has 9


@dataclass(frozen=True)
class Pattern:
    """Nodes that become one kernel.

    Attributes:
        kernel: The name of that kernel.
        last: The node whose output is the pattern's.
        inner: The other nodes.
        by_last_axis: Whether onnxruntime fuses it along the last axis only.
    """

    kernel: str
    last: ir.Node
    inner: tuple[ir.Node, ...]
    by_last_axis: bool = False

    @property
    def nodes(self) -> frozenset[ir.Node]:
        """All nodes of it."""
        return frozenset({self.last, *self.inner})


def pattern_of(node: ir.Node, opset: int) -> Pattern | None:
    """The pattern that `node` is a part of."""
    for last in _behind(node):
        for find in _FINDERS if last.op_type in _LAST else ():
            found = find(last, opset)
            if found is not None and node in found.nodes and why_not_private(found.last, found.inner) is None:
                return found
    return None


def why_not_alter(node: ir.Node, opset: int) -> str | None:
    """Why `node` must stay as it is: it is a part of such a pattern; else None."""
    found = pattern_of(node, opset)
    return None if found is None else f"{graph.label(node)} is part of a {found.kernel}, which is one kernel"


def why_not_merge(node: ir.Node, equal: ir.Node, opset: int) -> str | None:
    """Why two nodes that compute the same must both stay: each belongs to a pattern of its own; else None.

    Where the two patterns compute the same, too, they may become one, node by node.
    """
    first, second = pattern_of(node, opset), pattern_of(equal, opset)
    found = first or second
    if found is None or (first is not None and second is not None and _equal(first, second)):
        return None
    return f"it is part of a {found.kernel}, which is one kernel"


def _behind(node: ir.Node) -> Iterator[ir.Node]:
    """`node` and what depends on it, the nearest first, as far as a pattern may reach."""
    waiting, seen = [node] if node.op_type in _PARTS else [], {node}
    for _ in range(_MOST):
        if not waiting:
            return
        reached = waiting.pop(0)
        yield reached
        for user in (use.node for value in reached.outputs for use in value.uses()):
            if user not in seen and user.op_type in _PARTS and user.graph is node.graph:
                seen.add(user)
                waiting.append(user)


def _gelu_of(last: ir.Node, _opset: int) -> Pattern | None:
    found = gelu.find(last)
    return None if found is None else Pattern("Gelu" if found.approximate == "none" else "FastGelu", last, found.inner)


def _normalization_of(last: ir.Node, _opset: int) -> Pattern | None:
    core = _core_before(last)
    if core is None or core.normalized_axes() != (-1,):
        return None
    size = graph.known_size(core.x, -1)
    rank = graph.rank(core.x) or 1
    shapes = frozenset((*(1,) * leading, size) for leading in range(rank)) if isinstance(size, int) else frozenset()
    found = normalization.affine(core, shapes, ("Mul", "Add") if core.centered else ("Mul",))
    kernel = "LayerNormalization" if core.centered else "SimplifiedLayerNormalization"
    return Pattern(kernel, found.last, found.inner, by_last_axis=True) if found.last is last else None


def _core_before(last: ir.Node) -> normalization.Core | None:
    """The normalization that `last` ends, or scales, or shifts."""
    node: ir.Node | None = last
    for _ in range(3):
        if node is None:
            return None
        core = normalization.find(node)
        operands = match.split_constant(node) if core is None and node.op_type in {"Mul", "Add"} else None
        if core is not None or operands is None:
            return core
        node = operands[0].producer()
    return None


def _hardswish_of(last: ir.Node, opset: int) -> Pattern | None:
    found = hardswish.find(last, opset)
    if isinstance(found, match.Mismatch):
        return None
    return Pattern("HardSwish" if found.with_product else "HardSigmoid", last, found.inner)


def _silu_of(last: ir.Node, _opset: int) -> Pattern | None:
    found = silu.find(last)
    return None if found is None else Pattern("QuickGelu", last, found.inner)


def _mish_of(last: ir.Node, _opset: int) -> Pattern | None:
    found = mish.find(last)
    return None if found is None else Pattern("Mish", last, found[1])


_FINDERS: tuple[Callable[[ir.Node, int], Pattern | None], ...] = (
    _gelu_of,
    _normalization_of,
    _hardswish_of,
    _silu_of,
    _mish_of,
)


def _equal(first: Pattern, second: Pattern) -> bool:
    """Whether two patterns compute the same of the same values."""
    nodes = first.nodes | second.nodes

    def same(left: ir.Value | None, right: ir.Value | None) -> bool:
        if left is right or left is None or right is None:
            return left is right
        one, other = left.producer(), right.producer()
        if one is None or other is None or one not in nodes or other not in nodes:
            return _same_constant(left, right)
        return (
            one.op_identifier() == other.op_identifier()
            and len(one.inputs) == len(other.inputs)
            and {key: repr(value) for key, value in one.attributes.items()}
            == {key: repr(value) for key, value in other.attributes.items()}
            and all(same(a, b) for a, b in zip(one.inputs, other.inputs, strict=True))
        )

    return same(first.last.outputs[0], second.last.outputs[0])


def _same_constant(left: ir.Value, right: ir.Value) -> bool:
    one, other = graph.constant_tensor(left), graph.constant_tensor(right)
    if one is None or other is None:
        return False
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
